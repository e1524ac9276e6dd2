"""One client's part in a round: what it is given, what it does, what it tells.

Randomness follows seed, round and client id, never a client's place in the
cohort.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from hns import tree, wire
from hns.engine.parallel import ABSENT
from hns.engine.training import (
  Apply,
  Federation,
  Plan,
  Rows,
  client_rows,
  correct,
  fit,
  steps_of,
)
from hns.methods import federated
from hns.methods.federated import Birth, Method
from hns.networks.supermask import model_signs

_HOPELESS = 0.99  # of the objective of a guess, which rounding moves


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
    classes: how many there are.
  """

  method: Method
  apply: Apply
  plan: Plan
  cohort: int
  width: int
  mesh: Mesh
  held: str = ''
  classes: int = 1


class State(NamedTuple):
  """What a round carries to the next.

  Attributes:
    round: int32 [], rounds done.
    shared: the server's state.
  """

  round: jax.Array
  shared: Any


class Opening(NamedTuple):
  """All that the clients of one round may see.

  Attributes:
    birth, federation, state: see their types; before the round.
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


def contribute(engine, given, index, own) -> tuple[Any, Any]:
  """What a round sums over clients, and what it lists of each.

  `given`: the opening, and the bytes of a download that all share or None.
  """
  (opening, heard), method = given, engine.method
  if heard is None:
    news = method.news(opening.birth.fixed, opening.message, own)
    heard = wire.size(method.down, news)
  part = participate(engine, opening, index, own)
  right, signs = _tried(engine, opening, index, part.model)
  uplink = wire.size(method.up, part.upload)
  uplink += federated.news_of_places(method, own, part.own)
  told = dict(
    uplink=uplink * part.sound,
    downlink=heard,
    uploaded=wire.coordinates(part.upload) * part.sound,
    steps=steps_of(engine.plan, part.examples)[0],
    scored=client_rows(opening.federation.validation, index).size,
    took_part=jnp.array(True),
    rejected=~part.sound,
    diverged=~part.sound | (part.loss > _HOPELESS * part.guess),
    held=right,
  )
  present = index != ABSENT
  told = jax.tree.map(lambda x: jnp.where(present, x, 0).astype(x.dtype), told)
  terms = federated.weigh(part.upload, opening.message.weight, part.examples)
  summed = (*terms, part.loss * part.examples, part.examples)
  nothing = jax.tree.map(jnp.zeros_like, summed)
  summed = tree.where(part.sound, summed, nothing)
  return (*summed, signs), (part.own, told)


class Part(NamedTuple):
  """A client's part of a round: see `hns.methods.federated` and `Report`.

  Attributes:
    upload: what it sends.
    own: what it keeps.
    loss: float32 [], its mean objective.
    guess: float32 [], what that is at the start for equal chances of all
      classes.
    examples: int32 [], how many it trained on.
    model: variables that it ends the round with.
    sound: bool [], whether its update is finite. If not, `own` is what it had
      before the round, and `model` is what it started from.
  """

  upload: wire.Message
  own: Any
  loss: jax.Array
  guess: jax.Array
  examples: jax.Array
  model: Any
  sound: jax.Array


def participate(
  engine: Engine, opening: Opening, index: jax.Array, own: Any
) -> Part:
  """One client's part in a round.

  `ABSENT` is padding: it has no examples, so it trains no step and its upload
  weighs nothing.
  """
  method, fixed = engine.method, opening.birth.fixed
  message, before = opening.message, own
  own, start, trained, loss, rows = train_client(engine, opening, index, own)
  draw, look = (
    jax.random.fold_in(client_key(opening, index), i) for i in (2, 3)
  )
  upload, own = method.split(draw, fixed, message, own, start, trained)
  # Signs of what is not finite would be finite: what was trained is looked at.
  sound = tree.is_finite((trained, loss, upload.value, own))
  own, trained = tree.where(sound, (own, trained), (before, start))
  view = functools.partial(method.view, look, fixed)
  model = view(method.settle(own, trained))
  chance = lambda variables: jnp.log(jnp.float32(engine.classes))
  guess = method.objective(chance, view, start, start)
  return Part(upload, own, loss, guess, rows.size, model, sound)


def _tried(engine, opening, index, model) -> tuple[jax.Array, Any]:
  """A client's right answers, -1 if none are asked for, and its signs."""
  if not engine.held:
    return jnp.int32(-1), None
  federation = opening.federation
  asked = client_rows(getattr(federation, engine.held), index)
  right = correct(engine.apply, model, federation.examples, asked)
  present = lambda x: x * (index != ABSENT)
  return right, jax.tree.map(present, model_signs(model))


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
