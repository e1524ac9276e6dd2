"""FedBAT: clients learn updates of one bit and the size of that bit."""

import math
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hns import tree
from hns.fields import OF_RUN, Within
from hns.methods import uploads
from hns.methods.bases import Prune, dense
from hns.methods.contract import Method, Params
from hns.methods.parameters import (
  OPTIMIZERS,
  Bits,
  NetworkInfo,
  Optimizer,
  Pruned,
  Rate,
)
from hns.tree import Tree
from hns.wire import Message


class Learned(NamedTuple):
  """What a client of FedBAT trains, and what it starts from.

  Attributes:
    start: the download.
    update: of the weights, at first 0.
    log_size: by layer, float32 [], the trained part of a bit's size.
    kept: which weights exist, float32 of 0 and 1.
  """

  start: Params
  update: Params
  log_size: Tree
  kept: Tree


def binarized(
  optimizer: optax.GradientTransformation,
  warm_up: float,
  rho: float,
  download_bits: int,
  prune: Prune | None = None,
) -> Method:
  """FedAvg of updates that are binarised while they are trained.

  FedBAT (Li et al. 2024, arXiv 2408.03215). After the share `warm_up` of a
  round's steps a weight sees its update u as a or -a, a with probability
  (1 + u / a) / 2 clipped to [0, 1]. The gradient reaches u where |u| <= a; that
  of a is the sign of what was seen, less u / a where |u| <= a. The client sends
  a draw of the same kind. A layer's a is the mean |u| times exp(rho x a trained
  number). Ours: the mean is that of the step, where the paper keeps that of the
  end of the warm-up, and a has no bounds; a client's own model has u clipped to
  [-a, a].

  Args:
    optimizer: of the update and of the trained numbers.
    warm_up: share of the steps that train the update as it is.
    rho: how fast a bit's size is trained.
    download_bits: bits a weight of the download.
    prune: gives the mask of the weights that exist; None for all.
  """
  change = uploads.delta(uploads.one_bit())
  base = dense(optimizer, change, download_bits, prune)

  def client_init(key, frozen, message, client_state):
    start = base.client.init(key, frozen, message, client_state)
    zeros = jax.tree.map(jnp.zeros_like, start)
    scalars = jax.tree.map(lambda w: w.sum() * 0, start)
    kept = jax.tree.map(lambda w: w.astype(jnp.float32), message.weight)
    return Learned(start, zeros, scalars, kept)

  def objective(key, progress, forward, to_variables, initial_params, params):
    def seen(w, u, kept, size, draw):
      return w + kept * jnp.where(progress < warm_up, u, binary(u, size, draw))

    sizes, draws = _sizes(params, rho), tree.uniform(key, params.update)
    start, kept = initial_params.start, initial_params.kept
    weights = jax.tree.map(seen, start, params.update, kept, sizes, draws)
    return forward({'params': weights})

  def to_variables(key, frozen, params):
    added = lambda w, u, a: w + jnp.clip(u, -a, a)
    sizes = _sizes(params, rho)
    return {'params': jax.tree.map(added, params.start, params.update, sizes)}

  def update(key, frozen, message, client_state, initial_params, params):
    sizes = jax.tree.map(uploads.round_to_bf16, _sizes(params, rho))
    draws = tree.uniform(key, params.update)
    value = jax.tree.map(binary, params.update, sizes, draws)
    return Message(value, message.weight), client_state

  return base.revise(
    client=dict(
      init=client_init,
      objective=objective,
      to_variables=to_variables,
      update=update,
    ),
  )


def _sizes(params: Learned, rho: float) -> Tree:
  """By layer, the size of a bit, float32 []."""

  def size(update, log_size, kept):
    mean = jax.lax.stop_gradient(uploads.mean_of_kept(abs(update), kept))
    return jnp.maximum(mean, 1e-30) * jnp.exp(rho * log_size)

  return jax.tree.map(size, params.update, params.log_size, params.kept)


@jax.custom_vjp
def binary(update: jax.Array, size: jax.Array, draw: jax.Array) -> jax.Array:
  """`size` or -`size` at random, with the mean of `update` clipped to them.

  Args:
    update: float32 [...].
    size: float32 [], above 0.
    draw: uniform in [0, 1), like `update`.
  """
  return jnp.where(draw < (1 + update / size) / 2, size, -size)


def _binary_fwd(update, size, draw):
  seen = binary(update, size, draw)
  return seen, (update / size, jnp.sign(seen))


def _binary_bwd(saved, grad):
  share, bit = saved
  inside = abs(share) <= 1
  of_size = jnp.where(inside, bit - share, jnp.sign(share))
  return grad * inside, jnp.sum(grad * of_size), None


binary.defvjp(_binary_fwd, _binary_bwd)


def fedbat(
  network: NetworkInfo,
  learning_rate: Rate = 0.1,
  optimizer: Optimizer = 'sgd',
  warm_up: Annotated[float, Within(0, 1, '[]')] = 0.5,
  rho: Annotated[float, Within(0, math.inf, '[)')] = 6.0,
  download_bits: Bits = OF_RUN,
  pruned: Pruned = False,
) -> Method:
  """FedBAT: Li et al. 2024 (arXiv 2408.03215); updates binarised in training.

  Args:
    warm_up: share of a round's steps before updates are binarised
    rho: how fast the size of a bit is trained
  """
  moved, prune = OPTIMIZERS[optimizer](learning_rate), network.prune_if(pruned)
  return binarized(moved, warm_up, rho, download_bits, prune)
