"""A user's own network: what a run can train, and what it says otherwise."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import play, small, small_config
from flax import nnx

from hns.errors import InputError
from hns.networks import checks, models, modes, pruning, saliency
from hns.networks.supermask import to_masked
from hns.runs import experiment

INPUTS = jnp.zeros((1, 8, 8, 1))


class Body(nn.Module):
  """Layers in one order of the making, which is not that of the data."""

  classes: int = 10
  kind: str = 'plain'

  @nn.compact
  def __call__(self, x):
    x = x.reshape(len(x), -1)
    last = nn.Dense(self.classes, use_bias=False, name='last')
    if self.kind == 'made first':
      last(jnp.zeros((1, 16)))
    x = getattr(self, '_' + self.kind.split()[0], nn.Dense(16, name='a'))(x)
    x = last(nn.relu(x)) if self.kind != 'two' else x
    if self.kind == 'temperature':
      x = x * self.param('t', nn.initializers.ones, (1,))
    return x

  def _two(self, x):
    heads = [nn.Dense(self.classes, name=f'head_{i}')(x) for i in (0, 1)]
    return heads[0] + heads[1]


class Bottleneck(nn.Module):
  """A hidden layer has an output a class; the last one is of another width."""

  @nn.compact
  def __call__(self, x):
    x = nn.relu(nn.Dense(10, use_bias=False, name='narrow')(x.reshape(1, -1)))
    x = nn.Dense(20, use_bias=False, name='last')(x)
    return x.reshape(len(x), 10, 2).max(-1)


class Wrapper(nn.Module):
  net: nn.Module

  @nn.compact
  def __call__(self, x):
    return self.net(x)


class Twins(nnx.Module):
  """An NNX module, whose parts a bridge sorts by name."""

  def __init__(self, rngs):
    self.trunk = nnx.Linear(64, 16, rngs=rngs)
    self.head = nnx.Linear(16, 10, rngs=rngs)

  def __call__(self, x):
    return self.head(nnx.relu(self.trunk(x.reshape(len(x), -1))))


def params_of(net):
  return modes.shapes_of(net, INPUTS)['params']


@pytest.mark.parametrize(
  'net,head',
  [
    (Body(), 'last'),
    (Body(kind='made first'), 'last'),
    (Body(kind='temperature'), 'last'),
    (Wrapper(Body()), 'net/last'),
    (nnx.bridge.to_linen(Twins), 'head'),
    (models.mlp(10), 'Dense_2'),
    (models.cnn(10), 'Dense_0'),
  ],
)
def test_the_head_is_the_layer_of_the_classes(net, head):
  checks.check('own', net, INPUTS, 10)
  assert checks.head_of(params_of(net), 10) == head


@pytest.mark.parametrize(
  'net,chosen,said',
  [
    (Body(kind='two'), '', 'not head_0, head_1; name the layer .* head_0, hea'),
    (Body(classes=16), '', 'not a, last; name'),
    (models.mlp(200), '', 'not Dense_0, Dense_1, Dense_2; name'),
    (Body(), 'first', "head='first': there is no such layer; .* a, last"),
    (Body(), 'las', "head='las': there is no such layer"),
    (Wrapper(Body()), 'net', 'net is the whole network, so nothing'),
    (models.Network(10), '', 'Dense_0 is the whole network, so nothing'),
  ],
)
def test_a_head_that_cannot_be_told_is_an_error(net, chosen, said):
  classes = getattr(net, 'classes', 10)
  with pytest.raises(InputError, match=said) as error:
    checks.head_of(params_of(net), classes, chosen)
  assert '\n' not in str(error.value)


def test_only_methods_with_a_personal_head_ask_for_it(monkeypatch):
  client_state = lambda classes: Body(classes, 'two')
  monkeypatch.setitem(models.MODELS, 'own', client_state)
  build = lambda **fields: experiment.build(
    small_config(model='own', pruning='random', **fields)
  )
  assert build(algorithm='fedavg').head is None
  for algorithm in ('fedper', 'hermes', 'fedmask', 'hidenseek_personal'):
    with pytest.raises(InputError, match="head='': exactly one layer"):
      build(algorithm=algorithm)
  with pytest.raises(InputError, match="head='x': there is no such layer"):
    build(algorithm='fedavg', head='x')


def test_a_hidden_layer_is_not_taken_for_the_head(monkeypatch):
  """Its width is that of the classes, but another layer follows it."""
  monkeypatch.setitem(models.MODELS, 'own', lambda classes: Bottleneck())
  build = lambda **fields: experiment.build(
    small_config(model='own', pruning='random', algorithm='fedper', **fields)
  )
  with pytest.raises(InputError, match='narrow has 10 outputs, but other lay'):
    build()
  assert build(head='last').head == 'last'


@pytest.mark.parametrize('net', [Body(), Body(kind='temperature')])
def test_the_last_layer_is_seen_from_the_data_flow(net):
  params = jax.jit(net.init)(jax.random.key(0), INPUTS)['params']
  assert checks.is_last(net, params, INPUTS, 'last')
  assert not checks.is_last(net, params, INPUTS, 'a')


@pytest.mark.parametrize('head,stays', [('', 'head'), ('trunk', 'trunk')])
def test_the_head_of_a_bridged_module_stays_at_home(monkeypatch, head, stays):
  client_state = lambda classes: nnx.bridge.to_linen(Twins)
  monkeypatch.setitem(models.MODELS, 'own', client_state)
  config = small_config(model='own', algorithm='fedper', head=head)
  built = experiment.build(config)
  other = {'head': 'trunk', 'trunk': 'head'}[stays]
  shared = built.initial.server_state.values
  assert shared[stays]['kernel'] is None
  assert shared[other]['kernel'] is not None
  assert built.head == stays


class Typed(nn.Module):
  """Logits times a parameter of some dtype."""

  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x):
    w = self.param('w', nn.initializers.ones, (1,), self.dtype)
    return nn.Dense(10)(x.reshape(len(x), -1)) * jnp.real(w)


class Block(nn.Module):
  """A network of one kind of module; images in, ten logits out."""

  kind: str

  @nn.compact
  def __call__(self, x):
    kind, dense = self.kind, lambda n: nn.Dense(n, use_bias=False)
    x = x.reshape(len(x), -1)
    if kind == 'batchnorm':
      x = nn.BatchNorm(use_running_average=False)(dense(16)(x))
    elif kind == 'spectral':
      x = nn.SpectralNorm(dense(16))(x, update_stats=False)
    elif kind == 'dropout':
      x = nn.Dropout(0.5, deterministic=False)(dense(16)(x))
    elif kind == 'noise':
      x = dense(16)(x)
      x += jax.random.normal(self.make_rng('noise'), x.shape)
    elif kind == 'minus':
      x = -nn.relu(dense(16)(x))
    elif kind == 'centred':
      x = dense(16)(x)
      x = jnp.concatenate([2 * x, x - x[:, :1] / 2], -1)
    elif kind == 'softmax':
      x = nn.softmax(dense(16)(x))
    elif kind == 'tanh':
      x = nn.tanh(dense(16)(x))
    elif kind == 'own norm':
      x = dense(16)(x)
      x = x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True))
    return dense(10)(nn.relu(x).reshape(len(x), -1))


@pytest.mark.parametrize(
  'kind,said',
  [('minus', 'passes nothing on'), ('centred', 'is subtracted from other')],
)
def test_flow_that_is_not_positive_is_refused(kind, said):
  with pytest.raises(InputError, match=said):
    saliency.check(Block(kind), INPUTS)


@pytest.mark.parametrize('kind', ['own norm', 'softmax', 'tanh'])
def test_saliency_that_would_mean_nothing_is_refused_by_name(kind):
  """Alone, and inside a trace; other scores prune all the same."""
  net = Wrapper(Block(kind))
  what = 'saturates' if kind == 'tanh' else 'divides by what it computes'
  said = f"pruning='synflow': net {what}"
  with pytest.raises(InputError, match=said):
    saliency.check(net, INPUTS)
  variables = to_masked(jax.jit(net.init)(jax.random.key(0), INPUTS)['params'])
  total = sum(w.size for w in jax.tree.leaves(variables['weights']))
  given = variables, INPUTS, pruning.schedule(total, 0.5, 2)
  prune = lambda score: jax.jit(
    lambda key: pruning.prune(key, pruning.SCORES[score], net, *given)
  )(jax.random.key(1))
  with pytest.raises(InputError, match=said):
    prune('synflow')
  for score in ('magnitude', 'random'):
    kept = sum(int(np.sum(m)) for m in jax.tree.leaves(prune(score)))
    assert kept == round(total * 0.5)


@pytest.mark.parametrize(
  'net,said',
  [
    (Block('batchnorm'), 'changes without training: give __call__ an argument'),
    (Block('spectral'), 'has batch_stats, and only params and the statistics'),
    (
      Block('dropout'),
      'Dropout_0 needs PRNG for "dropout": give __call__ an argument train',
    ),
    (Block('noise'), 'Block needs PRNG for "noise"|needs PRNG'),
    (Twins(nnx.Rngs(0)), 'is a Twins, not a Linen module; wrap a Flax NNX'),
    (lambda x: x, 'is a function, not a Linen module'),
    (
      Body(classes=9),
      r'logits \[1, 10\] for one example, not \[1, 9\]',
    ),
    (nn.Dense(10), r'must give logits \[1, 10\] .* not \[1, 8, 8, 10\]'),
    (Typed(jnp.complex64), 'w is complex64: parameters must be real floats'),
    (Typed(jnp.int32), 'w is int32: parameters must be real floats'),
    (nn.Sequential([jnp.ravel]), 'has no parameters: nothing can be trained'),
    (models.lenet(10), 'examples of shape .* do not fit: .* choose mlp or cnn'),
  ],
)
def test_what_a_run_cannot_train_is_one_line(net, said):
  with pytest.raises(InputError, match=f"model='own': .*({said})") as error:
    checks.check('own', net, INPUTS, 10)
  assert '\n' not in str(error.value)


def test_an_error_of_the_models_own_code_is_the_users_to_see():
  class Broken(nn.Module):
    @nn.compact
    def __call__(self, x):
      return nn.Dense(10)(x @ jnp.ones((3, 3)))

  with pytest.raises(TypeError, match='dot_general'):
    checks.check('own', Broken(), INPUTS, 10)


def test_no_batch_is_larger_than_the_largest_client():
  """Batches beyond that were padding: the numbers stay."""
  asked, fits = (small(batch_size=n, algorithm='fedavg') for n in (10**6, 30))
  assert asked.round_config.plan == fits.round_config.plan
  assert asked.round_config.plan.batch_size == 30
  a, b = (play(e).state.server_state.values for e in (asked, fits))
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize('field', ['local_epochs', 'local_steps'])
def test_steps_that_would_overflow_are_refused_by_name(field):
  """What a client has is known only once the data are shared out."""
  everything = dict(partition='iid', examples_per_client=0, num_clients=1)
  fields = dict(everything, cohort=1, batch_size=1347)
  said = f'{field}=2000000: a client of 1082 examples can take at most 1984735'
  with pytest.raises(InputError, match=said):
    experiment.build(small_config(**fields, **{field: 2_000_000}))


def test_a_network_without_kernels_cannot_be_pruned(monkeypatch):
  class Biases(nn.Module):
    @nn.compact
    def __call__(self, x):
      return jnp.tile(self.param('b', nn.initializers.ones, (10,)), (len(x), 1))

  monkeypatch.setitem(models.MODELS, 'own', lambda classes: Biases())
  with pytest.raises(InputError, match='has no kernel that could be pruned'):
    experiment.build(small_config(model='own'))
