"""FedMRN: an update that is seeded noise times a trained mask of one bit."""

import math
from collections.abc import Callable
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hns import tree, wire
from hns.fields import OF_RUN, Label, OneOf, Within
from hns.methods import uploads
from hns.methods.bases import Prune, dense
from hns.methods.contract import Initial, Method, Params
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

# By name, the smallest value of a mask; the largest is 1.
MASKS = {'signed': -1.0, 'binary': 0.0}
MaskName = Annotated[str, OneOf(MASKS), Label(str), 'what noise is times']


class Masked(NamedTuple):
  """What a client of FedMRN trains, `update`, and what it starts from.

  Attributes:
    start: the download.
    noise: the client's own of this round, never 0.
    update: of the weights, at first 0.
    kept: which weights exist, float32 of 0 and 1.
  """

  start: Params
  noise: Params
  update: Params
  kept: Tree


class Frozen(NamedTuple):
  """What never changes: of `dense`, and by layer the size of noise."""

  inner: Tree
  sizes: Tree


def masked_noise(
  optimizer: optax.GradientTransformation,
  least: float,
  size: float,
  download_bits: int,
  prune: Prune | None = None,
) -> Method:
  """FedAvg whose clients send a mask; noise times mask is their update.

  FedMRN (Li et al. 2024, arXiv 2408.03220). The noise n is uniform, drawn from
  a seed that the server knows. With u what is trained, a weight's mask is 1
  with the probability u / n, clipped to [0, 1] (a signed mask: 1 with
  probability (u / n + 1) / 2, else -1), and its gradient is straight-through.
  At the share t of a round's steps a weight sees its mask with probability t,
  else the mean of its mask (progressive masking). The server adds the mean of
  the noise times the masks. Ours: the noise of a layer is at most `size` root
  mean squares of its weights as drawn (the paper draws all layers with one
  deviation, 0.01, and its noise is at most that); a client's own model has the
  mean of its mask, u clipped to what noise and mask can give.

  Args:
    optimizer: of the update.
    least: -1 for signed masks, 0 for binary ones.
    size: the largest of the noise, in a layer's root mean squares.
    download_bits: bits a weight of the download.
    prune: gives the mask of the weights that exist; None for all.
  """
  change = uploads.delta(uploads.one_bit())
  base = dense(optimizer, change, download_bits, prune)
  return base.revise(
    client=_client(base, least),
    server=_server(base, least, size),
    wire=dict(upload_codec=wire.levels(1, coded=True)),
  )


def _client(base: Method, least: float) -> dict[str, Callable]:
  def init(key, frozen, message, client_state):
    start = base.client.init(key, frozen.inner, message, ())
    noise = _noise(client_state, start, frozen.sizes)
    kept = jax.tree.map(lambda w: w.astype(jnp.float32), message.weight)
    return Masked(start, noise, jax.tree.map(jnp.zeros_like, start), kept)

  def objective(key, progress, forward, to_variables, initial_params, params):
    update = jax.tree.map(
      lambda u, n, *draws: _seen(u, n, least, progress, *draws),
      params.update,
      initial_params.noise,
      *(tree.uniform(k, params.update) for k in jax.random.split(key)),
    )
    moved = lambda w, u, kept: w + kept * u
    start, kept = initial_params.start, initial_params.kept
    return forward({'params': jax.tree.map(moved, start, update, kept)})

  def to_variables(key, frozen, params):
    added = lambda w, n, u, kept: w + kept * jnp.clip(u / n, least, 1) * n
    return {'params': jax.tree.map(added, *params)}

  def update(key, frozen, message, client_state, initial_params, params):
    draws = tree.uniform(jax.random.fold_in(key, 1), params.update)
    chosen = lambda u, n, d: jnp.where(_is_one(u / n, least, d), 1.0, -1.0)
    value = jax.tree.map(chosen, params.update, params.noise, draws)
    return Message(value, message.weight), client_state

  return dict(
    before_training=lambda key, frozen, message, client_state, score: key,
    init=init,
    objective=objective,
    to_variables=to_variables,
    update=update,
  )


def _server(base: Method, least: float, size: float) -> dict[str, Callable]:
  def init(key, params):
    inner, server_state, _ = base.server.init(key, params)
    sizes = jax.tree.map(lambda rms: size * rms, tree.sizes(params))
    return Initial(Frozen(inner, sizes), server_state, jax.random.key(0))

  def broadcast(key, frozen, server_state):
    return base.server.broadcast(key, frozen.inner, server_state)

  def read_upload(key, frozen, message, upload):
    noise = _noise(key, upload.value, frozen.sizes)
    masked = lambda m, n: jnp.where(m > 0, 1.0, least) * n
    return upload._replace(value=jax.tree.map(masked, upload.value, noise))

  return dict(init=init, broadcast=broadcast, read_upload=read_upload)


def _noise(key: jax.Array, like: Tree, sizes: Tree) -> Tree:
  """Uniform noise in [-size, size], by layer, never 0, of a client's key."""
  never_0 = lambda d, size: jnp.where(d == 0, 1.0, d) * size
  return jax.tree.map(never_0, tree.uniform(key, like, -1.0), sizes)


def _is_one(share: jax.Array, least: float, draw: jax.Array) -> jax.Array:
  """Whether a mask is 1, bool; `share` is update / noise, `draw` in [0, 1)."""
  return draw < (share - least) / (1 - least)


def _seen(
  update: jax.Array,
  noise: jax.Array,
  least: float,
  progress: jax.Array,
  mask_draw: jax.Array,
  progress_draw: jax.Array,
) -> jax.Array:
  """What moves a weight in a step; the gradient goes to `update` as it is."""
  share = update / noise
  mask = jnp.where(_is_one(share, least, mask_draw), 1.0, least)
  mask = jnp.where(progress_draw < progress, mask, jnp.clip(share, least, 1))
  return update + jax.lax.stop_gradient(mask * noise - update)


def fedmrn(
  network: NetworkInfo,
  learning_rate: Rate = 0.1,
  optimizer: Optimizer = 'sgd',
  mask: MaskName = 'signed',
  noise: Annotated[float, Within(0, math.inf)] = 0.3,
  download_bits: Bits = OF_RUN,
  pruned: Pruned = False,
) -> Method:
  """FedMRN: Li et al. 2024 (arXiv 2408.03220); seeded noise times a mask.

  Args:
    noise: its largest, in root mean squares of a layer's weights as drawn
  """
  moved, prune = OPTIMIZERS[optimizer](learning_rate), network.prune_if(pruned)
  return masked_noise(moved, MASKS[mask], noise, download_bits, prune)
