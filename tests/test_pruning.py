import functools
import inspect

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hns import tree
from hns.errors import InputError
from hns.networks import models, pruning
from hns.networks.supermask import to_masked


def hidden(net, shape, seed=0):
  x = jnp.zeros((1, *shape))
  return to_masked(jax.jit(net.init)(jax.random.key(seed), x)['params']), x


@functools.partial(jax.jit, static_argnums=0)
def synflow(net, variables, x):
  return pruning.synflow(None, net, variables, x)


def total(variables):
  return sum(w.size for w in jax.tree.leaves(variables['weights']))


def prune(net, variables, x, density, score='synflow', steps=10, seed=1):
  keep = pruning.schedule(total(variables), density, steps)
  return pruning.prune(
    jax.random.key(seed), pruning.SCORES[score], net, variables, x, keep
  )


@pytest.mark.parametrize('name', ['mlp', 'cnn', 'lenet'])
def test_saliency_is_conserved_from_layer_to_layer(name):
  net = models.create(name, 10)
  variables, x = hidden(net, (28, 28, 1))
  scores = synflow(net, variables, x)
  sums = [float(jnp.sum(s)) for s in jax.tree.leaves(scores)]
  assert sums[0] > 0
  np.testing.assert_allclose(sums, sums[0], rtol=1e-4)


def test_saliency_of_a_unit_flows_in_and_out():
  """Tanaka et al. 2020, theorem 1, on the hidden units of an MLP."""
  net = models.mlp(10)
  variables, x = hidden(net, (8, 8, 1))
  scores = synflow(net, variables, x)
  into = scores['Dense_0']['kernel'].sum(0)
  out = scores['Dense_1']['kernel'].sum(1)
  np.testing.assert_allclose(into, out, rtol=1e-4)


def test_saliency_by_hand():
  """|w x dR/dw| on two layers, as shares of R."""

  class Two(nn.Module):
    @nn.compact
    def __call__(self, x):
      x = models.Norm()(nn.Dense(2, use_bias=False)(x))
      return nn.Dense(1, use_bias=False)(x)

  a, b = jnp.array([[1.0, -2.0], [-3.0, 4.0]]), jnp.array([[5.0], [-6.0]])
  params = {'Dense_0': {'kernel': a}, 'Dense_1': {'kernel': b}}
  scores = pruning.synflow(None, Two(), to_masked(params), jnp.zeros((1, 2)))
  first = np.abs(a) * np.abs(b).T
  second = (np.abs(a).sum(0) * np.abs(b)[:, 0])[:, None]
  ratio = first[0, 0] / scores['Dense_0']['kernel'][0, 0]
  np.testing.assert_allclose(scores['Dense_0']['kernel'] * ratio, first, 1e-5)
  np.testing.assert_allclose(scores['Dense_1']['kernel'] * ratio, second, 1e-5)


@pytest.mark.parametrize('score', pruning.SCORES)
@pytest.mark.parametrize('steps', [1, 10])
@pytest.mark.parametrize('density', [1.0, 0.5, 0.2, 0.0837])
def test_density_is_exact_to_the_weight(score, steps, density):
  net = models.mlp(10)
  variables, x = hidden(net, (8, 8, 1))
  mask = prune(net, variables, x, density, score, steps)
  assert int(tree.count(mask)) == round(total(variables) * density)


def test_density_is_exact_under_ties():
  """Signed-constant weights: all saliencies of a layer are equal."""
  net = models.mlp(10)
  variables, x = hidden(net, (8, 8, 1))
  variables['weights'] = jax.tree.map(jnp.ones_like, variables['weights'])
  masks = [prune(net, variables, x, 0.5, steps=1, seed=s) for s in (1, 1, 2)]
  for mask in masks:
    assert int(tree.count(mask)) == round(total(variables) * 0.5)
  same = [
    np.array_equal(tree.flatten(masks[0]), tree.flatten(m)) for m in masks
  ]
  assert same == [True, True, False]


def test_top_k_equals_sorting():
  rng = np.random.RandomState(0)
  values = [-1.0, 0.0, 1e-40, 0.5, 0.5, 2.0, 1e30]
  scores = [rng.choice(values, n).astype(np.float32) for n in (200, 7)]
  order = [rng.permutation(s.size).astype(np.uint32) for s in scores]
  for k in ((0, 7), (1, 0), (57, 3), (199, 1), (200, 6)):
    got = pruning.top_k(scores, order, jnp.int32(k))
    for s, o, largest, mask in zip(scores, order, k, got):
      expected = np.zeros(s.size, bool)
      expected[np.lexsort((o, -s))[:largest]] = True
      np.testing.assert_array_equal(mask, expected)


