"""Entropy coding of small symbols, with a length known before coding.

Symbols of b bits are coded bit by bit, the most significant first. Every bit
has its own probability for each value of the bits before it (a node of the
binary tree of symbols), so the code reaches the entropy of the symbols'
distribution. Each probability is sent as one byte. For small layers only the
probabilities of the upper levels of the tree are sent, and the others are 1/2.
A range coder (constriction) codes the bits. Its output is padded to a length
that depends only on how often each symbol occurs, so that a device can count
the bytes without coding.
"""

from collections.abc import Iterator
from types import ModuleType

import constriction
import jax
import jax.numpy as jnp
import numpy as np

from hns import tree
from hns.errors import InputError

Array = np.ndarray | jax.Array

_SPARE = 8  # bytes that a range coder may need beyond its symbols' information
_FINE = 4096  # costs are in units of 1 / _FINE bits
_ODDS = np.linspace(-14, 14, 255)  # log odds that one byte can encode
_EVEN = 127  # the index of even odds
_PROBABILITY = 1 / (1 + np.exp(-_ODDS))
# Between two neighbours, in float32: equal on host and device.
_BORDERS = (1 / (1 + np.exp(-(_ODDS[1:] + _ODDS[:-1]) / 2))).astype(np.float32)
# One unit more, because a range coder loses about half a unit per symbol.
_COST = np.ceil(-np.log2(_PROBABILITY) * _FINE).astype(np.int32) + 1


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


def length(counts: jax.Array) -> jax.Array:
  """Bits of the code of each layer, int32 [...]; can be jitted.

  Without the spare bytes of the code. Exact while `most` fits an int32.

  Args:
    counts: int32 [..., 2^bits].
  """
  return _plan(counts)[0]


def most(count: int, bits: int) -> int:
  """The most bits of a layer of `count` symbols."""
  # `bits` per symbol, two units per bit for `_COST`, two roundings per node.
  return 8 + count * bits + 2 * count * bits // _FINE + 2 * 2**bits


