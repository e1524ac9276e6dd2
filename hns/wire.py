"""Messages to bytes and back: what travels, and what a byte count means.

A payload is a header of `HEADER_BYTES` and then, for every coordinate that
travels, in tree order, a code of the codec's width. Nothing else is counted
and nothing else is sent: the network itself travels as the seed and the
density in the header, from which a client redraws and prunes it.
"""

import struct
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hns import tree
from hns.errors import InputError, invalid

_MAGIC = b'HNS'
_VERSION = 1
# magic, version, bits a coordinate, round, seed, density, coordinates, CRC-32
# of which coordinates travel, CRC-32 of all the rest.
_HEADER = struct.Struct('<3sBBIQdIII')
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
  """How the coordinates of a message become bytes.

  Attributes:
    bits: bits a coordinate.
    pack: values [count] -> bytes.
    unpack: bytes, count -> values [count].
    length: count -> number of bytes that `pack` gives.
  """

  bits: int
  pack: Callable[[np.ndarray], bytes]
  unpack: Callable[[bytes, int], np.ndarray]
  length: Callable[[Any], Any]


class Envelope(NamedTuple):
  """What a header says of its payload: the round and the network it is for."""

  round: int
  seed: int
  density: float


class WireError(InputError):
  """These bytes are not the payload that was expected."""


def levels(bits: int) -> Codec:
  """2^bits values, the odd integers from 1 - 2^bits to 2^bits - 1.

  With one bit that is a sign, -1 or +1. Values are int16; raises `InputError`
  unless `bits` is 1 to 8.
  """
  if not 1 <= bits <= 8:
    raise invalid('bits', bits, 'a level takes 1 to 8 bits')
  top = 2**bits - 1

  def pack(values):
    if np.any(values % 2 == 0) or np.any(np.abs(values) > top):
      raise InputError(f'a level of {bits} bits is odd, at most {top}')
    codes = ((values.astype(np.int32) + top) // 2).astype(np.uint8)
    planes = np.unpackbits(codes[:, None], axis=1)[:, 8 - bits :]
    return np.packbits(planes).tobytes()

  def unpack(payload, count):
    flat = np.unpackbits(np.frombuffer(payload, np.uint8), count=count * bits)
    planes = np.zeros((count, 8), np.uint8)
    planes[:, 8 - bits :] = flat.reshape(count, bits)
    codes = np.packbits(planes, axis=1)[:, 0].astype(np.int16)
    return 2 * codes - np.int16(top)

  return Codec(bits, pack, unpack, lambda count: (count * bits + 7) // 8)


def floats() -> Codec:
  """float32 as it is, four bytes a coordinate."""
  return Codec(
    bits=32,
    pack=lambda values: values.astype('<f4').tobytes(),
    unpack=lambda payload, count: np.frombuffer(payload, '<f4', count),
    length=lambda count: count * 4,
  )


def quantise(x: jax.Array, bits: int) -> jax.Array:
  """The nearest of `levels(bits)` to x in [-1, 1], int16; ties go up."""
  top = 2**bits - 1
  index = jnp.floor((x + 1) / 2 * top + 0.5)
  return (2 * jnp.clip(index, 0, top) - top).astype(jnp.int16)


def dequantise(level: jax.Array, bits: int) -> jax.Array:
  """The number in [-1, 1] that a level stands for, float32; never 0."""
  return level.astype(jnp.float32) / (2**bits - 1)


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
  if not jax.tree.leaves(message.value):
    return jnp.int32(0)
  count = coordinates(message)
  return (HEADER_BYTES + codec.length(count)).astype(jnp.int32)


def encode(codec: Codec, message: Message, envelope: Envelope) -> bytes:
  """The bytes of one message; empty for a message without coordinates."""
  value, weight = _host(message)
  if not jax.tree.leaves(value):
    return b''
  values = np.concatenate(
    [v[w] for v, w in zip(jax.tree.leaves(value), jax.tree.leaves(weight))]
  )
  body = codec.pack(values)
  places = _places(weight)
  head = (_MAGIC, _VERSION, codec.bits, *envelope, len(values), places)
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
    envelope: the round and network that the receiver expects.

  Raises:
    WireError: damaged, cut, foreign, of the wrong length, or for another
      round or network. Nothing is decoded then.
  """
  value, weight = _host(like)
  if not jax.tree.leaves(value):
    if payload:
      raise WireError(f'{len(payload)} bytes where nothing was to travel')
    return like
  kept = jax.tree.leaves(weight)
  count = sum(int(w.sum()) for w in kept)
  _check(codec, payload, count, _places(weight), envelope)
  values = codec.unpack(payload[HEADER_BYTES:], count)
  leaves, start = [], 0
  for v, w in zip(jax.tree.leaves(value), kept):
    leaf = np.zeros(v.shape, v.dtype)
    stop = start + int(w.sum())
    leaf[w] = values[start:stop]
    leaves.append(leaf)
    start = stop
  return Message(
    jax.tree.unflatten(jax.tree.structure(value), leaves), like.weight
  )


def open_header(payload: bytes) -> Envelope:
  """The envelope of a payload, its checksum verified."""
  return Envelope(*_fields(payload)[3:6])


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


def _check(codec, payload, count, places, envelope) -> None:
  names = ('bits', *Envelope._fields, 'coordinates', 'prune mask')
  expected = (codec.bits, *envelope, count, places)
  for name, got, value in zip(names, _fields(payload)[2:-1], expected):
    if got != value:
      raise WireError(f'{name} is {got}, expected {value}')
  if len(payload) != HEADER_BYTES + codec.length(count):
    raise WireError(
      f'{len(payload)} bytes, expected {HEADER_BYTES + codec.length(count)}'
    )


def _places(weight: Any) -> int:
  """Fingerprint of which coordinates travel."""
  checksum = 0
  for leaf in jax.tree.leaves(weight):
    checksum = zlib.crc32(np.packbits(leaf).tobytes(), checksum)
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
