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


@jax.custom_vjp
def max_pool(x: jax.Array) -> jax.Array:
  """2x2 max pooling by reshape, which XLA:CPU runs faster than a window.

  An odd last row or column is dropped, as with 'VALID' padding. Of equal maxima
  the first gets the gradient, as in Linen. The gradient is written by hand
  because that is a third faster.
  """
  return jnp.max(_squares(x), (2, 4))


def _squares(x):
  """[n, h, w, c] -> [n, h // 2, 2, w // 2, 2, c]."""
  n, h, w, c = x.shape
  x = x[:, : h // 2 * 2, : w // 2 * 2]
  return x.reshape(n, h // 2, 2, w // 2, 2, c)


def _max_pool_fwd(x):
  y = max_pool(x)
  return y, (x, y)


def _max_pool_bwd(saved, grad):
  x, y = saved
  squares = _squares(x)
  places = [squares[:, :, i, :, j] == y for i, j in ((0, 0), (0, 1), (1, 0))]
  first = jnp.select(places, [0, 1, 2], 3)[:, :, None, :, None]
  wins = first == jnp.arange(4).reshape(2, 1, 2, 1)
  share = jnp.where(wins, grad[:, :, None, :, None], 0)
  n, h, w, c = x.shape
  share = share.reshape(n, h // 2 * 2, w // 2 * 2, c)
  return (jnp.pad(share, ((0, 0), (0, h % 2), (0, w % 2), (0, 0))),)


max_pool.defvjp(_max_pool_fwd, _max_pool_bwd)
