"""The engine: a round, one program over all the clients of a cohort.

Randomness follows seed, round and client id, never a client's place in the
cohort, so how clients are spread over devices (`hns.engine.parallel`) changes
no result.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hns import tree, wire
from hns.engine import parallel
from hns.engine.client import RoundConfig, RoundContext, State, client_terms
from hns.engine.parallel import each_client
from hns.engine.training import FederatedData
from hns.methods import contract
from hns.methods.contract import Initial


class RoundMetrics(NamedTuple):
  """What a round tells, and nothing depends on.

  Attributes:
    train_loss: float32 [], the mean of the clients' objectives, weighted by
      examples; for Ditto two models' and the pull, for FedProx with the pull.
      NaN if every update was rejected.
    flip_rate: float32 [], share of the weights voted on whose sign in the
      global model changed.
    uplink, downlink: int32 [cohort], bytes of each client's messages.
    uploaded: int32 [cohort], weights in each client's upload.
    steps: int32 [cohort], steps each client took.
    scored: int32 [cohort], examples on which it could try a model before.
    took_part: bool [cohort], whether the id is a client's.
    rejected: bool [cohort], whether the client's update was not finite. It is
      then left out, as if the client had taken no part, and costs no upload.
    diverged: bool [cohort], whether it was, or the client's objective was no
      better than with a model that gives all classes the same chance.
    held: int32 [cohort], how many examples the model classifies rightly that
      it ends the round with; -1 if none were asked for.
    votes: int32 [weights], the sum of these models' signs; None for a method
      without signs, or if none were asked for.
  """

  train_loss: jax.Array
  flip_rate: jax.Array
  uplink: jax.Array
  downlink: jax.Array
  uploaded: jax.Array
  steps: jax.Array
  scored: jax.Array
  took_part: jax.Array
  rejected: jax.Array
  diverged: jax.Array
  held: jax.Array
  votes: jax.Array | None


def begin(initial: Initial) -> State:
  """The state before round 1: a copy, so that it can be donated."""
  return State(jnp.int32(0), jax.tree.map(jnp.array, initial.server_state))


def begin_round(
  round_config: RoundConfig,
  key: jax.Array,
  initial: Initial,
  federation: FederatedData,
  state: State,
) -> RoundContext:
  """The server's part of a round before its clients train."""
  server, _, shared, clients = _round_keys(key, state.round)
  method, frozen = round_config.method, initial.frozen
  message = method.download(server, frozen, state.server_state)
  start = method.client_init(shared, frozen, message, initial.client_state)
  return RoundContext(
    initial, federation, state, message, start, server, shared, clients
  )


def cohort(
  round_config: RoundConfig,
  key: jax.Array,
  federation: FederatedData,
  number: jax.Array,
) -> jax.Array:
  """Ids of the clients of round `number`, int32 [cohort].

  Drawn without replacement, and ordered by size, so that clients that train
  side by side finish together.
  """
  sizes = federation.train.size
  ids = jax.random.permutation(_round_keys(key, number)[1], sizes.shape[0])
  ids = ids[: round_config.cohort].astype(jnp.int32)
  return ids[jnp.lexsort((ids, sizes[ids]))]


def run_round(
  round_config: RoundConfig,
  key: jax.Array,
  initial: Initial,
  federation: FederatedData,
  state: State,
  ids: jax.Array,
  client_state: Any,
) -> tuple[State, Any, RoundMetrics]:
  """One round: download, local training, upload, the server's mean.

  An update that is not finite is left out, and its client keeps what it had; a
  round without any other, or whose mean would make the server's state infinite,
  leaves that state as it is.

  Args:
    round_config, key, initial, federation, state: see their types.
    ids: int32, the clients that take part: see `cohort`. Any that is no id of
      a client stands for nobody, who costs and changes nothing.
    client_state: what these clients keep, leaves [ids, ...].

  Returns:
    The state after the round, what the clients keep now, and a report.
  """
  method = round_config.method
  ids = parallel.absent_if_unknown(ids, federation.train.size.shape[0])
  context = begin_round(round_config, key, initial, federation, state)
  # A download that is equal for all is counted once.
  common = method.download_for is contract.whole_download
  whole = wire.size(method.download_codec, context.message) if common else None
  client = functools.partial(client_terms, round_config)
  totals, (kept, told) = each_client(
    client,
    (context, whole),
    ids,
    client_state,
    round_config.width,
    round_config.mesh,
  )
  sums, chosen, loss, examples, votes = totals
  shared, weights = _aggregate(method, context, sums, chosen, examples)
  sound = (examples > 0) & tree.is_finite(shared)
  shared, client_state = tree.where(
    sound, (shared, kept), (state.server_state, client_state)
  )
  after = State(state.round + 1, shared)
  report = RoundMetrics(
    train_loss=jnp.where(sound, loss / examples, jnp.nan),
    flip_rate=_flip_rate(round_config, context, after, weights),
    votes=votes,
    **told,
  )
  lost = report.took_part & ~sound
  report = report._replace(
    rejected=report.rejected | lost, diverged=report.diverged | lost
  )
  return after, client_state, report


def _aggregate(method, context, sums, chosen, examples) -> tuple[Any, Any]:
  """The server's state after the mean, and the summed weights."""
  common = context.message.weight
  weights = contract.total_weights(chosen, sums, common, examples)
  mean = contract.mean(sums, weights)
  frozen, before = context.initial.frozen, context.state.server_state
  return method.server_update(frozen, before, mean, weights), weights


def _round_keys(key: jax.Array, number: jax.Array) -> jax.Array:
  """Keys of a round's server, cohort, all its clients and each client."""
  return jax.random.split(jax.random.fold_in(key, number), 4)


def _flip_rate(round_config, context, after, weights) -> jax.Array:
  """Share of the coordinates voted on whose sign changed in the download."""
  message = round_config.method.download(
    context.key_server, context.initial.frozen, after.server_state
  )
  old, new = context.message.value, message.value
  voted = jax.tree.map(
    lambda x, w: jnp.broadcast_to(w > 0, x.shape), new, weights
  )
  flipped = jax.tree.map(
    lambda a, b, v: ((a < 0) != (b < 0)) & v, old, new, voted
  )
  return tree.count(flipped) / jnp.maximum(tree.count(voted), 1)
