"""One payload: a header, and a symbol for every coordinate that is sent."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hns import tree
from hns.errors import InputError, invalid
from hns.tree import Tree
from hns.wire import header, lengths, packing, units
from hns.wire.header import HEADER_BYTES, Envelope, WireError
from hns.wire.packing import Codec, step_of, symbols_of

_LIMIT = 2**31 - 1  # a device counts coordinates, bits and bytes as int32
# Traced once for messages of as many layers and symbols, in all programs.
_code_size = jax.jit(lengths.size)


class Message(NamedTuple):
  """A download or an upload.

  Attributes:
    value: tree of arrays, in the codec's alphabet.
    weight: tree of the same structure whose leaves broadcast against those of
      `value`: the weight of each coordinate in the server's mean. Coordinates
      of weight 0 are not sent; leaves that are not sent are `None` in both.
  """

  value: Tree
  weight: Tree


FLOATS = Codec(0)


def levels(bits: int, stepped: bool = False, coded: bool = False) -> Codec:
  """2^bits symbols, or floats for 32 bits; `InputError` for other widths."""
  check_bits(bits)
  return FLOATS if bits == 32 else Codec(2**bits, stepped, coded)


def check_bits(bits: int, field: str = 'bits') -> None:
  """Raises `InputError`, which names the field, for an unsupported width."""
  if not (1 <= bits <= 8 or bits == 32):
    raise invalid(field, bits, 'must be 1 to 8, or 32 for floats')


def quantise(x: jax.Array, bits: int) -> jax.Array:
  """The nearest of `levels(bits)` to 2^bits x, for x in [-1, 1], int16.

  Ties go up, so a level is above 0 exactly where x >= 0.
  """
  half = 2 ** (bits - 1)
  cell = jnp.clip(jnp.floor(x * half), -half, half - 1)
  return (2 * cell + 1).astype(jnp.int16)


def dequantise(level: jax.Array, bits: int) -> jax.Array:
  """The value of a level, float32 in [-1, 1]; never 0."""
  return level.astype(jnp.float32) / 2**bits


def coordinates(message: Message) -> jax.Array:
  """The number of coordinates that are sent, int32 []; can be jitted.

  Raises `InputError` for a message of shapes that hold 2^31 or more.
  """
  _check_count(message.value)
  return tree.count(
    jax.tree.map(
      lambda v, w: jnp.broadcast_to(w, v.shape), message.value, message.weight
    )
  )


def size(codec: Codec, message: Message) -> jax.Array:
  """As `hns.wire.size`, of one payload."""
  values = jax.tree.leaves(message.value)
  if not values:
    return jnp.int32(0)
  _check_size(codec, message.value)
  bits, steps = codec.bits, 2 * len(values) * codec.stepped
  count = coordinates(message)
  # By eights, because the bits of a large network may overflow an int32.
  body = count // 8 * bits + (count % 8 * bits + 7) // 8
  if codec.coded:
    body = jnp.minimum(body, _code_size(*_counts(codec, message)))
  return (HEADER_BYTES + steps + body).astype(jnp.int32)


def _counts(codec: Codec, message: Message) -> tuple[jax.Array, jax.Array]:
  """How often symbols occur in each leaf, and first bits by grade of units."""
  counts, by_unit, bits = [], [], codec.bits
  weights = jax.tree.leaves(message.weight)
  for (name, value), weight in zip(_named(message.value), weights):
    symbols = symbols_of(codec, value, step_of(codec, value, weight))
    sent = jnp.asarray(weight) != 0
    by_unit.append(units.count(name, symbols, sent, bits, codec.units_of))
    counts.append(
      by_unit[-1].sum(0, dtype=jnp.int32)
      if bits == 1
      else lengths.histogram(symbols, sent, bits)
    )
  layer = np.repeat(np.arange(len(counts)), list(map(len, by_unit)))
  by_unit = jnp.concatenate(by_unit)
  return jnp.stack(counts), units.by_grade(by_unit, layer, len(counts))


def _named(value: Tree) -> list[tuple[str, jax.Array]]:
  """The leaves, with their paths' names."""
  leaves = jax.tree_util.tree_leaves_with_path(value)
  return [(tree.path_name(path), leaf) for path, leaf in leaves]


def _check_count(value: Tree) -> int:
  """The coordinates of a tree; `InputError` if they overflow an int32."""
  count = sum(leaf.size for leaf in jax.tree.leaves(value))
  if count > _LIMIT:
    raise invalid('coordinates', count, f'a message holds at most {_LIMIT}')
  return count


