"""The engine: a round, one program over all the clients of a cohort.

The only `vmap` over clients is here. Randomness follows seed, round and
client id, never a client's place in the cohort, so the width of the `vmap`
changes no result.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hns import federated, tree, wire
from hns.federated import Birth, Method
from hns.training import Apply, Examples, Plan, Rows, correct, fit


class Federation(NamedTuple):
  """All clients' examples; `Rows` with a leading axis of clients.

  The pooled test set is all clients' test rows; an example that several hold
  counts once for each.
  """

  examples: Examples
  train: Rows
  validation: Rows
  test: Rows


class Engine(NamedTuple):
  """What is static in a program: functions and sizes, no arrays.

  Attributes:
    method: the federated method.
    apply: `(variables, images) -> logits`.
    plan: how long a client trains.
    cohort: clients a round.
    width: clients a step of the loop over clients, the width of the `vmap`.
  """

  method: Method
  apply: Apply
  plan: Plan
  cohort: int
  width: int


class State(NamedTuple):
  """What a round carries to the next.

  Attributes:
    round: int32 [], rounds done.
    shared: the server's state.
    own: the clients' states, leaves [clients, ...].
  """

  round: jax.Array
  shared: Any
  own: Any


class Report(NamedTuple):
  """What a round tells, and nothing depends on.

  Attributes:
    train_loss: float32 [], mean over the cohort, weighted by examples.
    flip_rate: float32 [], share of the weights voted on whose sign in the
      global model changed.
    cohort: int32 [cohort], client ids.
    uplink, downlink: int32 [cohort], bytes of each client's messages.
    uploaded: int32 [cohort], weights in each client's upload.
  """

  train_loss: jax.Array
  flip_rate: jax.Array
  cohort: jax.Array
  uplink: jax.Array
  downlink: jax.Array
  uploaded: jax.Array


class Opening(NamedTuple):
  """All that the clients of one round may see.

  Attributes:
    birth, federation, state: as above, before the round.
    message: what the server sends to every client.
    key_cohort, key_shared, key_clients: independent keys of this round.
  """

  birth: Birth
  federation: Federation
  state: State
  message: wire.Message
  key_cohort: jax.Array
  key_shared: jax.Array
  key_clients: jax.Array


def begin(birth: Birth, clients: int) -> State:
  """The state before round 1: a copy of birth, so that it can be donated."""
  shared = jax.tree.map(jnp.array, birth.shared)
  own = jax.tree.map(
    lambda x: jnp.array(jnp.broadcast_to(x, (clients, *jnp.shape(x)))),
    birth.own,
  )
  return State(jnp.int32(0), shared, own)


def open_round(
  engine: Engine,
  key: jax.Array,
  birth: Birth,
  federation: Federation,
  state: State,
) -> Opening:
  """The server's part of a round before its clients train."""
  server, *keys = jax.random.split(jax.random.fold_in(key, state.round), 4)
  message = engine.method.download(server, birth.fixed, state.shared)
  return Opening(birth, federation, state, message, *keys)


def run_round(
  engine: Engine,
  key: jax.Array,
  birth: Birth,
  federation: Federation,
  state: State,
) -> tuple[State, Report]:
  """One round: download, local training, upload, the server's mean."""
  method = engine.method
  opening = open_round(engine, key, birth, federation, state)
  ids = cohort(engine, opening)

  def client(index):
    upload, own, loss, examples = participate(engine, opening, index)
    traffic = (
      wire.size(method.up, upload),
      wire.size(method.down, opening.message),
      wire.coordinates(upload),
    )
    terms = federated.weigh(upload, examples)
    return (*terms, loss * examples, examples), (own, traffic)

  totals, (own, traffic) = each_client(client, ids, engine.width)
  sums, weights, loss, examples = totals
  mean = federated.mean(sums, weights)
  after = State(
    state.round + 1,
    method.merge(birth.fixed, state.shared, mean, weights),
    jax.tree.map(lambda all, some: all.at[ids].set(some), state.own, own),
  )
  return after, Report(
    loss / jnp.maximum(examples, 1),
    _flip_rate(engine, opening, after, weights),
    ids,
    *traffic,
  )


def participate(
  engine: Engine, opening: Opening, index: jax.Array
) -> tuple[wire.Message, Any, jax.Array, jax.Array]:
  """One client's part: its upload, new own state, training loss, examples.

  An index past the last client is padding: it has no examples, so it trains
  no step and its upload weighs nothing.
  """
  own, trained, loss, rows = train_client(engine, opening, index)
  key = jax.random.fold_in(client_key(opening, index), 2)
  fixed = opening.birth.fixed
  upload, own = engine.method.split(key, fixed, opening.message, own, trained)
  return upload, own, loss, rows.size


