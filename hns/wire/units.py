"""How the first bits of a layer's symbols differ between its units.

The inputs of a layer behind a ReLU are not negative, so one step of training
turns most weights into a unit the same way: a client that has no examples of a
class pushes all of its weights down. So each unit has odds of its own, one of
eight grades, which costs it two to three bits.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from hns import tree
from hns.wire import odds
from hns.wire.odds import Array

GRADE_BITS = 3
# The indices of the eight odds. Chosen on uploads of FEMNIST: eight with equal
# gaps took 1 to 2 % more bits, sixteen 1 %.
GRADES = odds.index_of([-5, -2.6, -1.2, -0.4, 0.4, 1.2, 2.6, 5])

# The unit of each value of a vector that is named, int32 [n], at least 0; None
# if unknown.
UnitsOf = Callable[[str], np.ndarray | None]


def of_array(name: str, array: Array, units_of: UnitsOf | None) -> np.ndarray:
  """The unit of each value of an array in row-major order, int [n].

  The last axis of a kernel, what `units_of` says of a vector, or one for all.
  """
  if array.ndim > 1:
    last = np.arange(array.shape[-1], dtype=np.int32)
    return np.tile(last, array.size // max(len(last), 1))
  return _of_vector(name, array, units_of)


def _of_vector(name, vector, units_of) -> np.ndarray:
  known = units_of(name) if units_of else None
  if known is None or known.shape != vector.shape:
    return np.zeros(vector.size, np.int32)
  return known


def count(
  name: str,
  symbols: jax.Array,
  counted: jax.Array,
  bits: int,
  units_of: UnitsOf | None,
) -> jax.Array:
  """How often the first bit is 0, and 1, in each unit, int32 [units, 2].

  Args:
    name: of the array.
    symbols: uint8, of an array; its units are as `of_array` has them.
    counted: bool, broadcasts against `symbols`.
    bits: of a symbol.
    units_of: of the codec.
  """
  if not symbols.size:
    return jnp.zeros((1, 2), jnp.int32)
  first = symbols >> (bits - 1) > 0
  if symbols.ndim > 1:
    rows = symbols.size // symbols.shape[-1]
    each = np.full(symbols.shape[-1], rows, np.int32)
    sums = lambda which: jax.vmap(tree.count, in_axes=1)(
      which.reshape(rows, -1)
    )
  else:
    unit = _of_vector(name, symbols, units_of)
    each = np.bincount(unit).astype(np.int32)
    sums = functools.partial(_scattered, unit, len(each))
  ones = sums(first & counted)
  if counted.ndim:
    both = sums(jnp.broadcast_to(counted, symbols.shape))
  else:  # all are, or none
    both = counted * each
  return jnp.stack([both - ones, ones], -1)


def _scattered(unit: np.ndarray, units: int, which: jax.Array) -> jax.Array:
  """How many hold in each unit, int32 [units]."""
  if units == 1:
    return tree.count(which)[None]
  return jnp.zeros(units, jnp.int32).at[unit].add(which.astype(jnp.int32))


def grade(counts: Array) -> Array:
  """The grade of each unit, int32 [...], of counts [..., 2]."""
  return odds.nearest(counts[..., 0], counts[..., 1], GRADES)


def by_grade(counts: Array, layer: np.ndarray, layers: int) -> Array:
  """What units of a grade have together, int32 [layers, grades, 3].

  How many there are, and how often the first bits of their symbols are 0, and
  1. Units without symbols are left out.

  Args:
    counts: int32 [units, 2] of all layers.
    layer: int [units], the layer of each.
    layers: how many there are.
  """
  xp = odds.numpy_of(counts)
  any_ = (counts.sum(-1) > 0).astype(np.int32)
  rows = xp.concatenate([any_[:, None], counts], -1)
  place = layer.astype(np.int32) * len(GRADES) + grade(counts)
  shape = layers * len(GRADES), 3
  if xp is np:
    table = np.zeros(shape, np.int32)
    np.add.at(table, place, rows)
  else:
    table = jnp.zeros(shape, jnp.int32).at[place].add(rows)
  return table.reshape(layers, len(GRADES), 3)
