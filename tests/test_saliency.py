"""Saliency by its definition, on chains, shortcuts, attention, recurrence."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import play, slow_if, small
from flax import nnx

from hns import tree
from hns.errors import InputError
from hns.networks import models, pruning, saliency
from hns.networks.supermask import to_masked

KEY = jax.random.key(0)


def masked(net, x, seed=0):
  return to_masked(jax.jit(net.init)(jax.random.key(seed), x)['params'])


def flow(net, variables, x):
  """In float64; by path, numpy. Compiled whole, not op by op."""
  with jax.enable_x64(True):
    program = jax.jit(functools.partial(saliency.flow, net))
    outputs, found = program(variables, x)
    leaves = jax.tree_util.tree_leaves_with_path(found)
    by_path = {tree.path_name(p): np.asarray(s) for p, s in leaves}
    return float(outputs), by_path


def shares(net, x):
  """The share of the flow that each kernel carries."""
  outputs, by_path = flow(net, masked(net, x), x)
  return {name: s.sum() / outputs for name, s in by_path.items()}


class Chain(nn.Module):
  @nn.compact
  def __call__(self, x):
    for width in (12, 9):
      x = nn.relu(models.Norm()(models.Dense(width)(x)))
    return models.Dense(4)(x)


class Residual(nn.Module):
  """A dense layer, two blocks of which one has a shortcut of 1x1, a head."""

  @nn.compact
  def __call__(self, x):
    x = nn.relu(models.Dense(8, name='stem')(x))
    y = models.Dense(8, name='b')(nn.relu(models.Dense(6, name='a')(x)))
    x = nn.relu(x + y)
    y = models.Dense(5, name='d')(nn.relu(models.Dense(7, name='c')(x)))
    x = nn.relu(models.Dense(5, name='shortcut')(x) + y)
    return models.Dense(4, name='head')(x)


def chain_by_hand(w):
  """w: absolute kernels in order. What comes into a unit x weight x on."""
  into = [np.ones(w[0].shape[0])]
  for kernel in w:
    into.append(into[-1] @ kernel)
  onward = [np.ones(w[-1].shape[1])]
  for kernel in reversed(w):
    onward.append(kernel @ onward[-1])
  onward = onward[::-1][1:]
  return [a[:, None] * k * b for a, k, b in zip(into, w, onward)]


def residual_by_hand(w):
  one = np.ones(w['stem'].shape[0])
  stem = one @ w['stem']
  a = stem @ w['a']
  first = stem + a @ w['b']
  c = first @ w['c']
  second = first @ w['shortcut'] + c @ w['d']
  on_second = w['head'] @ np.ones(w['head'].shape[1])
  on_c = w['d'] @ on_second
  on_first = w['shortcut'] @ on_second + w['c'] @ on_c
  on_a = w['b'] @ on_first
  on_stem = on_first + w['a'] @ on_a
  ends = {
    'stem': (one, on_stem),
    'a': (stem, on_a),
    'b': (a, on_first),
    'c': (first, on_c),
    'd': (c, on_second),
    'shortcut': (first, on_second),
    'head': (second, np.ones(w['head'].shape[1])),
  }
  return {n: x[:, None] * w[n] * y for n, (x, y) in ends.items()}


def by_hand(net, variables):
  """Scores by path, float64, without any gradient."""
  w = {
    name: np.abs(
      np.asarray(layer['kernel'], float) * variables['mask'][name]['kernel']
    )
    for name, layer in variables['weights'].items()
  }
  if isinstance(net, Chain):
    names = sorted(w)
    return dict(zip(names, chain_by_hand([w[n] for n in names])))
  return residual_by_hand(w)


@pytest.mark.parametrize(
  'net,density,steps',
  [
    (Chain(), 0.5, 1),
    (Residual(), 0.3, 20),
    slow_if(True, Chain(), 0.3, 20),
    slow_if(True, Residual(), 0.5, 1),
  ],
)
def test_pruning_agrees_with_the_definition(net, density, steps):
  """The same weights are left, but for ties in rounding."""
  x = jnp.zeros((1, 16))
  variables = masked(net, x)
  total = sum(w.size for w in jax.tree.leaves(variables['weights']))
  keep = pruning.schedule(total, density, steps)
  got = pruning.prune(KEY, pruning.synflow, net, variables, x, keep)
  mask = variables['mask']
  for count in np.asarray(keep):
    scores = by_hand(net, variables | {'mask': mask})
    flat = np.concatenate([scores[name].ravel() for name in sorted(scores)])
    least = np.sort(flat)[-count]
    mask = {n: {'kernel': scores[n] >= least} for n in scores}
  np.testing.assert_array_equal(tree.flatten(got), tree.flatten(mask))


@pytest.mark.parametrize('net', [Chain(), Residual()])
def test_saliency_is_that_of_the_definition(net):
  x = jnp.zeros((1, 16))
  variables = masked(net, x, 1)
  _, found = flow(net, variables, x)
  for name, expected in by_hand(net, variables).items():
    np.testing.assert_allclose(found[f'{name}/kernel'], expected, rtol=1e-6)


def test_flow_is_conserved_on_every_cut_of_a_residual_network():
  share = shares(Residual(), jnp.zeros((1, 16)))
  share = {name.split('/')[0]: s for name, s in share.items()}
  assert share['stem'] == pytest.approx(1)
  assert share['head'] == pytest.approx(1)
  assert share['shortcut'] + share['c'] == pytest.approx(1)
  assert share['shortcut'] + share['d'] == pytest.approx(1)
  assert share['a'] == pytest.approx(share['b']) and share['a'] < 1


@pytest.mark.parametrize('name', [slow_if(True, 'mlp'), 'cnn', 'lenet'])
def test_flow_is_conserved_in_every_layer_of_the_models(name):
  share = shares(models.create(name, 10), jnp.zeros((1, 32, 32, 3)))
  np.testing.assert_allclose(list(share.values()), 1, rtol=1e-9)


class Tall(nn.Module):
  """Many layers, with identity shortcuts or without."""

  shortcut: bool
  layers: int = 60

  @nn.compact
  def __call__(self, x):
    for _ in range(self.layers):
      y = models.Dense(16)(nn.relu(x))
      x = x + y if self.shortcut else y
    return models.Dense(2)(x)


def tall(shortcut, size, **fields):
  """The network, an input, and its weights times `size`."""
  net, x = Tall(shortcut, **fields), jnp.zeros((1, 16))
  variables = masked(net, x)
  sized = jax.tree.map(lambda w: w * size, variables['weights'])
  return net, x, variables | {'weights': sized}


@pytest.mark.parametrize(
  'shortcut,size',
  [(False, 32.0), slow_if(True, True, 32.0), (False, 1e-3)],
)
def test_sixty_layers_neither_overflow_nor_underflow(shortcut, size):
  """Times 32 a layer of 16 has the gain of one of 16,000, which is 10^121."""
  net, x, variables = tall(shortcut, size)
  outputs, found = flow(net, variables, x)
  assert 0 < outputs < np.inf
  assert found['Dense_60/kernel'].sum() == pytest.approx(outputs)
  assert all(s.sum() > 0 for s in found.values())
  if not shortcut:
    sums = [s.sum() / outputs for s in found.values()]
    np.testing.assert_allclose(sums, 1, rtol=1e-9)


@pytest.mark.slow
def test_thirty_layers_are_pruned():
  """In float32, which 10^60 is far above."""
  net, x, variables = tall(False, 32.0, layers=30)
  keep = pruning.schedule(30 * 16**2 + 32, 0.4, 3)
  mask = pruning.prune(KEY, pruning.synflow, net, variables, x, keep)
  assert int(tree.count(mask)) == int(keep[-1])


class Kind(nn.Module):
  """A network of one kind of module; ten logits out."""

  kind: str

  @nn.compact
  def __call__(self, x):
    dense = lambda n: nn.Dense(n, use_bias=False)
    if self.kind == 'embed':
      x = nn.Embed(8, 4)(x.astype(int))
    x = getattr(self, f'_{self.kind}', lambda x: x)(x)
    return dense(10)(nn.relu(x).reshape(len(x), -1))

  def _attention(self, x):
    visible = nn.make_causal_mask(x[..., 0])
    x = nn.Dense(4, use_bias=False)(x)
    return x + nn.MultiHeadDotProductAttention(2)(x, mask=visible)

  def _lstm(self, x):
    return nn.RNN(nn.OptimizedLSTMCell(6))(x)

  def _gru(self, x):
    return nn.RNN(nn.GRUCell(6))(x)

  def _tied(self, x):
    layer = nn.Dense(x.shape[-1], use_bias=False)
    return layer(nn.relu(layer(x)))

  def _gelu(self, x):
    return nn.gelu(nn.Dense(16)(x))

  def _bias(self, x):
    return nn.Dense(16, bias_init=nn.initializers.ones)(x)

  def _batchnorm(self, x):
    return nn.BatchNorm(use_running_average=True)(nn.Dense(16)(x))

  def _layernorm(self, x):
    return nn.LayerNorm()(nn.Dense(16)(x))

  def _groupnorm(self, x):
    return nn.GroupNorm(2)(nn.Dense(16)(x))

  def _instancenorm(self, x):
    return nn.InstanceNorm()(nn.Dense(16)(x))


KINDS = 'attention tied gelu bias'
# Other tests have these, and `test_kinds` prunes norms.
REPEATED = 'groupnorm plain gru lstm'


@pytest.mark.parametrize(
  'kind', [*KINDS.split(), *(slow_if(True, kind) for kind in REPEATED.split())]
)
def test_every_kernel_of_every_kind_carries_flow(kind):
  net, x = Kind(kind), jnp.zeros((1, 3, 5))
  saliency.check(net, x)
  share = shares(net, x)
  head = max(name for name in share if name.startswith('Dense'))
  assert share[head] == pytest.approx(1)
  assert all(np.isfinite(s) and s > 0 for s in share.values())
  variables = masked(net, x)
  total = sum(w.size for w in jax.tree.leaves(variables['weights']))
  keep = pruning.schedule(total, 0.5, 5)
  mask = pruning.prune(KEY, pruning.synflow, net, variables, x, keep)
  assert int(tree.count(mask)) == round(total * 0.5)


def test_norms_pass_their_input_on():
  """The score of a network with norms is that of the network without."""
  x = jnp.zeros((1, 3, 5))

  class Without(nn.Module):
    @nn.compact
    def __call__(self, x):
      x = nn.relu(nn.Dense(16)(x))
      return nn.Dense(10, use_bias=False)(x.reshape(len(x), -1))

  _, expected = flow(Without(), masked(Without(), x), x)
  for kind in ('layernorm', 'groupnorm', 'batchnorm', 'instancenorm'):
    _, found = flow(Kind(kind), masked(Kind(kind), x), x)
    for name, scores in expected.items():
      np.testing.assert_allclose(found[name], scores, rtol=1e-6)


def test_an_embedding_sees_all_tokens_at_once():
  """As a dense layer on one-hot tokens with an all-ones input."""
  x = jnp.zeros((1, 3), jnp.int32)
  net = Kind('embed')
  variables = masked(net, x)
  outputs, found = flow(net, variables, x)
  table = np.abs(
    np.asarray(variables['weights']['Embed_0']['embedding'], float)
  )
  head = np.abs(np.asarray(variables['weights']['Dense_0']['kernel'], float))
  onward = head.sum(1).reshape(3, 4).sum(0)
  np.testing.assert_allclose(found['Embed_0/embedding'], table * onward, 1e-6)
  assert found['Embed_0/embedding'].sum() == pytest.approx(outputs)


def test_attention_counts_query_key_and_value_alike():
  """Each head's kernels carry what the head carries, and nothing twice."""
  net, x = Kind('attention'), jnp.zeros((1, 3, 5))
  outputs, found = flow(net, masked(net, x), x)
  name = 'MultiHeadDotProductAttention_0'
  of_head = {
    part: found[f'{name}/{part}/kernel'].sum((0, 2))
    for part in ('query', 'key', 'value')
  }
  np.testing.assert_allclose(of_head['query'], of_head['value'], rtol=1e-9)
  np.testing.assert_allclose(of_head['key'], of_head['value'], rtol=1e-9)
  out = found[f'{name}/out/kernel'].sum((1, 2))
  np.testing.assert_allclose(out, of_head['value'], rtol=1e-9)
  assert found['Dense_0/kernel'].sum() == pytest.approx(outputs)