def size(counts: jax.Array) -> jax.Array:
  """Bytes of the code of layers with these counts, int32 []; can be jitted.

  Args:
    counts: int32 [layers, 2^bits]; or int32 NumPy, for int64 [].
  """
  used = length(counts)
  # By eights, because the bits of many layers may overflow an int32.
  full, rest = (used // 8).sum(), (used % 8).sum()
  return full + (rest + 7) // 8 + _SPARE


def counts_of(parts: list[np.ndarray], bits: int) -> np.ndarray:
  """How often each symbol occurs in each array, int32 [parts, 2^bits]."""
  counts = [np.bincount(p, minlength=2**bits) for p in parts]
  return np.array(counts, np.int32).reshape(-1, 2**bits)


def encode(parts: list[np.ndarray], bits: int) -> bytes:
  """The code of several arrays of symbols, each with its own probabilities.

  Args:
    parts: uint8 [n] each, below 2^bits.
    bits: of a symbol, 1 to 8.
  """
  coder = constriction.stream.queue.RangeEncoder()
  table, counts = bytearray(), counts_of(parts, bits)
  for symbols, depth, odds in zip(parts, *_plan(counts)[1:]):
    sent = odds[: 2**depth - 1].astype(np.uint8)
    table += bytes([depth]) + sent.tobytes()
    chosen = _all_nodes(sent, bits)
    for plane in range(bits):
      bit = (symbols >> (bits - 1 - plane)) & 1
      for place, model in _plane(symbols >> (bits - plane), plane, chosen):
        coder.encode(bit[place].astype(np.int32), model)
  words = coder.get_compressed().astype('<u4').tobytes()
  return (bytes(table) + words).ljust(int(size(counts)), b'\0')


def decode(code: bytes, counts: list[int], bits: int) -> list[np.ndarray]:
  """The arrays of `counts` symbols; the inverse of `encode`.

  Raises:
    InputError: `encode` does not return this code for any such arrays.
  """
  parts = read(code, counts, bits)
  if encode(parts, bits) != code:
    raise InputError(f'these {len(code)} bytes are not a code that hns writes')
  return parts


def read(code: bytes, counts: list[int], bits: int) -> list[np.ndarray]:
  """As `decode`, without its check: a damaged code may give other symbols.

  Raises `InputError` for a code that cannot be read at all.
  """
  tables, rest = [], np.frombuffer(code, np.uint8)
  for _ in counts:
    sent, rest = _table(rest, bits)
    tables.append(_all_nodes(sent, bits))
  words = rest[: len(rest) // 4 * 4].tobytes()
  coder = constriction.stream.queue.RangeDecoder(
    np.frombuffer(words, '<u4').astype(np.uint32)
  )
  try:
    return [_symbols(coder, n, t, bits) for n, t in zip(counts, tables)]
  except AssertionError:  # what constriction raises
    raise InputError('the entropy code is damaged') from None


def _table(code: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
  """The indices of `_ODDS` of one layer, and the bytes after them."""
  end = 2 ** int(code[0]) if len(code) and code[0] <= bits else 0
  if not 0 < end <= len(code):
    raise InputError('the table of an entropy code is damaged')
  return code[1:end], code[end:]


def _symbols(
  coder: constriction.stream.queue.RangeDecoder,
  count: int,
  chosen: np.ndarray,
  bits: int,
) -> np.ndarray:
  """The next `count` symbols, uint8, with the odds `chosen` for the layer."""
  symbols = np.zeros(count, np.uint8)
  for plane in range(bits):
    bit = np.zeros(count, np.uint8)
    for place, model in _plane(symbols, plane, chosen):
      bit[place] = coder.decode(model, len(place))
    symbols = 2 * symbols + bit
  return symbols


def _plane(
  prefix: np.ndarray, plane: int, chosen: np.ndarray
) -> Iterator[tuple[np.ndarray, constriction.stream.model.Bernoulli]]:
  """Yields the indices of the symbols at each node of a level and its model."""
  for value in range(2**plane):
    place = np.flatnonzero(prefix == value)
    if len(place):
      index = min(int(chosen[2**plane - 1 + value]), 254)
      model = constriction.stream.model.Bernoulli
      yield place, model(_PROBABILITY[index], perfect=False)


def _plan(counts: Array) -> tuple[Array, Array, Array]:
  """The bits of each layer, the levels of its tree to send, and the odds.

  The number of levels that makes the code shortest is sent as a byte, and the
  odds of each of their nodes as another, an index of `_ODDS`.
  """
  xp = _numpy(counts)
  zeros, ones = _branches(counts)
  # Products, because some accelerators round quotients differently.
  both = xp.maximum(zeros + ones, 1).astype(np.float32)[..., None]
  chosen = xp.sum(ones.astype(np.float32)[..., None] >= _BORDERS * both, -1)
  cost = xp.asarray(_COST)
  skewed = _times(ones, cost[chosen]) + _times(zeros, cost[254 - chosen])
  even = _times(zeros + ones, cost[_EVEN])
  levels = counts.shape[-1].bit_length() - 1
  gain = even - skewed - 8
  saved = xp.stack(
    [xp.sum(gain[..., : 2**sent - 1], -1) for sent in range(levels + 1)], -1
  )
  bits = 8 + xp.sum(even, -1) - xp.max(saved, -1)
  return bits, xp.argmax(saved, -1), chosen


def _all_nodes(sent: np.ndarray, bits: int) -> np.ndarray:
  """The odds of all nodes, even for those whose odds are not sent."""
  chosen = np.full(2**bits - 1, _EVEN, np.uint8)
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
  xp = _numpy(counts)
  return xp.concatenate(zeros, -1), xp.concatenate(ones, -1)


def _numpy(x: Array) -> ModuleType:
  """NumPy or JAX's: on the host no program is compiled."""
  return np if isinstance(x, np.ndarray) else jnp


def _times(count: Array, cost: Array) -> Array:
  """count x cost / _FINE, rounded up, without overflow of 32 bits."""
  high, low = count // _FINE, count % _FINE
  return high * cost + (low * cost + _FINE - 1) // _FINE
