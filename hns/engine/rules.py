"""Rules by which a server makes one of many uploads, beside the mean.

A rule sees all uploads of a round at once, so a server needs memory for them;
the mean (`hns.engine.aggregate`) sums as they come.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from hns.tree import Tree

# `(values, weights, center) -> values`. Leaves of `values` and `weights` have a
# leading axis of uploads, weight 0 is what was not sent; `center`, without that
# axis, is what an upload of a client that learned nothing would be.
Rule = Callable[[Tree, Tree, Tree], Tree]


def trimmed_mean(
  share: float, values: Tree, weights: Tree, center: Tree
) -> Tree:
  """The mean of each coordinate without its largest and smallest values.

  Yin et al. 2018 (arXiv 1803.01498). Of n values floor(share x n) are cut off
  on each side. Every client counts as one, whatever its number of examples.
  """
  cut = lambda count: jnp.floor(share * count).astype(jnp.int32)
  return jax.tree.map(functools.partial(_middle, cut), values, weights)


def median(values: Tree, weights: Tree, center: Tree) -> Tree:
  """The median of each coordinate; of votes, the majority's, 0 for a tie.

  Yin et al. 2018 (arXiv 1803.01498). Every client counts as one.
  """
  cut = lambda count: jnp.maximum(count - 1, 0) // 2
  return jax.tree.map(functools.partial(_middle, cut), values, weights)


def clipped_mean(values: Tree, weights: Tree, center: Tree) -> Tree:
  """The weighted mean of uploads at most as far from the center as their median.

  Norm clipping (Sun et al. 2019, arXiv 1911.07963), with the median of the
  round's norms as the bound.
  """
  away = jax.tree.map(
    lambda v, w, c: jnp.where(w > 0, v.astype(jnp.float32) - c, 0),
    values,
    weights,
    center,
  )
  squares = [
    jnp.sum(jnp.square(x), _inner(x)) for x in jax.tree.leaves(away)
  ]
  if not squares:
    return away
  norms = jnp.sqrt(sum(squares))
  counts = [jnp.any(w > 0, _inner(w)) for w in jax.tree.leaves(weights)]
  sent = functools.reduce(jnp.logical_or, counts)
  bound = jnp.nanmedian(jnp.where(sent, norms, jnp.nan))
  factor = jnp.minimum(1, bound / jnp.where(norms > 0, norms, 1))

  def leaf(away, weight, center):
    of_client = factor.reshape(-1, *[1] * (away.ndim - 1))
    weight = jnp.broadcast_to(weight, away.shape).astype(jnp.float32)
    total = weight.sum(0)
    mean = (away * of_client * weight).sum(0) / jnp.where(total > 0, total, 1)
    return jnp.where(total > 0, center + mean, 0)

  return jax.tree.map(leaf, away, weights, center)


def _inner(x: jax.Array) -> tuple[int, ...]:
  """All axes but that of the uploads."""
  return tuple(range(1, x.ndim))


def _middle(
  cut: Callable[[jax.Array], jax.Array], values: jax.Array, weights: jax.Array
) -> jax.Array:
  """The mean of what is left of each coordinate's values, float32 [...]."""
  sent = jnp.broadcast_to(weights > 0, values.shape)
  count = jnp.sum(sent, 0, dtype=jnp.int32)
  values = values.astype(jnp.float32)
  ordered = jnp.sort(jnp.where(sent, values, jnp.inf), axis=0)
  place = jnp.arange(values.shape[0]).reshape(-1, *[1] * (values.ndim - 1))
  inside = (place >= cut(count)) & (place < count - cut(count))
  total = jnp.sum(jnp.where(inside, ordered, 0), axis=0)
  return total / jnp.maximum(count - 2 * cut(count), 1)


# Of a share that is cut off, a rule; None is the mean.
RULES: dict[str, Callable[[float], Rule] | None] = {
  'mean': None,
  'median': lambda share: median,
  'trimmed_mean': lambda share: functools.partial(trimmed_mean, share),
  'clipped_mean': lambda share: clipped_mean,
}
