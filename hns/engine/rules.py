"""Rules by which a server makes one of many uploads, beside the mean.

A rule sees all uploads of a round at once, so a server needs memory for them;
the mean (`hns.engine.aggregate`) sums as they come.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hns import tree
from hns.tree import Tree

# `(key, values, weights, center) -> values`, with the server's key of a
# round. Leaves of `values` and `weights` have a leading axis of uploads; weight
# 0 is what was not sent. `center` has no such axis: it is what an upload of a
# client that learned nothing would be.
Rule = Callable[[jax.Array, Tree, Tree, Tree], Tree]


class Settings(NamedTuple):
  """The numbers of rules; each uses its own.

  Attributes:
    trim_share: of the uploads, that is cut off on each side.
    clip_norm: how far an upload may be from the center.
    noise_multiplier: of the noise, in clip norms.
    wanted: uploads that a round is to have.
  """

  trim_share: float = 0.2
  clip_norm: float = 1.0
  noise_multiplier: float = 1.0
  wanted: int = 1


def trimmed_mean(settings: Settings, key, values, weights, center) -> Tree:
  """The mean of each coordinate without its largest and smallest values.

  Yin et al. 2018 (arXiv 1803.01498). Of n values floor(trim_share x n) are
  cut off on each side. Every client counts as one, whatever its examples.
  """
  share = settings.trim_share
  # In double precision: in single, the floor may be one less.
  most = next((len(x) for x in jax.tree.leaves(values)), 0)
  cuts = np.floor(share * np.arange(most + 1) + 1e-9).astype(np.int32)
  cut = lambda count: jnp.asarray(cuts)[count]
  return jax.tree.map(functools.partial(_middle, cut), values, weights)


def median(settings: Settings, key, values, weights, center) -> Tree:
  """The median of each coordinate; of votes, the majority's, 0 for a tie.

  Yin et al. 2018 (arXiv 1803.01498). Every client counts as one.
  """
  cut = lambda count: jnp.maximum(count - 1, 0) // 2
  return jax.tree.map(functools.partial(_middle, cut), values, weights)


def clipped_mean(settings: Settings, key, values, weights, center) -> Tree:
  """The weighted mean of uploads no farther from the center than their median.

  Norm clipping (Sun et al. 2019, arXiv 1911.07963), with the median of the
  round's norms as the bound.
  """
  away, norms = _away(values, weights, center)
  bound = jnp.nanmedian(jnp.where(_sent(weights), norms, jnp.nan))
  away = _clipped(away, norms, bound)

  def leaf(away, weight, center):
    weight = jnp.broadcast_to(weight, away.shape)
    total = weight.sum(0)
    mean = (away * weight).sum(0) / jnp.where(total > 0, total, 1)
    return jnp.where(total > 0, center + mean, 0)

  return jax.tree.map(leaf, away, weights, center)


def private_mean(settings: Settings, key, values, weights, center) -> Tree:
  """The mean of clipped uploads, with noise: central differential privacy.

  DP-FedAvg (McMahan et al. 2018, arXiv 1710.06963): the distance of an upload
  from the center is at most `clip_norm`, every client counts as one of
  `wanted`, and the sum has normal noise of deviation noise_multiplier x
  clip_norm.
  """
  away, norms = _away(values, weights, center)
  away = _clipped(away, norms, settings.clip_norm)
  noise = settings.noise_multiplier * settings.clip_norm
  draws = tree.normal(key, center)

  def leaf(away, weight, center, draw):
    total = away.sum(0) + noise * draw
    sent = jnp.any(jnp.broadcast_to(weight > 0, away.shape), 0)
    return jnp.where(sent, center + total / settings.wanted, 0)

  return jax.tree.map(leaf, away, weights, center, draws)


def _away(values: Tree, weights: Tree, center: Tree) -> tuple[Tree, jax.Array]:
  """Each upload's distance from the center, 0 where not sent, and its norm.

  The norm of all leaves together, float32 [uploads].
  """
  away = jax.tree.map(
    lambda v, w, c: jnp.where(w > 0, v.astype(jnp.float32) - c, 0),
    values,
    weights,
    center,
  )
  squares = [jnp.sum(jnp.square(x), _inner(x)) for x in jax.tree.leaves(away)]
  return away, jnp.sqrt(sum(squares, jnp.float32(0)))


def _clipped(away: Tree, norms: jax.Array, bound: float | jax.Array) -> Tree:
  """Distances, shortened to the bound."""
  factor = jnp.minimum(1, bound / jnp.where(norms > 0, norms, 1))
  shape = lambda x: (-1, *[1] * (x.ndim - 1))
  return jax.tree.map(lambda x: x * factor.reshape(shape(x)), away)


def _sent(weights: Tree) -> jax.Array:
  """Whether an upload is there, bool [uploads]."""
  sent = [jnp.any(w > 0, _inner(w)) for w in jax.tree.leaves(weights)]
  return functools.reduce(jnp.logical_or, sent, jnp.array(False))


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


# `(settings, key, values, weights, center) -> values`; None is the mean.
RULES: dict[str, Callable[..., Tree] | None] = {
  'mean': None,
  'median': median,
  'trimmed_mean': trimmed_mean,
  'clipped_mean': clipped_mean,
  'private_mean': private_mean,
}


def rule_of(name: str, settings: Settings) -> Rule | None:
  """The rule of that name; None for the mean."""
  return RULES[name] and functools.partial(RULES[name], settings)