@pytest.mark.parametrize(
  'cell', [slow_if(True, nn.LSTMCell), nn.OptimizedLSTMCell]
)
def test_a_recurrent_network_conserves_flow_over_many_steps(cell):
  """What goes into the cells is what comes out, however long the text."""

  class Text(nn.Module):
    @nn.compact
    def __call__(self, tokens):
      x = nn.RNN(cell(6))(nn.Embed(9, 4)(tokens))
      return models.Dense(3)(x[:, -1])

  share = shares(Text(), jnp.zeros((1, 40), jnp.int32))
  inside = {name.split('/')[-2]: s for name, s in share.items()}
  assert inside['Embed_0'] == pytest.approx(1)
  assert inside['ig'] == pytest.approx(1)
  assert inside['Dense_0'] == pytest.approx(1)
  assert all(0 < s < 40 for s in inside.values())


def test_a_traced_pruning_is_that_of_one_network():
  """As in notebooks, which draw many networks with `vmap`."""
  net, x = models.mlp(10), jnp.zeros((1, 8, 8, 1))
  variables = masked(net, x)
  keep = pruning.schedule(54_800, 0.2, 10)
  alone = pruning.prune(KEY, pruning.synflow, net, variables, x, keep)
  many = jax.vmap(
    lambda key: pruning.prune(key, pruning.synflow, net, variables, x, keep)
  )(KEY[None])
  same = np.mean(tree.flatten(alone) == tree.flatten(many))
  assert same > 0.999


