"""The header of a payload, and the checks that need no look into its body."""

import struct
import zlib
from typing import NamedTuple

import jax
import numpy as np

from hns import tree
from hns.errors import InputError, invalid
from hns.tree import Tree
from hns.wire.packing import Codec

_MAGIC = b'hn'
_VERSION = 6
# magic, version, coding (0: packed, 1: entropy), round, checksum.
_HEADER = struct.Struct('<2sBBII')
HEADER_BYTES = _HEADER.size
# What both ends know. It is not sent, but the checksum covers it: symbols of
# the codec (0: floats), whether leaves have a step, direction, seed, density,
# coordinates, CRC-32 of the leaves and of which coordinates are sent.
_KNOWN = struct.Struct('<H?BQdII')
DIRECTIONS = 'download', 'upload', 'mask'


class Envelope(NamedTuple):
  """What a payload is for: round, direction, and the network's origin."""

  round: int
  direction: int  # an index of `DIRECTIONS`
  seed: int
  density: float


class WireError(InputError):
  """These bytes are not the payload that was expected."""


def known(codec: Codec, envelope: Envelope, weight: Tree) -> bytes:
  """What sender and receiver know of a payload.

  Args:
    codec: of the message.
    envelope: its round is left out.
    weight: tree of bool arrays, which coordinates are sent.

  Raises `InputError` for an envelope that does not fit.
  """
  _, *what = envelope
  count = sum(int(leaf.sum()) for leaf in jax.tree.leaves(weight))
  fields = codec.symbols, codec.stepped, *what, count, _fingerprint(weight)
  try:
    return _KNOWN.pack(*fields)
  except struct.error as error:
    raise invalid('envelope', tuple(envelope), str(error)) from None


def write(coded: bool, number: int, shared: bytes, body: bytes) -> bytes:
  """The header of a body.

  Args:
    coded: whether the body is entropy coded.
    number: of the round.
    shared: of `known`.
    body: the rest of the payload.

  Raises `InputError` for a round that does not fit.
  """
  fields = _MAGIC, _VERSION, coded, number
  try:
    blank = _HEADER.pack(*fields, 0)
  except struct.error:
    raise invalid('round', number, f'must be 0 to {2**32 - 1}') from None
  checksum = zlib.crc32(body, zlib.crc32(shared, zlib.crc32(blank)))
  return _HEADER.pack(*fields, checksum)


def check(codec: Codec, payload: bytes, number: int, shared: bytes) -> bool:
  """Whether the payload is entropy coded; `WireError` if it is not expected."""
  if len(payload) < HEADER_BYTES:
    raise WireError(
      f'{len(payload)} bytes are fewer than a header of {HEADER_BYTES}'
    )
  magic, version, coding, of_round, _ = _HEADER.unpack_from(payload)
  if magic != _MAGIC:
    raise WireError(f'not an hns payload: it starts with {payload[:2]!r}')
  if version != _VERSION:
    raise WireError(f'format version {version}: this is {_VERSION}')
  coded = bool(coding) and codec.coded
  if coding != coded:
    raise WireError(f'coding is {coding}, expected {int(coded)}')
  if of_round != number:
    raise WireError(f'round is {of_round}, expected {number}')
  body = payload[HEADER_BYTES:]
  if payload[:HEADER_BYTES] != write(coded, number, shared, body):
    raise WireError(_differs(shared))
  return coded


def _differs(shared: bytes) -> str:
  symbols, _, direction, seed, density, count, _ = _KNOWN.unpack(shared)
  return (
    'checksum does not match: the payload is damaged, or of other layers, '
    f'another prune mask, or not of {symbols} symbols (0: floats), direction '
    f'{direction}, seed {seed}, density {density} and {count} coordinates'
  )


def _fingerprint(weight: Tree) -> int:
  """CRC-32 of the leaves' names and shapes and of what is sent."""
  checksum = 0
  for path, leaf in jax.tree_util.tree_leaves_with_path(weight):
    head = f'{tree.path_name(path)} {leaf.shape}'.encode()
    checksum = zlib.crc32(head + np.packbits(leaf).tobytes(), checksum)
  return checksum
