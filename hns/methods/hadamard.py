"""The Walsh-Hadamard transform, and random rotations made of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

_WIDTH = 128  # of one matrix product


def transform(x: jax.Array) -> jax.Array:
  """The orthonormal Walsh-Hadamard transform, its own inverse.

  As products with small matrices, for H_ab is the Kronecker product of H_a and
  H_b.

  Args:
    x: float32 [n], n a power of two.
  """
  rows = x.reshape(1, -1)
  done = 1
  while done < x.size:
    width = min(_WIDTH, x.size // done)
    # The last `width` coordinates of what is left become a product's rows.
    blocks = rows.reshape(-1, width) @ _matrix(width)
    rows = blocks.reshape(-1, width).T
    done *= width
  return rows.ravel()


@functools.cache
def _matrix(width: int) -> np.ndarray:
  """The orthonormal Hadamard matrix, float32 [width, width]."""
  matrix = np.ones((1, 1), np.float32)
  while len(matrix) < width:
    matrix = np.block([[matrix, matrix], [matrix, -matrix]])
  return matrix / np.sqrt(np.float32(width))


def rotate(key: jax.Array, x: jax.Array) -> jax.Array:
  """A random rotation of a vector of any length, float32 [n].

  Signs are drawn and coordinates shuffled; then the first 2^k and the last 2^k
  of them are transformed, 2^k the largest power of two in n, with other signs
  between. So nothing is padded, and no bit is spent on padding.
  """
  before, between = _signs(key, x.size)
  size = _largest_power(x.size)
  x = (x * before)[_order(x.size)]
  x = jnp.concatenate([transform(x[:size]), x[size:]]) * between
  return jnp.concatenate([x[:-size], transform(x[-size:])])


def unrotate(key: jax.Array, y: jax.Array) -> jax.Array:
  """The inverse of `rotate` with this key."""
  before, between = _signs(key, y.size)
  size = _largest_power(y.size)
  y = jnp.concatenate([y[:-size], transform(y[-size:])]) * between
  y = jnp.concatenate([transform(y[:size]), y[size:]])
  return y[np.argsort(_order(y.size))] * before


def _signs(key: jax.Array, count: int) -> jax.Array:
  """Twice +1 or -1 with equal chances, float32 [2, count]."""
  return jax.random.rademacher(key, (2, count), jnp.float32)


def _largest_power(count: int) -> int:
  return 1 << (count.bit_length() - 1)


def _order(count: int) -> np.ndarray:
  """A fixed shuffle, equal for all: it spreads large layers over the vector."""
  return np.random.default_rng(count).permutation(count)
