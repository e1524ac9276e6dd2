"""How good the models are: personalised and global, on the same engine."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from hns.engine import rounds
from hns.engine.client import client_round
from hns.engine.context import RoundConfig, RoundContext, State
from hns.engine.parallel import each_client
from hns.engine.training import FederatedData, client_rows, correct
from hns.methods.contract import ClientState, Initial, Variables
from hns.networks.supermask import model_signs


class Evaluation(NamedTuple):
  """What models do on clients' examples, and what signs they have.

  Attributes:
    num_correct_personal: int32 [clients], correct answers of the model that the
      client has after training, as in a round, from what it would download now.
    num_correct_global: int32 [clients], those of the global model: what a
      client that just joined sees before training, on the same examples.
    count: int32 [clients], the number of examples.
    votes: int32 [weights], the sum of the personal models' signs, 0 where
      pruned; None for a method without signs.
    server: int32 [weights], the global model's signs, likewise.
    num_correct_unseen: int32 [unseen], as `num_correct_personal`, of the
      clients that never take part, none of which is counted above.
    count_unseen: int32 [unseen], the number of their examples.
  """

  num_correct_personal: jax.Array
  num_correct_global: jax.Array
  count: jax.Array
  votes: jax.Array | None
  server: jax.Array | None
  num_correct_unseen: jax.Array
  count_unseen: jax.Array


def evaluate_global(
  round_config: RoundConfig,
  key: jax.Array,
  initial: Initial,
  federation: FederatedData,
  state: State,
  ids: jax.Array,
) -> tuple[jax.Array, jax.Array | None]:
  """The global model's right answers on these clients' examples; its signs.

  int32 [ids], on the examples that `round_config.eval_split` names, and int32
  [weights] or None.
  """
  context = rounds.begin_round(round_config, key, initial, federation, state)
  shared = global_model(round_config, context)
  given = (
    shared,
    federation.examples,
    getattr(federation, round_config.eval_split),
  )

  def client(given, index, client_state):
    shared, examples, rows = given
    own = client_rows(rows, index)
    return (), correct(round_config.apply, shared, examples, own)

  right = each_client(
    client, given, ids, (), round_config.width, round_config.mesh
  )[1]
  return right, model_signs(shared)


def global_model(round_config: RoundConfig, context: RoundContext) -> Variables:
  """Variables that a client which just joined sees before any training."""
  frozen, key = context.initial.frozen, context.keys.shared
  return round_config.method.client.to_variables(
    key, frozen, context.initial_params
  )


def personal_model(
  round_config: RoundConfig,
  context: RoundContext,
  index: jax.Array,
  client_state: ClientState,
) -> Variables:
  """Variables that one client has after its local training."""
  return client_round(round_config, context, index, client_state).model


def personal_models(
  round_config: RoundConfig,
  context: RoundContext,
  ids: jax.Array,
  client_state: ClientState | None = None,
) -> Variables:
  """Variables that clients have after local training, leaves [ids, ...].

  With a supermask, `['signs']` holds every client's signs. `client_state` is
  what the clients keep, leaves [ids, ...]; None: what all keep at first.
  """
  if client_state is None:
    everyone = lambda x: jnp.broadcast_to(x, (len(ids), *x.shape))
    client_state = jax.tree.map(everyone, context.initial.client_state)

  def client(context, index, client_state):
    return (), personal_model(round_config, context, index, client_state)

  return each_client(
    client, context, ids, client_state, round_config.width, round_config.mesh
  )[1]
