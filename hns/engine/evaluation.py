"""How good the models are: personalised and global, on the same engine."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from hns.engine import rounds
from hns.engine.client import client_round
from hns.engine.context import RoundConfig, RoundContext, State
from hns.engine.parallel import each_client
from hns.engine.scoring import score, with_statistics
from hns.engine.training import FederatedData, client_rows
from hns.methods.contract import ClientState, Initial, Variables
from hns.networks.supermask import model_signs


class Evaluation(NamedTuple):
  """What models do on clients' examples, and what signs they have.

  Attributes:
    score_personal: float32 [clients], the summed scores (right answers) of the
      model that the client has after training, as in a round, from what it
      would download now.
    score_global: float32 [clients], those of the global model: what a client
      that just joined sees before training, on the same examples.
    count: int32 [clients], what the examples count for: one each, or tokens.
    votes: int32 [weights], the sum of the personal models' signs, 0 where
      pruned; None for a method without signs.
    server: int32 [weights], the global model's signs, likewise.
    score_unseen: float32 [unseen], as `score_personal`, of the clients that
      never take part, none of which is counted above.
    count_unseen: int32 [unseen], what their examples count for.
  """

  score_personal: jax.Array
  score_global: jax.Array
  count: jax.Array
  votes: jax.Array | None
  server: jax.Array | None
  score_unseen: jax.Array
  count_unseen: jax.Array


def evaluate_global(
  round_config: RoundConfig,
  key: jax.Array,
  initial: Initial,
  federation: FederatedData,
  state: State,
  ids: jax.Array,
) -> tuple[jax.Array, jax.Array | None]:
  """The global model's scores on these clients' examples; its signs.

  float32 [ids], on the examples that `round_config.eval_split` names, and int32
  [weights] or None. Batch norms have the statistics of the client's examples.
  """
  context = rounds.begin_round(round_config, key, initial, federation, state)
  shared = global_model(round_config, context)

  def client(given, index, client_state):
    shared, federation = given
    return (), score_of(round_config, federation, index, shared)

  right = each_client(
    client,
    (shared, federation),
    ids,
    (),
    round_config.width,
    round_config.mesh,
  )[1]
  return right, model_signs(shared)


def score_of(
  round_config: RoundConfig,
  federation: FederatedData,
  index: jax.Array,
  shared: Variables,
) -> jax.Array:
  """A model's score on a client's examples of `eval_split`, float32 []."""
  learner, examples = round_config.learner, federation.examples
  train = client_rows(federation.train, index)
  own = client_rows(getattr(federation, round_config.eval_split), index)
  known = with_statistics(learner, shared, examples, train)
  return score(learner, known, examples, own)


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
