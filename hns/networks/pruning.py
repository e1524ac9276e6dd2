"""Pruning on the server, once, before training and without data.

For a new score, put a function `(key, net, variables, inputs) -> scores` in
`SCORES`. It returns a number >= 0 for each weight.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from hns import tree
from hns.errors import invalid
from hns.networks import saliency
from hns.networks.models import Network
from hns.once import once
from hns.tree import Tree

Variables = dict[str, Tree]  # collections of `hns.networks.supermask.to_masked`
Weights = Tree  # a tree like the collection `weights`
Score = Callable[[jax.Array, nn.Module, Variables, jax.Array], Weights]


def synflow(
  key: jax.Array, net: nn.Module, variables: Variables, inputs: jax.Array
) -> Weights:
  """Synaptic saliency |w x dR/dw|, R the sum of outputs on an all-ones input.

  Tanaka et al. 2020 (arXiv 2006.05467), eq. 2, as shares of R; what this means
  beyond chains of ReLU is said in `hns.networks.saliency`.

  Args:
    key: unused.
    net: the plain module.
    variables: the network's; the signs are not used.
    inputs: [1, ...], only its shape and dtype are used.
  """
  del key
  outputs, scores = saliency.flow(net, variables, inputs)
  return jax.tree.map(lambda s: (s / outputs).astype(jnp.float32), scores)


def magnitude(
  key: jax.Array, net: nn.Module, variables: Variables, inputs: jax.Array
) -> Weights:
  """|w|: a baseline (Han et al. 2015)."""
  del key, net, inputs
  return jax.tree.map(
    lambda w, m: jnp.abs(w) * m, variables['weights'], variables['mask']
  )


def random(
  key: jax.Array, net: nn.Module, variables: Variables, inputs: jax.Array
) -> Weights:
  """Uniform numbers that do not depend on the weights: a baseline."""
  del net, inputs
  return tree.uniform(key, variables['weights'])


SCORES: dict[str, Score] = {
  'synflow': synflow,
  'magnitude': magnitude,
  'random': random,
}


def prune(
  key: jax.Array,
  score: Score,
  net: nn.Module,
  variables: Variables,
  inputs: jax.Array,
  keep: jax.Array,
) -> Weights:
  """The mask after `len(keep)` steps of scoring and pruning.

  All weights are ranked together, equal ones at random, so that exactly
  `keep[-1]` survive. Saliency is computed in float64 on the host's CPU, as that
  of deep networks overflows float32, and equal machines get equal masks; where
  this is traced, in the trace's own precision.

  Args:
    key: for ties and random scores.
    score: one of `SCORES`.
    net, variables: the plain module and its masked variables.
    inputs: [1, ...], of the shape of one example.
    keep: int32 [steps], weights to keep after each step: see `schedule`.

  Returns:
    A tree of bool, like `variables['weights']`.
  """
  given = key, variables, inputs, keep
  if score is not synflow:
    return _prune(score, net, given)
  if not any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(given)):
    cpu = jax.local_devices(backend='cpu')[0]
    with jax.enable_x64(True), jax.default_device(cpu):
      given = jax.device_put(given, cpu)
      _check(net, inputs, tree.merge(given[1]['weights'], given[1]['params']))
      mask = jax.device_get(_prune(synflow, net, given))
    return jax.device_put(mask)  # not bound to the CPU
  _check(net, inputs)
  return _prune(synflow, net, given)


def _check(net: nn.Module, inputs: jax.Array, params: Tree = None) -> None:
  if not isinstance(net, Network):  # a chain by construction
    saliency.check(net, inputs, params)


@functools.partial(once, static_argnums=(0, 1))
def _prune(score: Score, net: nn.Module, given: tuple[Any, ...]) -> Weights:
  """`prune`; `given` are its arrays, in their order."""
  key, variables, inputs, keep = given
  score_key, tie_key = jax.random.split(key)
  size = sum(w.size for w in jax.tree.leaves(variables['weights']))
  order = jax.random.permutation(tie_key, size).astype(jnp.uint32)

  def step(i, mask):
    masked = variables | {'mask': mask}
    scores = tree.flatten(score(score_key, net, masked, inputs))
    left = tree.flatten(mask)
    ranked = jnp.where(left, scores, -jnp.inf).astype(jnp.float32)
    (survives,) = top_k([ranked], [order], keep[i, None])
    # `check_layers` refuses a mask without weights.
    survives &= jnp.all(jnp.isfinite(ranked) | ~left)
    return tree.unflatten(survives & left, mask)

  return jax.lax.fori_loop(0, len(keep), step, variables['mask'])


def schedule(total: int, density: float, steps: int) -> np.ndarray:
  """Weights to keep after each step: total x density^(k / steps), rounded.

  The exponential schedule of Tanaka et al. 2020, algorithm 1; int32 [steps].
  """
  exponents = np.arange(1, steps + 1) / steps
  return np.rint(total * density**exponents).astype(np.int32)


def top_k(
  scores: list[jax.Array], order: list[jax.Array], k: jax.Array
) -> list[jax.Array]:
  """Marks the k largest values of each array; `order` decides between equals.

  All arrays are searched in one loop, which compiles faster than one for each.

  Args:
    scores: float32 [n] each, not NaN; n may differ.
    order: uint32 [n] each, a permutation.
    k: int32 [arrays], at most n.

  Returns:
    bool [n] for each array.
  """
  rank, place = [_rank(s) for s in scores], [~o for o in order]
  threshold = _kth_largest(rank, k)
  above = [r > t for r, t in zip(rank, threshold)]
  tied = [r == t for r, t in zip(rank, threshold)]
  left = k - jnp.array([tree.count(a) for a in above], jnp.int32)
  last = _kth_largest([jnp.where(t, p, 0) for t, p in zip(tied, place)], left)
  first = [t & (p >= end) for t, p, end in zip(tied, place, last)]
  return [a | f for a, f in zip(above, first)]


def _rank(scores: jax.Array) -> jax.Array:
  """Maps float32 to uint32 of the same order."""
  bits = jax.lax.bitcast_convert_type(scores, jnp.uint32)
  bits = jnp.where(bits == jnp.uint32(1 << 31), 0, bits)  # -0.0 is 0.0
  # All bits of negative numbers are flipped, and the sign bit of others.
  negative = bits >> 31 == 1
  return jnp.where(negative, ~bits, bits | jnp.uint32(1 << 31))


def check_layers(
  mask: Weights,
  density: float,
  score: str,
  is_connected: Callable[[], bool] = lambda: False,
) -> None:
  """Raises `InputError` for a network that is cut, or scores not finite.

  Args:
    mask: what `prune` gave.
    density, score: of the config, for the message.
    is_connected: whether something flows through the network although layers
      have no weights, as past an emptied shortcut.
  """
  layers = jax.tree.leaves(mask)
  wanted = round(density * sum(layer.size for layer in layers))
  if wanted and not any(map(np.any, layers)):
    remedy = f'leaves none of {wanted} weights: its scores are not finite'
    raise invalid('pruning', score, remedy)
  for path, layer in jax.tree_util.tree_leaves_with_path(mask):
    if not np.any(layer) and not is_connected():
      raise invalid(
        'density',
        density,
        f'pruning leaves no weight in {tree.path_name(path)}: raise density, '
        'or pruning_steps if it is below 100, or choose another pruning',
      )


def _kth_largest(values: list[jax.Array], k: jax.Array) -> jax.Array:
  """The k-th largest of each array of uint32, bit by bit from the top.

  For a million values 32 counts are about ten times faster on a CPU than
  sorting.
  """

  def fix_bit(i, prefix):
    trial = prefix | (jnp.uint32(1) << (31 - i).astype(jnp.uint32))
    counts = [tree.count(v >= t) for v, t in zip(values, trial)]
    return jnp.where(jnp.array(counts, jnp.int32) >= k, trial, prefix)

  return jax.lax.fori_loop(0, 32, fix_bit, jnp.zeros(len(values), jnp.uint32))
