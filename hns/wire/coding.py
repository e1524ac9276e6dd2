"""Entropy coding of small symbols, with a length known before coding.

Symbols of b bits are coded bit by bit, the most significant first. Every bit
has its own probability for each value of the bits before it (a node of the
binary tree of symbols), so the code reaches the entropy of the symbols'
distribution. Each probability is sent as one byte. For small layers only the
probabilities of the upper levels of the tree are sent, and the others are 1/2.
Where that is shorter, the first bit has a probability for each unit of the
layer (`hns.wire.units`). A range coder (constriction) codes the bits. Its
output is padded to a length that depends only on how often each symbol occurs,
and each first bit in each unit, so that a device can count the bytes without
coding.
"""

from collections.abc import Iterator
from typing import NamedTuple

import constriction
import jax
import jax.numpy as jnp
import numpy as np

from hns import tree
from hns.errors import InputError
from hns.wire import odds, units
from hns.wire.odds import Array

_SPARE = 8  # bytes that a range coder may need beyond its symbols' information
_BY_UNIT = 16  # added to a layer's first byte, whose depth is at most 8

_Coder = constriction.stream.queue.RangeEncoder
_Decoder = constriction.stream.queue.RangeDecoder


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


def length(counts: Array, by_level: Array | None = None) -> Array:
  """Bits of the code of each layer, int32 [...]; can be jitted.

  Without the spare bytes of the code. Exact while `most` fits an int32.

  Args:
    counts: int32 [..., 2^bits].
    by_level: of `units.by_level`, int32 [..., levels, 3]; None without units.
  """
  return _plan(counts, by_level).bits


def most(count: int, bits: int) -> int:
  """The most bits of a layer of `count` symbols."""
  # `bits` per symbol, two units per bit for their cost, two roundings per node.
  return 8 + count * bits + 2 * count * bits // odds.FINE + 2 * 2**bits


