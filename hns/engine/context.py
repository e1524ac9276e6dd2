"""What is static in a round, and what all of its clients are given.

Randomness follows seed, round, client id and the name of a stream, never a
client's place in the cohort.
"""

import enum
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from hns.engine.attacks import Attack
from hns.engine.failures import Failures
from hns.engine.rules import Rule
from hns.engine.secure import Secure
from hns.engine.training import FederatedData, Learner, Plan
from hns.methods.contract import Initial, Method, Params, ServerState
from hns.wire import Message


class RoundConfig(NamedTuple):
  """What is static in a program: functions and sizes, no arrays.

  Attributes:
    method: the federated method.
    learner: what is trained.
    plan: how long a client trains.
    cohort: clients that are asked in a round.
    width: clients a step of the loop over clients, the width of the `vmap`.
    mesh: the devices that clients are spread over.
    eval_split: which examples of a client the model is evaluated on that it
      ends a round with: test, validation, or none if empty.
    unseen: ids of the clients that are in no cohort, ordered by size.
    failures: whose answers do not arrive.
    attack: which clients are hostile, and what they do.
    rule: how the server makes one of the uploads; None: their mean.
    secure: how uploads travel of which the server learns only the sum; None:
      it reads each.
  """

  method: Method
  learner: Learner
  plan: Plan
  cohort: int
  width: int
  mesh: Mesh
  eval_split: str = ''
  unseen: tuple[int, ...] = ()
  failures: Failures = Failures()
  attack: Attack = Attack()
  rule: Rule | None = None
  secure: Secure | None = None


class State(NamedTuple):
  """What a round carries to the next.

  Attributes:
    round: int32 [], rounds done.
    server_state: the server's state.
  """

  round: jax.Array
  server_state: ServerState


class Stream(enum.IntEnum):
  """What a client draws for in a round; each has a key of its own."""

  TRAINING = 1
  UPDATE = 2  # and what it draws for that before it trains
  MODEL = 3  # that it ends the round with
  ANSWER = 4  # whether it arrives
  ATTACK = 5


class RoundKeys(NamedTuple):
  """Independent keys of one round.

  Attributes:
    broadcast: of the server before its clients train.
    cohort: of the choice of clients.
    shared: equal for all clients.
    clients: into which a client's id and a `Stream` are folded.
    update: of the server after its clients trained.
  """

  broadcast: jax.Array
  cohort: jax.Array
  shared: jax.Array
  clients: jax.Array
  update: jax.Array


def round_keys(key: jax.Array, number: jax.Array) -> RoundKeys:
  """The keys of round `number`, of the key of all rounds."""
  keys = jax.random.split(
    jax.random.fold_in(key, number), len(RoundKeys._fields)
  )
  return RoundKeys(*keys)


class RoundContext(NamedTuple):
  """All that the clients of one round may see.

  Attributes:
    initial, federation, keys: see their types.
    state: before the round.
    message: what the server sends to every client.
    initial_params: what a client that keeps nothing starts from.
  """

  initial: Initial
  federation: FederatedData
  state: State
  message: Message
  initial_params: Params
  keys: RoundKeys


def client_key(
  context: RoundContext, index: jax.Array, stream: Stream
) -> jax.Array:
  """A client's key of this round for one purpose."""
  of_client = jax.random.fold_in(context.keys.clients, index)
  return jax.random.fold_in(of_client, stream)
