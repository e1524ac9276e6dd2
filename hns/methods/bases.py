"""What is trained, and what a client starts from: weights, or signs on them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hns import tree, wire
from hns.methods.contract import (
  Client,
  ClientUpdate,
  Initial,
  Method,
  Server,
  ServerInit,
  ServerState,
  ServerUpdate,
  ToVariables,
  Variables,
  Wire,
)
from hns.methods.uploads import Upload, uniform
from hns.networks.supermask import (
  bernoulli,
  binary,
  has_sign,
  signs_of,
  to_masked,
)
from hns.once import once
from hns.tree import Tree
from hns.wire import Message

# `(key, variables of the masked network) -> mask`
Prune = Callable[[jax.Array, Variables], Any]
# `(path, leaf) -> ` whether a parameter gets a score
HasSign = Callable[[str, jax.Array], bool]
# `(scores, draws in (0, 1], bits of the download) -> where a client starts`
Spread = Callable[[jax.Array, jax.Array, int], jax.Array]


def signed(key, frozen, scores) -> Tree:
  """The gate of HideNseek: variables with the scores' signs."""
  del key
  return {**frozen, 'signs': signs_of(scores)}


def masked(key, frozen, scores) -> Tree:
  """The gate of {0, 1} masks: variables without what scores below 0."""
  del key
  mask = jax.tree.map(lambda m, s: m * binary(s), frozen['mask'], scores)
  return {**frozen, 'mask': mask}


def masked_by(values: Tree, mask: Tree) -> Tree:
  """The product, leaf by leaf."""
  return jax.tree.map(jnp.multiply, values, mask)


def sampled(key, frozen, scores) -> Tree:
  """The gate of FedPM: each weight is there with probability sigmoid(score)."""
  draws = tree.uniform(key, scores)
  mask = jax.tree.map(
    lambda m, s, d: m * bernoulli(s, d), frozen['mask'], scores, draws
  )
  return {**frozen, 'mask': mask}


def dense(
  optimizer: optax.GradientTransformation,
  upload: Upload,
  download_bits: int = 32,
  prune: Prune | None = None,
) -> Method:
  """Float weights.

  FedAvg (McMahan et al. 2017, arXiv 1602.05629, algorithm 1) with
  `uploads.full()`. Each client's weights count by its number of examples.

  Args:
    optimizer: of the weights.
    upload: what a client sends of them.
    download_bits: bits a weight of the download, 1 to 8 (`uploads.uniform`,
      drawn once a round) or 32.
    prune: gives the mask of the weights that exist; None for all.
  """
  download_codec = uniform(download_bits)

  def broadcast(key, frozen, server_state):
    ones = lambda x: jnp.ones((), x.dtype)
    mask = frozen['mask'] if frozen else jax.tree.map(ones, server_state.values)
    return Message(
      download_codec.function(key, server_state.values, mask), mask
    )

  def client_init(key, frozen, message, client_state):
    return jax.tree.map(jnp.multiply, message.value, message.weight)

  def to_variables(key, frozen, params):
    if frozen:
      params = jax.tree.map(jnp.multiply, params, frozen['mask'])
    return {'params': params}

  return Method(
    Client(client_init, to_variables, _update(upload), optimizer),
    Server(
      _first_weights(upload, prune),
      broadcast,
      _server_update(upload),
      center=None if upload.is_change else _as_downloaded,
    ),
    Wire(upload.codec, download_codec.codec),
  )


def _first_weights(upload: Upload, prune: Prune | None) -> ServerInit:
  """Dense weights' start: as drawn, without those that are pruned."""

  @once
  def drawn(key, params):
    # The key of `supermask`, so that equal seeds draw equal masks.
    return jax.random.split(key)[0], to_masked(params)

  def init(key, params):
    frozen = ()
    if prune is not None:
      prune_key, variables = drawn(key, params)
      mask = prune(prune_key, variables)
      ones = jax.tree.map(lambda x: np.ones((), bool), variables['params'])
      frozen = {'mask': tree.merge(mask, ones)}
      params = once(masked_by)(params, frozen['mask'])
    server = ServerState(params, upload.memory(params))
    return Initial(frozen, server, upload.client_state(params))

  return init


def _as_downloaded(frozen, message) -> Tree:
  """The `Center` of uploads that are what was trained."""
  return message.value


def _update(upload: Upload) -> ClientUpdate:
  """A client's update that sends an upload, whatever is trained."""

  def update(key, frozen, message, client_state, initial_params, params):
    value, client_state = upload.encode(
      key, message.weight, initial_params, params, client_state
    )
    return Message(value, message.weight), client_state

  return update


def _server_update(upload: Upload) -> ServerUpdate:
  """A server's update that follows an upload's rule."""

  def update(key, frozen, server_state, mean, total):
    return upload.aggregate(server_state, mean, total)

  return update