def uploads(engine: Engine, opening: Opening) -> wire.Message:
  """What the cohort would upload, leaves [cohort, ...]."""

  def client(index):
    return (), participate(engine, opening, index)[0]

  return each_client(client, cohort(engine, opening), engine.width)[1]


def cohort(engine: Engine, opening: Opening) -> jax.Array:
  """Ids of the round's clients, drawn without replacement, int32 [cohort].

  Ordered by size, so that clients that train side by side finish together.
  """
  sizes = opening.federation.train.size
  ids = jax.random.permutation(opening.key_cohort, sizes.shape[0])
  ids = ids[: engine.cohort].astype(jnp.int32)
  return ids[jnp.lexsort((ids, sizes[ids]))]


def each_client(
  function: Callable[[jax.Array], tuple[Any, Any]], ids: jax.Array, width: int
) -> tuple[Any, Any]:
  """Runs `function(id) -> (summed, listed)` for every id, `width` at a time.

  Memory grows with `width` and with what is listed, not with the number of
  clients. The last step is padded with an id past every client.

  Returns:
    The sum of all `summed`, and `listed` with a leading axis of ids.
  """
  count = ids.shape[0]
  steps = -(-count // width)
  width = -(-count // steps)
  absent = jnp.iinfo(ids.dtype).max
  padded = jnp.pad(ids, (0, steps * width - count), constant_values=absent)

  def step(total, chunk):
    if width == 1:
      summed, listed = function(chunk[0])
      listed = jax.tree.map(lambda x: x[None], listed)
    else:
      summed, listed = jax.vmap(function)(chunk)
      summed = jax.tree.map(lambda x: jnp.sum(x, 0, dtype=x.dtype), summed)
    return jax.tree.map(jnp.add, total, summed), listed

  shapes = jax.eval_shape(function, jax.ShapeDtypeStruct((), ids.dtype))[0]
  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
  total, listed = jax.lax.scan(step, zeros, padded.reshape(steps, width))
  listed = jax.tree.map(
    lambda x: x.reshape(steps * width, *x.shape[2:])[:count], listed
  )
  return total, listed


def client_key(opening: Opening, index: jax.Array) -> jax.Array:
  """A client's key of this round; 0 to 3 are folded into it, see callers."""
  return jax.random.fold_in(opening.key_clients, index)


def client_rows(rows: Rows, index: jax.Array) -> Rows:
  """A client's rows; none for an index past the last client."""
  present = index < rows.size.shape[0]
  return Rows(rows.index[index], jnp.where(present, rows.size[index], 0))


def train_client(
  engine: Engine, opening: Opening, index: jax.Array
) -> tuple[Any, Any, jax.Array, Rows]:
  """A client prepares, joins and trains: (own, trained, loss, its rows)."""
  method, (birth, federation, state, message, *_) = engine.method, opening
  key = client_key(opening, index)
  rows = client_rows(federation.train, index)
  held_out = client_rows(federation.validation, index)

  def score(variables):
    right = correct(engine.apply, variables, federation.examples, held_out)
    return right / jnp.maximum(held_out.size, 1)

  own = jax.tree.map(lambda x: x[index], state.own)
  own = method.prepare(
    jax.random.fold_in(key, 0), birth.fixed, message, own, score
  )
  start = method.join(opening.key_shared, birth.fixed, message, own)
  trained, loss = fit(
    jax.random.fold_in(key, 1),
    method,
    engine.apply,
    engine.plan,
    federation.examples,
    rows,
    birth.fixed,
    start,
  )
  return own, trained, loss, rows


def _flip_rate(engine, opening, after, weights) -> jax.Array:
  """Share of the coordinates voted on whose sign changed for a newcomer."""
  method, birth, key = engine.method, opening.birth, opening.key_shared

  def negative(message):
    start = method.join(key, birth.fixed, message, birth.own)
    return jax.tree.map(lambda x: x < 0, tree.matching(start, weights))

  # The download's own randomness is drawn alike for both.
  message = method.download(key, birth.fixed, after.shared)
  before = method.download(key, birth.fixed, opening.state.shared)
  voted = jax.tree.map(
    lambda x, w: jnp.broadcast_to(w > 0, x.shape), negative(message), weights
  )
  flipped = jax.tree.map(
    lambda a, b, v: (a != b) & v, negative(before), negative(message), voted
  )
  return tree.count(flipped) / jnp.maximum(tree.count(voted), 1)
