"""How good the models are: personalised and global, on the same engine."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hns import parallel, rounds, tree
from hns.federated import Birth
from hns.parallel import each_client
from hns.rounds import Engine, Federation, Opening, State
from hns.training import Rows, correct


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
  shared = global_model(engine, opening)
  given = opening, shared, rows

  def client(given, index, own):
    opening, shared, rows = given
    personal = personal_model(engine, opening, index, own)
    asked = rounds.client_rows(rows, index)
    right = [
      correct(engine.apply, variables, opening.federation.examples, asked)
      for variables in (personal, shared)
    ]
    present = index != parallel.ABSENT
    mine = jax.tree.map(lambda x: x * present, signs(personal))
    return mine, (*right, asked.size)

  votes, told = each_client(client, given, ids, own, engine.width, engine.mesh)
  return Evaluation(*told, votes, signs(shared))


def join(parts: list[Evaluation], clients: int) -> Evaluation:
  """One evaluation of blocks of clients; those past `clients` are left out."""
  personal, newcomer, count, votes, server = zip(*parts)
  each = (np.concatenate(x)[:clients] for x in (personal, newcomer, count))
  total = jax.tree.map(lambda *blocks: np.sum(blocks, 0), *votes)
  return Evaluation(*each, total, server[0])


def signs(variables: Any) -> jax.Array | None:
  """A model's signs as one int32 [weights], 0 where pruned."""
  if 'signs' not in variables:
    return None
  masked = jax.tree.map(jnp.multiply, variables['signs'], variables['mask'])
  return tree.flatten(masked).astype(jnp.int32)


def global_model(engine: Engine, opening: Opening) -> Any:
  """Variables that a client which just joined sees before any training."""
  fixed, key = opening.birth.fixed, opening.key_shared
  return engine.method.view(key, fixed, opening.start)


def personal_model(
  engine: Engine, opening: Opening, index: jax.Array, own: Any
) -> Any:
  """Variables that one client has after its local training."""
  trained = rounds.train_client(engine, opening, index, own)[2]
  return rounds.trained_model(engine, opening, index, trained)


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