def supermask(
  optimizer: optax.GradientTransformation,
  upload: Upload,
  download_bits: int,
  prune: Prune,
  spread: Spread,
  gate: ToVariables = signed,
  has_sign: HasSign = has_sign,
) -> Method:
  """Frozen random weights, pruned once; a sign on each survivor is trained.

  HideNseek (arXiv 2206.04385). The server keeps a score in [-1, 1] of each
  survivor, in the paper's scheme the mean vote. A client starts from scores
  spread around it at random, with the round's key, equal for all clients
  (without that all weights of one score flip together), and trains them through
  the sign. The abstract leaves the start, the server's state and its download
  open: these are our choices.

  Args:
    optimizer: of the scores; with Adam, 1 / learning rate is about how many
      steps flip a sign that all clients voted for.
    upload: what a client sends of its scores.
    download_bits: bits a survivor in which the server's scores travel, 1 to 8
      or 32.
    prune: gives the mask of the survivors.
    spread: `spread_uniform`, `spread_cell` or `spread_odds`.
    gate: what the scores make of the weights.
    has_sign: which parameters get a score.
  """
  download_codec = wire.levels(download_bits, coded=True)

  def broadcast(key, frozen, server_state):
    value = server_state.values
    if download_codec.symbols:
      level = lambda s, m: wire.quantise(s, download_bits) * m
      value = jax.tree.map(level, value, frozen['mask'])
    return Message(value, frozen['mask'])

  def client_init(key, frozen, message, client_state):
    value = tree.flatten(message.value)
    if download_codec.symbols:
      value = wire.dequantise(value, download_bits)
    draw = 1 - jax.random.uniform(key, value.shape, jnp.float32)
    initial_params = spread(value, draw, download_bits)
    return tree.unflatten(initial_params, message.value)

  method = Method(
    Client(client_init, gate, _update(upload), optimizer),
    Server(
      _random_scores(upload, prune, has_sign), broadcast, _server_update(upload)
    ),
    Wire(upload.codec, download_codec),
  )
  return _told_of_weights(method) if upload.is_change else method


def _random_scores(
  upload: Upload, prune: Prune, has_sign: HasSign
) -> ServerInit:
  """A supermask's start: a random network, pruned, and random scores."""

  @once  # in all methods' `init`, what would be a program for each operation
  def drawn(key, params):
    prune_key, score_key = jax.random.split(key)
    variables = to_masked(params, has_sign=has_sign)
    scores = tree.uniform(score_key, variables['weights'], -1.0)
    return prune_key, variables, scores

  def init(key, params):
    prune_key, variables, scores = drawn(key, params)
    frozen = variables | {'mask': prune(prune_key, variables)}
    del frozen['signs']
    scores = once(masked_by)(scores, frozen['mask'])
    server = ServerState(scores, upload.memory(scores))
    return Initial(frozen, server, upload.client_state(scores))

  return init


def _told_of_weights(base: Method) -> Method:
  """A supermask whose changes of scores travel as those of the weights.

  Times the signs of the frozen weights, which the server knows. Classes that a
  client has no examples of are pushed down, so in the output layer one sign is
  more frequent, and an entropy code needs fewer bits.
  """

  def turned(message, weights):
    """A message may leave layers out: None."""
    part, _ = tree.split(weights, tree.has(message.value))
    turn = lambda value, weight: value * jnp.where(weight < 0, -1, 1)
    return message._replace(value=jax.tree.map(turn, message.value, part))

  def update(key, frozen, message, client_state, initial_params, params):
    upload, client_state = base.client.update(
      key, frozen, message, client_state, initial_params, params
    )
    return turned(upload, frozen['weights']), client_state

  def read_upload(key, frozen, message, upload):
    return turned(upload, frozen['weights'])

  return base.revise(
    client=dict(update=update), server=dict(read_upload=read_upload)
  )


def spread_uniform(score: jax.Array, draw: jax.Array, bits: int) -> jax.Array:
  """Anywhere between 0 and twice the score."""
  del bits
  return score * 2 * draw


def spread_cell(score: jax.Array, draw: jax.Array, bits: int) -> jax.Array:
  """Anywhere among the scores that the download rounds to this one."""
  gap = (2 * draw - 1) * jnp.sign(score)
  return score + gap / 2**bits if bits < 32 else score


def spread_odds(score: jax.Array, draw: jax.Array, bits: int) -> jax.Array:
  """The log odds of a probability that the server keeps as 2 p - 1."""
  del draw, bits
  # At first a score may be -1, whose odds are infinite.
  return 2 * jnp.arctanh(jnp.clip(score, 1e-6 - 1, 1 - 1e-6))
