"""Messages to bytes and back: what travels, and what a byte count means.

A payload is a header of `HEADER_BYTES` and then, for every coordinate that
travels, in tree order, a symbol: packed in as many bits as it needs, or, where
that is shorter, entropy coded (`hns.coding`). The network itself travels as the
seed and the density in the header, from which a client redraws and prunes it,
and a client that chose its own coordinates tells them in a payload like any
other (`hns.federated`). What is told once, before the first round, is not
counted: the run's config and each client's number of examples.
"""

import struct
import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hns import coding, tree
from hns.errors import InputError, invalid

_MAGIC = b'HNS'
_VERSION = 4
# magic, version, symbols of the codec (0: floats), coding (0: packed, 1:
# entropy), whether leaves have a step, round, way, seed, density, coordinates,
# CRC-32 of the leaves and of which coordinates travel, CRC-32 of all the rest.
_HEADER = struct.Struct('<3sBHBBIBQdIII')
HEADER_BYTES = _HEADER.size


class Message(NamedTuple):
  """What one side tells the other.

  Attributes:
    value: tree of arrays, in the codec's alphabet.
    weight: tree of the same structure, leaves that broadcast against
      `value`'s: how much each coordinate counts in the server's mean. A
      coordinate of weight 0 does not travel; leaves that stay at home are
      `None` in both.
  """

  value: Any
  weight: Any


class Codec(NamedTuple):
  """The alphabet of a message.

  Attributes:
    symbols: how many values a coordinate can take; 0 for float32. They are the
      levels 1 - symbols, 3 - symbols, ..., symbols - 1 times the leaf's step.
    stepped: whether each leaf has a step of its own, which travels as bfloat16
      and is such that the leaf's largest value is the last level; otherwise it
      is 1, and values are integers.
    coded: whether to try an entropy code.
  """

  symbols: int
  stepped: bool = False
  coded: bool = False

  @property
  def bits(self) -> int:
    """Bits of a packed coordinate."""
    return (self.symbols - 1).bit_length() if self.symbols else 32


FLOATS = Codec(0)
WAYS = 'download', 'upload', 'choice of places'


def levels(bits: int, stepped: bool = False, coded: bool = False) -> Codec:
  """2^bits symbols, or floats for 32 bits; `InputError` for other widths."""
  check_bits(bits)
  return FLOATS if bits == 32 else Codec(2**bits, stepped, coded)


def check_bits(bits: int, field: str = 'bits') -> None:
  """Raises `InputError`, which names the field, for a width without codec."""
  if not (1 <= bits <= 8 or bits == 32):
    raise invalid(field, bits, 'must be 1 to 8, or 32 for floats')


class Envelope(NamedTuple):
  """What a header says of its payload: its round, its way and its network."""

  round: int
  way: int  # an index of `WAYS`
  seed: int
  density: float


class WireError(InputError):
  """These bytes are not the payload that was expected."""


def quantise(x: jax.Array, bits: int) -> jax.Array:
  """The nearest of `levels(bits)` to 2^bits x, for x in [-1, 1], int16.

  Ties go up, so a level is above 0 exactly where x >= 0.
  """
  half = 2 ** (bits - 1)
  cell = jnp.clip(jnp.floor(x * half), -half, half - 1)
  return (2 * cell + 1).astype(jnp.int16)


def dequantise(level: jax.Array, bits: int) -> jax.Array:
  """The number in [-1, 1] that a level stands for, float32; never 0."""
  return level.astype(jnp.float32) / 2**bits


def coordinates(message: Message) -> jax.Array:
  """How many coordinates of a message travel, int32 []; can be jitted."""
  return tree.count(
    jax.tree.map(
      lambda v, w: jnp.broadcast_to(w, v.shape), message.value, message.weight
    )
  )


