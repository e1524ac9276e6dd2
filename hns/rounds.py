"""The engine: a round, one program over all the clients of a cohort.

Randomness follows seed, round and client id, never a client's place in the
cohort, so how clients are spread over devices (`hns.parallel`) changes no
result.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from hns import federated, tree, wire
from hns.federated import Birth, Method
from hns.parallel import ABSENT, each_client
from hns.supermask import model_signs
from hns.training import (
  Apply,
  Federation,
  Plan,
  Rows,
  client_rows,
  correct,
  fit,
  steps_of,
)


class Engine(NamedTuple):
  """What is static in a program: functions and sizes, no arrays.

  Attributes:
    method: the federated method.
    apply: `(variables, images) -> logits`.
    plan: how long a client trains.
    cohort: clients a round.
    width: clients a step of the loop over clients, the width of the `vmap`.
    mesh: the devices that clients are spread over.
    held: which examples of a client the model is tried on that it ends a round
      with: test, validation, or none if empty.
  """

  method: Method
  apply: Apply
  plan: Plan
  cohort: int
  width: int
  mesh: Mesh
  held: str = ''


class State(NamedTuple):
  """What a round carries to the next.

  Attributes:
    round: int32 [], rounds done.
    shared: the server's state.
  """

  round: jax.Array
  shared: Any


class Report(NamedTuple):
  """What a round tells, and nothing depends on.

  Attributes:
    train_loss: float32 [], the mean of the clients' objectives, weighted by
      examples; for Ditto two models' and the pull, for FedProx with the pull.
    flip_rate: float32 [], share of the weights voted on whose sign in the
      global model changed.
    uplink, downlink: int32 [cohort], bytes of each client's messages.
    uploaded: int32 [cohort], weights in each client's upload.
    steps: int32 [cohort], steps each client took.
    scored: int32 [cohort], examples on which it could try a model before.
    held: int32 [cohort], how many examples the model classifies rightly that
      it ends the round with; -1 if none were asked for.
    votes: int32 [weights], the sum of these models' signs; None for a method
      without signs, or if none were asked for.
  """

  train_loss: jax.Array
  flip_rate: jax.Array
  uplink: jax.Array
  downlink: jax.Array
  uploaded: jax.Array
  steps: jax.Array
  scored: jax.Array
  held: jax.Array
  votes: jax.Array | None


class Opening(NamedTuple):
  """All that the clients of one round may see.

  Attributes:
    birth, federation, state: as above, before the round.
    message: what the server sends to every client.
    start: what a client that keeps nothing starts from.
    key_server, key_shared, key_clients: independent keys of this round.
  """

  birth: Birth
  federation: Federation
  state: State
  message: wire.Message
  start: Any
  key_server: jax.Array
  key_shared: jax.Array
  key_clients: jax.Array


def begin(birth: Birth) -> State:
  """The state before round 1: a copy of birth, so that it can be donated."""
  return State(jnp.int32(0), jax.tree.map(jnp.array, birth.shared))


def open_round(
  engine: Engine,
  key: jax.Array,
  birth: Birth,
  federation: Federation,
  state: State,
) -> Opening:
  """The server's part of a round before its clients train."""
  server, _, shared, clients = _round_keys(key, state.round)
  method, fixed = engine.method, birth.fixed
  message = method.download(server, fixed, state.shared)
  start = method.join(shared, fixed, message, birth.own)
  return Opening(
    birth, federation, state, message, start, server, shared, clients
  )


def cohort(
  engine: Engine, key: jax.Array, federation: Federation, number: jax.Array
) -> jax.Array:
  """Ids of the clients of round `number`, int32 [cohort].

  Drawn without replacement, and ordered by size, so that clients that train
  side by side finish together.
  """
  sizes = federation.train.size
  ids = jax.random.permutation(_round_keys(key, number)[1], sizes.shape[0])
  ids = ids[: engine.cohort].astype(jnp.int32)
  return ids[jnp.lexsort((ids, sizes[ids]))]


def run_round(
  engine: Engine,
  key: jax.Array,
  birth: Birth,
  federation: Federation,
  state: State,
  ids: jax.Array,
  own: Any,
) -> tuple[State, Any, Report]:
  """One round: download, local training, upload, the server's mean.

  Args:
    engine, key, birth, federation, state: see their types.
    ids: the clients that take part: see `cohort`.
    own: what these clients keep, leaves [ids, ...].

  Returns:
    The state after the round, what the clients keep now, and a report.
  """
  method = engine.method
  opening = open_round(engine, key, birth, federation, state)
  common = method.news is federated.everything  # then counted once for all
  whole = wire.size(method.down, opening.message) if common else None
  client = functools.partial(_client, engine)
  totals, (own, told) = each_client(
    client, (opening, whole), ids, own, engine.width, engine.mesh
  )
  sums, chosen, loss, examples, votes = totals
  weights = federated.total_weights(
    chosen, sums, opening.message.weight, examples
  )
  mean = federated.mean(sums, weights)
  after = State(
    state.round + 1, method.merge(birth.fixed, state.shared, mean, weights)
  )
  report = Report(
    loss / jnp.maximum(examples, 1),
    _flip_rate(engine, opening, after, weights),
    *told,
    votes,
  )
  return after, own, report


