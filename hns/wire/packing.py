"""Converts the values that are sent to symbols, and symbols to bytes.

Each leaf of a message is here the one-dimensional array of its values that are
sent.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from hns.errors import InputError, invalid
from hns.wire import coding, lengths
from hns.wire.odds import Array
from hns.wire.units import UnitsOf


class Codec(NamedTuple):
  """The alphabet of a message.

  Attributes:
    symbols: number of values of a coordinate; 0 for float32. The values are the
      levels 1 - symbols, 3 - symbols, ..., symbols - 1 times the leaf's step.
    stepped: whether each leaf has its own step, which is sent as bfloat16 and
      makes the leaf's largest value the last level; otherwise the step is 1 and
      values are integers.
    coded: whether to use an entropy code where it is shorter.
    units_of: which unit of its layer each value of a vector belongs to; of
      arrays with more axes it is the last.
  """

  symbols: int
  stepped: bool = False
  coded: bool = False
  units_of: UnitsOf | None = None

  @property
  def bits(self) -> int:
    """Bits of a packed coordinate."""
    return (self.symbols - 1).bit_length() if self.symbols else 32


def check(codec: Codec) -> None:
  """Raises `InputError` for an unsupported codec."""
  floats = not codec.symbols and not (codec.stepped or codec.coded)
  if not (floats or 2 <= codec.symbols <= 256):
    remedy = '2 to 256, or 0 for floats without step and code'
    raise invalid('symbols', codec.symbols, remedy)


def symbols_of(codec: Codec, value: Array, step: Array | int) -> Array:
  """The symbol of each value, uint8."""
  level = value / step if codec.stepped else value
  xp = np if isinstance(value, np.ndarray) else jnp
  level = xp.round(level).astype(np.int32)
  return ((level + codec.symbols - 1) // 2).astype(np.uint8)


def step_of(codec: Codec, value: Array, weight: Array) -> Array | int:
  """The step of a leaf in which the largest level occurs, float32 []."""
  if not codec.stepped:
    return 1
  xp = np if isinstance(value, np.ndarray) else jnp
  largest = xp.max(xp.where(weight != 0, abs(value), 0), initial=0)
  return xp.where(largest > 0, largest / np.float32(codec.symbols - 1), 1)


def pack(
  codec: Codec, parts: list[np.ndarray], unit: list[np.ndarray]
) -> tuple[bool, bytes]:
  """Whether the entropy code is used, and the bytes after the header.

  `unit`: of each value, int [n] each.
  """
  if not codec.symbols:
    return False, _floats(np.concatenate(parts)).tobytes()
  steps, symbols = zip(*(_symbols(codec, part) for part in parts))
  head = b''
  if codec.stepped:
    head = (np.array(steps).view(np.uint32) >> 16).astype('<u2').tobytes()
  bits, count = codec.bits, sum(map(len, parts))
  if codec.coded:
    code = lengths.size_of(symbols, bits, unit)
    if code < -(-count * bits // 8):
      return True, head + coding.encode(symbols, bits, unit)
  planes = np.unpackbits(np.concatenate(symbols)[:, None], axis=1)
  return False, head + np.packbits(planes[:, 8 - bits :]).tobytes()


def _floats(values: np.ndarray) -> np.ndarray:
  with np.errstate(over='ignore'):
    floats = values.astype('<f4')
  if not np.all(np.isfinite(floats) & (floats == values)):
    raise InputError('a value is not a finite float32')
  return floats


def _symbols(codec: Codec, part: np.ndarray) -> tuple[np.float32, np.ndarray]:
  """A leaf's step and symbols; `InputError` if they are not exact."""
  with np.errstate(all='ignore'):
    step = np.float32(step_of(codec, part, np.True_))
    symbols = symbols_of(codec, part, step)
    same = np.array_equal(part, _values(codec, symbols, step))
  # A smaller step is 0 on devices that flush subnormal numbers.
  fine = np.isfinite(step) and step >= np.finfo(np.float32).tiny
  rounded = codec.stepped and step.view(np.uint32) & 0xFFFF
  if rounded or not (fine and same and np.all(symbols < codec.symbols)):
    alphabet = f'a codec with symbols={codec.symbols}, step {step}'
    raise InputError(f'a value is no level of {alphabet}')
  return step, symbols


def unpack(
  codec: Codec, coded: bool, body: bytes, unit: list[np.ndarray]
) -> list[np.ndarray]:
  """The values of each part; the inverse of `pack`.

  Args:
    codec: as in `pack`.
    coded: whether the entropy code was used.
    body: the bytes after the header.
    unit: of each value of each part, as in `pack`.

  Raises:
    InputError: `pack` does not return these bytes for any such parts.
  """
  parts = _read(codec, coded, body, unit)
  if pack(codec, parts, unit) != (coded, body):
    raise InputError('these bytes are not how their message is packed')
  return parts


def _read(
  codec: Codec, coded: bool, body: bytes, unit: list[np.ndarray]
) -> list[np.ndarray]:
  """As `unpack`, without its check."""
  counts = list(map(len, unit))
  ends = np.cumsum(counts)[:-1]
  if not codec.symbols:
    return np.split(np.frombuffer(body, '<f4'), ends)
  steps = np.ones(len(counts), np.float32)
  if codec.stepped:
    high = np.frombuffer(body, '<u2', len(counts)).astype(np.uint32)
    steps, body = (high << 16).view(np.float32), body[2 * len(counts) :]
  if coded:
    symbols = coding.read(body, counts, codec.bits, unit)
  else:
    bits, flat = codec.bits, np.unpackbits(np.frombuffer(body, np.uint8))
    joined = np.zeros(sum(counts), np.uint8)
    for plane in range(bits):
      joined = 2 * joined + flat[plane : len(joined) * bits : bits]
    symbols = np.split(joined, ends)
  with np.errstate(all='ignore'):
    return [_values(codec, s, step) for s, step in zip(symbols, steps)]


def _values(codec: Codec, symbols: np.ndarray, step: np.float32) -> np.ndarray:
  level = 2 * symbols.astype(np.int16) - np.int16(codec.symbols - 1)
  return level * step if codec.stepped else level
