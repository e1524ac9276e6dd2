"""Runs the sweep of a config file, each run in its own process.

  python launch/sweep.py --config=configs/mnist.py --workdir=runs/mnist

Each run has a folder in the work folder, named after the fields that it
changes, with its output in log.txt. After a failure or an interruption the same
command continues; complete runs are skipped. At the end it writes table.csv,
with a line for each run, and table.md, with a line for runs that differ only in
their seed.
"""

import contextlib
import csv
import functools
import math
import os
import pathlib
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, TextIO

import jobs
import tqdm
from absl import flags

from hns import command, report, streams
from hns import config as configs
from hns.errors import invalid
from hns.report import files, groups
from hns.runs import commandline, sweeps
from hns.runs.sweeps import Run
from hns.values import ConfigDict


def main(words: list[str]) -> None:
  with command.one_line():
    values = _flags()
    parsed = commandline.parse(words, values, __doc__)
    stem = pathlib.Path(configs.case_of(parsed.file)[0]).stem
    name = '-'.join(filter(None, [stem, values.sweep]))
    folder = pathlib.Path(values.workdir or f'runs/{name}')
    planned = sweeps.plan(
      functools.partial(config_of, parsed.file, parsed.changed),
      sweeps.read(parsed.file, parsed.changed, values.sweep),
      folder,
    )
    chosen = sweeps.choose(planned, values.filter, values.index)
    # Complete runs count too: a run can only continue on as many devices as it
    # began with.
    slots = jobs.share(values.jobs, len(chosen), jobs.cores(), jobs.gpus())
    streams.show(describe(chosen, len(slots)))
    if not values.dry_run:
      run = functools.partial(command_of, parsed.file, parsed.changed)
      with command.one_line(OSError):
        sys.exit(carry_out(planned, chosen, run, slots))


def _flags() -> flags.FlagValues:
  values = flags.FlagValues()
  text = functools.partial(flags.DEFINE_string, flag_values=values)
  number = functools.partial(flags.DEFINE_integer, flag_values=values)
  text('workdir', '', 'the folder of all runs; default runs/CONFIG-SWEEP')
  text('sweep', '', "one of the file's SWEEPS; default its sweep()")
  text('filter', '', 'only runs whose name matches this regular expression')
  one = 'only this one of them, from 0: for arrays of jobs; -1: all'
  number('index', -1, one, lower_bound=-1)
  slots = 'processes at a time; 0: one a GPU, or else one a CPU core'
  number('jobs', 0, slots, lower_bound=0)
  flags.DEFINE_boolean('dry_run', False, 'only show the plan', values)
  return values


@functools.cache
def _read(file: str) -> ConfigDict:
  return commandline.read(file)


def config_of(file: str, fixed: dict[str, Any], case: str) -> ConfigDict:
  """The config of a case of a file, with the fields that the user set.

  Raises `InputError` for another algorithm than that of the case.
  """
  path = f'{configs.case_of(file)[0]}:{case}' if case else file
  config = sweeps.change(_read(path), fixed)
  if case and config.algorithm != _read(path).algorithm:
    remedy = f'the case {case} has its own: leave this out'
    raise invalid('config.algorithm', config.algorithm, remedy)
  return config


def command_of(file: str, fixed: dict[str, Any], run: Run) -> list[str]:
  """The command of one run."""
  fields = {**fixed, **run.point}
  case = fields.pop('config', '')
  file = f'{configs.case_of(file)[0]}:{case}' if case else file
  return [
    *(sys.executable, '-m', 'hns.main'),
    *(f'--config={file}', f'--workdir={run.folder}'),
    *(f'--config.{field}={value}' for field, value in fields.items()),
  ]


def describe(chosen: list[Run], at_once: int) -> str:
  """The plan as text: the state of each run, and the time that is left."""
  states = [state_of(run) for run in chosen]
  lines = [f'{word}  {run.folder.name}' for word, run in zip(states, chosen)]
  count = {word: states.count(word) for word in ('done', 'left', 'damaged')}
  todo, damaged = count['left'], count['damaged']
  lines.append(
    f'{len(chosen)} runs (0-{len(chosen) - 1}) in {chosen[0].folder.parent}: '
    f'{count["done"]} done, {todo} left, {at_once} at a time'
    + f', {damaged} damaged and left out'
    * bool(damaged)
  )
  lines += [f'hns: {text}' for text in map(sweeps.damage, chosen) if text]
  done = [run for word, run in zip(states, chosen) if word == 'done']
  times = [x for x in map(seconds_of, done) if x is not None]
  if todo and times:
    each = statistics.median(times)
    time = tqdm.tqdm.format_interval
    lines.append(
      f'about {time(each * math.ceil(todo / at_once))} '
      f'if they take {time(each)} each, the median of those done'
    )
  elif todo:
    lines.append('how long that takes is known when the first run is done')
  return '\n'.join(lines)


