"""The contract of a method: a few pure functions about one client.

The engine (`hns.engine.rounds`) calls these and never asks which method it
runs. Every function that draws takes a key: the round's, equal for all clients,
where all must draw alike (`download`, `join`, and `view` of the global model);
the client's own, of round and client id, elsewhere.
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


class Birth(NamedTuple):
  """What exists before the first round.

  Attributes:
    fixed: frozen for ever, known to server and clients.
    shared: the server's state, a `Server`.
    own: one client's state, the same for all at birth; () for none.
  """

  fixed: Any
  shared: Any
  own: Any


class Server(NamedTuple):
  """The server's state.

  Attributes:
    values: what clients are to start from, the tree of the clients' messages.
    memory: what the server keeps beside it, such as momentum; () or a tree
      with the paths of `values`.
  """

  values: Any
  memory: Any = ()


def no_preparation(key, fixed, message, own, score) -> Any:
  """`Method.prepare` that leaves a client as it is."""
  del key, fixed, message, score
  return own


def plain_loss(forward, view, start, trained) -> jax.Array:
  """`Method.objective` that is the loss of what the model sees."""
  del start
  return forward(view(trained))


def everything(fixed, message, own) -> Message:
  """`Method.news` for clients that remember nothing: the whole message."""
  del fixed, own
  return message


def as_trained(own, trained) -> Any:
  """`Method.settle` that leaves what was trained as it is."""
  del own
  return trained


def no_places(own) -> tuple:
  """`Method.places` for clients that send what all send."""
  del own
  return ()


def keep_unvoted(old: Any, new: Any, total: Any) -> Any:
  """`new`, but `old` where nobody voted; leaves keep their dtype."""
  return jax.tree.map(
    lambda t, a, b: jnp.where(t > 0, b, a).astype(a.dtype), total, old, new
  )


class Method(NamedTuple):
  """A federated method, as answers to questions about one client.

  Attributes:
    init: `(key, params) -> Birth`. What exists at birth?
    download: `(key, fixed, shared) -> Message`. What reaches every client of
      the round?
    join: `(key, fixed, message, own) -> trained`. What does a client start
      from?
    view: `(key, fixed, trained) -> variables`. What does the model see? Must
      be differentiable in `trained`.
    split: `(key, fixed, message, own, start, trained) -> (Message, own)`. What
      is uploaded, what is kept? `start` is what `join` gave. To weigh as the
      download does, hand its weights on: they are then not summed (`weigh`).
    merge: `(fixed, shared, mean, total) -> shared`. What does the server make
      of the mean per coordinate? `total` is the summed weight, examples x
      `Message.weight`.
    up, down: codecs of the upload and of `news`.
    optimizer: moves `trained`; its state is born anew every round.
    news: `(fixed, message, own) -> Message`. What of the download must be sent
      to a client that keeps `own`? Bytes are counted of it.
    places: `own -> tree of bool`. Which coordinates does a client that chose
      them itself use? Sent when they change.
    settle: `(own, trained) -> trained`. What of it does a client go on with
      that now keeps `own`? It may have pruned after training.
    prepare: `(key, fixed, message, own, score) -> own`. What may a client of
      the cohort look at before training? `score(variables)` is the accuracy
      on its validation examples.
    objective: `(forward, view, start, trained) -> loss`. What is minimised?
      `forward(variables)` is the mean loss of the batch, `view(trained)` the
      variables, `start` what `join` gave.
  """

  init: Callable[..., Birth]
  download: Callable[..., Message]
  join: Callable[..., Any]
  view: Callable[..., Any]
  split: Callable[..., tuple[Message, Any]]
  merge: Callable[..., Any]
  up: Codec
  down: Codec
  optimizer: optax.GradientTransformation
  news: Callable[..., Message] = everything
  places: Callable[[Any], Any] = no_places
  settle: Callable[[Any, Any], Any] = as_trained
  prepare: Callable[..., Any] = no_preparation
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
PLACES = wire.levels(1, coded=True)


def told_places(method: Method, own: Any) -> Message:
  """Which coordinates a client uses that keeps `own`, in `PLACES`."""
  chosen = method.places(own)
  levels = jax.tree.map(lambda m: 2 * m.astype(jnp.int8) - 1, chosen)
  return Message(levels, jax.tree.map(lambda m: jnp.ones((), bool), chosen))


def news_of_places(method: Method, before: Any, after: Any) -> jax.Array:
  """Bytes that tell a client's choice, 0 if it is the same, int32 []."""
  size = wire.size(PLACES, told_places(method, after))
  return size * tree.differ(method.places(before), method.places(after))
