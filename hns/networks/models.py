"""Linen networks without biases.

For a new model, put a function of the number of classes in `MODELS`. It returns
a Linen module that maps images, float [n, h, w, c], to logits, float
[n, classes], and whose only collection is `params`.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from hns.errors import InputError, invalid
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


class Network(nn.Module):
  """Convolutions, dense layers, a linear head; RMS norm before each ReLU.

  Attributes:
    classes: number of logits.
    convs: (features, kernel size, stride, pool) of each convolution.
    dense: the width of each hidden dense layer.
    padding: of every convolution, 'SAME' or 'VALID'.
    full: the widths before `hns.networks.compact` removed units; () if it did
      not.
  """

  classes: int
  convs: tuple[tuple[int, int, int, bool], ...] = ()
  dense: tuple[int, ...] = ()
  padding: str = 'SAME'
  full: tuple[int, ...] = ()

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    if self.convs and x.ndim != 4:
      remedy = 'convolutions need pictures [n, h, w, c]: choose mlp, or a model'
      raise InputError(f'inputs are {list(x.shape)}: {remedy} of your own')
    full = iter(self.full or (0,) * (len(self.convs) + len(self.dense)))
    for features, size, stride, pool in self.convs:
      if self.padding == 'VALID' and min(x.shape[1:3]) < size:
        raise InputError(
          f'images of {x.shape[1]}x{x.shape[2]} do not fit a kernel of '
          f'{size}x{size}: choose a smaller model, such as cnn or mlp'
        )
      x = Conv(features, (size, size), (stride, stride), self.padding)(x)
      x = nn.relu(Norm(next(full))(max_pool(x) if pool else x))
    x = x.reshape(x.shape[0], -1)
    for width in self.dense:
      x = nn.relu(Norm(next(full))(Dense(width)(x)))
    return Dense(self.classes)(x)


def mlp(classes: int) -> nn.Module:
  """200-200: the two hidden layers of McMahan et al. 2017's "2NN"."""
  return Network(classes, dense=(200, 200))


def cnn(classes: int) -> nn.Module:
  """Strided convolutions, about 100,000 weights: for sweeps on a laptop."""
  return Network(
    classes, ((32, 3, 2, False), (64, 3, 2, False), (96, 3, 2, False))
  )


def lenet(classes: int) -> nn.Module:
  """For 28x28 images: two 5x5 convolutions with pooling, dense 512."""
  convs = ((32, 5, 1, True), (64, 5, 1, True))
  return Network(classes, convs, dense=(512,), padding='VALID')


def conv4(classes: int) -> nn.Module:
  """For 32x32x3 images: Conv-4 of Zhou et al. 2019 (arXiv 1905.01067)."""
  pair = lambda width: ((width, 3, 1, False), (width, 3, 1, True))
  return Network(classes, pair(64) + pair(128), dense=(256, 256))


MODELS = {'mlp': mlp, 'cnn': cnn, 'lenet': lenet, 'conv4': conv4}


def create(name: str, classes: int) -> nn.Module:
  """The model of that name; raises `InputError` for an unknown one."""
  if name not in MODELS:
    raise invalid('model', name, f'choose one of {", ".join(MODELS)}')
  return MODELS[name](classes)
