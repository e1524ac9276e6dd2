"""Convolution of stride 1 with fewer products, for CPUs.

Winograd's minimal filtering (Lavin and Gray 2016, arXiv 1509.09308): pictures
are cut into tiles of 4x4 outputs. A linear map transforms each tile and another
the kernel to as many numbers as the tile has inputs. Their products are summed
over channels, and a third linear map transforms the sums to the outputs. A 5x5
kernel takes 64 products per tile instead of 400. All steps are matrix products,
and so are the derived gradients. Rounding errors are about ten times those of a
direct convolution: a few 1e-6 of the largest output in float32, and too large
at lower precision.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_SIDE = 4  # outputs of a tile, each way
# Where the maps evaluate polynomials, besides infinity. Small numbers round
# well.
_POINTS = np.array([0, 1, -1, 2, -2, 1 / 2, -1 / 2])
_WORTH = 0.8  # a larger share of the products is not faster: tiles are copied

Padding = tuple[tuple[int, int], tuple[int, int]]


def pays(
  image: tuple[int, ...], kernel: tuple[int, ...], padding: Padding
) -> bool:
  """Whether it takes at most `_WORTH` of the products of a direct convolution.

  Never for one picture: saliencies, which use one, need the smaller rounding
  errors of a direct convolution.

  Args:
    image: (n, h, w, c).
    kernel: (kh, kw, c, o).
    padding: ((top, bottom), (left, right)).
  """
  n, kh, kw, c, o = image[0], *kernel
  rows, cols = (
    size + sum(pads) - taps + 1
    for size, pads, taps in zip(image[1:3], padding, kernel)
  )
  tiles = n * -(-rows // _SIDE) * -(-cols // _SIDE)
  places = (kh + _SIDE - 1) * (kw + _SIDE - 1)
  each_tile = places * c + c * o + _SIDE**2 * o
  products = places * (tiles * each_tile + kh * kw * c * o)
  plain = n * rows * cols * kh * kw * c * o
  fits = max(kh, kw) + _SIDE - 2 <= len(_POINTS)
  return n > 1 and fits and products <= _WORTH * plain


def conv(x: jax.Array, kernel: jax.Array, padding: Padding) -> jax.Array:
  """x [n, h, w, c] and kernel [kh, kw, c, o] -> y [n, h', w', o]."""
  kh, kw, c, o = kernel.shape
  x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
  rows, cols = x.shape[1] - kh + 1, x.shape[2] - kw + 1

  def mapped(matrices, values, *shape):
    matrix = jnp.asarray(np.kron(*matrices), values.dtype)
    flat = values.reshape(matrix.shape[1], -1)
    return jnp.matmul(matrix, flat).reshape(*shape)

  outputs, taps, inputs = zip(_matrices(kh), _matrices(kw))
  places = (kh + _SIDE - 1) * (kw + _SIDE - 1)
  tiles = _tiles(x, kh + _SIDE - 1, kw + _SIDE - 1)
  products = jnp.einsum(
    'ptc,pco->pto',
    mapped(inputs, tiles, places, -1, c),
    mapped(taps, kernel, places, c, o),
  )
  y = mapped(outputs, products, _SIDE, _SIDE, *tiles.shape[2:5], o)
  y = y.transpose(2, 3, 0, 4, 1, 5)
  n, down, across = y.shape[0], y.shape[1], y.shape[3]
  return y.reshape(n, down * _SIDE, across * _SIDE, o)[:, :rows, :cols]


@functools.cache
def _matrices(taps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """The maps of outputs, taps and inputs for a row of `_SIDE` outputs.

  Polynomials of `_SIDE` and of `taps` coefficients are multiplied by their
  values at as many points as the product has coefficients (Toom and Cook);
  transposed, that is a filter.
  """
  size = _SIDE + taps - 1
  points = _POINTS[: size - 1, None]

  def values(count):
    return np.vstack([points ** np.arange(count), np.eye(count)[-1:]])

  inputs = np.linalg.inv(values(size)).T
  scale = abs(inputs).max(1, keepdims=True)
  return values(_SIDE).T, values(taps) * scale, inputs / scale


def _tiles(x: jax.Array, height: int, width: int) -> jax.Array:
  """Tiles of height x width, one every `_SIDE` pixels, that overlap.

  [n, h, w, c] -> [height, width, n, tiles down, tiles across, c]. They are made
  of blocks of `_SIDE`, so that the gradient adds few terms.
  """
  sizes, pads, blocks = (height, width), [], []
  for extent, size in zip(x.shape[1:3], sizes):
    count = -(-(extent - size + _SIDE) // _SIDE)
    blocks.append(-(-size // _SIDE))
    pads.append((0, (count + blocks[-1] - 1) * _SIDE - extent))
  x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
  n, h, w, c = x.shape
  x = x.reshape(n, h // _SIDE, _SIDE, w // _SIDE, _SIDE, c)
  x = x.transpose(2, 4, 0, 1, 3, 5)
  for axis, (size, count) in enumerate(zip(sizes, blocks)):
    tiles = x.shape[3 + axis] - count + 1
    parts = [
      lax.slice_in_dim(x, first, first + tiles, axis=3 + axis)
      for first in range(count)
    ]
    x = lax.slice_in_dim(jnp.concatenate(parts, axis), 0, size, axis=axis)
  return x
