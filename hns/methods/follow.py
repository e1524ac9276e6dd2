"""Uploads of one bit in which weights that changed little follow their unit."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hns.methods.contract import Initial, Method
from hns.methods.lift import lift
from hns.methods.uploads import mean_of_kept

# In `frozen`, by weight, its output unit, int32: a number below that of the
# weights left in the layer. It has the weight's shape, so that it becomes a
# vector where that does.
_UNIT = 'unit'


def follow_units(base: Method, price: float) -> Method:
  """`base`, whose uploads cost less where most of a unit's bits are equal.

  A bit that differs from most of its unit's is turned where the entropy code
  would need more for it than it is worth: where the weight's change is at most
  `price` times the layer's mean change, for each bit that it costs more. A
  weight that did not change at all follows its unit as well. Ours; it is the
  trade of bits against distortion of rate-distortion theory, one weight at a
  time.

  Args:
    base: a method whose `frozen` is a dict with the `mask` of what it trains,
      and whose uploads are -a or a for every weight: a coin's choice where it
      did not change.
    price: of a bit, in mean changes; above 0.
  """
  inside = lift(base, frozen=lambda given: _without_unit(given['frozen']))

  def init(key, params):
    frozen, *states = base.server.init(key, params)
    unit = jax.tree.map(_units, frozen['mask'])
    return Initial(frozen | {_UNIT: unit}, *states)

  def update(key, frozen, message, client_state, initial_params, params):
    upload, kept = inside.client.update(
      key, frozen, message, client_state, initial_params, params
    )
    change = jax.tree.map(lambda a, b: abs(b - a), initial_params, params)
    value = jax.tree.map(
      functools.partial(_followed, price),
      upload.value,
      change,
      frozen[_UNIT],
      upload.weight,
    )
    return upload._replace(value=value), kept

  return inside.revise(client=dict(update=update), server=dict(init=init))


def _without_unit(frozen: dict[str, Any]) -> dict[str, Any]:
  return {name: part for name, part in frozen.items() if name != _UNIT}


def _units(mask: np.ndarray) -> np.ndarray:
  """The output unit of each weight, counted without those that have none."""
  mask = np.asarray(mask)
  used = mask.any(tuple(range(mask.ndim - 1)))
  unit = np.maximum(np.cumsum(used) - 1, 0).astype(np.int32)
  return np.broadcast_to(unit, mask.shape)


def _followed(price, value, change, unit, mask) -> jax.Array:
  """The values of one layer, those that changed little as their unit's."""
  kept = jnp.broadcast_to(mask != 0, value.shape)
  moved = kept & (change > 0)
  # Half a weight more of each sign, or the odds of few would be infinite.
  ones = _sums(unit, moved & (value > 0)) + 0.5
  both = _sums(unit, moved) + 1
  odds = jnp.log2(ones / (both - ones))[unit]
  size = change / jnp.maximum(mean_of_kept(change, kept), 1e-30)
  follows = (size <= price * abs(odds)) & (odds != 0)
  return jnp.where(follows, jnp.sign(odds) * abs(value), value)


def _sums(unit: jax.Array, which: jax.Array) -> jax.Array:
  """How many hold in each unit; float32, exact below 2^24."""
  counts = jnp.zeros(unit.size, jnp.int32)
  return counts.at[unit].add(which).astype(jnp.float32)
