"""How good the models are: personalised and global, on the same engine."""

from typing import Any, NamedTuple

import jax

from hns import rounds
from hns.federated import Birth
from hns.parallel import each_client
from hns.rounds import Engine, Federation, Opening, State
from hns.training import Rows, correct


class Evaluation(NamedTuple):
  """Correct answers and questions of each client, int32 [clients].

  Attributes:
    personal: of the model the client has after training, as in a round, from
      what it would download now.
    newcomer: of the global model: what a client that just joined sees before
      training, on the same examples.
    count: the number of examples.
  """

  personal: jax.Array
  newcomer: jax.Array
  count: jax.Array


def evaluate(
  engine: Engine,
  key: jax.Array,
  birth: Birth,
  federation: Federation,
  state: State,
  ids: jax.Array,
  own: Any,
  rows: Rows,
) -> Evaluation:
  """These clients' personalised and global accuracy on their `rows`.

  Each client trains as in the next round and uploads nothing; no state
  changes. `ids` may hold `ABSENT`, which is asked nothing.
  """
  opening = rounds.open_round(engine, key, birth, federation, state)
  given = opening, global_model(engine, opening), rows

  def client(given, index, own):
    opening, shared, rows = given
    personal = personal_model(engine, opening, index, own)
    asked = rounds.client_rows(rows, index)
    right = [
      correct(engine.apply, variables, opening.federation.examples, asked)
      for variables in (personal, shared)
    ]
    return (), Evaluation(*right, asked.size)

  return each_client(client, given, ids, own, engine.width, engine.mesh)[1]


def global_model(engine: Engine, opening: Opening) -> Any:
  """Variables that a client which just joined sees before any training."""
  fixed, key = opening.birth.fixed, opening.key_shared
  return engine.method.view(key, fixed, opening.start)


def personal_model(
  engine: Engine, opening: Opening, index: jax.Array, own: Any
) -> Any:
  """Variables that one client has after its local training."""
  trained = rounds.train_client(engine, opening, index, own)[2]
  key = jax.random.fold_in(rounds.client_key(opening, index), 3)
  return engine.method.view(key, opening.birth.fixed, trained)


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