def state_of(run: Run) -> str:
  """Done, left, or damaged."""
  if sweeps.damage(run):
    return 'damaged'
  return 'done' if sweeps.is_complete(run) else 'left'


def seconds_of(run: Run) -> float | None:
  """How long a complete run took, without its start; None if unknown."""
  rows = files.read(run.folder)
  names = 'seconds', 'eval_seconds', 'compile_seconds'
  times = [[row.get(name) for name in names] for row in rows]
  if any(None in row for row in times):
    return None
  rounds, evals, compiling = zip(*times)
  return (
    statistics.mean(rounds) * rows[-1]['round'] + sum(evals) + compiling[-1]
  )


def carry_out(
  planned: list[Run],
  chosen: list[Run],
  command: Callable[[Run], list[str]],
  slots: list[jobs.Slot],
) -> int:
  """Runs the incomplete runs and writes the tables.

  Args:
    planned: all runs, for the tables.
    chosen: those to run.
    command: the command of a run.
    slots: shares of the machine.

  Returns:
    The exit code: 0 if all of `chosen` is complete.
  """
  stopping = []
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: stopping.append(number))
  failed = run_left(chosen, command, slots, stopping)
  folder = chosen[0].folder.parent
  streams.show(write_tables(planned, failed, folder))
  for path, error in failed.items():
    streams.show(f'hns: {path.name} failed: {error} ({path}/log.txt)')
  for damage in filter(None, map(sweeps.damage, chosen)):
    streams.show(f'hns: left out: {damage}')
  missing = sum(not sweeps.is_complete(run) for run in chosen)
  done = f'{len(chosen) - missing} of {len(chosen)} runs done'
  streams.show(f'{done}: {folder}/table.csv, table.md')
  if missing and stopping:
    print('hns: stopped; the same command goes on', file=sys.stderr)
    return 128 + stopping[0]
  return int(bool(failed or missing))


def run_left(
  chosen: list[Run],
  command: Callable[[Run], list[str]],
  slots: list[jobs.Slot],
  stopping: list[int],
) -> dict[pathlib.Path, str]:
  """Runs the incomplete runs; returns the errors of failed ones by folder."""
  todo = {run.folder: run for run in sweeps.incomplete(chosen)}
  work = [jobs.Job(folder, command(run)) for folder, run in todo.items()]
  complete = lambda job: sweeps.is_complete(todo[job.folder])
  updates = jobs.run_all(work, complete, slots, stopping)
  bar = tqdm.tqdm(
    total=len(work), unit='run', dynamic_ncols=True, disable=None, smoothing=0
  )
  failed = {}
  with bar, contextlib.closing(updates):
    for ended in updates:
      failed |= {job.folder: error for job, error in ended if error}
      bar.set_postfix_str(f'{len(failed)} failed', refresh=False)
      bar.update(len(ended))
      bar.refresh()
  return failed


def write_tables(planned: list[Run], failed: dict, folder: pathlib.Path) -> str:
  """Writes table.csv and table.md; returns the text of the second."""
  folder.mkdir(parents=True, exist_ok=True)
  fields = list(dict.fromkeys(field for run in planned for field in run.point))
  lines = [record(run, fields, run.folder in failed) for run in planned]
  names = list(dict.fromkeys(name for line in lines for name in line))
  with replaced(folder / 'table.csv') as file:
    writer = csv.DictWriter(file, names)
    writer.writeheader()
    writer.writerows(lines)
  done = [run.folder for run in planned if sweeps.is_complete(run)]
  saved, left_out = groups.load(done)
  grouped = groups.group(saved)
  notes = report.notes(grouped, left_out)
  text = '\n\n'.join([report.compare(grouped), notes])
  with replaced(folder / 'table.md') as file:
    file.write(text.strip() + '\n')
  return text.strip()


def record(run: Run, fields: list[str], failed: bool) -> dict[str, Any]:
  """A run's fields, its state, and the numbers of its last row."""
  fields = configs.leaves(run.config) | run.point
  shown = lambda field: '.' not in field or field in run.point
  state = state_of(run)
  rows = [] if state == 'damaged' else files.read(run.folder)
  return {
    'run': run.folder.name,
    **{f: fields.get(f, '') if shown(f) else '' for f in fields},
    'status': 'failed' if failed else state,
    **(report.scalars(rows[-1]) if rows else {}),
  }


@contextlib.contextmanager
def replaced(path: pathlib.Path) -> Iterator[TextIO]:
  """Yields a file that replaces `path` once it is complete."""
  part = tempfile.NamedTemporaryFile(
    'w', dir=path.parent, newline='', delete=False
  )
  with part as file:
    yield file
  os.chmod(part.name, 0o644)
  os.replace(part.name, path)


if __name__ == '__main__':
  main(sys.argv)
