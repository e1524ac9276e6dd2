"""What a client makes of its training, and the server of the clients' mean.

Every upload here fits both of `hns.methods.bases`: what is trained is a tree of
real numbers, weights or scores, and the server keeps such a tree.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hns import tree, wire
from hns.methods.contract import ClientState, Params, ServerState
from hns.networks.supermask import bernoulli, sign
from hns.once import once
from hns.tree import Tree
from hns.wire import Codec


def _nothing(values: Params) -> tuple:
  del values
  return ()


class Upload(NamedTuple):
  """How training becomes a message, and the clients' mean the next state.

  Attributes:
    codec: of the message.
    encode: `(key, mask, initial_params, params, client_state) -> (value,
      client_state)`. What is uploaded, and what is kept?
    aggregate: `(server, mean, total) -> ServerState`. What becomes of the
      server's state? `total` is each coordinate's summed weight, 0 where nobody
      sent.
    client_state: `values -> client_state`, what a client keeps at first.
    memory: `values -> memory`, what the server keeps beside its values.
    is_change: whether values are changes of what is trained.
  """

  codec: Codec
  encode: Callable[..., tuple[Tree, ClientState]]
  aggregate: Callable[..., ServerState]
  client_state: Callable[[Params], ClientState] = _nothing
  memory: Callable[[Params], Tree] = _nothing
  is_change: bool = False


class Compress(NamedTuple):
  """A codec, and `(key, values, mask) -> values` of its alphabet."""

  codec: Codec
  function: Callable[[jax.Array, Tree, Tree], Tree]


def keep_unvoted(old: Tree, new: Tree, total: Tree) -> Tree:
  """`new`, but `old` where nobody voted; leaves keep their dtype."""
  return jax.tree.map(
    lambda t, a, b: jnp.where(t > 0, b, a).astype(a.dtype), total, old, new
  )


def full() -> Upload:
  """What was trained, in float32; the server keeps the mean."""
  return Upload(
    wire.FLOATS,
    encode=lambda key, mask, initial_params, params, client_state: (
      params,
      client_state,
    ),
    aggregate=lambda server, mean, total: server._replace(
      values=keep_unvoted(server.values, mean, total)
    ),
  )


def signs() -> Upload:
  """The signs; the server keeps their mean, in [-1, 1].

  HideNseek (arXiv 2206.04385). A sign travels as whether it is that of the
  start, +1, or not, -1: the same bit, and what an entropy code can shorten.
  """

  def encode(key, mask, initial_params, params, client_state):
    return _sign_relative_to(initial_params, params), client_state

  return Upload(wire.levels(1, coded=True), encode, _vote)


def bernoulli_samples(clip: float = 0.01) -> Upload:
  """One draw of a {0, 1} mask, as -1 and +1; the server keeps 2 p - 1.

  FedPM (Isik et al. 2023, arXiv 2209.15328, algorithm 2). With the prior
  Beta(1, 1) starting anew every round, the mode of the posterior of a
  probability is the mean of the draws; it stays within `clip` of 0 and 1.
  """

  def leaf(draw, score):
    return jnp.where(bernoulli(score, draw) > 0, 1, -1).astype(jnp.int8)

  def encode(key, mask, initial_params, params, client_state):
    draws = tree.uniform(key, params)
    return jax.tree.map(leaf, draws, params), client_state

  def aggregate(server, mean, total):
    new = jax.tree.map(lambda m: jnp.clip(m, 2 * clip - 1, 1 - 2 * clip), mean)
    return server._replace(values=keep_unvoted(server.values, new, total))

  return Upload(wire.levels(1, coded=True), encode, aggregate)


def delta(
  compress: Compress,
  rate: float = 1.0,
  momentum: float = 0.0,
  bound: float = jnp.inf,
  feedback: bool = False,
) -> Upload:
  """The compressed change of training; the server adds the mean of them.

  m <- momentum m + (1 - momentum) mean, values <- values + rate m, within
  +-bound. With `feedback`, what compression lost is added to the client's next
  change (Seide et al. 2014; Karimireddy et al. 2019, arXiv 1901.09847).
  """

  def encode(key, mask, initial_params, params, client_state):
    wanted = jax.tree.map(jnp.subtract, params, initial_params)
    if feedback:
      wanted = jax.tree.map(jnp.add, wanted, client_state)
    sent = compress.function(key, wanted, mask)
    if feedback:
      client_state = jax.tree.map(
        lambda d, v, m: (d - v) * m, wanted, sent, mask
      )
    return sent, client_state

  def aggregate(server, mean, total):
    moved = mean
    if momentum:
      moved = jax.tree.map(
        lambda m, d: momentum * m + (1 - momentum) * d, server.memory, mean
      )
    new = jax.tree.map(
      lambda x, m: jnp.clip(x + rate * m, -bound, bound), server.values, moved
    )
    return ServerState(
      keep_unvoted(server.values, new, total),
      keep_unvoted(server.memory, moved, total) if momentum else (),
    )

  zeros = once(lambda values: jax.tree.map(jnp.zeros_like, values))
  return Upload(
    compress.codec,
    encode,
    aggregate,
    zeros if feedback else _nothing,
    zeros if momentum else _nothing,
    is_change=True,
  )


def one_bit(scaled: bool = True) -> Compress:
  """The sign of each value times the leaf's mean size; a drawn sign for 0.

  Bernstein et al. 2018 (arXiv 1802.04434), with the scale of 1901.09847; not
  `scaled`, the sign alone.
  """

  def leaf(coin, x, mask):
    positive = jnp.where(x == 0, coin, x > 0)
    size = round_to_bf16(mean_of_kept(abs(x), mask)) if scaled else 1.0
    return jnp.where(positive, 1.0, -1.0) * size

  def function(key, values, mask):
    return jax.tree.map(leaf, tree.coins(key, values), values, mask)

  return Compress(wire.levels(1, stepped=scaled, coded=True), function)


def ternary(threshold: float) -> Compress:
  """-a, 0 or a: silent where |x| is at most `threshold` x the leaf's mean |x|.

  a is the mean size of the others (Strom 2015 and many since); 0 costs little
  once coded.
  """

  def leaf(x, mask):
    size = abs(x)
    loud = (size > threshold * mean_of_kept(size, mask)) & (mask != 0)
    return jnp.sign(x) * loud * round_to_bf16(mean_of_kept(size, loud))

  return Compress(
    Codec(3, stepped=True, coded=True),
    lambda key, values, mask: jax.tree.map(leaf, values, mask),
  )


def uniform(bits: int, reach: float = jnp.inf) -> Compress:
  """2^bits equally spaced levels up to the leaf's largest size, unbiased.

  A value goes up or down to a neighbouring level at random (QSGD: Alistarh et
  al. 2017, arXiv 1610.02132, with the largest size as the scale). 32 bits leave
  the values as they are. Sizes above `reach` root mean squares are cut off.
  """
  codec = wire.levels(bits, stepped=True, coded=True)
  if not codec.symbols:
    return Compress(codec, lambda key, values, mask: values)
  top = codec.symbols - 1

  def leaf(draw, x, mask):
    largest = jnp.max(abs(x) * mask)
    if reach < jnp.inf:
      square = mean_of_kept(jnp.square(x), mask)
      largest = jnp.minimum(largest, reach * jnp.sqrt(square))
    step = round_to_bf16(largest / top)
    place = (jnp.clip(x / step, -top, top) + top) / 2
    place = jnp.floor(place + draw)
    # The largest level must occur, or the receiver cannot know the step.
    ends = jnp.where(x > 0, top, 0)
    place = jnp.where(abs(x) >= largest, ends, jnp.clip(place, 0, top))
    return (2 * place - top) * step

  def function(key, values, mask):
    draws = tree.uniform(key, values)
    return jax.tree.map(leaf, draws, values, mask)

  return Compress(codec, function)


def _vote(server, mean, total) -> ServerState:
  """The `Upload.aggregate` of signs that were sent relative to the start's."""
  new = jax.tree.map(lambda v, m: sign(v) * m, server.values, mean)
  return server._replace(values=keep_unvoted(server.values, new, total))


def _sign_relative_to(initial_params: Params, scores: Params) -> Tree:
  """+1 where a score has the sign of the start, -1 where not, int8."""
  return jax.tree.map(
    lambda a, b: (sign(a) * sign(b)).astype(jnp.int8), initial_params, scores
  )


def mean_of_kept(size: jax.Array, mask: jax.Array) -> jax.Array:
  """The mean of what is not pruned, [], 0 where all is."""
  count = tree.count(jnp.broadcast_to(mask, size.shape))
  return jnp.sum(size * (mask != 0)) / jnp.maximum(count, 1)


def round_to_bf16(scale: jax.Array) -> jax.Array:
  """A scale as it travels: rounded to bfloat16, above 0."""
  # A cast to bfloat16 and back may be optimised away on an accelerator.
  return jax.lax.reduce_precision(jnp.maximum(scale, 1e-30), 8, 7)
