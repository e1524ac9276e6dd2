"""The engine: a round, one program over all the clients of a cohort.

Randomness follows seed, round and client id, never a client's place in the
cohort, so how clients are spread over devices (`hns.engine.parallel`) changes
no result.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hns import tree
from hns.engine import aggregate, contract_check, parallel, payloads
from hns.engine.cohort import ClientSums, client_terms
from hns.engine.context import (
  RoundConfig,
  RoundContext,
  State,
  Stream,
  client_key,
  round_keys,
)
from hns.engine.failures import answers
from hns.engine.parallel import each_client
from hns.engine.secure import protocol_bytes
from hns.engine.training import FederatedData, client_rows, steps_of
from hns.methods.contract import ClientState, Initial, ServerState
from hns.tree import Tree
from hns.wire import Message


class RoundMetrics(NamedTuple):
  """What a round reports; no later round depends on it.

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
    dropped: bool [cohort], whether the client's answer did not arrive. It is
      then left out, as if the client had taken no part, and costs no upload.
    rejected: bool [cohort], whether the client's update arrived and was not
      finite. It is then left out, as if the client had taken no part, and costs
      no upload.
    diverged: bool [cohort], whether it was, or the client's objective was no
      better than that of a model that tells nothing apart; not of hostile ones.
    score: float32 [cohort], the summed scores (right answers) of the model that
      the client ends the round with; NaN if it is not evaluated.
    votes: int32 [weights], the sum of these models' signs; None for a method
      without signs, or if they are not evaluated.
    skipped: bool [], whether too few answers arrived. The round then changed
      nothing.
  """

  train_loss: jax.Array
  flip_rate: jax.Array
  uplink: jax.Array
  downlink: jax.Array
  uploaded: jax.Array
  steps: jax.Array
  scored: jax.Array
  took_part: jax.Array
  dropped: jax.Array
  rejected: jax.Array
  diverged: jax.Array
  score: jax.Array
  votes: jax.Array | None
  skipped: jax.Array


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
  keys = round_keys(key, state.round)
  message = round_config.method.server.broadcast(
    keys.broadcast, initial.frozen, state.server_state
  )
  return join_round(round_config, key, initial, federation, state, message)


def join_round(
  round_config: RoundConfig,
  key: jax.Array,
  initial: Initial,
  federation: FederatedData,
  state: State,
  message: Message,
) -> RoundContext:
  """The context of a round that has this download."""
  keys = round_keys(key, state.round)
  initial_params = round_config.method.client.init(
    keys.shared, initial.frozen, message, initial.client_state
  )
  return RoundContext(initial, federation, state, message, initial_params, keys)


def cohort(
  round_config: RoundConfig,
  key: jax.Array,
  federation: FederatedData,
  number: jax.Array,
) -> jax.Array:
  """Ids of the clients of round `number`, int32 [cohort].

  Drawn without replacement from all but `round_config.unseen`, and ordered by
  size, so that clients that train side by side finish together.
  """
  sizes = federation.train.size
  everyone = np.arange(sizes.shape[0], dtype=np.int32)
  seen = jnp.asarray(np.delete(everyone, round_config.unseen))
  ids = jax.random.permutation(round_keys(key, number).cohort, seen)
  ids = ids[: round_config.cohort]
  return ids[jnp.lexsort((ids, sizes[ids]))]


def run_round(
  round_config: RoundConfig,
  key: jax.Array,
  initial: Initial,
  federation: FederatedData,
  state: State,
  ids: jax.Array,
  client_state: ClientState,
) -> tuple[State, ClientState, RoundMetrics]:
  """One round: download, local training, upload, the server's mean.

  An update that is not finite, or does not arrive, is left out, and its client
  keeps what it had. A round without updates, with fewer than
  `round_config.failures.least`, or with an infinite mean changes nothing.

  Args:
    round_config, key, initial, federation, state: see their types.
    ids: int32, the clients that take part: see `cohort`; others are padding.
    client_state: what these clients keep, leaves [ids, ...].

  Returns:
    The state after the round, what the clients keep now, and its metrics.
  """
  ids = parallel.absent_if_unknown(ids, federation.train.size.shape[0])
  context = begin_round(round_config, key, initial, federation, state)
  sums, (kept, metrics, uploads) = each_client(
    functools.partial(client_terms, round_config),
    (context, _common_download_bytes(round_config, context)),
    ids,
    (client_state, _arrive(round_config, context, ids)),
    round_config.width,
    round_config.mesh,
  )
  answered = metrics['took_part'] & ~metrics['dropped'] & ~metrics['rejected']
  if round_config.secure:
    up, down = protocol_bytes(
      round_config.secure, metrics['took_part'], answered
    )
    metrics['uplink'] += up
    metrics['downlink'] += down
  closed = close_round(round_config, context, sums, uploads, jnp.sum(answered))
  client_state = tree.where(closed.sound & ~closed.skipped, kept, client_state)
  lost = answered & ~closed.sound
  metrics |= {name: metrics[name] | lost for name in ('rejected', 'diverged')}
  reported = RoundMetrics(
    train_loss=closed.train_loss,
    flip_rate=closed.flip_rate,
    votes=sums.signs,
    skipped=closed.skipped,
    **metrics,
  )
  return closed.state, client_state, reported


class Closed(NamedTuple):
  """What the server made of a round.

  Attributes:
    state: after the round.
    sound: bool [], whether there were updates, and their mean is finite.
    skipped, train_loss, flip_rate: as in `RoundMetrics`.
  """

  state: State
  sound: jax.Array
  skipped: jax.Array
  train_loss: jax.Array
  flip_rate: jax.Array


def close_round(
  round_config: RoundConfig,
  context: RoundContext,
  sums: ClientSums,
  uploads: Message | None,
  answers: jax.Array,
) -> Closed:
  """The server's part of a round after so many answers, int32 [].

  `uploads`: all of them, leaves [cohort, ...], for `round_config.rule`.
  """
  before = context.state
  server_state, weights = _aggregate(round_config, context, sums, uploads)
  # A method may be revised after it was checked, and what follows broadcasts.
  contract_check.compare(
    'revised', 'server.update', before.server_state, server_state
  )
  sound = (sums.examples > 0) & tree.is_finite(server_state)
  skipped = answers < round_config.failures.least
  server_state = tree.where(sound & ~skipped, server_state, before.server_state)
  after = State(before.round + 1, server_state)
  return Closed(
    after,
    sound,
    skipped,
    jnp.where(sound, sums.loss / sums.examples, jnp.nan),
    _flip_rate(round_config, context, after, weights),
  )


def _arrive(
  round_config: RoundConfig, context: RoundContext, ids: jax.Array
) -> jax.Array:
  """Whose answer arrives, bool [ids]."""
  failures = round_config.failures
  if not failures.drops:
    return jnp.ones(ids.shape, bool)
  draw = lambda index: jax.random.uniform(
    client_key(context, index, Stream.ANSWER), (), jnp.float32
  )
  sizes = client_rows(context.federation.train, ids).size
  steps = steps_of(round_config.plan, sizes)[0]
  return answers(failures, jax.vmap(draw)(ids), ids, steps)


def _common_download_bytes(
  round_config: RoundConfig, context: RoundContext
) -> jax.Array | None:
  """Bytes of a download that is equal for all clients, counted once; or None.

  int32 [].
  """
  method = round_config.method
  if method.wire.download_for is not None:
    return None
  frozen, message = context.initial.frozen, context.message
  return payloads.download_bytes(method, frozen, message, ())


def _aggregate(
  round_config: RoundConfig,
  context: RoundContext,
  sums: ClientSums,
  uploads: Message | None,
) -> tuple[ServerState, Tree]:
  """The server's state after the round, and the summed weights."""
  weights = aggregate.total_weights(
    sums.weights, sums.terms, context.message.weight, sums.examples
  )
  if round_config.rule is None:
    mean = aggregate.mean(sums.terms, weights)
  else:
    mean = _by_rule(round_config, context, uploads)
  server_state = round_config.method.server.update(
    context.keys.update,
    context.initial.frozen,
    context.state.server_state,
    mean,
    weights,
  )
  return server_state, weights


def _by_rule(
  round_config: RoundConfig, context: RoundContext, uploads: Message
) -> Tree:
  """What the rule makes of the uploads."""
  center = round_config.method.server.center
  if center is None:
    middle = jax.tree.map(lambda v: jnp.zeros(v.shape[1:]), uploads.value)
  else:
    middle = center(context.initial.frozen, context.message)
  # Not the key of `server.update`, which may draw as well.
  key = jax.random.fold_in(context.keys.update, 1)
  return round_config.rule(key, *uploads, middle)


def _flip_rate(
  round_config: RoundConfig,
  context: RoundContext,
  after: State,
  weights: Tree,
) -> jax.Array:
  """Share of the coordinates voted on whose sign changed in the download."""
  message = round_config.method.server.broadcast(
    context.keys.broadcast, context.initial.frozen, after.server_state
  )
  old, new = context.message.value, message.value
  voted = jax.tree.map(
    lambda x, w: jnp.broadcast_to(w > 0, x.shape), new, weights
  )
  flipped = jax.tree.map(
    lambda a, b, v: ((a < 0) != (b < 0)) & v, old, new, voted
  )
  return tree.count(flipped) / jnp.maximum(tree.count(voted), 1)
