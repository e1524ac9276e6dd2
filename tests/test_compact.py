"""Units cut off by pruning leave the program and change no prediction."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import slow_if

from hns import tree
from hns.networks import compact, models, pruning
from hns.networks.supermask import Supermask, to_masked


def pruned(name, density, image=(28, 28, 1)):
  """A network, and its frozen weights and mask after pruning."""
  net, inputs = models.create(name, 10), jnp.zeros((1, *image))
  frozen = to_masked(jax.jit(net.init)(jax.random.key(0), inputs)['params'])
  total = tree.flatten(frozen['weights']).size
  keep = pruning.schedule(total, density, 20)
  score = pruning.SCORES['synflow']
  mask = pruning.prune(jax.random.key(1), score, net, frozen, inputs, keep)
  return net, frozen | {'mask': mask}


def signs(weights, seed=2):
  draw = jax.random.split(jax.random.key(seed), 9)
  leaves, shape = jax.tree.flatten(weights)
  drawn = [jax.random.rademacher(k, x.shape) for k, x in zip(draw, leaves)]
  return jax.tree.unflatten(shape, [x.astype(jnp.float32) for x in drawn])


@pytest.mark.parametrize(
  ('name', 'density'),
  [('mlp', 0.1), slow_if(True, 'cnn', 0.1), ('lenet', 0.05)],
)
def test_a_compact_network_predicts_the_same(name, density):
  net, frozen = pruned(name, density)
  whole = {'fixed': frozen | {'signs': signs(frozen['weights'])}}
  small, cut = compact.compact(net, whole)
  images = jax.random.normal(jax.random.key(3), (5, 28, 28, 1))
  expected = jax.jit(Supermask(net).apply)(whole['fixed'], images)
  got = jax.jit(Supermask(small).apply)(cut['fixed'], images)
  np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
  before, after = (
    tree.flatten(x['fixed']['weights']).size for x in (whole, cut)
  )
  assert after < 0.6 * before
  kept, left = (tree.count(x['fixed']['mask']) for x in (whole, cut))
  assert 0.98 * kept < left <= kept


def test_every_unit_left_lives_or_fills_up():
  net, frozen = pruned('mlp', 0.1)
  small, cut = compact.compact(net, {'fixed': frozen})
  assert small.dense[0] % 8 == 0 and small.dense[0] < 200
  assert small.full == (200, 200)
  reached = np.asarray(cut['fixed']['mask']['Dense_0']['kernel']).any(0)
  assert 0 <= np.sum(~reached) < 8


def test_nothing_dead_and_nothing_masked_stay():
  net, frozen = pruned('mlp', 1.0)
  small, cut = compact.compact(net, {'fixed': frozen})
  assert small.dense == net.dense
  jax.tree.map(np.testing.assert_array_equal, cut['fixed'], frozen)
  assert compact.compact(net, {'params': frozen['weights']})[0] is net


def test_layers_within_layers_are_named_by_their_path():
  class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
      return nn.Embed(3, 2)(nn.Dense(4)(x).argmax(-1))

  class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
      return nn.Dense(5)(Block()(x))

  net = Net()
  frozen = to_masked(net.init(jax.random.key(0), jnp.ones((1, 6)))['params'])
  masks = compact.masks_of({'fixed': frozen})
  assert {name: mask.shape for name, mask in masks.items()} == {
    'Block_0/Dense_0': (6, 4),
    'Block_0/Embed_0/embedding': (3, 2),
    'Dense_0': (2, 5),
  }


def test_a_layer_of_few_units_is_not_stretched():
  alive = np.zeros(20, bool)
  alive[[3, 7]] = True
  left = compact._round_up(alive)
  assert len(left) == 8 and {3, 7} <= set(left.tolist())
  assert len(compact._round_up(np.ones(20, bool))) == 20
