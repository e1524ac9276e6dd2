"""Encodes messages as bytes and decodes them; counts the bytes.

A payload is a header of `HEADER_BYTES` followed by one symbol for every
coordinate that is sent, in tree order. Symbols are packed in the bits that they
need or, where that is shorter, entropy coded (`hns.wire.coding`). A client
draws the network from the seed and prunes it to the density. Both are in the
config. That and each client's number of examples are sent once before the first
round, and are not counted. A client that prunes by itself sends its mask in a
payload of its own (`hns.methods.contract`).

A message that is a dict of parts may have a codec for each: they are as many
payloads, each behind its length in `LENGTH_BYTES`.
"""

import struct

import jax
import jax.numpy as jnp

from hns.wire import payload as single
from hns.wire.header import DIRECTIONS, HEADER_BYTES, Envelope, WireError
from hns.wire.packing import Codec, step_of, symbols_of
from hns.wire.payload import (
  FLOATS,
  Message,
  check_bits,
  coordinates,
  dequantise,
  levels,
  quantise,
)
from hns.wire.units import UnitsOf

__all__ = [
  'DIRECTIONS',
  'FLOATS',
  'HEADER_BYTES',
  'LENGTH_BYTES',
  'Codec',
  'Codecs',
  'Envelope',
  'Message',
  'WireError',
  'check_bits',
  'coordinates',
  'decode',
  'dequantise',
  'encode',
  'levels',
  'parts_of',
  'quantise',
  'size',
  'step_of',
  'symbols_of',
  'with_units',
]

# A codec, or one for each part, by its name, of a message that is a dict.
Codecs = Codec | tuple[tuple[str, 'Codecs'], ...]

_LENGTH = struct.Struct('<I')
LENGTH_BYTES = _LENGTH.size


def with_units(codecs: Codecs, units_of: UnitsOf) -> Codecs:
  """The codecs, told which unit of its layer each value of a vector is of."""
  if isinstance(codecs, Codec):
    return codecs._replace(units_of=units_of)
  return tuple((name, with_units(own, units_of)) for name, own in codecs)


def parts_of(
  codecs: tuple[tuple[str, Codecs], ...], message: Message
) -> list[tuple[Codecs, Message]]:
  """The parts of a message that have a codec each, in the codecs' order."""
  return [
    (codec, Message(message.value[name], message.weight[name]))
    for name, codec in codecs
  ]


def size(codec: Codecs, message: Message) -> jax.Array:
  """Bytes of `encode(codec, message, ...)`, int32 []; can be jitted.

  A message without coordinates is not sent: 0 bytes. Raises `InputError` where
  a payload of these shapes could take 2^31 bytes or more.
  """
  if isinstance(codec, Codec):
    return single.size(codec, message)
  sizes = [size(*part) for part in parts_of(codec, message)]
  return sum(sizes, jnp.int32(LENGTH_BYTES * len(sizes)))


def encode(codec: Codecs, message: Message, envelope: Envelope) -> bytes:
  """The bytes of one message; empty for a message without coordinates.

  Raises `InputError` for a value that is not finite or not in the codec's
  alphabet, and for a message that `size` refuses.
  """
  if isinstance(codec, Codec):
    return single.encode(codec, message, envelope)
  parts = [encode(*part, envelope) for part in parts_of(codec, message)]
  return b''.join(_LENGTH.pack(len(part)) + part for part in parts)


def decode(
  codec: Codecs, payload: bytes, like: Message, envelope: Envelope
) -> Message:
  """The message that was encoded, with 0 for coordinates that were not sent.

  The payload may come from an untrusted source: any bytes that are not exactly
  what `encode` returns for a message raise an error.

  Args:
    codec: the one it was encoded with.
    payload: the bytes.
    like: a message of the expected shapes, dtypes and weights; its values are
      not read.
    envelope: the round, direction and network that the receiver expects.

  Raises:
    WireError: the payload is damaged, truncated, of another format or length,
      for another round, direction or network, or not what `encode` returns for
      any message.
  """
  if isinstance(codec, Codec):
    return single.decode(codec, payload, like, envelope)
  values = {}
  for (name, own), (_, part) in zip(codec, parts_of(codec, like)):
    if len(payload) < LENGTH_BYTES:
      raise WireError(f'{name}: the payload ends before its length')
    (length,) = _LENGTH.unpack_from(payload)
    end = LENGTH_BYTES + length
    body, payload = payload[LENGTH_BYTES:end], payload[end:]
    if len(body) < length:
      raise WireError(f'{name}: {len(body)} bytes, expected {length}')
    values[name] = decode(own, body, part, envelope).value
  if payload:
    raise WireError(f'{len(payload)} bytes follow the last payload')
  return like._replace(value=values)