def size(counts: Array, by_level: Array | None = None) -> Array:
  """Bytes of the code of layers with these counts, int32 []; can be jitted.

  Args:
    counts: int32 [layers, 2^bits]; or int32 NumPy, for int64 [].
    by_level: as in `length`.
  """
  used = length(counts, by_level)
  # By eights, because the bits of many layers may overflow an int32.
  full, rest = (used // 8).sum(), (used % 8).sum()
  return full + (rest + 7) // 8 + _SPARE


def counts_of(parts: list[np.ndarray], bits: int) -> np.ndarray:
  """How often each symbol occurs in each array, int32 [parts, 2^bits]."""
  counts = [np.bincount(p, minlength=2**bits) for p in parts]
  return np.array(counts, np.int32).reshape(-1, 2**bits)


def levels_of(
  parts: list[np.ndarray], unit: list[np.ndarray], bits: int
) -> np.ndarray:
  """`units.by_level` of arrays whose symbols have these units."""
  counts = [_first_bits(*pair, bits) for pair in zip(parts, unit)]
  layer = np.repeat(np.arange(len(parts)), list(map(len, counts)))
  counts = np.concatenate([np.zeros((0, 2), np.int32), *counts])
  return units.by_level(counts, layer, len(parts))


def size_of(
  parts: list[np.ndarray], bits: int, unit: list[np.ndarray] | None = None
) -> int:
  """Bytes of `encode(parts, bits, unit)`."""
  by_level = levels_of(parts, unit, bits) if unit else None
  return int(size(counts_of(parts, bits), by_level))


def encode(
  parts: list[np.ndarray], bits: int, unit: list[np.ndarray] | None = None
) -> bytes:
  """The code of several arrays of symbols, each with its own probabilities.

  Args:
    parts: uint8 [n] each, below 2^bits.
    bits: of a symbol, 1 to 8.
    unit: of each symbol, int [n] each; by default it does not matter.
  """
  coder, of_part = _Coder(), unit or [None] * len(parts)
  tables = [_encode(coder, p, u, bits) for p, u in zip(parts, of_part)]
  words = coder.get_compressed().astype('<u4').tobytes()
  code = b''.join(tables) + words
  return code.ljust(size_of(parts, bits, unit), b'\0')


def decode(
  code: bytes,
  counts: list[int],
  bits: int,
  unit: list[np.ndarray] | None = None,
) -> list[np.ndarray]:
  """The arrays of `counts` symbols; the inverse of `encode`.

  Raises:
    InputError: `encode` does not return this code for any such arrays.
  """
  parts = read(code, counts, bits, unit)
  if encode(parts, bits, unit) != code:
    raise InputError(f'these {len(code)} bytes are not a code that hns writes')
  return parts


def read(
  code: bytes,
  counts: list[int],
  bits: int,
  unit: list[np.ndarray] | None = None,
) -> list[np.ndarray]:
  """As `decode`, without its check: a damaged code may give other symbols.

  Raises `InputError` for a code that cannot be read at all.
  """
  tables, rest = [], np.frombuffer(code, np.uint8)
  for _ in counts:
    table, rest = _table(rest, bits)
    tables.append(table)
  words = rest[: len(rest) // 4 * 4].tobytes()
  coder = _Decoder(np.frombuffer(words, '<u4').astype(np.uint32))
  try:
    return [
      _decode(coder, *layer, bits)
      for layer in zip(counts, unit or [None] * len(counts), tables)
    ]
  except AssertionError:  # what constriction raises
    raise InputError('the entropy code is damaged') from None


class _Plan(NamedTuple):
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


class _Table(NamedTuple):
  """What stands before a layer's symbols.

  Attributes:
    chosen: uint8 [nodes], the index of each node's odds, sent or even.
    of_levels: the table of the units' levels; None if the first bit has the
      same odds in all units.
  """

  chosen: np.ndarray
  of_levels: '_Table | None'


def _plan(counts: Array, by_level: Array | None) -> _Plan:
  """The number of levels of the tree that makes the code shortest, and more."""
  xp = odds.numpy_of(counts)
  zeros, ones = _branches(counts)
  chosen = odds.nearest(zeros, ones, np.arange(odds.LAST + 1))
  even = odds.even_bits(zeros + ones)
  gain = even - odds.bits(zeros, ones, chosen) - 8
  by_unit = xp.zeros(counts.shape[:-1], bool)
  if by_level is not None:
    first = even[..., 0] - _bits_by_unit(by_level)
    by_unit = (first > gain[..., 0]) & (first > 0)
    first = xp.maximum(first, gain[..., 0])
    gain = xp.concatenate([first[..., None], gain[..., 1:]], -1)
  depths = range(counts.shape[-1].bit_length())
  saved = xp.stack([xp.sum(gain[..., : 2**d - 1], -1) for d in depths], -1)
  bits = 8 + xp.sum(even, -1) - xp.max(saved, -1)
  return _Plan(bits, xp.argmax(saved, -1), chosen, by_unit)


def _bits_by_unit(by_level: Array) -> Array:
  """Of the units' levels, and of the first bits with their odds."""
  zeros, ones = by_level[..., 1], by_level[..., 2]
  coded = odds.bits(zeros, ones, units.LEVELS)
  return length(by_level[..., 0]) + coded.sum(-1)


def _encode(
  coder: _Coder, symbols: np.ndarray, unit: np.ndarray | None, bits: int
) -> bytes:
  """Encodes a layer's symbols, and gives its table."""
  by_level = None if unit is None else levels_of([symbols], [unit], bits)
  plan = _plan(counts_of([symbols], bits), by_level)
  depth, by_unit = int(plan.depth[0]), bool(plan.by_unit[0])
  sent, first = plan.chosen[0, : 2**depth - 1].astype(np.uint8), None
  table = bytes([depth + _BY_UNIT * by_unit])
  if by_unit:
    counts = _first_bits(symbols, unit, bits)
    level = units.level(counts).astype(np.uint8)
    used = level[counts.sum(-1) > 0]
    table += _encode(coder, used, None, units.LEVEL_BITS)
    first = level[unit]
  table += sent[by_unit:].tobytes()
  chosen = _all_nodes(sent, bits)
  for plane in range(bits):
    bit = (symbols >> (bits - 1 - plane)) & 1
    for place, model in _plane(symbols >> (bits - plane), plane, chosen, first):
      coder.encode(bit[place].astype(np.int32), model)
  return table


def _decode(
  coder: _Decoder,
  count: int,
  unit: np.ndarray | None,
  table: _Table,
  bits: int,
) -> np.ndarray:
  """The next `count` symbols, uint8, of a layer with this table."""
  first = None
  if table.of_levels is not None:
    if unit is None:
      raise InputError('the table of an entropy code is damaged')
    used, place = np.unique(unit, return_inverse=True)
    told = None, table.of_levels, units.LEVEL_BITS
    first = _decode(coder, len(used), *told)[place]
  symbols = np.zeros(count, np.uint8)
  for plane in range(bits):
    bit = np.zeros(count, np.uint8)
    for place, model in _plane(symbols, plane, table.chosen, first):
      bit[place] = coder.decode(model, len(place))
    symbols = 2 * symbols + bit
  return symbols


def _table(code: np.ndarray, bits: int) -> tuple[_Table, np.ndarray]:
  """The table of one layer, and the bytes after it."""
  kind, code = (int(code[0]), code[1:]) if len(code) else (255, code)
  depth, by_unit = kind % _BY_UNIT, kind // _BY_UNIT
  if depth > bits or by_unit > (depth > 0):
    raise InputError('the table of an entropy code is damaged')
  of_levels = None
  if by_unit:
    of_levels, code = _table(code, units.LEVEL_BITS)
  end = 2**depth - 1 - by_unit
  if end > len(code):
    raise InputError('the table of an entropy code is damaged')
  sent = np.append([odds.EVEN] * by_unit, code[:end])
  return _Table(_all_nodes(sent, bits), of_levels), code[end:]


def _plane(
  prefix: np.ndarray, plane: int, chosen: np.ndarray, first: np.ndarray | None
) -> Iterator[tuple[np.ndarray, constriction.stream.model.Bernoulli]]:
  """Yields the indices of the symbols at each node of a level and its model.

  In the first plane those of a level of units' odds, if `first` says which.
  """
  index = chosen[2**plane - 1 : 2 ** (plane + 1) - 1]
  if plane == 0 and first is not None:
    prefix, index = first, units.LEVELS
  for value, place in enumerate(index):
    places = np.flatnonzero(prefix == value)
    if len(places):
      probability = odds.PROBABILITY[min(int(place), odds.LAST)]
      model = constriction.stream.model.Bernoulli
      yield places, model(probability, perfect=False)


def _first_bits(symbols: np.ndarray, unit: np.ndarray, bits: int) -> np.ndarray:
  """How often the first bit is 0, and 1, in each unit, int32 [units, 2]."""
  place = 2 * unit + (symbols >> (bits - 1))
  size = 2 * (int(unit.max(initial=-1)) + 1)
  return np.bincount(place, minlength=size).astype(np.int32).reshape(-1, 2)


def _all_nodes(sent: np.ndarray, bits: int) -> np.ndarray:
  """The odds of all nodes, even for those whose odds are not sent."""
  chosen = np.full(2**bits - 1, odds.EVEN, np.uint8)
  chosen[: len(sent)] = sent
  return chosen


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
