"""Runs an experiment in its folder, from the last checkpoint on."""

import concurrent.futures
import contextlib
import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TextIO

import jax
import jax.numpy as jnp
import tqdm

from hns.engine import metrics, parallel
from hns.errors import shown
from hns.report.files import Row, RunInfo
from hns.runs import checkpoint, devices, interrupt, paths, workdir
from hns.runs.interrupt import Interrupted
from hns.runs.loop import OnRow, Players, train
from hns.runs.programs import Experiment
from hns.runs.progress import Progress, snapshot

_SHARE = 20  # writing checkpoints takes at most 1 / _SHARE of the time


class Schedule(NamedTuple):
  """Fields of a config: see `hns.config`."""

  rounds: int
  eval_every: int
  checkpoint_seconds: float


def record(
  experiment: Experiment,
  schedule: Schedule,
  folder: pathlib.Path,
  file: TextIO,
  run_info: RunInfo,
  on_row: OnRow,
  players: Players,
) -> list[Row]:
  """Runs the remaining rounds; returns the rows of all rounds.

  Args:
    experiment: what to run.
    schedule: the number of rounds, and when to evaluate and to save.
    folder: the run's.
    file: its metrics, from `hns.runs.workdir.claim`.
    run_info: the content of its config.json.
    on_row, players: see `hns.runs.loop.train`.

  Raises:
    InputError: the folder cannot be read or written, or was removed.
    Interrupted: ctrl-C, SIGTERM or SIGHUP came; the run was saved.
  """
  progress, rows = _resume(experiment, folder, file, players)
  done = int(progress.state.round)
  with _between_rounds(
    schedule, folder, file, run_info, done, players.saves_all
  ) as (after, bar):
    for row in train(
      experiment,
      schedule.rounds,
      schedule.eval_every,
      progress,
      after,
      on_row,
      players,
    ):
      _add(_finite(row), rows, folder, file)
      bar.set_postfix_str(_progress_text(rows[-1]))
  return rows


@contextlib.contextmanager
def _between_rounds(
  schedule: Schedule,
  folder: pathlib.Path,
  file: TextIO,
  run_info: RunInfo,
  done: int,
  saves_all: bool,
) -> Iterator[tuple[Callable[[int, Progress], None], tqdm.tqdm]]:
  """Yields a function to call after each round, and a progress bar.

  The function saves checkpoints, and raises `Interrupted` after a signal.
  """
  last, seconds = schedule.rounds, schedule.checkpoint_seconds
  checkpoints = paths.checkpoints(folder)
  with (
    checkpoint_writer(checkpoints, run_info, seconds) as save,
    interrupt.caught() as signals,
    _progress_bar(last, done) as bar,
  ):

    def after_round(number, progress):
      bar.update()
      stop = max(devices.gather(max(signals, default=0)))
      with devices.fail_together():
        workdir.check_not_replaced(folder, file)
        if devices.is_first():
          save(progress, stop > 0 or number == last or saves_all)
      if stop:
        devices.wait_for_all('saved')
        raise Interrupted(_stopped(folder, number, last), stop)

    yield after_round, bar


def _resume(
  experiment: Experiment,
  folder: pathlib.Path,
  file: TextIO,
  players: Players,
) -> tuple[Progress, list[Row]]:
  """The last progress and its rows; removes what was written after it."""
  checkpoints = paths.checkpoints(folder)
  progress = _restore(experiment, checkpoints, players)
  done = int(progress.state.round)
  workdir.check_same_for_all(done, folder)
  with devices.fail_together():
    rows = workdir.truncate(folder, file, done - progress.tally.rounds)
  if devices.is_first():
    checkpoint.clean(checkpoints, done)
  return progress, rows


def _add(row: Row, rows: list[Row], folder: pathlib.Path, file: TextIO) -> None:
  """Appends a row to `rows` and to the file."""
  if devices.is_first():
    _report_rejected(row, rows)
  rows.append(row)
  with devices.fail_together():
    _write(row, folder, file)


@contextlib.contextmanager
def checkpoint_writer(
  folder: pathlib.Path, run_info: RunInfo, seconds: float
) -> Iterator[Callable[[Progress, bool], None]]:
  """Yields `save(progress, now)`, which writes checkpoints in a thread.

  Without `now` it does nothing if the last checkpoint is younger than
  `seconds`, is still being written, or took longer than a twentieth of the time
  since then. With it, the checkpoint is on disk when the call returns.

  Args:
    folder: of this run's checkpoints.
    run_info: identifies the run.
    seconds: the least time between two checkpoints.

  Raises:
    InputError: from `save`, a checkpoint could not be written.
  """
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    job, start = pool.submit(lambda: 0.0), time.monotonic()

    def save(progress, now):
      nonlocal job, start
      if not now:
        age = time.monotonic() - start
        if age < seconds or not job.done() or age < _SHARE * job.result():
          return
      job.result()  # raises the error of the last checkpoint
      start = time.monotonic()
      job = pool.submit(checkpoint.write, folder, run_info, snapshot(progress))
      if now:
        job.result()

    yield save


def _restore(
  experiment: Experiment, folder: pathlib.Path, players: Players
) -> Progress:
  """The newest undamaged checkpoint, on the devices; or the beginning."""
  start = players.begin(experiment)
  with devices.fail_together():
    restored = checkpoint.restore(folder, start)
  if restored is None:
    return start
  state = parallel.replicate(restored.state, experiment.round_config.mesh)
  # A copy that can be donated: a device may use the host's own array.
  return restored._replace(state=jax.tree.map(jnp.array, state))


def _finite(value: Any) -> Any:
  """A JSON value with None for every number that is not finite."""
  if isinstance(value, dict):
    return {name: _finite(x) for name, x in value.items()}
  if isinstance(value, list):
    return [_finite(x) for x in value]
  is_finite = not isinstance(value, float) or math.isfinite(value)
  return value if is_finite else None


def _report_rejected(row: Row, before: list[Row]) -> None:
  """Reports once on stderr that updates of clients were not finite."""
  reported = before[-1].get('rejected_clients') if before else 0
  if row.get('rejected_clients') and not reported:
    tqdm.tqdm.write(
      f'hns: up to round {row["round"]} {row["rejected_clients"]} updates of '
      'clients were not finite and were left out',
      file=sys.stderr,
    )


def _write(row: Row, folder: pathlib.Path, file: TextIO) -> None:
  with workdir.writing(folder):
    file.write(json.dumps(row, allow_nan=False) + '\n')
    file.flush()
    if file.name != os.devnull:
      os.fsync(file.fileno())  # a later checkpoint relies on this row
  workdir.check_not_replaced(folder, file)


def _progress_text(row: Row) -> str:
  number = lambda name: '?' if row[name] is None else f'{row[name]:.3f}'
  return (
    f'personalised {number("personal_accuracy")}, '
    f'global {number("global_accuracy")}, '
    f'{metrics.size(row["uplink_bytes"] + row["downlink_bytes"])}'
  )


def _stopped(folder: pathlib.Path, number: int, rounds: int) -> str:
  return (
    f'{shown(folder)}: stopped and saved after round {number} of {rounds}; the '
    'same command goes on from there'
  )


def _progress_bar(total: int, done: int) -> tqdm.tqdm:
  """A bar of rounds, on a terminal and in the first process."""
  disable = None if devices.is_first() else True
  options = dict(unit='round', dynamic_ncols=True, disable=disable)
  return tqdm.tqdm(total=total, initial=done, **options)
