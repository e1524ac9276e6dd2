"""One client's part in a round: it trains, uploads, and is evaluated."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hns import tree, wire
from hns.engine import attacks
from hns.engine.context import RoundConfig, RoundContext, Stream, client_key
from hns.engine.parallel import ABSENT
from hns.engine.scoring import score, units, with_statistics
from hns.engine.training import (
  client_rows,
  fit,
)
from hns.methods.contract import (
  ClientState,
  Method,
  Params,
  Variables,
)
from hns.networks.modes import STATISTICS
from hns.tree import Tree


class Trained(NamedTuple):
  """A client after its local training.

  Attributes:
    client_state: what it keeps after what it did before training.
    initial_params, params: what it started from, and what it trained.
    loss: float32 [], its mean objective.
    examples: int32 [], how many it trained on.
  """

  client_state: ClientState
  initial_params: Params
  params: Params
  loss: jax.Array
  examples: jax.Array


class ClientResult(NamedTuple):
  """A client's part of a round: see `hns.methods.contract` and `RoundMetrics`.

  Attributes:
    upload: what it sends.
    read: what the server reads in it.
    client_state: what it keeps.
    loss: float32 [], its mean objective.
    guess: float32 [], what that is at the start for a model that tells nothing
      apart.
    examples: int32 [], how many it trained on.
    model: variables that it ends the round with.
    is_finite: bool [], whether its update is. If not, `client_state` is what it
      had before the round, and `model` is what it started from.
  """

  upload: wire.Message
  read: wire.Message
  client_state: ClientState
  loss: jax.Array
  guess: jax.Array
  examples: jax.Array
  model: Variables
  is_finite: jax.Array


def client_round(
  round_config: RoundConfig,
  context: RoundContext,
  index: jax.Array,
  client_state: ClientState,
) -> ClientResult:
  """One client's part in a round.

  `ABSENT` is padding: it has no examples, so it trains no step and its upload
  weighs nothing.
  """
  method, frozen = round_config.method, context.initial.frozen
  trained = _tempted(
    round_config.attack,
    context,
    index,
    train_client(round_config, context, index, client_state),
  )
  upload, read, kept = _upload(method, context, index, trained)
  # Signs of what is not finite would be finite: what was trained is looked at.
  looked_at = trained.params, trained.loss, upload.value, read.value, kept
  is_finite = tree.is_finite(looked_at)
  client_state, params = tree.where(
    is_finite, (kept, trained.params), (client_state, trained.initial_params)
  )
  to_variables = functools.partial(
    method.client.to_variables, client_key(context, index, Stream.MODEL), frozen
  )
  return ClientResult(
    upload,
    read,
    client_state,
    trained.loss,
    _guess(round_config, to_variables, trained.initial_params),
    trained.examples,
    with_statistics(
      round_config.learner,
      to_variables(method.client.finalize(client_state, params)),
      context.federation.examples,
      client_rows(context.federation.train, index),
    ),
    is_finite,
  )


def _tempted(
  attack: attacks.Attack,
  context: RoundContext,
  index: jax.Array,
  trained: Trained,
) -> Trained:
  """What a client hands on as its training: see `hns.engine.attacks`."""
  params = attacks.corrupt(
    attack,
    client_key(context, index, Stream.ATTACK),
    client_key(context, jnp.int32(ABSENT), Stream.ATTACK),
    index,
    trained.initial_params,
    trained.params,
  )
  return trained._replace(params=params)


def _guess(
  round_config: RoundConfig,
  to_variables: Callable[[Params], Variables],
  start: Params,
) -> jax.Array:
  """The objective at the start of a model that knows nothing, float32 []."""
  chance = lambda variables: jnp.float32(round_config.learner.guess)
  return round_config.method.client.objective(
    jax.random.key(0), jnp.float32(0), chance, to_variables, start, start
  )


def _upload(
  method: Method, context: RoundContext, index: jax.Array, trained: Trained
) -> tuple[wire.Message, wire.Message, ClientState]:
  """What a client sends, what the server reads in it, what the client keeps."""
  key = client_key(context, index, Stream.UPDATE)
  frozen = context.initial.frozen
  upload, client_state = method.client.update(
    key,
    frozen,
    context.message,
    trained.client_state,
    trained.initial_params,
    trained.params,
  )
  return upload, read_upload(method, context, index, upload), client_state


def read_upload(
  method: Method, context: RoundContext, index: jax.Array, upload: wire.Message
) -> wire.Message:
  """What the server reads in a client's upload."""
  if method.server.read_upload is None:
    return upload
  key = client_key(context, index, Stream.UPDATE)
  frozen, message = context.initial.frozen, context.message
  return method.server.read_upload(key, frozen, message, upload)


def train_client(
  round_config: RoundConfig,
  context: RoundContext,
  index: jax.Array,
  client_state: ClientState,
) -> Trained:
  """A client looks at its download, and trains from it."""
  method, initial = round_config.method, context.initial
  federation, message = context.federation, context.message
  if method.client.before_training is not None:
    client_state = method.client.before_training(
      client_key(context, index, Stream.UPDATE),
      initial.frozen,
      message,
      client_state,
      _score(round_config, federation, index),
    )
  start = lambda client_state: method.client.init(
    context.keys.shared, initial.frozen, message, client_state
  )
  own = reads(start, client_state)
  initial_params = start(client_state) if own else context.initial_params
  rows = client_rows(federation.train, index)
  params, loss = fit(
    client_key(context, index, Stream.TRAINING),
    method,
    round_config.learner,
    round_config.plan,
    federation.examples,
    rows,
    initial.frozen,
    initial_params,
    context.state.round,
  )
  if method.client.after_training is not None:
    params = method.client.after_training(
      client_key(context, index, Stream.UPDATE),
      initial.frozen,
      client_state,
      params,
      _observe(round_config, federation, index),
    )
  return Trained(client_state, initial_params, params, loss, rows.size)


def reads(function: Callable[[Tree], Tree], argument: Tree) -> bool:
  """Whether what a function gives may depend on its argument."""
  traced = jax.make_jaxpr(function)(argument).jaxpr
  used = {id(x) for step in traced.eqns for x in step.invars}
  used |= {id(x) for x in traced.outvars}
  return any(id(x) in used for x in traced.invars)


def _observe(round_config, federation, index):
  """`variables -> statistics` of batch norms on a client's examples."""
  rows = client_rows(federation.train, index)
  return lambda variables: with_statistics(
    round_config.learner, variables, federation.examples, rows
  )[STATISTICS]


def _score(round_config, federation, index):
  """`variables -> accuracy` on a client's validation examples, float32 []."""
  rows = client_rows(federation.validation, index)
  train_rows = client_rows(federation.train, index)
  learner, examples = round_config.learner, federation.examples
  count = units(learner, examples, rows)

  def of_model(variables):
    known = with_statistics(learner, variables, examples, train_rows)
    return score(learner, known, examples, rows) / jnp.maximum(count, 1)

  return of_model
