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
from hns.networks.intercept import intercepted
from hns.networks.models import Network, Norm
from hns.networks.supermask import to_masked, to_params
from hns.tree import Tree

_NORMS = (
  *(Norm, nn.BatchNorm, nn.GroupNorm, nn.InstanceNorm, nn.LayerNorm),
  nn.RMSNorm,
)

Variables = dict[str, Tree]  # collections of `hns.networks.supermask.to_masked`
Weights = Tree  # a tree like the collection `weights`
Score = Callable[[jax.Array, nn.Module, Variables, jax.Array], Weights]


def synflow(
  key: jax.Array, net: nn.Module, variables: Variables, inputs: jax.Array
) -> Weights:
  """Synaptic saliency |w x dR/dw|, R the sum of outputs on an all-ones input.

  Tanaka et al. 2020 (arXiv 2006.05467), eq. 2: with positive weights and norm
  layers bypassed, the network is linear and the saliencies of each layer add up
  to R (conservation). Each kernel is first divided by its mean column sum. In a
  chain of layers that multiplies every score by the same number, which does not
  change the ranking and keeps R near 1 in float32 at any depth. `check_chain`
  rejects other networks.

  Args:
    key: unused.
    net: the plain module.
    variables: the network's; the signs are not used.
    inputs: float [1, ...], only its shape and dtype are used.
  """
  del key
  return _flow(net, variables, inputs)[1]


def _flow(
  net: nn.Module, variables: Variables, inputs: jax.Array
) -> tuple[jax.Array, Weights]:
  """The sum of outputs R, float32 [], and the saliency of each weight."""
  positive = jax.tree.map(
    lambda w, m: _unit_gain(jnp.abs(w) * m),
    variables['weights'],
    variables['mask'],
  )
  ones = jax.tree.map(jnp.ones_like, positive)
  rest = jax.tree.map(jnp.abs, variables['params'])

  def total(weights):
    params = to_params(
      {'weights': weights, 'mask': ones, 'signs': ones, 'params': rest}
    )
    with intercepted(_bypass_norms):
      return jnp.sum(net.apply(params, jnp.ones_like(inputs)))

  outputs, grads = jax.value_and_grad(total)(positive)
  return outputs, jax.tree.map(lambda w, g: jnp.abs(w * g), positive, grads)


def check_chain(net: nn.Module, inputs: jax.Array) -> None:
  """Raises `InputError` for a network for which `synflow` would be wrong.

  In a chain of layers the saliencies of each layer add up to the sum of outputs
  (Tanaka et al. 2020, theorem 2). This fails with shortcuts, with a kernel that
  is used twice, and with functions that are not positively homogeneous, such as
  softmax, gates, GELU and non-zero biases.

  Args:
    net: the plain module.
    inputs: float [1, ...], the shape of one example.
  """
  if isinstance(net, Network):  # a chain by construction
    return
  with jax.ensure_compile_time_eval():  # `prune` may be traced
    blank = jnp.zeros(inputs.shape, inputs.dtype)
    params = jax.jit(net.init)(jax.random.key(0), blank)['params']
    outputs, scores = jax.jit(functools.partial(_flow, net))(
      to_masked(params), blank
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(scores):
      share = float(jnp.sum(leaf) / outputs)
      is_unused = leaf.ndim == 2 and not np.all(leaf)
      rounding = 1e-3 if leaf.dtype.itemsize > 2 else 0.1
      if is_unused or not abs(share - 1) < rounding:
        raise invalid(
          'pruning',
          'synflow',
          f'{tree.path_name(path)} is not in a plain chain of layers with ReLU '
          f'that uses all inputs (it carries {share:.3g} of the flow): choose '
          'pruning=magnitude or random, or leave that module out',
        )


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


@functools.partial(jax.jit, static_argnames=('score', 'net'))
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
  `keep[-1]` survive.

  Args:
    key: for ties and random scores.
    score: one of `SCORES`.
    net, variables: the plain module and its masked variables.
    inputs: float [1, ...], of the shape of one example.
    keep: int32 [steps], weights to keep after each step: see `schedule`.

  Returns:
    A tree of bool, like `variables['weights']`.
  """
  if score is synflow:
    check_chain(net, inputs)
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


def schedule(total: int, density: float, steps: int) -> jax.Array:
  """Weights to keep after each step: total x density^(k / steps), rounded.

  The exponential schedule of Tanaka et al. 2020, algorithm 1; int32 [steps].
  """
  exponents = np.arange(1, steps + 1) / steps
  return jnp.asarray(np.rint(total * density**exponents), jnp.int32)


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


def check_layers(mask: Weights, density: float, score: str) -> None:
  """Raises `InputError` for a layer without weights, or scores not finite.

  Args:
    mask: what `prune` gave.
    density, score: of the config, for the message.
  """
  layers = jax.tree.leaves(mask)
  wanted = round(density * sum(layer.size for layer in layers))
  if wanted and not any(map(np.any, layers)):
    remedy = f'leaves none of {wanted} weights: its scores are not finite'
    raise invalid('pruning', score, remedy)
  for path, layer in jax.tree_util.tree_leaves_with_path(mask):
    if not np.any(layer):
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


def _unit_gain(kernel: jax.Array) -> jax.Array:
  """A kernel divided by its mean column sum."""
  total = jnp.sum(kernel) / kernel.shape[-1]
  return kernel / jnp.where(total > 0, total, 1)


def _bypass_norms(call, args, kwargs, context) -> Any:
  """Makes norm layers return their input: they would undo all scale."""
  if isinstance(context.module, _NORMS) and context.method_name == '__call__':
    return args[0] if args else kwargs['x']
  return call(*args, **kwargs)
