"""What the server of a federation compiles, and knows of its clients."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hns.engine import halves, parallel, payloads, rounds
from hns.engine.context import Stream, client_key
from hns.engine.rounds import Closed
from hns.methods.contract import ClientState
from hns.remote.client import check_method
from hns.runs.programs import Experiment
from hns.wire import Message


class Known(NamedTuple):
  """What the server knows of a client.

  Attributes:
    client_state: as a client would keep that took part in the same rounds and
      learned nothing: right in all that downloads depend on.
    base: int32 [], see `hns.remote.messages.Order`.
  """

  client_state: ClientState
  base: np.ndarray


class ServerPrograms(NamedTuple):
  """The compiled programs of a server.

  Attributes:
    cohort: `(key, federation, round) -> ids`.
    message: `(key, initial, federation, state) -> message`.
    sent: `(frozen, message, client_state) -> message`, what a client is sent.
    learned_nothing: `(key, initial, federation, state, message, index,
      client_state) -> (upload, client_state)`, of a client that does not train.
    merge: `hns.engine.halves.merge`; `merge_sum` where uploads are summed under
      masks.
    upload: the first upload, for the shapes and places of all others.
  """

  cohort: Callable[..., jax.Array]
  message: Callable[..., Message]
  sent: Callable[..., Message]
  learned_nothing: Callable[..., tuple[Message, ClientState]]
  merge: Callable[..., tuple[Closed, jax.Array] | Closed]
  upload: Message


def programs(experiment: Experiment) -> ServerPrograms:
  """The server's programs; raises `InputError` for a method it cannot serve."""
  check_method(experiment)
  round_config = experiment.round_config
  method = round_config.method
  everywhere = parallel.everywhere(round_config.mesh)
  jit = functools.partial(
    jax.jit, in_shardings=everywhere, out_shardings=everywhere
  )

  def message(key, initial, federation, state):
    return rounds.begin_round(
      round_config, key, initial, federation, state
    ).message

  def learned_nothing(*given):
    *of_round, index, client_state = given
    context = rounds.join_round(round_config, *of_round)
    given = context.initial.frozen, context.message, client_state
    start = method.client.init(context.keys.shared, *given)
    update_key = client_key(context, index, Stream.UPDATE)
    return method.client.update(update_key, *given, start, start)

  message, learned_nothing = jit(message), jit(learned_nothing)
  merge = halves.merge_sum if round_config.secure else halves.merge
  first = *experiment.constants, rounds.begin(experiment.initial)
  upload, _ = learned_nothing(
    *first, message(*first), jnp.int32(0), experiment.initial.client_state
  )
  return ServerPrograms(
    jit(functools.partial(rounds.cohort, round_config)),
    message,
    jit(functools.partial(payloads.download_for, method)),
    learned_nothing,
    jit(functools.partial(merge, round_config)),
    jax.device_get(upload),
  )
