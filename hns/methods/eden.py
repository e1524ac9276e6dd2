"""EDEN: an unbiased one-bit upload of a randomly rotated change."""

import jax
import jax.numpy as jnp
import optax

from hns import tree
from hns.fields import OF_RUN
from hns.methods import hadamard, uploads
from hns.methods.bases import Prune, dense
from hns.methods.contract import Method
from hns.methods.parameters import (
  OPTIMIZERS,
  Bits,
  NetworkInfo,
  Optimizer,
  Pruned,
  Rate,
)
from hns.wire import Message


def one_bit_rotated(
  optimizer: optax.GradientTransformation,
  download_bits: int,
  prune: Prune | None = None,
) -> Method:
  """FedAvg of changes that travel as the signs of a random rotation.

  EDEN at one bit (Vargaftik et al. 2022, arXiv 2108.08842, section 3; DRIVE:
  Vargaftik et al. 2021, arXiv 2105.08339): with R the client's own rotation and
  x its change, it sends sign(R x) and the scale |x|^2 / |R x|_1, and the server
  takes scale x R^-1 sign(R x), whose mean over rotations is x. Ours: R shuffles
  all weights into blocks and rotates each (`hadamard.rotate`), so that of a
  pruned network only the survivors travel, up to the last block's rest.

  Args:
    optimizer: of the weights.
    download_bits: bits a weight of the download.
    prune: gives the mask of the weights that exist; None for all.
  """
  change = uploads.delta(uploads.one_bit())
  base = dense(optimizer, change, download_bits, prune)

  def update(key, frozen, message, client_state, initial_params, params):
    change = jax.tree.map(jnp.subtract, params, initial_params)
    kept = _kept(message)
    rotated = hadamard.rotate(key, tree.flatten(change) * kept, kept)
    value = {'rotated': _signs_of(rotated)}
    return Message(value, {'rotated': hadamard.in_use(kept)}), client_state

  def read_upload(key, frozen, message, upload):
    sent = upload.value['rotated'] * upload.weight['rotated']
    change = hadamard.unrotate(key, sent, _kept(message))
    return Message(tree.unflatten(change, message.value), message.weight)

  return base.revise(
    client=dict(update=update), server=dict(read_upload=read_upload)
  )


def _kept(message: Message) -> jax.Array:
  """Which weights exist, bool [n]."""
  whole = lambda v, w: jnp.broadcast_to(w, v.shape)
  return tree.flatten(jax.tree.map(whole, *message)) > 0


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
  pruned: Pruned = False,
) -> Method:
  """EDEN: Vargaftik et al. 2022 (arXiv 2108.08842); rotated, a bit a weight."""
  moved = OPTIMIZERS[optimizer](learning_rate)
  return one_bit_rotated(moved, download_bits, network.prune_if(pruned))