def _client(engine, given, index, own) -> tuple[Any, Any]:
  """What a round sums over clients, and what it lists of each.

  `given`: the opening, and the bytes of a download that all share or None.
  """
  (opening, heard), method = given, engine.method
  if heard is None:
    news = method.news(opening.birth.fixed, opening.message, own)
    heard = wire.size(method.down, news)
  part = participate(engine, opening, index, own)
  right, signs = _tried(engine, opening, index, part.model)
  told = (
    wire.size(method.up, part.upload)
    + federated.news_of_places(method, own, part.own),
    heard,
    wire.coordinates(part.upload),
    steps_of(engine.plan, part.examples)[0],
    client_rows(opening.federation.validation, index).size,
    right,
  )
  common = opening.message.weight
  terms = federated.weigh(part.upload, common, part.examples)
  summed = (*terms, part.loss * part.examples, part.examples, signs)
  return summed, (part.own, told)


class Part(NamedTuple):
  """A client's part of a round: see `hns.federated` and `Report`.

  `model`: variables that the client ends the round with.
  """

  upload: wire.Message
  own: Any
  loss: jax.Array
  examples: jax.Array
  model: Any


def participate(
  engine: Engine, opening: Opening, index: jax.Array, own: Any
) -> Part:
  """One client's part in a round.

  `ABSENT` is padding: it has no examples, so it trains no step and its upload
  weighs nothing.
  """
  method, fixed = engine.method, opening.birth.fixed
  own, start, trained, loss, rows = train_client(engine, opening, index, own)
  draw, look = (
    jax.random.fold_in(client_key(opening, index), i) for i in (2, 3)
  )
  upload, own = method.split(draw, fixed, opening.message, own, start, trained)
  model = method.view(look, fixed, method.settle(own, trained))
  return Part(upload, own, loss, rows.size, model)


def _tried(engine, opening, index, model) -> tuple[jax.Array, Any]:
  """A client's right answers, -1 if none are asked for, and its signs."""
  if not engine.held:
    return jnp.int32(-1), None
  federation = opening.federation
  asked = client_rows(getattr(federation, engine.held), index)
  right = correct(engine.apply, model, federation.examples, asked)
  present = lambda x: x * (index != ABSENT)
  return right, jax.tree.map(present, model_signs(model))


def _round_keys(key: jax.Array, number: jax.Array) -> jax.Array:
  """Keys of a round's server, cohort, all its clients and each client."""
  return jax.random.split(jax.random.fold_in(key, number), 4)


def client_key(opening: Opening, index: jax.Array) -> jax.Array:
  """A client's key of this round; 0 to 3 are folded into it, see callers."""
  return jax.random.fold_in(opening.key_clients, index)


def train_client(
  engine: Engine, opening: Opening, index: jax.Array, own: Any
) -> tuple[Any, Any, Any, jax.Array, Rows]:
  """A client prepares, joins and trains.

  Returns what it keeps, its start, what it trained, the loss and its rows.
  """
  method, (birth, federation, _, message, start, *_) = engine.method, opening
  key = client_key(opening, index)
  rows = client_rows(federation.train, index)
  held_out = client_rows(federation.validation, index)

  def score(variables):
    right = correct(engine.apply, variables, federation.examples, held_out)
    return right / jnp.maximum(held_out.size, 1)

  own = method.prepare(
    jax.random.fold_in(key, 0), birth.fixed, message, own, score
  )
  if jax.tree.leaves(own):  # else all start alike, which is drawn once
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
  return own, start, trained, loss, rows


def _flip_rate(engine, opening, after, weights) -> jax.Array:
  """Share of the coordinates voted on whose sign changed in the download."""
  message = engine.method.download(
    opening.key_server, opening.birth.fixed, after.shared
  )
  old, new = opening.message.value, message.value
  voted = jax.tree.map(
    lambda x, w: jnp.broadcast_to(w > 0, x.shape), new, weights
  )
  flipped = jax.tree.map(
    lambda a, b, v: ((a < 0) != (b < 0)) & v, old, new, voted
  )
  return tree.count(flipped) / jnp.maximum(tree.count(voted), 1)