def size(codec: Codec, message: Message) -> jax.Array:
  """Bytes of `encode(codec, message, ...)`, int32 []; can be jitted.

  A message without coordinates is not sent: 0 bytes.
  """
  values = jax.tree.leaves(message.value)
  if not values:
    return jnp.int32(0)
  bits, steps = codec.bits, 2 * len(values) * codec.stepped
  # Whole bytes apart: the bits of a large network would pass 31 bits.
  whole, rest = divmod(bits, 8)
  count = coordinates(message)
  body = count * whole + (count * rest + 7) // 8
  if codec.coded:
    counts = []
    for value, weight in zip(values, jax.tree.leaves(message.weight)):
      symbols = symbols_of(codec, value, _step(codec, value, weight))
      counts.append(coding.histogram(symbols, weight != 0, bits))
    used = jnp.sum(coding.length(jnp.stack(counts)))
    body = jnp.minimum(body, coding.total(used))
  return (HEADER_BYTES + steps + body).astype(jnp.int32)


def symbols_of(codec: Codec, value: Any, step: Any) -> Any:
  """Which symbol each value is, uint8; NumPy or JAX."""
  level = value / step if codec.stepped else value
  join = np if isinstance(value, np.ndarray) else jnp
  level = join.round(level).astype(np.int32)
  return ((level + codec.symbols - 1) // 2).astype(np.uint8)


def _step(codec: Codec, value: Any, weight: Any) -> Any:
  """What a leaf's levels are multiplied with; its largest level must occur."""
  if not codec.stepped:
    return 1
  join = np if isinstance(value, np.ndarray) else jnp
  largest = join.max(join.where(weight != 0, abs(value), 0), initial=0)
  return join.where(largest > 0, largest / np.float32(codec.symbols - 1), 1)


def encode(codec: Codec, message: Message, envelope: Envelope) -> bytes:
  """The bytes of one message; empty for a message without coordinates.

  Raises `InputError` for a value that is not in the codec's alphabet.
  """
  value, weight = _host(message)
  if not jax.tree.leaves(value):
    return b''
  kept = list(zip(jax.tree.leaves(value), jax.tree.leaves(weight)))
  parts = [v[w] for v, w in kept]
  coded, body = _pack(codec, parts)
  count = sum(len(p) for p in parts)
  head = (*_start(codec, coded), *envelope, count, _places(weight))
  checksum = zlib.crc32(_HEADER.pack(*head, 0) + body)
  return _HEADER.pack(*head, checksum) + body


def decode(
  codec: Codec, payload: bytes, like: Message, envelope: Envelope
) -> Message:
  """The message that was encoded, zeros where nothing travelled.

  Args:
    codec: the one it was encoded with.
    payload: the bytes.
    like: a message of the expected shapes and weights; its values are not
      read.
    envelope: the round, way and network that the receiver expects.

  Raises:
    WireError: damaged, cut, foreign, of the wrong length, or for another
      round, way or network. Nothing is decoded then.
  """
  value, weight = _host(like)
  if not jax.tree.leaves(value):
    if payload:
      raise WireError(f'{len(payload)} bytes where nothing was to travel')
    return like
  kept = jax.tree.leaves(weight)
  counts = [int(w.sum()) for w in kept]
  coded = _check(codec, payload, counts, _places(weight), envelope)
  parts = _unpack(codec, coded, payload[HEADER_BYTES:], counts)
  leaves = []
  for v, w, part in zip(jax.tree.leaves(value), kept, parts):
    leaf = np.zeros(v.shape, v.dtype)
    leaf[w] = part
    leaves.append(leaf)
  return Message(
    jax.tree.unflatten(jax.tree.structure(value), leaves), like.weight
  )


def _pack(codec: Codec, parts: list[np.ndarray]) -> tuple[bool, bytes]:
  """Whether an entropy code was shorter, and the bytes after the header."""
  if not codec.symbols:
    return False, np.concatenate(parts).astype('<f4').tobytes()
  steps = [np.float32(_step(codec, p, np.True_)) for p in parts]
  symbols = [symbols_of(codec, p, step) for p, step in zip(parts, steps)]
  for part, step, chosen in zip(parts, steps, symbols):
    held = _values(codec, chosen, step)
    rounded = codec.stepped and step.view(np.uint32) & 0xFFFF
    if rounded or np.any(part != held) or np.any(chosen >= codec.symbols):
      raise InputError(f'a value is none of {codec}, with step {step}')
  head = b''
  if codec.stepped:
    head = (np.array(steps).view(np.uint32) >> 16).astype('<u2').tobytes()
  planes = np.unpackbits(np.concatenate(symbols)[:, None], axis=1)
  plain = np.packbits(planes[:, 8 - codec.bits :]).tobytes()
  code = coding.encode(symbols, codec.bits) if codec.coded else plain
  coded = len(code) < len(plain)
  return coded, head + (code if coded else plain)


def _unpack(codec: Codec, coded: bool, body: bytes, counts: list[int]):
  """The values of each leaf that travelled, from the bytes after the header."""
  ends = np.cumsum(counts)[:-1]
  if not codec.symbols:
    return np.split(np.frombuffer(body, '<f4'), ends)
  steps = np.ones(len(counts), np.float32)
  if codec.stepped:
    high = np.frombuffer(body, '<u2', len(counts)).astype(np.uint32)
    steps, body = (high << 16).view(np.float32), body[2 * len(counts) :]
  if coded:
    symbols = coding.decode(body, counts, codec.bits)
  else:
    width, total = codec.bits, sum(counts)
    planes = np.zeros((total, 8), np.uint8)
    flat = np.unpackbits(np.frombuffer(body, np.uint8), count=total * width)
    planes[:, 8 - width :] = flat.reshape(total, width)
    symbols = np.split(np.packbits(planes, axis=1)[:, 0], ends)
  return [_values(codec, s, step) for s, step in zip(symbols, steps)]


def _values(codec: Codec, symbols: np.ndarray, step: np.float32) -> np.ndarray:
  level = 2 * symbols.astype(np.int16) - np.int16(codec.symbols - 1)
  return level * step if codec.stepped else level


def _start(codec: Codec, coded: bool) -> tuple:
  return (_MAGIC, _VERSION, codec.symbols, coded, codec.stepped)


def _fields(payload: bytes) -> tuple:
  if len(payload) < HEADER_BYTES:
    raise WireError(
      f'{len(payload)} bytes are fewer than a header of {HEADER_BYTES}'
    )
  fields = _HEADER.unpack_from(payload)
  if fields[0] != _MAGIC:
    raise WireError(f'not an hns payload: it starts with {payload[:3]!r}')
  if fields[1] != _VERSION:
    raise WireError(f'format version {fields[1]}: this is {_VERSION}')
  blank = _HEADER.pack(*fields[:-1], 0)
  if zlib.crc32(blank + payload[HEADER_BYTES:]) != fields[-1]:
    raise WireError('checksum does not match: the payload is damaged')
  return fields


def _check(codec, payload, counts, places, envelope) -> bool:
  """Whether the payload is entropy coded; raises `WireError`."""
  fields = _fields(payload)
  coded = bool(fields[3]) and codec.coded
  names = ('symbols', 'coding', 'steps', *Envelope._fields)
  names += ('coordinates', 'layers and prune mask')
  expected = (*_start(codec, coded)[2:], *envelope, sum(counts), places)
  for name, got, value in zip(names, fields[2:-1], expected):
    if got != value:
      raise WireError(f'{name} is {got}, expected {value}')
  length = HEADER_BYTES + 2 * len(counts) * codec.stepped
  packed = length + (sum(counts) * codec.bits + 7) // 8
  least = length + len(counts) if coded else packed
  if not least <= len(payload) <= packed:
    raise WireError(f'{len(payload)} bytes, expected {least} to {packed}')
  return coded


def _places(weight: Any) -> int:
  """Fingerprint of the leaves, by name and shape, and of what travels."""
  checksum = 0
  for path, leaf in jax.tree_util.tree_leaves_with_path(weight):
    about = f'{tree.path_name(path)} {leaf.shape}'.encode()
    checksum = zlib.crc32(about + np.packbits(leaf).tobytes(), checksum)
  return checksum


def _host(message: Message) -> tuple[Any, Any]:
  """NumPy values, and for each which coordinates travel (bool)."""
  value = jax.tree.map(np.asarray, message.value)
  weight = jax.tree.map(
    lambda v, w: np.broadcast_to(np.asarray(w) != 0, v.shape),
    value,
    message.weight,
  )
  return value, weight
