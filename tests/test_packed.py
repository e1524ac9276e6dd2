"""Kernels as vectors of survivors: the same network, the same round."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import small_config

import hns
from hns import tree
from hns.engine.client import reads
from hns.methods.contract import Initial
from hns.networks import compact, models, modes, packed
from hns.networks.supermask import signs_of, to_masked, to_params


class Plain(nn.Module):
  """A network that `compact` leaves as it is, with a gain and a bias."""

  classes: int

  @nn.compact
  def __call__(self, x):
    x = nn.relu(nn.LayerNorm()(nn.Dense(40)(x.reshape(x.shape[0], -1))))
    return nn.Dense(self.classes)(x)


@pytest.fixture
def plain(monkeypatch):
  monkeypatch.setitem(models.MODELS, 'plain', Plain)


def masked(net, inputs, share):
  """A network's variables, with scores and a random mask."""

  @jax.jit
  def drawn(key):
    keys = jax.random.split(key, 3)
    variables = to_masked(modes.init(net, keys[0], inputs)['params'])
    draws = tree.uniform(keys[1], variables['weights'])
    mask = jax.tree.map(lambda d: d < share, draws)
    return variables, mask, tree.uniform(keys[2], variables['weights'], -1.0)

  variables, mask, scores = drawn(jax.random.key(0))
  return variables | {'mask': jax.tree.map(np.asarray, mask)}, scores


def packs(net, inputs, variables, scores=()):
  params = modes.shapes_of(net, inputs)['params']
  return packed.pack(Initial(variables, scores, ()), params)


@pytest.mark.parametrize('name', ['mlp', 'resnet8'])
def test_a_packed_network_computes_the_same(name):
  net, inputs = models.create(name, 10), jnp.ones((2, 16, 16, 3))
  variables, scores = masked(net, inputs, 0.2)
  packing, parts = packs(net, inputs, variables, scores)
  apply = modes.apply_of(net)

  def loss(variables, scores, apply):
    signed = variables | {'signs': signs_of(scores)}
    return jnp.sum(jnp.square(apply(signed, inputs)))

  run = jax.jit(jax.value_and_grad(loss, 1), static_argnums=2)
  whole = run(variables, scores, apply)
  unpacking = packed.unpacking(packing, apply)
  small = run(parts.frozen, parts.server_state, unpacking)
  assert whole[0] == small[0]
  places = compact.masks_by_path({'of': variables})
  for path, gradient in jax.tree_util.tree_leaves_with_path(whole[1]):
    mask = places[tree.path_name(path)]
    own = dict(jax.tree_util.tree_leaves_with_path(small[1]))[path]
    np.testing.assert_array_equal(own, np.asarray(gradient)[mask])
    assert not np.any(np.asarray(gradient)[~mask])


def test_only_kernels_with_few_survivors_are_vectors():
  """Not those with none, as past a shortcut, nor those with most."""
  net, inputs = models.create('conv4', 10), jnp.ones((1, 8, 8, 3))
  variables, _ = masked(net, inputs, 0.1)
  shares = {'Conv_0': 0.6, 'Conv_1': 0.8, 'Dense_0': 0.0, 'Dense_1': 1.0}
  for name, share in shares.items():
    shape = variables['mask'][name]['kernel'].shape
    kept = np.random.default_rng(0).random(shape) < share
    variables['mask'][name]['kernel'] = kept
  packing, parts = packs(net, inputs, variables)
  vectors = {'Conv_0', 'Conv_2', 'Conv_3', 'Dense_2'}
  assert set(packing) == {f'{name}/kernel' for name in vectors}
  for name, mask in variables['mask'].items():
    kept = np.asarray(mask['kernel'])
    whole = name not in vectors
    for kind in ('weights', 'signs'):
      shape = parts.frozen[kind][name]['kernel'].shape
      assert shape == (kept.shape if whole else (kept.sum(),))
    left = parts.frozen['mask'][name]['kernel']
    if whole and name != 'Dense_1':
      np.testing.assert_array_equal(left, kept)
    else:
      assert left.shape == () and left


@pytest.mark.slow
def test_a_layer_may_have_no_survivor():
  """A shortcut past which something flows."""
  fields = dict(model='resnet8', density=0.1, pruning_steps=1)
  config = small_config(**fields, num_clients=2, cohort=2, eval_clients=2)
  run = hns.build(config)
  assert 0 in [left for left, _ in run.layers.values()]
  progress = hns.step(run, hns.programs(run), hns.begin(run))
  assert np.isfinite(progress.pending[0].metrics.train_loss)


