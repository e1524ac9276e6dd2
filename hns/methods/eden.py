"""EDEN: an unbiased one-bit upload of a randomly rotated change."""

import jax
import jax.numpy as jnp
import optax

from hns import tree
from hns.fields import OF_RUN
from hns.methods import uploads
from hns.methods.bases import dense
from hns.methods.contract import Method
from hns.methods.hadamard import rotate, unrotate
from hns.methods.parameters import (
  OPTIMIZERS,
  Bits,
  NetworkInfo,
  Optimizer,
  Rate,
)
from hns.wire import Message


def one_bit_rotated(
  optimizer: optax.GradientTransformation, download_bits: int
) -> Method:
  """FedAvg of changes that travel as the signs of a random rotation.

  EDEN at one bit (Vargaftik et al. 2022, arXiv 2108.08842, section 3; DRIVE:
  Vargaftik et al. 2021, arXiv 2105.08339): with R the client's own rotation and
  x its change, it sends sign(R x) and the scale |x|^2 / |R x|_1, and the server
  takes scale x R^-1 sign(R x), whose mean over rotations is x. Ours: R is
  `hadamard.rotate` of all layers as one vector.
  """
  change = uploads.delta(uploads.one_bit())
  base = dense(optimizer, change, download_bits)

  def update(key, frozen, message, client_state, initial_params, params):
    change = jax.tree.map(jnp.subtract, params, initial_params)
    value = {'rotated': _signs_of(rotate(key, tree.flatten(change)))}
    return Message(value, {'rotated': jnp.ones((), bool)}), client_state

  def read_upload(key, frozen, message, upload):
    change = unrotate(key, upload.value['rotated'])
    return Message(tree.unflatten(change, message.value), message.weight)

  return base.revise(
    client=dict(update=update), server=dict(read_upload=read_upload)
  )


def _signs_of(rotated: jax.Array) -> jax.Array:
  """The signs of a rotated vector times the scale that makes them unbiased."""
  size = jnp.sum(abs(rotated))
  scale = jnp.sum(jnp.square(rotated)) / jnp.maximum(size, 1e-30)
  return jnp.where(rotated < 0, -1.0, 1.0) * uploads.round_to_bf16(scale)


def eden(
  network: NetworkInfo,
  learning_rate: Rate = 0.05,
  optimizer: Optimizer = 'sgd',
  download_bits: Bits = OF_RUN,
) -> Method:
  """EDEN: Vargaftik et al. 2022 (arXiv 2108.08842); rotated, a bit a weight."""
  del network
  return one_bit_rotated(OPTIMIZERS[optimizer](learning_rate), download_bits)
