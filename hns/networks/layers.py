"""Layers that all networks here are made of; none has a bias or a gain."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from hns.networks.conv import conv

_INIT = nn.initializers.variance_scaling(2.0, 'fan_in', 'normal')

Conv = functools.partial(
  nn.Conv, use_bias=False, kernel_init=_INIT, conv_general_dilated=conv
)
Dense = functools.partial(nn.Dense, use_bias=False, kernel_init=_INIT)


class Norm(nn.Module):
  """RMS norm over the channels of each pixel, without parameters.

  Zhang and Sennrich 2019 (arXiv 1910.07467), without the gain.

  Attributes:
    width: number of channels of the mean; 0 for those of x. It is larger than
      that where channels that are always 0 were removed.
  """

  width: int = 0

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    mean_square = jnp.mean(jnp.square(x), -1, keepdims=True)
    if self.width:
      mean_square *= x.shape[-1] / self.width
    return x * jax.lax.rsqrt(mean_square + 1e-6)


def max_pool(x: jax.Array) -> jax.Array:
  """2x2 max pooling by reshape, which XLA:CPU runs faster than a window.

  An odd last row or column is dropped, as with 'VALID' padding. Of equal maxima
  the first gets the gradient, as in Linen. The gradient is written by hand
  because that is a third faster, and keeps a byte a square.
  """
  n, h, w, c = x.shape
  x = x[:, : h // 2 * 2, : w // 2 * 2]
  return _max_of_squares(x.reshape(n, h // 2, 2, w // 2, 2, c))


@jax.custom_vjp
def _max_of_squares(x):
  return jnp.max(x, (2, 4))


def _forward(x):
  y = _max_of_squares(x)
  wins = [x[:, :, i, :, j] == y for i in (0, 1) for j in (0, 1)]
  return y, jax.lax.argmax(jnp.stack(wins), 0, jnp.uint8)


def _backward(first, grad):
  places = jnp.arange(4, dtype=jnp.uint8).reshape(2, 1, 2, 1)
  wins = first[:, :, None, :, None] == places
  return (jnp.where(wins, grad[:, :, None, :, None], 0),)


_max_of_squares.defvjp(_forward, _backward)
