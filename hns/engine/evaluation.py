"""How good the models are: personalised and global, on the same engine."""

from typing import Any, NamedTuple

import jax

from hns.engine import rounds
from hns.engine.client import Engine, Opening, State, participate
from hns.engine.parallel import each_client
from hns.engine.training import Federation, client_rows, correct
from hns.methods.federated import Birth
from hns.networks.supermask import model_signs


class Evaluation(NamedTuple):
  """What models do on clients' examples, and what signs they have.

  Attributes:
    personal: int32 [clients], correct answers of the model the client has
      after training, as in a round, from what it would download now.
    newcomer: int32 [clients], those of the global model: what a client that
      just joined sees before training, on the same examples.
    count: int32 [clients], the number of examples.
    votes: int32 [weights], the sum of the personal models' signs, 0 where
      pruned; None for a method without signs.
    server: int32 [weights], the global model's signs, likewise.
  """

  personal: jax.Array
  newcomer: jax.Array
  count: jax.Array
  votes: jax.Array | None
  server: jax.Array | None


def newcomers(
  engine: Engine,
  key: jax.Array,
  birth: Birth,
  federation: Federation,
  state: State,
  ids: jax.Array,
) -> tuple[jax.Array, jax.Array | None]:
  """The global model's right answers on these clients' examples; its signs.

  int32 [ids], on the examples that `engine.held` names; int32 [weights] or
  None.
  """
  opening = rounds.open_round(engine, key, birth, federation, state)
  shared = global_model(engine, opening)
  given = shared, federation.examples, getattr(federation, engine.held)

  def client(given, index, own):
    shared, examples, rows = given
    asked = client_rows(rows, index)
    return (), correct(engine.apply, shared, examples, asked)

  right = each_client(client, given, ids, (), engine.width, engine.mesh)[1]
  return right, model_signs(shared)


def global_model(engine: Engine, opening: Opening) -> Any:
  """Variables that a client which just joined sees before any training."""
  fixed, key = opening.birth.fixed, opening.key_shared
  return engine.method.view(key, fixed, opening.start)


def personal_model(
  engine: Engine, opening: Opening, index: jax.Array, own: Any
) -> Any:
  """Variables that one client has after its local training."""
  return participate(engine, opening, index, own).model


def personal_models(
  engine: Engine, opening: Opening, ids: jax.Array, own: Any = ()
) -> Any:
  """Variables that clients have after local training, leaves [ids, ...].

  With a supermask, `['signs']` holds every client's signs. `own` is what the
  clients keep, for methods where they do.
  """

  def client(opening, index, own):
    return (), personal_model(engine, opening, index, own)

  return each_client(client, opening, ids, own, engine.width, engine.mesh)[1]
