"""The loop over rounds; a row of metrics after each evaluated round."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from hns.engine import (
  client_store,
  evaluation,
  flops,
  metrics,
  parallel,
  privacy,
  rounds,
)
from hns.engine.rounds import RoundMetrics
from hns.errors import InputError, invalid
from hns.report.files import Row
from hns.runs import devices
from hns.runs.first_messages import check_payloads
from hns.runs.programs import Experiment, Programs, programs
from hns.runs.progress import PendingRound, Progress, fetch_metrics


class Moment(NamedTuple):
  """Where a run is when a row of metrics has been made.

  Attributes:
    experiment, programs: what is run.
    progress: after the row's round; valid until the next one.
  """

  experiment: Experiment
  programs: Programs
  progress: Progress


# `(row, moment) -> ` further metrics of the row, numbers by name, or None.
OnRow = Callable[[Row, Moment], Row | None]


class Players(NamedTuple):
  """How a run plays its rounds: in a simulation, or with other machines.

  Attributes:
    programs: `experiment -> ` its compiled programs.
    begin: `experiment -> ` the progress before round 1.
    step: `(experiment, programs, progress) -> ` the progress after a round.
    evaluate: `(experiment, programs, progress) -> Evaluation`.
    saves_all: whether every round is saved before the next one begins, because
      clients elsewhere go on from it.
  """

  programs: Callable[[Experiment], Any]
  begin: Callable[[Experiment], Progress]
  step: Callable[[Experiment, Any, Progress], Progress]
  evaluate: Callable[[Experiment, Any, Progress], evaluation.Evaluation]
  saves_all: bool = False


def simulated() -> Players:
  """All clients in this program."""
  return Players(programs, begin, step, evaluate)


def begin(experiment: Experiment) -> Progress:
  """The progress of a run before round 1."""
  initial = experiment.initial
  score = np.full(experiment.federation.train.size.shape, np.nan, np.float32)
  return Progress(
    rounds.begin(initial),
    client_store.create(initial.client_state),
    metrics.Tally(),
    score,
  )


def train(
  experiment: Experiment,
  last: int,
  eval_every: int,
  progress: Progress | None = None,
  after_round: Callable[[int, Progress], None] = lambda number, progress: None,
  on_row: OnRow = lambda row, moment: None,
  players: Players | None = None,
) -> Iterator[Row]:
  """Yields a row of metrics every `eval_every` rounds and after the last.

  Bytes and rounds count from round 1; `seconds` is a mean since the last row.

  Args:
    experiment: what to run.
    last: the number of rounds in all.
    eval_every: rounds between evaluations.
    progress: where to continue, consumed; None for the beginning.
    after_round: called after every round, before its evaluation; the progress
      is valid until the next round.
    on_row: called with every row; what it returns is added to the row.
    players: who plays the rounds; None: `simulated`.
  """
  players = players or simulated()
  check_payloads(experiment)
  start = time.perf_counter()
  run = players.programs(experiment)
  compile_seconds = time.perf_counter() - start
  client_flops = flops.of(
    experiment.round_config, experiment.initial, experiment.federation
  )
  progress = progress or players.begin(experiment)
  number = int(progress.state.round)
  while True:
    is_new = progress.tally.rounds or progress.pending
    if is_new and (number % eval_every == 0 or number == last):
      progress = fetch_metrics(progress)
      start = time.perf_counter()
      evaluated = players.evaluate(experiment, run, progress)
      row = _row(experiment, progress, client_flops, evaluated)
      row['eval_seconds'] = time.perf_counter() - start
      row = {'round': number, **row, 'compile_seconds': compile_seconds}
      yield _with_more(row, on_row, Moment(experiment, run, progress))
      progress = progress._replace(tally=metrics.evaluated(progress.tally))
    if number == last:
      return
    progress = players.step(experiment, run, progress)
    number += 1
    after_round(number, progress)


def _with_more(row: Row, on_row: OnRow, moment: Moment) -> Row:
  """A row with what a user's function adds; `InputError` for what it may not.

  Raises what that function raises.
  """
  more = on_row(dict(row), moment)
  if more is None:
    return row
  if not isinstance(more, dict):
    kind = type(more).__name__
    raise InputError(
      f'on_row: must return a dict of metrics or None, not {kind}'
    )
  for name, value in more.items():
    if name in row:
      raise InputError(f'on_row: {name!r} is a metric already: choose another')
    number = np.asarray(value)
    if number.ndim or number.dtype.kind not in 'biuf':
      raise InputError(f'on_row: {name!r} is {value!r}: give one real number')
  return row | {name: float(value) for name, value in more.items()}


def step(
  experiment: Experiment,
  run: Programs,
  progress: Progress,
  ids: Sequence[int] | None = None,
) -> Progress:
  """Runs one round; its metrics stay on the devices until they are needed.

  Consumes the progress: go on with what is returned.

  Args:
    experiment, run, progress: what is run, and where it is.
    ids: who takes part, at most as many as a cohort has; an id that no client
      has is of a client that dropped out, which costs and changes nothing.
      None: drawn.

  Raises:
    InputError: ids are too many, or a client is there twice.
  """
  state, store = progress.state, progress.store
  start = time.perf_counter()
  if ids is None:
    ids = run.cohort(experiment.key, experiment.federation, state.round)
  else:
    ids = _chosen(ids, experiment)
  client_states = client_store.fetch(store, ids)
  state, client_states, reported = run.round(
    *experiment.constants, state, ids, client_states
  )
  client_store.keep(store, ids, client_states)
  jax.block_until_ready(state)
  reported = reported._replace(votes=None)  # as large as a model
  done = PendingRound(ids, reported, time.perf_counter() - start)
  return progress._replace(state=state, pending=(*progress.pending, done))


def _chosen(ids: Sequence[int], experiment: Experiment) -> np.ndarray:
  """A user's cohort in the order of the engine's, int32 [cohort]."""
  cohort = experiment.round_config.cohort
  sizes = np.asarray(experiment.federation.train.size)
  given = np.asarray(ids)
  if given.ndim != 1 or (given.size and given.dtype.kind not in 'iu'):
    raise invalid('ids', ids, 'must be a list of whole numbers')
  if np.any(given < 0):
    raise invalid('ids', given.tolist(), 'must be 0 or more')
  present = given[given < len(sizes)]
  if len(given) > cohort:
    raise invalid('ids', len(given), f'a cohort has at most {cohort} clients')
  if len(np.unique(present)) < len(present):
    raise invalid('ids', given.tolist(), 'a client can be there once')
  order = np.lexsort((present, sizes[present]))
  chosen = np.full(cohort, parallel.ABSENT, np.int32)
  chosen[: len(present)] = present[order]
  return chosen


def _row(
  experiment: Experiment,
  progress: Progress,
  client_flops: flops.Flops,
  evaluated: evaluation.Evaluation,
) -> Row:
  """A row of metrics of a progress without pending rounds."""
  tally = progress.tally
  count = np.asarray(experiment.units)
  return {
    **metrics.summarise(evaluated),
    **metrics.held_accuracy(progress.score, count),
    **metrics.traffic(tally, client_flops),
    **privacy.spent(experiment.privacy, int(progress.state.round)),
    'seconds': tally.seconds_since / tally.rounds,
  }


def evaluate(
  experiment: Experiment, run: Programs, progress: Progress
) -> evaluation.Evaluation:
  """Evaluates the personal models of `eval_client_ids` and the global model.

  Each client trains as in the next round; the results are discarded. The
  clients of `round_config.unseen` do the same, apart from all others.
  """
  chosen = np.asarray(experiment.eval_client_ids, np.int32)
  unseen = np.asarray(experiment.round_config.unseen, np.int32)
  count = np.asarray(experiment.units)
  personal, votes = zip(*_evaluate_blocks(experiment, run, progress, chosen))
  apart = _evaluate_blocks(experiment, run, progress, unseen)
  args = *experiment.constants, progress.state, chosen
  shared, server_signs = jax.device_get(run.evaluate_global(*args))
  return evaluation.Evaluation(
    np.concatenate(personal),
    shared,
    count[chosen],
    jax.tree.map(lambda *blocks: np.sum(blocks, 0), *votes),
    server_signs,
    np.concatenate([unseen[:0], *(right for right, _ in apart)]),
    count[unseen],
  )


def _evaluate_blocks(
  experiment: Experiment,
  run: Programs,
  progress: Progress,
  chosen: np.ndarray,
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
  """Scores and summed signs of as many clients a time as a cohort has.

  Of their models after local training: float32 [block], and int32 [weights]
  or None.
  """
  cohort = experiment.round_config.cohort
  for first in tqdm.tqdm(
    range(0, len(chosen), cohort),
    'evaluating',
    leave=False,
    delay=5,
    disable=None if devices.is_first() else True,
  ):
    block = chosen[first : first + cohort]
    ids = np.full(cohort, parallel.ABSENT, np.int32)
    ids[: len(block)] = block
    reported = _evaluate_personal(experiment, run, progress, ids)
    yield reported.score[: len(block)], reported.votes


def _evaluate_personal(
  experiment: Experiment,
  run: Programs,
  progress: Progress,
  ids: np.ndarray,
) -> RoundMetrics:
  """The metrics, on the host, of a round whose results are discarded."""
  copy = jax.tree.map(jnp.array, progress.state)  # the program consumes it
  client_states = client_store.fetch(progress.store, ids)
  args = *experiment.constants, copy, ids, client_states
  return jax.device_get(run.evaluate_personal(*args)[-1])
