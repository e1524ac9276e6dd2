"""Networks for windows of sensors, text, and patches of pictures.

Biases of LSTM cells stay at 0, as drawn.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from hns.networks.layers import Conv, Dense, Norm

TOKENS = 128  # of texts: ASCII


class Conv1d(nn.Module):
  """Convolutions of width 5 and stride 2 over time, and their mean over time.

  Inputs are float [n, time, channels].

  Attributes:
    classes: number of logits.
    widths: channels of each convolution.
  """

  classes: int
  widths: tuple[int, ...] = (64, 128, 128)

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    for width in self.widths:
      x = nn.relu(Norm()(Conv(width, (5,), (2,))(x)))
    return Dense(self.classes)(x.mean(1))


class CharLstm(nn.Module):
  """LSTM layers on tokens; what follows the last token is predicted.

  LEAF's network for Shakespeare (Caldas et al. 2018, arXiv 1812.01097).

  Attributes:
    classes: number of logits.
    width: units a layer.
    layers: how many.
    features: of a token's vector.
    every: whether what follows every token is predicted, [n, time, classes].
  """

  classes: int
  width: int = 256
  layers: int = 2
  features: int = 8
  every: bool = False

  @nn.compact
  def __call__(self, tokens: jax.Array) -> jax.Array:
    x = nn.Embed(TOKENS, self.features)(tokens)
    for _ in range(self.layers):
      x = nn.RNN(nn.OptimizedLSTMCell(self.width))(x)
    return Dense(self.classes)(x if self.every else x[:, -1])


class Transformer(nn.Module):
  """Blocks of attention and of two dense layers, each with RMS norm before.

  Vaswani et al. 2017 (arXiv 1706.03762), with ReLU and trained positions.

  Attributes:
    classes: number of logits.
    width: of a place's vector.
    heads, layers: how many.
    causal: whether a place sees itself and what was before it alone.
    every: whether every place has logits, [n, places, classes].
  """

  classes: int
  width: int
  heads: int
  layers: int
  causal: bool
  every: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    places = jnp.arange(x.shape[1])
    x = x + nn.Embed(x.shape[1], self.width)(places)
    mask = nn.make_causal_mask(x[..., 0]) if self.causal else None
    attention = functools.partial(
      nn.MultiHeadDotProductAttention, self.heads, use_bias=False
    )
    for _ in range(self.layers):
      x = x + attention()(Norm()(x), mask=mask)
      y = nn.relu(Dense(4 * self.width)(Norm()(x)))
      x = x + Dense(self.width)(y)
    x = Norm()(x)
    if not self.every:
      x = x[:, -1] if self.causal else x.mean(1)
    return Dense(self.classes)(x)


class CharTransformer(nn.Module):
  """A causal `Transformer` on tokens; `every` as there."""

  classes: int
  width: int = 64
  heads: int = 4
  layers: int = 2
  every: bool = False

  @nn.compact
  def __call__(self, tokens: jax.Array) -> jax.Array:
    x = nn.Embed(TOKENS, self.width)(tokens)
    sizes = self.width, self.heads, self.layers
    return Transformer(self.classes, *sizes, True, self.every)(x)


class Vit(nn.Module):
  """A `Transformer` on patches of pictures (arXiv 2010.11929).

  Attributes:
    classes: number of logits.
    patch: side of a patch.
    width, heads, layers: as in `Transformer`.
  """

  classes: int
  patch: int = 4
  width: int = 96
  heads: int = 4
  layers: int = 4

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    side = (self.patch, self.patch)
    x = nn.Conv(self.width, side, side, 'VALID', use_bias=False)(x)
    x = x.reshape(len(x), -1, self.width)
    sizes = self.width, self.heads, self.layers
    return Transformer(self.classes, *sizes, causal=False)(x)


def conv1d(classes: int) -> nn.Module:
  """For windows [time, channels]: 124,000 weights with 6 channels.

  HideNseek at density 0.2 takes 1.8 ms for a step of 20 windows of 128 on a
  core, FedAvg 1.7.
  """
  return Conv1d(classes)


def char_lstm(classes: int) -> nn.Module:
  """For ASCII [time]: two layers of 256, about 800,000 weights.

  HideNseek at density 0.9 takes 130 ms for a step of 20 texts of 80 characters
  on a core, FedAvg 82; `token_lstm` takes as long. At density 0.5 saliency
  leaves one of its gates without weights.
  """
  return CharLstm(classes)


def char_transformer(classes: int) -> nn.Module:
  """For ASCII [time]: two blocks of width 64, about 117,000 weights.

  HideNseek at density 0.2 takes 11 ms for a step of 20 texts of 80 characters
  on a core, FedAvg 9. `token_transformer` takes as long.
  """
  return CharTransformer(classes)


def token_lstm(classes: int) -> nn.Module:
  """`char_lstm` that predicts what follows every token."""
  return CharLstm(classes, every=True)


def token_transformer(classes: int) -> nn.Module:
  """`char_transformer` that predicts what follows every token."""
  return CharTransformer(classes, every=True)


def vit_tiny(classes: int) -> nn.Module:
  """For pictures: patches of 4x4, four blocks of width 96: 450,000 weights.

  HideNseek at density 0.2 takes 37 ms for a step of 20 pictures of 32x32 on a
  core, FedAvg 36.
  """
  return Vit(classes)
