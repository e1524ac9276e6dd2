"""The Walsh-Hadamard transform, and random rotations made of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from hns import tree

_WIDTH = 128  # of one matrix product
_BLOCK = 512  # the largest block that is rotated as one


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


def rotate(key: jax.Array, x: jax.Array, kept: jax.Array) -> jax.Array:
  """A random rotation of the coordinates that are kept.

  They are shuffled into blocks, and in each block signs are drawn and the
  transform is applied. Blocks that hold nothing kept are last, and stay 0.

  Args:
    key: of the rotation.
    x: float32 [n], 0 where not kept.
    kept: bool [n].

  Returns:
    float32 [m], n rounded up to a multiple of `block_size(n)`.
  """
  blocks = _in_blocks(x[_order(key, kept)])
  return _transforms(blocks * _signs(key, blocks.shape)).ravel()


def unrotate(key: jax.Array, y: jax.Array, kept: jax.Array) -> jax.Array:
  """The inverse of `rotate` with this key, float32 [n]; 0 where not kept."""
  blocks = y.reshape(-1, block_size(kept.size))
  x = (_transforms(blocks) * _signs(key, blocks.shape)).ravel()[: kept.size]
  return jnp.zeros(kept.size).at[_order(key, kept)].set(x) * kept


def in_use(kept: jax.Array) -> jax.Array:
  """Which coordinates of `rotate`'s result are of blocks in use, bool [m]."""
  size = block_size(kept.size)
  used = -(-tree.count(kept) // size) * size
  return jnp.arange(-(-kept.size // size) * size) < used


def block_size(count: int) -> int:
  """Of `rotate`: large enough to mix well, small enough to fill."""
  return min(_BLOCK, 1 << (count - 1).bit_length())


def _transforms(blocks: jax.Array) -> jax.Array:
  return jax.vmap(transform)(blocks)


def _in_blocks(x: jax.Array) -> jax.Array:
  size = block_size(x.size)
  return jnp.pad(x, (0, -x.size % size)).reshape(-1, size)


def _signs(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """+1 or -1 with equal chances, float32."""
  return jax.random.rademacher(jax.random.fold_in(key, 1), shape, jnp.float32)


def _order(key: jax.Array, kept: jax.Array) -> jax.Array:
  """The places of what is kept, shuffled, and then all others, int32 [n]."""
  draws = jax.random.uniform(jax.random.fold_in(key, 0), kept.shape)
  return jnp.argsort(jnp.where(kept, draws, 2.0))
