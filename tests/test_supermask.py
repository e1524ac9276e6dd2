import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hns.networks.supermask import (
  Supermask,
  sign,
  signs_of,
  to_masked,
  to_params,
)


def test_gate_is_plus_one_at_zero():
  scores = jnp.array([-2.0, -1e-30, -0.0, 0.0, 1e-30, 3.0])
  np.testing.assert_array_equal(sign(scores), [-1, -1, 1, 1, 1, 1])


def test_gradient_goes_straight_through():
  scores = jnp.array([-2.0, 0.0, 0.3])
  pull = jnp.array([0.5, -1.0, 2.0])
  grads = jax.grad(lambda s: jnp.sum(pull * sign(s)))(scores)
  np.testing.assert_array_equal(grads, pull)


class Foreign(nn.Module):
  """A module that knows nothing of masks."""

  @nn.compact
  def __call__(self, x, train=False):
    x = nn.Conv(4, (3, 3))(x)
    x = nn.BatchNorm(use_running_average=not train)(x)
    x = nn.Dropout(0.5, deterministic=not train)(x)
    return nn.Dense(3, name='head')(x.mean((1, 2)))


class Shared(nn.Module):
  def setup(self):
    self.inner = nn.Sequential([nn.Dense(7), nn.relu, nn.Dense(5)])

  def __call__(self, x):
    return self.inner(x) + self.inner(2 * x)


class Attention(nn.Module):
  """Its biases have two dimensions."""

  @nn.compact
  def __call__(self, x):
    x = x.reshape(x.shape[0], -1, x.shape[-1])
    return nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=4)(x)


@pytest.mark.parametrize('net', [Foreign(), Shared(), nn.Dense(4), Attention()])
def test_any_module_becomes_masked(net):
  key, x = jax.random.key(0), jax.random.normal(jax.random.key(1), (2, 5, 5, 5))
  masked = Supermask(net)
  seen, plainly = jax.jit(masked.apply), jax.jit(net.apply)
  variables = jax.jit(masked.init)(key, x)
  plain = jax.jit(net.init)(key, x)
  assert {'weights', 'mask', 'signs'} <= set(variables)
  np.testing.assert_array_equal(seen(variables, x), plainly(plain, x))
  flipped = variables | {
    'signs': jax.tree.map(jnp.negative, variables['signs'])
  }
  by_hand = plain | {
    'params': jax.tree.map(
      lambda p: -p if p.ndim > 1 and np.any(p) else p, plain['params']
    )
  }
  np.testing.assert_allclose(seen(flipped, x), plainly(by_hand, x), rtol=1e-6)


def test_masked_module_keeps_other_collections_working():
  net, x = Supermask(Foreign()), jnp.ones((2, 5, 5, 1))
  variables = jax.jit(net.init)(jax.random.key(0), x)
  train = functools.partial(net.apply, train=True, mutable=['batch_stats'])
  rngs = {'dropout': jax.random.key(1)}
  _, updated = jax.jit(train)(variables, x, rngs=rngs)
  assert set(updated) == {'batch_stats'}
  assert np.any(updated['batch_stats']['BatchNorm_0']['mean'] != 0)


def test_pruned_weights_do_nothing():
  net, x = Supermask(nn.Dense(3, use_bias=False)), jnp.ones((1, 4))
  variables = net.init(jax.random.key(0), x)
  none = jax.tree.map(jnp.zeros_like, variables['mask'])
  np.testing.assert_array_equal(net.apply(variables | {'mask': none}, x), 0)


def test_hide_and_seek_are_inverse():
  params = {'a': {'kernel': jnp.arange(6.0).reshape(2, 3), 'bias': jnp.ones(3)}}
  hidden = to_masked(params)
  assert 'bias' in hidden['params']['a'] and 'kernel' in hidden['weights']['a']
  chex.assert_trees_all_equal(to_params(hidden), {'params': params})


def test_signs_train_alone():
  """A masked layer fits a target that only other signs can reach."""
  net = Supermask(nn.Dense(1, use_bias=False))
  x = jax.random.normal(jax.random.key(0), (64, 8))
  variables = net.init(jax.random.key(1), x)
  target = jnp.array([[1.0, -1, 1, -1, 1, -1, 1, -1]]).T
  wanted = x @ (variables['weights']['kernel'] * target)
  scores = {'kernel': jnp.full((8, 1), 0.1)}
  optimizer = optax.adam(0.05)

  def loss(scores):
    signs = signs_of(scores)
    return jnp.mean((net.apply(variables | {'signs': signs}, x) - wanted) ** 2)

  @jax.jit
  def step(scores, state):
    updates, state = optimizer.update(jax.grad(loss)(scores), state)
    return optax.apply_updates(scores, updates), state

  state = optimizer.init(scores)
  for _ in range(100):
    scores, state = step(scores, state)
  np.testing.assert_array_equal(sign(scores['kernel']), target)
