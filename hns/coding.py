"""Entropy coding of small symbols, of a length known before coding.

Symbols of b bits are coded bit by bit, the most significant first. Every bit
has a probability of its own for each value of the bits before it (a node of
the binary tree of symbols), so the code reaches the entropy of the symbols'
distribution. Each probability travels as one byte; where a layer is too small
for the whole tree to pay, only so many of its upper levels do, and the bits
below are even. A range coder (constriction) does the rest. Its output is padded
to a length that depends on nothing but how often each symbol occurs, which a
device can count without coding anything.
"""

import constriction
import jax
import jax.numpy as jnp
import numpy as np

from hns import tree

_SPARE = 8  # bytes that a range coder may need beyond its symbols' information
_FINE = 4096  # costs are counted in such parts of a bit
_ODDS = np.linspace(-14, 14, 255)  # log odds that one byte can name
_EVEN = 127  # the index of even odds
_PROBABILITY = 1 / (1 + np.exp(-_ODDS))
# The middle of two neighbours, in float32: equal on host and device.
_BORDERS = (1 / (1 + np.exp(-(_ODDS[1:] + _ODDS[:-1]) / 2))).astype(np.float32)
# One part more than it says: a range coder loses about half a part each time.
_COST = np.ceil(-np.log2(_PROBABILITY) * _FINE).astype(np.int32) + 1


def histogram(symbols: jax.Array, counted: jax.Array, bits: int) -> jax.Array:
  """How many of the `counted` symbols have each value, int32 [2^bits].

  Args:
    symbols: uint8, below 2^bits.
    counted: bool, broadcasts against `symbols`.
    bits: of a symbol, 1 to 8.
  """
  if bits > 5:
    hits = jnp.broadcast_to(counted, symbols.shape).astype(jnp.int32)
    return jnp.zeros(2**bits, jnp.int32).at[symbols].add(hits)
  # One reduction, not one a value: that compiles several times faster.
  counted = jnp.broadcast_to(counted, symbols.shape).ravel()
  values = jnp.arange(1, 2**bits, dtype=symbols.dtype)
  hits = (symbols.ravel() == values[:, None]) & counted
  others = jax.vmap(tree.count)(hits)
  return jnp.append(tree.count(counted) - jnp.sum(others), others)


def length(counts: jax.Array) -> jax.Array:
  """Bits that layers with these counts take, int32 [...]; can be jitted.

  The spare bytes of the whole are not in it. Exact for fewer than 2^24 symbols.

  Args:
    counts: int32 [..., 2^bits].
  """
  return _plan(counts)[0]


def total(bits: jax.Array) -> jax.Array:
  """Bytes of a whole code, of its layers' bits in all."""
  return (bits + 7) // 8 + _SPARE


def encode(parts: list[np.ndarray], bits: int) -> bytes:
  """The code of several arrays of symbols, each with its own probabilities.

  Args:
    parts: uint8 [n] each, below 2^bits.
    bits: of a symbol, 1 to 8.
  """
  coder = constriction.stream.queue.RangeEncoder()
  table, used = bytearray(), 0
  for symbols in parts:
    counts = np.bincount(symbols, minlength=2**bits).astype(np.int32)
    spent, depth, odds = _plan(counts)
    used += int(spent)
    told = odds[: 2**depth - 1].astype(np.uint8)
    table += bytes([depth]) + told.tobytes()
    chosen = _whole(told, bits)
    for plane in range(bits):
      bit = (symbols >> (bits - 1 - plane)) & 1
      for place, model in _plane(symbols >> (bits - plane), plane, chosen):
        coder.encode(bit[place].astype(np.int32), model)
  words = coder.get_compressed().astype('<u4').tobytes()
  return (bytes(table) + words).ljust(int(total(used)), b'\0')


def decode(code: bytes, counts: list[int], bits: int) -> list[np.ndarray]:
  """The arrays of `counts` symbols; the inverse of `encode`.

  A damaged code gives other symbols, an `IndexError` or a `ValueError`: check
  it first.
  """
  tables, rest = [], np.frombuffer(code, np.uint8)
  for _ in counts:
    told, rest = np.split(rest, [2 ** int(rest[0])])
    tables.append(_whole(told[1:], bits))
  words = rest[: len(rest) // 4 * 4].tobytes()
  coder = constriction.stream.queue.RangeDecoder(
    np.frombuffer(words, '<u4').astype(np.uint32)
  )
  parts = []
  for count, chosen in zip(counts, tables):
    symbols = np.zeros(count, np.uint8)
    for plane in range(bits):
      bit = np.zeros(count, np.uint8)
      for place, model in _plane(symbols, plane, chosen):
        bit[place] = coder.decode(model, len(place))
      symbols = 2 * symbols + bit
    parts.append(symbols)
  return parts


def _plane(prefix: np.ndarray, plane: int, chosen: np.ndarray):
  """Yields the places of the symbols at each node of a plane, and its model."""
  for value in range(2**plane):
    place = np.flatnonzero(prefix == value)
    if len(place):
      index = min(int(chosen[2**plane - 1 + value]), 254)
      model = constriction.stream.model.Bernoulli
      yield place, model(_PROBABILITY[index], perfect=False)


def _plan(counts):
  """What layers take in bits, the levels told of their trees, and the odds.

  Told are as many levels as make it shortest: a byte says how many, and each
  node costs another, index of `_ODDS`.
  """
  join = _numpy(counts)
  zeros, ones = _branches(counts)
  # A product, not a share: some accelerators round quotients otherwise.
  both = join.maximum(zeros + ones, 1).astype(np.float32)[..., None]
  chosen = join.sum(ones.astype(np.float32)[..., None] >= _BORDERS * both, -1)
  cost = join.asarray(_COST)
  own = _times(ones, cost[chosen]) + _times(zeros, cost[254 - chosen])
  even = _times(zeros + ones, cost[_EVEN])
  levels = counts.shape[-1].bit_length() - 1
  gain = even - own - 8
  saved = join.stack(
    [join.sum(gain[..., : 2**told - 1], -1) for told in range(levels + 1)], -1
  )
  bits = 8 + join.sum(even, -1) - join.max(saved, -1)
  return bits, join.argmax(saved, -1), chosen


def _whole(told: np.ndarray, bits: int) -> np.ndarray:
  """The odds of all nodes, even where none are told."""
  chosen = np.full(2**bits - 1, _EVEN, np.uint8)
  chosen[: len(told)] = told
  return chosen


def _branches(counts):
  """How often a node's bit is 0, and 1; int32 [..., nodes], level by level."""
  zeros, ones, width = [], [], 1
  while width < counts.shape[-1]:
    halves = counts.reshape(*counts.shape[:-1], width, 2, -1).sum(-1)
    zeros.append(halves[..., 0])
    ones.append(halves[..., 1])
    width *= 2
  join = _numpy(counts)
  return join.concatenate(zeros, -1), join.concatenate(ones, -1)


def _numpy(x):
  """The NumPy of an array: the host's codes need no compilation."""
  return np if isinstance(x, np.ndarray) else jnp


def _times(count, cost):
  """count x cost / 4096, rounded up, without passing 32 bits."""
  high, low = count // _FINE, count % _FINE
  return high * cost + (low * cost + _FINE - 1) // _FINE
