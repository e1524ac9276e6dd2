"""Hostile clients: what they make of their training before they upload.

An attack changes what was trained, then the client encodes it as an honest one
does. So it works with every method, and a client that may send one bit a weight
has no more than that bit to lie with.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hns import tree
from hns.methods.contract import Params

_SCALE = 10.0

# `(own, shared, initial_params, params) -> params`: a key of the client's own,
# one that all hostile clients of the round have, before and after training.
Lie = Callable[[jax.Array, jax.Array, Params, Params], Params]


class Attack(NamedTuple):
  """Who attacks, and how; the default: nobody.

  Attributes:
    ids: of the hostile clients.
    lie: what they make of their training; None if their data is all that is
      false.
  """

  ids: tuple[int, ...] = ()
  lie: Lie | None = None


def is_hostile(attack: Attack, index: jax.Array) -> jax.Array:
  """Whether this client attacks, bool []."""
  return jnp.isin(index, jnp.array(attack.ids, jnp.int32))


def corrupt(
  attack: Attack,
  own: jax.Array,
  shared: jax.Array,
  index: jax.Array,
  initial_params: Params,
  params: Params,
) -> Params:
  """What a client hands to its upload: its training, or a lie."""
  if not attack.ids or attack.lie is None:
    return params
  lie = attack.lie(own, shared, initial_params, params)
  return tree.where(is_hostile(attack, index), lie, params)


def flip(own, shared, initial_params, params) -> Params:
  """The change of training, the other way round."""
  return jax.tree.map(lambda a, b: 2 * a - b, initial_params, params)


def scale(own, shared, initial_params, params) -> Params:
  """Ten times the change of training, the other way round."""
  return jax.tree.map(lambda a, b: a - _SCALE * (b - a), initial_params, params)


def noise(own, shared, initial_params, params) -> Params:
  """Normal noise as large as the change of training, leaf by leaf."""
  change = jax.tree.map(jnp.subtract, params, initial_params)
  draws = tree.normal(own, params)
  add = lambda a, draw, size: (a + draw * _rms(size)).astype(a.dtype)
  return jax.tree.map(add, initial_params, draws, change)


def collude(own, shared, initial_params, params) -> Params:
  """The inverse of what the round began with: all hostile clients vote as one.

  Where a method's training begins at 0, all choose one sign at random.
  """
  change = jax.tree.map(jnp.subtract, params, initial_params)
  draws = tree.normal(shared, params)

  def against(start, draw, size):
    sign = jnp.where(start == 0, jnp.sign(draw), jnp.sign(start))
    return (-sign * (abs(start) + _rms(size))).astype(start.dtype)

  return jax.tree.map(against, initial_params, draws, change)


def free_ride(own, shared, initial_params, params) -> Params:
  """What the round began with: no work done."""
  return initial_params


def broken(own, shared, initial_params, params) -> Params:
  """Not a number anywhere."""
  return jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), params)


def _rms(x: jax.Array) -> jax.Array:
  return jnp.sqrt(jnp.mean(jnp.square(x)))


# With flipped labels a client trains honestly on false data: it needs no lie.
FLIPPED_LABELS = 'label_flip'
ATTACKS: dict[str, Lie | None] = {
  FLIPPED_LABELS: None,
  'sign_flip': flip,
  'scaled': scale,
  'random': noise,
  'collude': collude,
  'free_rider': free_ride,
  'broken': broken,
}
