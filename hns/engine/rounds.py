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
from hns.engine.client import Engine, Opening, State, contribute
from hns.engine.parallel import each_client
from hns.engine.training import Federation
from hns.methods import federated
from hns.methods.federated import Birth


class Report(NamedTuple):
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


def begin(birth: Birth) -> State:
  """The state before round 1: a copy of birth, so that it can be donated."""
  return State(jnp.int32(0), jax.tree.map(jnp.array, birth.shared))


def open_round(
  engine: Engine,
  key: jax.Array,
  birth: Birth,
  federation: Federation,
  state: State,
) -> Opening:
  """The server's part of a round before its clients train."""
  server, _, shared, clients = _round_keys(key, state.round)
  method, fixed = engine.method, birth.fixed
  message = method.download(server, fixed, state.shared)
  start = method.join(shared, fixed, message, birth.own)
  return Opening(
    birth, federation, state, message, start, server, shared, clients
  )


def cohort(
  engine: Engine, key: jax.Array, federation: Federation, number: jax.Array
) -> jax.Array:
  """Ids of the clients of round `number`, int32 [cohort].

  Drawn without replacement, and ordered by size, so that clients that train
  side by side finish together.
  """
  sizes = federation.train.size
  ids = jax.random.permutation(_round_keys(key, number)[1], sizes.shape[0])
  ids = ids[: engine.cohort].astype(jnp.int32)
  return ids[jnp.lexsort((ids, sizes[ids]))]


def run_round(
  engine: Engine,
  key: jax.Array,
  birth: Birth,
  federation: Federation,
  state: State,
  ids: jax.Array,
  own: Any,
) -> tuple[State, Any, Report]:
  """One round: download, local training, upload, the server's mean.

  An update that is not finite is left out, and its client keeps what it had; a
  round without any other, or whose mean would make the server's state infinite,
  leaves that state as it is.

  Args:
    engine, key, birth, federation, state: see their types.
    ids: the clients that take part: see `cohort`. Any number that is no id of a
      client stands for nobody, who costs and changes nothing.
    own: what these clients keep, leaves [ids, ...].

  Returns:
    The state after the round, what the clients keep now, and a report.
  """
  method = engine.method
  ids = parallel.absent_if_unknown(ids, federation.train.size.shape[0])
  opening = open_round(engine, key, birth, federation, state)
  common = method.news is federated.everything  # then counted once for all
  whole = wire.size(method.down, opening.message) if common else None
  client = functools.partial(contribute, engine)
  totals, (kept, told) = each_client(
    client, (opening, whole), ids, own, engine.width, engine.mesh
  )
  sums, chosen, loss, examples, votes = totals
  weights = federated.total_weights(
    chosen, sums, opening.message.weight, examples
  )
  mean = federated.mean(sums, weights)
  shared = method.merge(birth.fixed, state.shared, mean, weights)
  sound = (examples > 0) & tree.is_finite(shared)
  shared, own = tree.where(sound, (shared, kept), (state.shared, own))
  after = State(state.round + 1, shared)
  report = Report(
    train_loss=jnp.where(sound, loss / examples, jnp.nan),
    flip_rate=_flip_rate(engine, opening, after, weights),
    votes=votes,
    **told,
  )
  lost = report.took_part & ~sound
  report = report._replace(
    rejected=report.rejected | lost, diverged=report.diverged | lost
  )
  return after, own, report


def _round_keys(key: jax.Array, number: jax.Array) -> jax.Array:
  """Keys of a round's server, cohort, all its clients and each client."""
  return jax.random.split(jax.random.fold_in(key, number), 4)


def _flip_rate(engine, opening, after, weights) -> jax.Array:
  """Share of the coordinates voted on whose sign changed in the download."""
  message = engine.method.download(
    opening.key_server, opening.birth.fixed, after.shared
  )
  old, new = opening.message.value, message.value
  voted = jax.tree.map(
    lambda x, w: jnp.broadcast_to(w > 0, x.shape), new, weights
  )
  flipped = jax.tree.map(
    lambda a, b, v: ((a < 0) != (b < 0)) & v, old, new, voted
  )
  return tree.count(flipped) / jnp.maximum(tree.count(voted), 1)
