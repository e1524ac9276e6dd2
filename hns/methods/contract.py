"""The contract of a method: a few pure functions about one client.

The engine (`hns.engine.rounds`) calls these and never asks which method it
runs. Every function that draws takes a key: the round's, equal for all clients,
where all must draw alike (`download`, `client_init`, and `to_variables` of the
global model); the client's own, of round and client id, elsewhere.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hns import tree, wire
from hns.wire import Codec, Message

Forward = Callable[[Any], jax.Array]


class Initial(NamedTuple):
  """What exists before the first round.

  Attributes:
    frozen: frozen for ever, known to server and clients.
    server_state: the server's state, a `Server`.
    client_state: one client's state, the same for all at first; () for none.
  """

  frozen: Any
  server_state: Any
  client_state: Any


class Server(NamedTuple):
  """The server's state.

  Attributes:
    values: what clients are to start from, the tree of the clients' messages.
    memory: what the server keeps beside it, such as momentum; () or a tree
      with the paths of `values`.
  """

  values: Any
  memory: Any = ()


def no_preparation(key, frozen, message, client_state, score) -> Any:
  """`Method.before_training` that leaves a client as it is."""
  del key, frozen, message, score
  return client_state


def plain_loss(forward, to_variables, initial_params, params) -> jax.Array:
  """`Method.objective` that is the loss of what the model sees."""
  del initial_params
  return forward(to_variables(params))


def whole_download(frozen, message, client_state) -> Message:
  """A `download_for` for clients that remember nothing: the whole message."""
  del frozen, client_state
  return message


def as_trained(client_state, params) -> Any:
  """`Method.finalize` that leaves what was trained as it is."""
  del client_state
  return params


def no_kept_mask(client_state) -> tuple:
  """`Method.kept_mask` for clients that send what all send."""
  del client_state
  return ()


def keep_unvoted(old: Any, new: Any, total: Any) -> Any:
  """`new`, but `old` where nobody voted; leaves keep their dtype."""
  return jax.tree.map(
    lambda t, a, b: jnp.where(t > 0, b, a).astype(a.dtype), total, old, new
  )


class Method(NamedTuple):
  """A federated method, as answers to questions about one client.

  Attributes:
    init: `(key, params) -> Initial`. What exists at first?
    download: `(key, frozen, server_state) -> Message`. What reaches every
      client of the round?
    client_init: `(key, frozen, message, client_state) -> params`. What does a
      client start from?
    to_variables: `(key, frozen, params) -> variables`. What does the model see?
      Must be differentiable in `params`.
    client_update: `(key, frozen, message, client_state, initial_params, params)
      -> (Message, client_state)`. What is uploaded, what is kept?
      `initial_params` is what `client_init` gave. To weigh as the download
      does, hand its weights on: they are then not summed (`weigh`).
    server_update: `(frozen, server_state, mean, total) -> server_state`. What
      does the server make of the mean per coordinate? `total` is the summed
      weight, examples x `Message.weight`.
    upload_codec, download_codec: codecs of the upload and of `download_for`.
    optimizer: moves `params`; its state starts anew every round.
    download_for: `(frozen, message, client_state) -> Message`. What of the
      download must be sent to a client that keeps `client_state`? Bytes are
      counted of it.
    kept_mask: `client_state -> tree of bool`. Which coordinates does a client
      that chose them itself use? Sent when they change.
    finalize: `(client_state, params) -> params`. What of it does a client go on
      with that now keeps `client_state`? It may have pruned after training.
    before_training: `(key, frozen, message, client_state, score) ->
      client_state`. What may a client of the cohort look at before training?
      `score(variables)` is the accuracy on its validation examples.
    objective: `(forward, to_variables, initial_params, params) -> loss`. What
      is minimised? `forward(variables)` is the mean loss of the batch,
      `to_variables(params)` the variables, `initial_params` what `client_init`
      gave.
  """

  init: Callable[..., Initial]
  download: Callable[..., Message]
  client_init: Callable[..., Any]
  to_variables: Callable[..., Any]
  client_update: Callable[..., tuple[Message, Any]]
  server_update: Callable[..., Any]
  upload_codec: Codec
  download_codec: Codec
  optimizer: optax.GradientTransformation
  download_for: Callable[..., Message] = whole_download
  kept_mask: Callable[[Any], Any] = no_kept_mask
  finalize: Callable[[Any, Any], Any] = as_trained
  before_training: Callable[..., Any] = no_preparation
  objective: Callable[..., jax.Array] = plain_loss


def weigh(
  message: Message, common: Any, examples: jax.Array
) -> tuple[Any, Any]:
  """A client's terms of the mean: weight x value, and weight, x examples.

  Integer values with integer or bool weights give int32, so their sum is
  exact in any order; others give at least float32. The second term is None for
  a leaf that is the very array of `common`, the weights of the download: it is
  the same for all clients, and `total_weights` knows it without a sum.
  """
  scaled = functools.partial(_scaled, examples)
  weights = jax.tree.map(scaled, message.value, message.weight)
  sums = jax.tree.map(lambda w, v: w * v, weights, message.value)
  chosen = jax.tree.map(
    lambda x, mine, theirs: None if mine is theirs else x,
    *(weights, message.weight, common),
  )
  return sums, chosen


def total_weights(chosen: Any, sums: Any, common: Any, examples: Any) -> Any:
  """All clients' weights x examples; `chosen`, `sums` and `examples` summed."""
  scaled = functools.partial(_scaled, examples)
  weights = tree.combine(chosen, jax.tree.map(scaled, sums, common))
  # Without it XLA rounded means of floats on one device otherwise than on two.
  return jax.lax.optimization_barrier(weights)


def _scaled(examples, value, weight) -> jax.Array:
  floats = any(jnp.issubdtype(x.dtype, jnp.floating) for x in (value, weight))
  dtype = jnp.promote_types(value.dtype, jnp.float32) if floats else jnp.int32
  return examples * weight.astype(dtype)


def mean(sums: Any, weights: Any) -> Any:
  """The weighted mean of each coordinate; 0 where the weight is 0."""
  return jax.tree.map(lambda s, w: s / jnp.where(w == 0, 1, w), sums, weights)


# How a client tells which coordinates it chose: a bit each, entropy coded.
MASK_CODEC = wire.levels(1, coded=True)


def mask_message(method: Method, client_state: Any) -> Message:
  """Which coordinates a client with this state uses, in `MASK_CODEC`."""
  chosen = method.kept_mask(client_state)
  levels = jax.tree.map(lambda m: 2 * m.astype(jnp.int8) - 1, chosen)
  return Message(levels, jax.tree.map(lambda m: jnp.ones((), bool), chosen))


def mask_bytes(method: Method, before: Any, after: Any) -> jax.Array:
  """Bytes that tell a client's choice, 0 if it is the same, int32 []."""
  size = wire.size(MASK_CODEC, mask_message(method, after))
  return size * tree.differ(method.kept_mask(before), method.kept_mask(after))
