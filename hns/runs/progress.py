"""The state of a run between two rounds."""

from typing import NamedTuple

import jax
import numpy as np

from hns.engine import metrics
from hns.engine.client_store import ClientStore
from hns.engine.context import State
from hns.engine.rounds import RoundMetrics
from hns.tree import to_host


class PendingRound(NamedTuple):
  """A round whose metrics have not been fetched from the devices.

  Attributes:
    ids: int32 [cohort], the clients of the round.
    metrics: what the round reported.
    seconds: how long it took.
  """

  ids: jax.Array
  metrics: RoundMetrics
  seconds: float


class Progress(NamedTuple):
  """Everything that changes from round to round.

  Attributes:
    state: the server's state and the number of rounds done.
    store: the clients' states.
    tally: totals over the rounds.
    score: float32 [clients], summed scores of the model that a client ended its
      last round with; NaN before its first round.
    pending: the last rounds, which `tally` and `score` do not yet count.
  """

  state: State
  store: ClientStore
  tally: metrics.Tally
  score: np.ndarray
  pending: tuple[PendingRound, ...] = ()


def fetch_metrics(progress: Progress) -> Progress:
  """Counts the pending rounds, whose metrics are fetched in one transfer."""
  tally, score = progress.tally, progress.score.copy()
  for done in jax.device_get(progress.pending):
    tally = metrics.add(tally, done.metrics, done.seconds)
    counted = metrics.counted(done.metrics)
    score[done.ids[counted]] = done.metrics.score[counted]
  return progress._replace(tally=tally, score=score, pending=())


def snapshot(progress: Progress) -> Progress:
  """A copy that later rounds do not change; it shares the clients' arrays.

  Typed PRNG keys in the server's state become their uint32 data.
  """
  progress = fetch_metrics(progress)
  state = jax.tree.map(lambda x: np.array(to_host(x)), progress.state)
  # A store replaces a client's arrays and never writes into them.
  store = progress.store._replace(states=dict(progress.store.states))
  return progress._replace(state=state, store=store)
