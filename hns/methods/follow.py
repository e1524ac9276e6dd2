"""Uploads of one bit in which weights that did not change follow their unit."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hns.methods.contract import Initial, Method
from hns.methods.lift import lift

# In `frozen`, by layer. The output unit of each weight, int32; an array of the
# kernel's shape becomes a vector where that does. And a 0 for each unit, int32
# [units], into which a vector's weights are counted.
_UNIT, _NONE = 'unit', 'none_in_unit'


def follow_units(base: Method) -> Method:
  """`base`, in whose uploads a weight that did not change follows its unit.

  One bit cannot say that a weight did not change, for example because its input
  was 0 in all examples of a client. `base` sends what a coin chooses, which
  costs a whole bit and adds noise to the server's mean. Here such a weight is
  sent as most of those into the same unit that changed, which an entropy code
  by unit makes cheap. It stays a coin's choice where as many went up as down.
  Ours.

  Args:
    base: a method whose `frozen` is a dict with the `mask` of what it trains,
      and whose uploads are -a or a for every weight.
  """
  inside = lift(base, frozen=lambda given: _without_units(given['frozen']))

  def init(key, params):
    frozen, *states = base.server.init(key, params)
    units = {
      _UNIT: jax.tree.map(_units, frozen['mask']),
      _NONE: jax.tree.map(_none_in_unit, frozen['mask']),
    }
    return Initial(frozen | units, *states)

  def update(key, frozen, message, client_state, initial_params, params):
    upload, kept = inside.client.update(
      key, frozen, message, client_state, initial_params, params
    )
    still = jax.tree.map(lambda a, b: a == b, initial_params, params)
    value = jax.tree.map(
      _followed, upload.value, still, frozen[_UNIT], frozen[_NONE]
    )
    return upload._replace(value=value), kept

  return inside.revise(client=dict(update=update), server=dict(init=init))


def _without_units(frozen: dict[str, Any]) -> dict[str, Any]:
  return {k: v for k, v in frozen.items() if k not in (_UNIT, _NONE)}


def _units(mask: np.ndarray) -> np.ndarray:
  return np.broadcast_to(np.arange(mask.shape[-1], dtype=np.int32), mask.shape)


def _none_in_unit(mask: np.ndarray) -> np.ndarray:
  return np.zeros(mask.shape[-1], np.int32)


def _followed(
  value: jax.Array, still: jax.Array, unit: jax.Array, none: jax.Array
) -> jax.Array:
  """The values of one layer; those that are `still` as most of their unit."""
  direction = jnp.where(still, 0, jnp.sign(value)).astype(none.dtype)
  most = jnp.asarray(none).at[unit].add(direction)[unit]
  return jnp.where(still & (most != 0), jnp.sign(most) * abs(value), value)