def _check_size(codec: Codec, value: Tree) -> None:
  """Raises `InputError` if the bits or bytes may overflow an int32."""
  packing.check(codec)
  count, bits = _check_count(value), codec.bits
  most = [leaf.size * bits for leaf in jax.tree.leaves(value)]
  extra = HEADER_BYTES + 2 * len(most) * codec.stepped
  if codec.coded:
    most = _check_layers(value, bits)
    extra += lengths.spare(len(most))
  if -(-sum(most) // 8) + extra > _LIMIT:
    remedy = f'at {bits} bits each they can take more than {_LIMIT} bytes'
    raise invalid('coordinates', count, remedy)


def _check_layers(value: Tree, bits: int) -> list[int]:
  """The most bits of each layer's code; `InputError` if they are too many."""
  most = []
  for name, leaf in _named(value):
    most.append(lengths.most(leaf.size, bits))
    if most[-1] > _LIMIT:
      remedy = f'a layer may have {_LIMIT} bits to code, at {bits} each'
      raise invalid(f'coordinates of {name}', leaf.size, remedy)
  return most


def encode(codec: Codec, message: Message, envelope: Envelope) -> bytes:
  """As `hns.wire.encode`, of one payload."""
  value, weight = _host(message)
  if not jax.tree.leaves(value):
    return b''
  _check_size(codec, value)
  is_sent = jax.tree.leaves(weight)
  parts = [v[w] for v, w in zip(jax.tree.leaves(value), is_sent)]
  coded, body = packing.pack(codec, parts, _sent(codec, value, is_sent))
  shared = header.known(codec, envelope, weight)
  return header.write(coded, envelope.round, shared, body) + body


def decode(
  codec: Codec, payload: bytes, like: Message, envelope: Envelope
) -> Message:
  """As `hns.wire.decode`, of one payload."""
  value, weight = _host(like)
  if not jax.tree.leaves(value):
    if payload:
      raise WireError(f'{len(payload)} bytes, but nothing is sent here')
    return like
  _check_size(codec, value)
  shared = header.known(codec, envelope, weight)
  coded = header.check(codec, payload, envelope.round, shared)
  is_sent = jax.tree.leaves(weight)
  body = payload[HEADER_BYTES:]
  _check_body(codec, coded, body, [int(w.sum()) for w in is_sent])
  try:
    parts = packing.unpack(codec, coded, body, _sent(codec, value, is_sent))
  except InputError as error:
    raise WireError(str(error)) from None
  leaves = map(_scatter, parts, jax.tree.leaves(value), is_sent)
  return Message(
    jax.tree.unflatten(jax.tree.structure(value), leaves), like.weight
  )


def _check_body(
  codec: Codec, coded: bool, body: bytes, counts: list[int]
) -> None:
  """Raises `WireError` for a length that no message of so many values has."""
  steps = 2 * len(counts) * codec.stepped
  packed = steps + (sum(counts) * codec.bits + 7) // 8
  least = steps + len(counts) if coded else packed
  if not least <= len(body) <= packed:
    raise WireError(
      f'a body of {len(body)} bytes, expected {least} to {packed}'
    )


def _sent(
  codec: Codec, value: Tree, is_sent: list[np.ndarray]
) -> list[np.ndarray]:
  """The unit of each value that is sent; only an entropy code asks which."""
  if not codec.coded:
    return [np.broadcast_to(np.int32(0), np.sum(sent)) for sent in is_sent]
  of_leaf = [units.of_array(*pair, codec.units_of) for pair in _named(value)]
  return [unit[sent.ravel()] for unit, sent in zip(of_leaf, is_sent)]


def _scatter(
  part: np.ndarray, like: np.ndarray, is_sent: np.ndarray
) -> np.ndarray:
  """A leaf with the values of `part` where `is_sent`, and 0 elsewhere."""
  leaf = np.zeros(like.shape, like.dtype)
  with np.errstate(all='ignore'):
    values = part.astype(like.dtype)
  if not np.array_equal(values, part):
    raise WireError(f'a value does not fit the expected {like.dtype}')
  leaf[is_sent] = values
  return leaf


def _host(message: Message) -> tuple[Tree, Tree]:
  """The values as NumPy arrays, and which coordinates are sent (bool)."""
  value = jax.tree.map(np.asarray, message.value)
  weight = jax.tree.map(
    lambda v, w: np.broadcast_to(np.asarray(w) != 0, v.shape),
    value,
    message.weight,
  )
  return value, weight
