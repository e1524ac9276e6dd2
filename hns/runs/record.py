"""An experiment played into its run's folder, from wherever it was left."""

import json
import math
import os
import pathlib
import sys
from typing import Any, NamedTuple, TextIO

import jax
import jax.numpy as jnp
import tqdm

from hns.engine import metrics, parallel
from hns.errors import shown
from hns.runs import checkpoint, devices, interrupt, workdir
from hns.runs.checkpoint import Progress
from hns.runs.interrupt import Interrupted
from hns.runs.loop import Experiment, begin, train


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
  about: dict[str, Any],
) -> list[dict[str, Any]]:
  """Plays the rounds that are left; returns the rows of all.

  Args:
    experiment: what to run.
    schedule: how long, and when to look and save.
    folder: the run's.
    file: its metrics, from `hns.workdir.claim`.
    about: what its config.json says.

  Raises:
    InputError: the folder cannot be read or written, or is no longer there.
    Interrupted: ctrl-C, SIGTERM or SIGHUP came; the run was saved.
  """
  checkpoints = workdir.checkpoints(folder)
  progress = _restore(experiment, checkpoints)
  done = int(progress.state.round)
  workdir.check_shared(done, folder)
  with devices.together():
    rows = workdir.cut(folder, file, done - progress.tally.rounds)
  first = devices.is_first()
  if first:
    checkpoint.clean(checkpoints, done)
  seconds = schedule.checkpoint_seconds
  with (
    checkpoint.writer(checkpoints, about, seconds) as save,
    interrupt.caught() as signals,
    _bar(schedule.rounds, done, quiet=not first) as bar,
  ):

    def played(number, progress):
      bar.update()
      stop = max(devices.gather(max(signals, default=0)))
      with devices.together():
        workdir.check_there(folder, file)
        if first:
          save(progress, stop > 0 or number == schedule.rounds)
      if stop:
        devices.wait_for_all('saved')
        raise Interrupted(_farewell(folder, number, schedule.rounds), stop)

    for row in train(
      experiment, schedule.rounds, schedule.eval_every, progress, played
    ):
      row = _finite(row)
      if first:
        _say_rejected(row, rows)
      rows.append(row)
      with devices.together():
        _write(row, folder, file)
      bar.set_postfix_str(_progress_text(row))
  return rows


def _restore(experiment: Experiment, folder: pathlib.Path) -> Progress:
  """The newest whole checkpoint, on the devices; or the beginning."""
  start = begin(experiment)
  with devices.together():
    found = checkpoint.restore(folder, start)
  if found is None:
    return start
  state = parallel.replicate(found.state, experiment.round_config.mesh)
  # A copy that can be donated: a device may read the host's own array.
  return found._replace(state=jax.tree.map(jnp.array, state))


def _finite(value: Any) -> Any:
  """The same with None for every number that JSON does not know."""
  if isinstance(value, dict):
    return {name: _finite(x) for name, x in value.items()}
  if isinstance(value, list):
    return [_finite(x) for x in value]
  wild = isinstance(value, float) and not math.isfinite(value)
  return None if wild else value


def _say_rejected(row, before) -> None:
  """Says once on stderr that updates were not finite."""
  known = before[-1].get('rejected_clients') if before else 0
  if row.get('rejected_clients') and not known:
    said = 'updates of clients were not finite and were left out'
    tqdm.tqdm.write(
      f'hns: up to round {row["round"]} {row["rejected_clients"]} {said}',
      file=sys.stderr,
    )


def _write(row, folder, file) -> None:
  with workdir.writing(folder):
    file.write(json.dumps(row, allow_nan=False) + '\n')
    file.flush()
    if file.name != os.devnull:
      os.fsync(file.fileno())  # before a checkpoint that counts on it
  workdir.check_there(folder, file)


def _progress_text(row) -> str:
  told = lambda name: '?' if row[name] is None else f'{row[name]:.3f}'
  return (
    f'personalised {told("personal_accuracy")}, '
    f'global {told("global_accuracy")}, '
    f'{metrics.size(row["uplink_bytes"] + row["downlink_bytes"])}'
  )


def _farewell(folder, number, rounds) -> str:
  return (
    f'{shown(folder)}: stopped and saved after round {number} of {rounds}; the '
    'same command goes on from there'
  )


def _bar(total: int, done: int, quiet: bool) -> tqdm.tqdm:
  """Only on a terminal, and there unless `quiet`."""
  shown = dict(unit='round', dynamic_ncols=True, disable=quiet or None)
  return tqdm.tqdm(total=total, initial=done, **shown)