def test_a_bridged_module_has_saliency():
  class Two(nnx.Module):
    def __init__(self, rngs):
      self.a = nnx.Linear(5, 7, use_bias=False, rngs=rngs)
      self.b = nnx.Linear(7, 3, use_bias=False, rngs=rngs)

    def __call__(self, x):
      return self.b(nnx.relu(self.a(x)))

  share = shares(nnx.bridge.to_linen(Two), jnp.zeros((1, 5)))
  np.testing.assert_allclose(list(share.values()), 1, rtol=1e-9)


class Detour(nn.Module):
  """A path that carries next to nothing beside one that carries all."""

  classes: int

  @nn.compact
  def __call__(self, x):
    x = nn.relu(models.Dense(32, name='stem')(x.reshape(len(x), -1)))
    faint = nn.initializers.normal(1e-6)
    y = nn.Dense(32, use_bias=False, kernel_init=faint, name='faint')(x)
    x = nn.relu(models.Norm()(y + models.Dense(32, name='main')(x)))
    return models.Dense(self.classes, name='head')(x)


@pytest.mark.parametrize('name', ['hidenseek', slow_if(True, 'eden')])
def test_a_path_may_be_pruned_away_where_another_is_left(monkeypatch, name):
  """Its layer has nothing to send, and the rest trains."""
  monkeypatch.setitem(models.MODELS, 'detour', Detour)
  table = {} if name == 'hidenseek' else {name: dict(pruned=True)}
  fields = dict(model='detour', density=0.2, algorithm=name, **table)
  experiment = small(**fields)
  assert experiment.layers['faint'][0] == 0
  report = play(experiment, 2).report
  assert np.isfinite(report.train_loss) and not np.any(report.rejected)
  assert np.all(report.uplink > 0)


def test_a_network_that_pruning_cuts_is_refused(monkeypatch):
  monkeypatch.setitem(models.MODELS, 'detour', Detour)
  with pytest.raises(
    InputError, match='density=0.004: pruning leaves no weight'
  ):
    small(model='detour', density=0.004, pruning='magnitude')
