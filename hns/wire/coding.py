"""Entropy coding of small symbols, with a length known before coding.

Symbols of b bits are coded bit by bit, the most significant first. Every bit
has its own probability for each value of the bits before it (a node of the
binary tree of symbols), so the code reaches the entropy of the symbols'
distribution. Each probability is sent as one byte. For small layers only the
probabilities of the upper levels of the tree are sent, and the others are 1/2.
Where that is shorter, the first bit has a probability for each unit of the
layer (`hns.wire.units`). A range coder (constriction) codes the bits. Its
output is padded to a length that a device can count (`hns.wire.lengths`).
"""

from collections.abc import Iterator
from typing import NamedTuple

import constriction
import numpy as np

from hns.errors import InputError
from hns.wire import lengths, odds, units

_BY_UNIT = 16  # added to a layer's first byte, whose depth is at most 8

_Coder = constriction.stream.queue.RangeEncoder
_Decoder = constriction.stream.queue.RangeDecoder


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
  code, size = b''.join(tables) + words, lengths.size_of(parts, bits, unit)
  if len(code) > size:
    # Truncation in the coder adds up if symbols come in an order made for that.
    raise InputError(
      f'the entropy code of {sum(map(len, parts))} values takes {len(code)} '
      f'bytes, more than the {size} that were counted'
    )
  return code.ljust(size, b'\0')


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
    table, rest = _table(rest, bits, unit is not None)
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


class _Table(NamedTuple):
  """What stands before a layer's symbols.

  Attributes:
    chosen: uint8 [nodes], the index of each node's odds, sent or even.
    of_grades: the table of the units' grades; None if the first bit has the
      same odds in all units.
  """

  chosen: np.ndarray
  of_grades: '_Table | None'


def _encode(
  coder: _Coder, symbols: np.ndarray, unit: np.ndarray | None, bits: int
) -> bytes:
  """Encodes a layer's symbols, and gives its table."""
  by_grade = None
  if unit is not None:
    by_grade = lengths.grades_of([symbols], [unit], bits)
  plan = lengths.plan(lengths.counts_of([symbols], bits), by_grade)
  depth, by_unit = int(plan.depth[0]), bool(plan.by_unit[0])
  sent, first = plan.chosen[0, : 2**depth - 1].astype(np.uint8), None
  table = bytes([depth + _BY_UNIT * by_unit])
  if by_unit:
    counts = lengths.first_bits(symbols, unit, bits)
    grade = units.grade(counts).astype(np.uint8)
    used = grade[counts.sum(-1) > 0]
    table += _encode(coder, used, None, units.GRADE_BITS)
    first = grade[unit]
  table += (sent[1:] if by_unit else sent).tobytes()
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
  if table.of_grades is not None:
    used, place = np.unique(unit, return_inverse=True)
    told = None, table.of_grades, units.GRADE_BITS
    first = _decode(coder, len(used), *told)[place]
  symbols = np.zeros(count, np.uint8)
  for plane in range(bits):
    bit = np.zeros(count, np.uint8)
    for place, model in _plane(symbols, plane, table.chosen, first):
      bit[place] = coder.decode(model, len(place))
    symbols = 2 * symbols + bit
  return symbols


def _table(
  code: np.ndarray, bits: int, has_units: bool
) -> tuple[_Table, np.ndarray]:
  """The table of one layer, and the bytes after it."""
  kind, code = (int(code[0]), code[1:]) if len(code) else (255, code)
  depth, by_unit = kind % _BY_UNIT, kind // _BY_UNIT
  if depth > bits or by_unit > (has_units and depth > 0):
    raise InputError('the table of an entropy code is damaged')
  of_grades = None
  if by_unit:
    of_grades, code = _table(code, units.GRADE_BITS, False)
  end = 2**depth - 1 - by_unit
  if end > len(code):
    raise InputError('the table of an entropy code is damaged')
  sent = np.append([odds.EVEN] * by_unit, code[:end])
  return _Table(_all_nodes(sent, bits), of_grades), code[end:]


def _plane(
  prefix: np.ndarray, plane: int, chosen: np.ndarray, first: np.ndarray | None
) -> Iterator[tuple[np.ndarray, constriction.stream.model.Bernoulli]]:
  """Yields the indices of the symbols at each node of a level and its model.

  In the first plane those of units of a grade, if `first` says which.
  """
  index = chosen[2**plane - 1 : 2 ** (plane + 1) - 1]
  if plane == 0 and first is not None:
    prefix, index = first, units.GRADES
  for value, place in enumerate(index):
    places = np.flatnonzero(prefix == value)
    if len(places):
      probability = odds.PROBABILITY[min(int(place), odds.LAST)]
      model = constriction.stream.model.Bernoulli
      yield places, model(probability, perfect=False)


def _all_nodes(sent: np.ndarray, bits: int) -> np.ndarray:
  """The odds of all nodes, even for those whose odds are not sent."""
  chosen = np.full(2**bits - 1, odds.EVEN, np.uint8)
  chosen[: len(sent)] = sent
  return chosen