def test_zeros_of_either_sign_tie():
  scores, order = (
    jnp.array([-0.0, 0, -1, -0.0]),
    jnp.arange(4, dtype=jnp.uint32),
  )
  (got,) = jax.jit(pruning.top_k)([scores], [order], jnp.int32([2]))
  np.testing.assert_array_equal(got, [True, True, False, False])


def test_schedule_is_exponential_and_masks_nest():
  keep = pruning.schedule(10_000, 0.01, 4)
  assert keep.tolist() == [3162, 1000, 316, 100]
  net = models.mlp(10)
  variables, x = hidden(net, (8, 8, 1))
  half = prune(net, variables, x, 0.5, 'magnitude')
  fifth = prune(net, variables, x, 0.2, 'magnitude')
  kept, more = tree.flatten(fifth), tree.flatten(half)
  assert np.all(more[kept])


class Deep(nn.Module):
  @nn.compact
  def __call__(self, x):
    for _ in range(12):
      x = nn.relu(models.Dense(64)(x))
    return models.Dense(10)(x)


def test_deep_networks_do_not_overflow():
  """In float32 the plain sum of outputs is far past 1e38."""
  net = Deep()
  variables, x = hidden(net, (64,))
  variables['weights'] = jax.tree.map(lambda w: 999 * w, variables['weights'])
  positive = jax.tree.map(jnp.abs, variables['weights'])
  plain = net.apply({'params': positive}, jnp.ones_like(x))
  assert not np.all(np.isfinite(plain))
  mask = prune(net, variables, x, 0.3, steps=5)
  assert int(tree.count(mask)) == round(total(variables) * 0.3)
  pruning.check_layers(mask, 0.3, 'synflow')


def test_an_emptied_layer_is_an_error():
  net = models.mlp(10)
  variables, x = hidden(net, (8, 8, 1))
  mask = prune(net, variables, x, 0.0005, 'random', steps=1)
  mask['Dense_2']['kernel'] = jnp.zeros((200, 10), bool)
  with pytest.raises(InputError, match='density=0.0005.*Dense_2/kernel'):
    pruning.check_layers(mask, 0.0005, 'synflow')


def test_pruning_never_sees_data():
  """Nothing that prunes takes examples; the input's values do not matter."""
  net = models.cnn(10)
  variables, x = hidden(net, (8, 8, 1))
  noise = jax.random.normal(jax.random.key(9), x.shape)
  seen = (x, noise, x * jnp.nan)
  masks = [prune(net, variables, inputs, 0.2) for inputs in seen]
  for mask in masks[1:]:
    chex.assert_trees_all_equal(masks[0], mask)
  for score in pruning.SCORES.values():
    names = list(inspect.signature(score).parameters)
    assert names == ['key', 'net', 'variables', 'inputs']


def test_signs_do_not_matter_to_saliency():
  net = models.mlp(10)
  variables, x = hidden(net, (8, 8, 1))
  negative = jax.tree.map(jnp.negative, variables['weights'])
  chex.assert_trees_all_equal(
    synflow(net, variables, x),
    synflow(net, variables | {'weights': negative}, x),
  )


def test_random_pruning_differs_by_key():
  net = models.mlp(10)
  variables, x = hidden(net, (8, 8, 1))
  a, b = (prune(net, variables, x, 0.5, 'random', seed=s) for s in (1, 2))
  assert np.mean(tree.flatten(a) != tree.flatten(b)) > 0.4


def test_scores_may_be_negative_but_not_nan():
  net = models.create('mlp', 10)
  variables, x = hidden(net, (8, 8, 1))
  smallest = lambda key, net, held, inputs: jax.tree.map(
    lambda w: -1 - abs(w), held['weights']
  )
  keep = pruning.schedule(total(variables), 0.2, 10)
  key = jax.random.key(0)
  mask = pruning.prune(key, smallest, net, variables, x, keep)
  weights = np.abs(np.asarray(tree.flatten(variables['weights'])))
  kept = np.asarray(tree.flatten(mask))
  assert kept.sum() == keep[-1]
  assert weights[kept].max() <= weights[~kept].min()

  broken = lambda *given: jax.tree.map(
    lambda s: s.at[0, 0].set(jnp.nan), smallest(*given)
  )
  mask = pruning.prune(key, broken, net, variables, x, keep)
  with pytest.raises(InputError, match="pruning='mine': .* not finite"):
    pruning.check_layers(mask, 0.2, 'mine')
