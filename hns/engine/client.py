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
  ClientIndices,
  FederatedData,
  Plan,
  client_rows,
  correct,
  fit,
  steps_of,
)
from hns.methods import contract
from hns.methods.contract import Initial, Method
from hns.networks.supermask import model_signs

_HOPELESS = 0.99  # of the objective of a guess, which rounding moves


class RoundConfig(NamedTuple):
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
    server_state: the server's state.
  """

  round: jax.Array
  server_state: Any


class RoundContext(NamedTuple):
  """All that the clients of one round may see.

  Attributes:
    initial, federation, state: see their types; before the round.
    message: what the server sends to every client.
    start: what a client that keeps nothing starts from.
    key_server, key_shared, key_clients: independent keys of this round.
  """

  initial: Initial
  federation: FederatedData
  state: State
  message: wire.Message
  initial_params: Any
  key_server: jax.Array
  key_shared: jax.Array
  key_clients: jax.Array


def client_terms(round_config, given, index, client_state) -> tuple[Any, Any]:
  """What a round sums over clients, and what it lists of each.

  `given`: the round's context, and the bytes of a download that all share or
  None.
  """
  (context, heard), method = given, round_config.method
  if heard is None:
    news = method.download_for(
      context.initial.frozen, context.message, client_state
    )
    heard = wire.size(method.download_codec, news)
  part = client_round(round_config, context, index, client_state)
  right, signs = _tried(round_config, context, index, part.model)
  uplink = wire.size(method.upload_codec, part.upload)
  uplink += contract.mask_bytes(method, client_state, part.client_state)
  told = dict(
    uplink=uplink * part.sound,
    downlink=heard,
    uploaded=wire.coordinates(part.upload) * part.sound,
    steps=steps_of(round_config.plan, part.examples)[0],
    scored=client_rows(context.federation.validation, index).size,
    took_part=jnp.array(True),
    rejected=~part.sound,
    diverged=~part.sound | (part.loss > _HOPELESS * part.guess),
    held=right,
  )
  present = index != ABSENT
  told = jax.tree.map(lambda x: jnp.where(present, x, 0).astype(x.dtype), told)
  terms = contract.weigh(part.upload, context.message.weight, part.examples)
  summed = (*terms, part.loss * part.examples, part.examples)
  nothing = jax.tree.map(jnp.zeros_like, summed)
  summed = tree.where(part.sound, summed, nothing)
  return (*summed, signs), (part.client_state, told)


class ClientResult(NamedTuple):
  """A client's part of a round: see `hns.methods.contract` and `RoundMetrics`.

  Attributes:
    upload: what it sends.
    client_state: what it keeps.
    loss: float32 [], its mean objective.
    guess: float32 [], what that is at the start for equal chances of all
      classes.
    examples: int32 [], how many it trained on.
    model: variables that it ends the round with.
    sound: bool [], whether its update is finite. If not, `client_state` is what
      it had before the round, and `model` is what it started from.
  """

  upload: wire.Message
  client_state: Any
  loss: jax.Array
  guess: jax.Array
  examples: jax.Array
  model: Any
  sound: jax.Array


def client_round(
  round_config: RoundConfig,
  context: RoundContext,
  index: jax.Array,
  client_state: Any,
) -> ClientResult:
  """One client's part in a round.

  `ABSENT` is padding: it has no examples, so it trains no step and its upload
  weighs nothing.
  """
  method, frozen = round_config.method, context.initial.frozen
  message, before = context.message, client_state
  client_state, initial_params, params, loss, rows = train_client(
    round_config, context, index, client_state
  )
  draw, look = (
    jax.random.fold_in(client_key(context, index), i) for i in (2, 3)
  )
  upload, client_state = method.client_update(
    draw, frozen, message, client_state, initial_params, params
  )
  # Signs of what is not finite would be finite: what was trained is looked at.
  sound = tree.is_finite((params, loss, upload.value, client_state))
  client_state, params = tree.where(
    sound, (client_state, params), (before, initial_params)
  )
  to_variables = functools.partial(method.to_variables, look, frozen)
  model = to_variables(method.finalize(client_state, params))
  chance = lambda variables: jnp.log(jnp.float32(round_config.classes))
  guess = method.objective(chance, to_variables, initial_params, initial_params)
  return ClientResult(
    upload, client_state, loss, guess, rows.size, model, sound
  )


def _tried(round_config, context, index, model) -> tuple[jax.Array, Any]:
  """A client's right answers, -1 if none are asked for, and its signs."""
  if not round_config.held:
    return jnp.int32(-1), None
  federation = context.federation
  asked = client_rows(getattr(federation, round_config.held), index)
  right = correct(round_config.apply, model, federation.examples, asked)
  present = lambda x: x * (index != ABSENT)
  return right, jax.tree.map(present, model_signs(model))


def client_key(context: RoundContext, index: jax.Array) -> jax.Array:
  """A client's key of this round; 0 to 3 are folded into it, see callers."""
  return jax.random.fold_in(context.key_clients, index)


def train_client(
  round_config: RoundConfig,
  context: RoundContext,
  index: jax.Array,
  client_state: Any,
) -> tuple[Any, Any, Any, jax.Array, ClientIndices]:
  """A client prepares, joins and trains.

  Returns what it keeps, its start, what it trained, the loss and its rows.
  """
  method, (initial, federation, _, message, initial_params, *_) = (
    round_config.method,
    context,
  )
  key = client_key(context, index)
  rows = client_rows(federation.train, index)
  held_out = client_rows(federation.validation, index)

  def score(variables):
    right = correct(
      round_config.apply, variables, federation.examples, held_out
    )
    return right / jnp.maximum(held_out.size, 1)

  client_state = method.before_training(
    jax.random.fold_in(key, 0), initial.frozen, message, client_state, score
  )
  if jax.tree.leaves(client_state):  # else all start alike, which is drawn once
    initial_params = method.client_init(
      context.key_shared, initial.frozen, message, client_state
    )
  params, loss = fit(
    jax.random.fold_in(key, 1),
    method,
    round_config.apply,
    round_config.plan,
    federation.examples,
    rows,
    initial.frozen,
    initial_params,
  )
  return client_state, initial_params, params, loss, rows
