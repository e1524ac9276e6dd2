"""Linen networks by name, and chains of layers.

For a new model, put a function of the number of classes in `MODELS`. It returns
a Linen module that maps inputs [n, ...], such as pictures, float [n, h, w, c],
to logits, float [n, classes]: what it may contain, hns/networks/README.md says.
"""

import flax.linen as nn
import jax

from hns.errors import InputError, invalid
from hns.networks.layers import Conv, Dense, Norm
from hns.networks.layers import max_pool as max_pool
from hns.networks.residual import resnet8, resnet18
from hns.networks.sequences import (
  char_lstm,
  char_transformer,
  conv1d,
  token_lstm,
  token_transformer,
  vit_tiny,
)


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


MODELS = {
  'mlp': mlp,
  'cnn': cnn,
  'lenet': lenet,
  'conv4': conv4,
  'resnet8': resnet8,
  'resnet18': resnet18,
  'vit_tiny': vit_tiny,
  'conv1d': conv1d,
  'char_lstm': char_lstm,
  'char_transformer': char_transformer,
  'token_lstm': token_lstm,
  'token_transformer': token_transformer,
}


def create(name: str, classes: int) -> nn.Module:
  """The model of that name; raises `InputError` for an unknown one."""
  if name not in MODELS:
    raise invalid('model', name, f'choose one of {", ".join(MODELS)}')
  if isinstance(MODELS[name], nn.Module) or not callable(MODELS[name]):
    remedy = 'must be a function of the number of classes in hns.MODELS'
    raise invalid(
      'model', name, f'{remedy}, not a {type(MODELS[name]).__name__}'
    )
  return MODELS[name](classes)