def test_a_kernel_is_told_from_one_of_the_same_name_and_shape():
  """Deeper in the network, of which nothing is pruned or that has no sign."""
  kernel = lambda: {'kernel': np.arange(6, dtype=np.float32).reshape(2, 3)}
  params = {'Dense_0': kernel(), 'Block_0': {'Dense_0': kernel()}}
  mask = {'Dense_0': {'kernel': np.eye(2, 3) > 0}}
  variables = {'weights': {'Dense_0': kernel()}, 'mask': mask}
  variables['params'] = {'Block_0': {'Dense_0': kernel()}}
  initial = Initial(variables, params, {'mask': params})
  packing, parts = packed.pack(initial, params)
  assert parts.frozen['weights']['Dense_0']['kernel'].tolist() == [0, 4]
  assert parts.server_state['Dense_0']['kernel'].tolist() == [0, 4]
  assert parts.frozen['params']['Block_0']['Dense_0']['kernel'].shape == (2, 3)
  assert parts.server_state['Block_0']['Dense_0']['kernel'].shape == (2, 3)
  # What clients choose for themselves may change.
  own = {'Dense_0': {'kernel': np.ones((2, 3), bool)}}
  _, parts = packed.pack(initial._replace(client_state={'mask': own}), params)
  assert parts.client_state['mask']['Dense_0']['kernel'].tolist() == [True] * 2
  again = packed.unpack(packing, parts.frozen)
  assert again['weights']['Dense_0']['kernel'].tolist() == [
    [0, 0, 0],
    [0, 4, 0],
  ]
  chex.assert_trees_all_equal(again['params'], variables['params'])


def test_a_module_may_be_named_mask():
  kernel = lambda: {'mask': {'kernel': np.ones((2, 3), np.float32)}}
  mask = {'mask': {'kernel': np.eye(2, 3) > 0}}
  variables = {'weights': kernel(), 'mask': mask, 'params': kernel()}
  assert list(compact.masks_by_path(variables)) == ['mask/kernel']
  _, parts = packed.pack(Initial(variables, kernel(), ()), kernel())
  assert parts.frozen['weights']['mask']['kernel'].tolist() == [1.0, 1.0]
  assert parts.frozen['weights']['mask']['kernel'].dtype == np.float32
  assert parts.frozen['mask']['mask']['kernel'].shape == ()
  assert parts.server_state['mask']['kernel'].shape == (2,)


def test_unpacking_gives_the_products_back():
  net, inputs = models.create('mlp', 10), jnp.ones((1, 8, 8, 1))
  variables, _ = masked(net, inputs, 0.2)
  packing, parts = packs(net, inputs, variables)
  again = packed.unpack(packing, parts.frozen)
  chex.assert_trees_all_equal(to_params(again), to_params(variables))
  # What is whole stays, so that it may be unpacked twice.
  chex.assert_trees_all_equal(packed.unpack(packing, again), again)


def played(rounds=2, **fields):
  fields |= dict(model='plain', pruning='random')
  config = small_config(density=0.2, rounds=rounds, **fields)
  run = hns.build(config)
  programs, progress = hns.programs(run), hns.begin(run)
  for _ in range(rounds):
    progress = hns.step(run, programs, progress)
  metrics = jax.tree.map(np.asarray, [p.metrics for p in progress.pending])
  return hns.global_model(run, progress), metrics


def test_rounds_with_packed_kernels_are_those_with_whole_ones(plain):
  """Of a method that draws nothing; the same bytes travel."""
  table = dict(pruned=True, upload_bits=32, download_bits=32)
  fields = dict(algorithm='fedavg_quantized', fedavg_quantized=table)
  whole, packed_ = (played(**fields, compact=given) for given in (False, True))
  chex.assert_trees_all_close(whole[0], packed_[0], atol=1e-6)
  for before, after in zip(whole[1], packed_[1]):
    np.testing.assert_array_equal(before.uplink, after.uplink)
    np.testing.assert_array_equal(before.downlink, after.downlink)
    np.testing.assert_array_equal(before.uploaded, after.uploaded)
    np.testing.assert_allclose(before.train_loss, after.train_loss, rtol=1e-5)


@pytest.mark.slow
def test_models_have_whole_kernels(plain):
  model, _ = played(rounds=1)
  whole, _ = played(rounds=1, compact=False)
  chex.assert_trees_all_equal(
    *(to_params(m | {'signs': {}})['params'] for m in (model, whole))
  )
  signs, mask = model['signs']['Dense_0']['kernel'], whole['mask']
  assert signs.shape == (64, 40)
  chex.assert_trees_all_equal(model['mask'], whole['mask'])
  places = np.asarray(mask['Dense_0']['kernel'])
  np.testing.assert_array_equal(np.asarray(signs) != 0, places)


def test_whether_a_start_reads_what_a_client_keeps():
  state = {'a': jnp.ones(3), 'b': jnp.ones(2)}
  assert not reads(lambda state: jnp.zeros(3), state)
  assert not reads(lambda state: {**state, 'c': 1}['c'], state)
  assert reads(lambda state: state['a'], state)
  assert reads(lambda state: jax.jit(jnp.sum)(state['b']), state)
