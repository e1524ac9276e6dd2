"""The odds of a bit that a byte can tell, and the bits that coding takes.

All of it in integers, so that a host and every device have the same result.
"""

from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np

Array = np.ndarray | jax.Array

FINE = 4096  # costs are in units of 1 / FINE bits
_LOG_ODDS = np.linspace(-14, 14, 255)
LAST = len(_LOG_ODDS) - 1
EVEN = LAST // 2  # the index of even odds
PROBABILITY = 1 / (1 + np.exp(-_LOG_ODDS))  # of a 1
# One unit more, because a range coder loses about half a unit per symbol.
_COST = np.ceil(-np.log2(PROBABILITY) * FINE).astype(np.int32) + 1


def index_of(log_odds: Array) -> np.ndarray:
  """The index of the nearest odds, int32 [...]."""
  distance = np.abs(_LOG_ODDS - np.asarray(log_odds)[..., None])
  return distance.argmin(-1).astype(np.int32)


def nearest(zeros: Array, ones: Array, among: np.ndarray) -> Array:
  """Which of the indices `among` fits so many bits, int32 [...].

  Args:
    zeros, ones: int32 [...], how often a bit is 0, and 1.
    among: int [n], rising; the result is a place in it.
  """
  xp = numpy_of(ones)
  middle = (_LOG_ODDS[among[1:]] + _LOG_ODDS[among[:-1]]) / 2
  # In float32, and products, because some accelerators round quotients
  # differently.
  borders = (1 / (1 + np.exp(-middle))).astype(np.float32)
  both = xp.maximum(zeros + ones, 1).astype(np.float32)[..., None]
  above = ones.astype(np.float32)[..., None] >= borders * both
  return xp.sum(above, -1, dtype=np.int32)


def bits(zeros: Array, ones: Array, index: Array) -> Array:
  """Of so many symbols, coded with the odds of this index; int32 [...]."""
  xp = numpy_of(ones)
  cost, index = xp.asarray(_COST), xp.asarray(index, np.int32)
  return _times(ones, cost[index]) + _times(zeros, cost[LAST - index])


def even_bits(count: Array) -> Array:
  """Of so many symbols with even odds, int32 [...]."""
  return _times(count, numpy_of(count).asarray(_COST)[EVEN])


def numpy_of(x: Array) -> ModuleType:
  """NumPy or JAX's: on the host no program is compiled."""
  return np if isinstance(x, np.ndarray) else jnp


def _times(count: Array, cost: Array) -> Array:
  """count x cost / FINE, rounded up, without overflow of 32 bits."""
  high, low = count // FINE, count % FINE
  return high * cost + (low * cost + FINE - 1) // FINE
