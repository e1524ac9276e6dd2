"""The two halves of a round whose server and clients are different machines.

They call what a simulated round calls, in the same loops, so that a federation
ends with the numbers of its simulation.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hns import tree
from hns.engine import aggregate, cohort, evaluation, rounds
from hns.engine.client import client_round, read_upload
from hns.engine.cohort import Answered, ClientSums
from hns.engine.context import RoundConfig, RoundContext, State
from hns.engine.parallel import ABSENT, each_client
from hns.engine.rounds import Closed
from hns.engine.training import FederatedData, client_rows
from hns.methods.contract import ClientState, Initial
from hns.tree import Tree
from hns.wire import Message

# What a client tells beside its upload: of `RoundMetrics`, its mean objective,
# and the score of the global model on its examples.
_LISTED = 'steps', 'scored', 'rejected', 'diverged'
TOLD = (*_LISTED, 'score', 'loss', 'score_global')


class Answer(NamedTuple):
  """What a client has after a round.

  Attributes:
    upload: what it sends.
    client_state: what it keeps once the server has used that.
    told: by the names in `TOLD`, leaves [].
  """

  upload: Message
  client_state: ClientState
  told: dict[str, jax.Array]


def answer(
  round_config: RoundConfig,
  key: jax.Array,
  initial: Initial,
  federation: FederatedData,
  state: State,
  message: Message,
  ids: jax.Array,
  client_state: ClientState,
) -> Answer:
  """The client's half: it trains from a download, and is evaluated.

  Args:
    round_config, key, initial: as the server's, from the same config.
    federation: only this client's examples are read.
    state: its round counts; of the server's state a client knows nothing.
    message: the download.
    ids: int32 [1], the client's.
    client_state: what it keeps, leaves [1, ...].

  Returns:
    Leaves [1, ...].
  """
  given = rounds.join_round(
    round_config, key, initial, federation, state, message
  )
  client = functools.partial(_answer, round_config)
  return each_client(client, given, ids, client_state, 1, round_config.mesh)[1]


def _answer(
  round_config: RoundConfig,
  context: RoundContext,
  index: jax.Array,
  client_state: ClientState,
) -> tuple[tuple[()], Answer]:
  result = client_round(round_config, context, index, client_state)
  right, _ = cohort.evaluated(round_config, context, index, result.model)
  shared = evaluation.global_model(round_config, context)
  metrics = cohort.client_metrics(
    round_config, context, index, client_state, result
  )
  told = {name: metrics[name] for name in _LISTED} | dict(
    score=right,
    loss=result.loss,
    score_global=evaluation.score_of(
      round_config, context.federation, index, shared
    ),
  )
  return (), Answer(result.upload, result.client_state, told)


def merge_sum(
  round_config: RoundConfig,
  key: jax.Array,
  initial: Initial,
  federation: FederatedData,
  state: State,
  ids: jax.Array,
  total: Tree,
  losses: jax.Array,
) -> Closed:
  """As `merge`, where the server knows only the sum of the uploads.

  Args:
    round_config, key, initial, federation, state: as for `merge`.
    ids: int32 [cohort], `ABSENT` where an upload is not in the sum.
    total: the uploads' values, each times its client's examples, summed.
    losses: float32 [cohort], the clients' mean objectives, NaN if not told.
  """
  context = rounds.begin_round(round_config, key, initial, federation, state)
  counts, told = ids != ABSENT, jnp.isfinite(losses)
  sizes = client_rows(context.federation.train, ids).size * counts
  shared, _ = tree.split(context.message.weight, tree.has(total))
  upload = Message(total, shared)
  # All clients' keys and indices read alike: the sum, as each upload.
  read = read_upload(round_config.method, context, jnp.int32(0), upload)
  sums = ClientSums(
    *aggregate.weigh(read, context.message.weight, jnp.int32(1)),
    loss=_mean(losses, sizes * told) * jnp.sum(sizes),
    examples=jnp.sum(sizes),
    signs=None,
  )
  return rounds.close_round(round_config, context, sums, None, jnp.sum(counts))


def _mean(values: jax.Array, weights: jax.Array) -> jax.Array:
  """The weighted mean of the values that weigh something; NaN of none."""
  known = jnp.where(weights > 0, values * weights, 0)
  return jnp.sum(known) / jnp.sum(weights)


def merge(
  round_config: RoundConfig,
  key: jax.Array,
  initial: Initial,
  federation: FederatedData,
  state: State,
  ids: jax.Array,
  uploads: Message,
  losses: jax.Array,
) -> tuple[Closed, jax.Array]:
  """The server's half: it makes its next state of the uploads.

  Args:
    round_config, key, initial: as the clients'.
    federation: only the numbers of examples are read.
    state: before the round.
    ids: int32 [cohort], `ABSENT` where no upload can be used.
    uploads: as decoded, leaves [cohort, ...].
    losses: float32 [cohort], the clients' mean objectives.

  Returns:
    What the server made of the round; and whose uploads could be used, bool
    [cohort]: what is read in the others is not finite.
  """
  context = rounds.begin_round(round_config, key, initial, federation, state)

  def client(context, index, own):
    upload, loss = own
    read = read_upload(round_config.method, context, index, upload)
    examples = client_rows(context.federation.train, index).size
    answered = Answered(read, loss, examples)
    counts = (index != ABSENT) & tree.is_finite((read.value, loss))
    sums, upload = cohort.upload_terms(round_config, context, answered, counts)
    return sums, (upload, counts)

  sums, (listed, counts) = each_client(
    client,
    context,
    ids,
    (uploads, losses),
    round_config.width,
    round_config.mesh,
  )
  closed = rounds.close_round(
    round_config, context, sums, listed, jnp.sum(counts)
  )
  return closed, counts
