"""What is trained, and what a client starts from: weights, or signs on them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from hns import tree, wire
from hns.methods.federated import Birth, Method, Server
from hns.methods.uploads import Upload, uniform
from hns.networks.supermask import bernoulli, binary, hide, signs_of
from hns.wire import Message

Prune = Callable[[jax.Array, dict[str, Any]], Any]
Spread = Callable[[jax.Array, jax.Array, int], jax.Array]
Gate = Callable[[jax.Array, Any, Any], Any]


def signed(key, fixed, scores) -> Any:
  """The gate of HideNseek: variables with the scores' signs."""
  del key
  return {**fixed, 'signs': signs_of(scores)}


def masked(key, fixed, scores) -> Any:
  """The gate of {0, 1} masks: variables without what scores below 0."""
  del key
  mask = jax.tree.map(lambda m, s: m * binary(s), fixed['mask'], scores)
  return {**fixed, 'mask': mask}


def sampled(key, fixed, scores) -> Any:
  """The gate of FedPM: each weight is there with probability sigmoid(score)."""
  draws = tree.uniform(key, scores)
  mask = jax.tree.map(
    lambda m, s, d: m * bernoulli(s, d), fixed['mask'], scores, draws
  )
  return {**fixed, 'mask': mask}


def dense(
  optimizer: optax.GradientTransformation,
  upload: Upload,
  download_bits: int = 32,
  prune: Prune | None = None,
) -> Method:
  """Float weights.

  FedAvg (McMahan et al. 2017, arXiv 1602.05629, algorithm 1) with
  `uploads.whole()`. Each client's weights count by its number of examples.

  Args:
    optimizer: of the weights.
    upload: what a client sends of them.
    download_bits: bits a weight of the download, 1 to 8 (`uploads.uniform`,
      drawn once a round) or 32.
    prune: gives the mask of the weights that exist; None for all.
  """
  down = uniform(download_bits)

  def init(key, params):
    fixed = ()
    if prune is not None:
      # The key of `supermask`, so that equal seeds draw equal masks.
      mask = prune(jax.random.split(key)[0], hide(params))
      ones = jax.tree.map(lambda x: jnp.ones((), bool), hide(params)['params'])
      fixed = {'mask': tree.merge(mask, ones)}
      params = jax.tree.map(jnp.multiply, params, fixed['mask'])
    server = Server(params, upload.memory(params))
    return Birth(fixed, server, upload.own(params))

  def download(key, fixed, shared):
    ones = lambda x: jnp.ones((), x.dtype)
    mask = fixed['mask'] if fixed else jax.tree.map(ones, shared.values)
    return Message(down.function(key, shared.values, mask), mask)

  def join(key, fixed, message, own):
    return jax.tree.map(jnp.multiply, message.value, message.weight)

  def view(key, fixed, trained):
    if fixed:
      trained = jax.tree.map(jnp.multiply, trained, fixed['mask'])
    return {'params': trained}

  return Method(
    init=init,
    download=download,
    join=join,
    view=view,
    down=down.codec,
    optimizer=optimizer,
    **_uploading(upload),
  )


def _uploading(upload: Upload) -> dict[str, Any]:
  """The part of a `Method` that an upload settles, whatever is trained."""

  def split(key, fixed, message, own, start, trained):
    value, own = upload.send(key, message.weight, start, trained, own)
    return Message(value, message.weight), own

  merge = lambda fixed, *rest: upload.take(*rest)
  return dict(split=split, merge=merge, up=upload.codec)


def supermask(
  optimizer: optax.GradientTransformation,
  upload: Upload,
  download_bits: int,
  prune: Prune,
  spread: Spread,
  gate: Gate = signed,
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
    spread: `wide`, `narrow` or `odds`.
    gate: what the scores make of the weights.
  """
  down = wire.levels(download_bits, coded=True)

  def init(key, params):
    prune_key, score_key = jax.random.split(key)
    fixed = hide(params)
    del fixed['signs']
    fixed['mask'] = prune(prune_key, hide(params))
    scores = tree.uniform(score_key, fixed['weights'], -1.0)
    scores = jax.tree.map(jnp.multiply, scores, fixed['mask'])
    server = Server(scores, upload.memory(scores))
    return Birth(fixed, server, upload.own(scores))

  def download(key, fixed, shared):
    value = shared.values
    if down.symbols:
      level = lambda s, m: wire.quantise(s, download_bits) * m
      value = jax.tree.map(level, value, fixed['mask'])
    return Message(value, fixed['mask'])

  def join(key, fixed, message, own):
    value = tree.flatten(message.value)
    if down.symbols:
      value = wire.dequantise(value, download_bits)
    draw = 1 - jax.random.uniform(key, value.shape, jnp.float32)
    start = spread(value, draw, download_bits)
    return tree.unflatten(start, message.value)

  return Method(
    init=init,
    download=download,
    join=join,
    view=gate,
    down=down,
    optimizer=optimizer,
    **_uploading(upload),
  )


def wide(score: jax.Array, draw: jax.Array, bits: int) -> jax.Array:
  """Anywhere between 0 and twice the score."""
  del bits
  return score * 2 * draw


def narrow(score: jax.Array, draw: jax.Array, bits: int) -> jax.Array:
  """Anywhere among the scores that the download rounds to this one."""
  gap = (2 * draw - 1) * jnp.sign(score)
  return score + gap / 2**bits if bits < 32 else score


def odds(score: jax.Array, draw: jax.Array, bits: int) -> jax.Array:
  """The log odds of a probability that the server keeps as 2 p - 1."""
  del draw, bits
  # At birth a score may be -1, whose odds are infinite.
  return 2 * jnp.arctanh(jnp.clip(score, 1e-6 - 1, 1 - 1e-6))
