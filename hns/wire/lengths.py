"""How long the entropy code of symbols is, known before they are coded.

The length depends only on how often each symbol of a layer occurs, and each
first bit in each unit. So a device counts the bytes, and codes nothing.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hns import tree
from hns.wire import odds, units
from hns.wire.odds import Array

# Bytes that a range coder may need beyond its symbols' information: some, and
# one more for so many layers.
_SPARE, _LAYERS = 8, 8


def histogram(symbols: jax.Array, counted: jax.Array, bits: int) -> jax.Array:
  """Counts of each value among the `counted` symbols, int32 [2^bits].

  Args:
    symbols: uint8, below 2^bits.
    counted: bool, broadcasts against `symbols`.
    bits: of a symbol, 1 to 8.
  """
  if bits > 5:
    hits = jnp.broadcast_to(counted, symbols.shape).astype(jnp.int32)
    return jnp.zeros(2**bits, jnp.int32).at[symbols].add(hits)
  # One reduction compiles several times faster than one per value.
  counted = jnp.broadcast_to(counted, symbols.shape).ravel()
  values = jnp.arange(1, 2**bits, dtype=symbols.dtype)
  hits = (symbols.ravel() == values[:, None]) & counted
  others = jax.vmap(tree.count)(hits)
  return jnp.append(tree.count(counted) - jnp.sum(others), others)


def length(counts: Array, by_grade: Array | None = None) -> Array:
  """Bits of the code of each layer, int32 [...]; can be jitted.

  Without the spare bytes of the code. Exact while `most` fits an int32.

  Args:
    counts: int32 [..., 2^bits].
    by_grade: of `units.by_grade`, int32 [..., grades, 3]; None without units.
  """
  return plan(counts, by_grade).bits


def most(count: int, bits: int) -> int:
  """The most bits of a layer of `count` symbols."""
  # `bits` per symbol, two units per bit for their cost, two roundings per node.
  # Odds by unit are taken only where they need less.
  return 8 + count * bits + 2 * count * bits // odds.FINE + 2 * 2**bits


def size(counts: Array, by_grade: Array | None = None) -> Array:
  """Bytes of the code of layers with these counts, int32 []; can be jitted.

  Args:
    counts: int32 [layers, 2^bits]; or int32 NumPy, for int64 [].
    by_grade: as in `length`.
  """
  used = length(counts, by_grade)
  # By eights, because the bits of many layers may overflow an int32.
  full, rest = (used // 8).sum(), (used % 8).sum()
  return full + (rest + 7) // 8 + spare(len(counts))


def spare(layers: int) -> int:
  """Bytes that the code of so many layers may need beyond `length`."""
  return _SPARE + layers // _LAYERS


def counts_of(parts: list[np.ndarray], bits: int) -> np.ndarray:
  """How often each symbol occurs in each array, int32 [parts, 2^bits]."""
  counts = [np.bincount(p, minlength=2**bits) for p in parts]
  return np.array(counts, np.int32).reshape(-1, 2**bits)


def grades_of(
  parts: list[np.ndarray], unit: list[np.ndarray], bits: int
) -> np.ndarray:
  """`units.by_grade` of arrays whose symbols have these units."""
  counts = [first_bits(*pair, bits) for pair in zip(parts, unit)]
  layer = np.repeat(np.arange(len(parts)), list(map(len, counts)))
  counts = np.concatenate([np.zeros((0, 2), np.int32), *counts])
  return units.by_grade(counts, layer, len(parts))


def size_of(
  parts: list[np.ndarray], bits: int, unit: list[np.ndarray] | None = None
) -> int:
  """Bytes of `encode(parts, bits, unit)`."""
  by_grade = grades_of(parts, unit, bits) if unit else None
  return int(size(counts_of(parts, bits), by_grade))


class Plan(NamedTuple):
  """How layers are coded.

  Attributes:
    bits: int32 [...], of the code.
    depth: int32 [...], how many levels of the tree have odds that are sent.
    chosen: int32 [..., nodes], the index of the best odds of each node.
    by_unit: bool [...], whether the first bit has odds for each unit.
  """

  bits: Array
  depth: Array
  chosen: Array
  by_unit: Array


def plan(counts: Array, by_grade: Array | None) -> Plan:
  """The number of levels of the tree that makes the code shortest, and more."""
  xp = odds.numpy_of(counts)
  zeros, ones = _branches(counts)
  chosen = odds.nearest(zeros, ones, np.arange(odds.LAST + 1))
  even = odds.even_bits(zeros + ones)
  gain = even - odds.bits(zeros, ones, chosen) - 8
  by_unit = xp.zeros(counts.shape[:-1], bool)
  if by_grade is not None:
    saved_by_unit = even[..., 0] - _bits_by_unit(by_grade)
    # Above 0 too, or the depth may be 0, and no odds are sent.
    by_unit = (saved_by_unit > gain[..., 0]) & (saved_by_unit > 0)
    root = xp.maximum(saved_by_unit, gain[..., 0])
    gain = xp.concatenate([root[..., None], gain[..., 1:]], -1)
  depths = range(counts.shape[-1].bit_length())
  saved = xp.stack([xp.sum(gain[..., : 2**d - 1], -1) for d in depths], -1)
  bits = 8 + xp.sum(even, -1) - xp.max(saved, -1)
  return Plan(bits, xp.argmax(saved, -1), chosen, by_unit)


def _bits_by_unit(by_grade: Array) -> Array:
  """Of the units' grades, and of the first bits with their odds."""
  zeros, ones = by_grade[..., 1], by_grade[..., 2]
  coded = odds.bits(zeros, ones, units.GRADES)
  return length(by_grade[..., 0]) + coded.sum(-1)


def first_bits(symbols: np.ndarray, unit: np.ndarray, bits: int) -> np.ndarray:
  """How often the first bit is 0, and 1, in each unit, int32 [units, 2]."""
  place = 2 * unit + (symbols >> (bits - 1))
  size = 2 * (int(unit.max(initial=-1)) + 1)
  return np.bincount(place, minlength=size).astype(np.int32).reshape(-1, 2)


def _branches(counts: Array) -> tuple[Array, Array]:
  """How often a node's bit is 0, and 1; int32 [..., nodes], level by level."""
  zeros, ones, width = [], [], 1
  *layers, values = counts.shape
  while width < values:
    halves = counts.reshape(*layers, width, 2, values // width // 2).sum(-1)
    zeros.append(halves[..., 0])
    ones.append(halves[..., 1])
    width *= 2
  xp = odds.numpy_of(counts)
  return xp.concatenate(zeros, -1), xp.concatenate(ones, -1)
