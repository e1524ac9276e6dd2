"""Runs a config file's sweep, each run a process, so many at a time.

  python launch/sweep.py --config=configs/mnist.py --workdir=runs/mnist

A run's folder in the work folder is named by what the run varies and holds all
that it said, log.txt. The same command goes on after failures or when it was
interrupted: complete runs are left alone. At the end there are table.csv, a
line a run, and table.md, a line for runs that differ in their seed alone.
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
from typing import Any

import jobs
import tqdm
from absl import flags

from hns import command, report
from hns import config as configs
from hns.errors import invalid
from hns.report import files, groups
from hns.runs import commandline, sweeps
from hns.runs.sweeps import Run


def main(words: list[str]) -> None:
  with command.one_line():
    values = _flags()
    given = commandline.parse(words, values, __doc__)
    stem = pathlib.Path(configs.case_of(given.file)[0]).stem
    name = '-'.join(filter(None, [stem, values.sweep]))
    folder = pathlib.Path(values.workdir or f'runs/{name}')
    planned = sweeps.plan(
      functools.partial(config_of, given.file, given.changed),
      sweeps.read(given.file, given.changed, values.sweep),
      folder,
    )
    chosen = sweeps.choose(planned, values.filter, values.index)
    # Not by what is left: a run goes on only with the devices it began with.
    slots = jobs.share(values.jobs, len(chosen), jobs.cores(), jobs.gpus())
    print(describe(chosen, len(slots)), flush=True)
    if not values.dry_run:
      run = functools.partial(command_of, given.file, given.changed)
      with command.one_line(OSError):
        sys.exit(carry_out(planned, chosen, run, slots))


def _flags() -> flags.FlagValues:
  values = flags.FlagValues()
  text = functools.partial(flags.DEFINE_string, flag_values=values)
  number = functools.partial(flags.DEFINE_integer, flag_values=values)
  text('workdir', '', 'the folder of all runs; default runs/CONFIG-SWEEP')
  text('sweep', '', "one of the file's SWEEPS; default its sweep()")
  text('filter', '', 'only runs in whose name this regular expression is found')
  one = 'only this one of them, from 0: for arrays of jobs; -1: all'
  number('index', -1, one, lower_bound=-1)
  slots = 'processes at a time; 0: one a GPU, or else one a CPU core'
  number('jobs', 0, slots, lower_bound=0)
  flags.DEFINE_boolean('dry_run', False, 'only show the plan', values)
  return values


@functools.cache
def _read(file: str) -> Any:
  return commandline.read(file)


def config_of(file: str, given: dict[str, Any], case: str) -> Any:
  """The config of a case of a file, with the fields that the user set.

  Raises `InputError` for an algorithm that is not that of the case.
  """
  whole = f'{configs.case_of(file)[0]}:{case}' if case else file
  config = sweeps.change(_read(whole), given)
  if case and config.algorithm != _read(whole).algorithm:
    remedy = f'the case {case} has its own: leave this out'
    raise invalid('config.algorithm', config.algorithm, remedy)
  return config


def command_of(file: str, given: dict[str, Any], run: Run) -> list[str]:
  """The command of one run."""
  fields = {**given, **run.point}
  case = fields.pop('config', '')
  file = f'{configs.case_of(file)[0]}:{case}' if case else file
  return [
    *(sys.executable, '-m', 'hns.main'),
    *(f'--config={file}', f'--workdir={run.folder}'),
    *(f'--config.{field}={value}' for field, value in fields.items()),
  ]


def describe(chosen: list[Run], at_once: int) -> str:
  """The plan: what is done, what is left, and how long that takes."""
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
  lines += [f'hns: {said}' for said in map(sweeps.damage, chosen) if said]
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
  """How long a complete run took by its metrics: its start is not counted.

  None where a row does not tell.
  """
  rows = files.read(run.folder)
  names = 'seconds', 'eval_seconds', 'compile_seconds'
  times = [[row.get(name) for name in names] for row in rows]
  if any(None in row for row in times):
    return None
  rounds, looks, compiling = zip(*times)
  return (
    statistics.mean(rounds) * rows[-1]['round'] + sum(looks) + compiling[-1]
  )


def carry_out(
  planned: list[Run],
  chosen: list[Run],
  command: Callable[[Run], list[str]],
  slots: list[jobs.Slot],
) -> int:
  """Runs what is left of `chosen`; writes tables of `planned`; names failures.

  Returns:
    The exit code: 0 if all of `chosen` is complete.
  """
  stopping = []
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: stopping.append(number))
  failed = run_left(chosen, command, slots, stopping)
  folder = chosen[0].folder.parent
  print(write_tables(planned, failed, folder))
  for place, error in failed.items():
    print(f'hns: {place.name} failed: {error} ({place}/log.txt)')
  for said in filter(None, map(sweeps.damage, chosen)):
    print(f'hns: left out: {said}')
  missing = sum(not sweeps.is_complete(run) for run in chosen)
  done = f'{len(chosen) - missing} of {len(chosen)} runs done'
  print(f'{done}: {folder}/table.csv, table.md')
  if missing and stopping:
    print('hns: stopped; the same command goes on', file=sys.stderr)
    return 128 + stopping[0]
  return int(bool(failed or missing))


def run_left(chosen, command, slots, stopping) -> dict[pathlib.Path, str]:
  """Runs with a bar; what each run that failed died of, by folder."""
  todo = {run.folder: run for run in sweeps.incomplete(chosen)}
  work = [jobs.Job(folder, command(run)) for folder, run in todo.items()]
  complete = lambda job: sweeps.is_complete(todo[job.folder])
  looks = jobs.run_all(work, complete, slots, stopping)
  bar = tqdm.tqdm(
    total=len(work), unit='run', dynamic_ncols=True, disable=None, smoothing=0
  )
  failed = {}
  with bar, contextlib.closing(looks):
    for ended in looks:
      failed |= {job.folder: error for job, error in ended if error}
      bar.set_postfix_str(f'{len(failed)} failed', refresh=False)
      bar.update(len(ended))
      bar.refresh()
  return failed


def write_tables(planned: list[Run], failed: dict, folder: pathlib.Path) -> str:
  """Writes table.csv and table.md; returns what the second says."""
  folder.mkdir(parents=True, exist_ok=True)
  fields = list(dict.fromkeys(field for run in planned for field in run.point))
  lines = [record(run, fields, run.folder in failed) for run in planned]
  names = list(dict.fromkeys(name for line in lines for name in line))
  with replaced(folder / 'table.csv') as file:
    writer = csv.DictWriter(file, names)
    writer.writeheader()
    writer.writerows(lines)
  done = [run.folder for run in planned if sweeps.is_complete(run)]
  found, left_out = groups.load(done)
  alike = groups.group(found)
  text = '\n\n'.join([report.compare(alike), report.notes(alike, left_out)])
  with replaced(folder / 'table.md') as file:
    file.write(text.strip() + '\n')
  return text.strip()


def record(run: Run, fields: list[str], failed: bool) -> dict[str, Any]:
  """A run's fields, how it stands, and the numbers of its last row."""
  fields = configs.leaves(run.config) | run.point
  mine = lambda field: '.' not in field or field in run.point
  state = state_of(run)
  rows = [] if state == 'damaged' else files.read(run.folder)
  return {
    'run': run.folder.name,
    **{f: fields.get(f, '') if mine(f) else '' for f in fields},
    'status': 'failed' if failed else state,
    **(report.scalars(rows[-1]) if rows else {}),
  }


@contextlib.contextmanager
def replaced(path: pathlib.Path) -> Iterator[Any]:
  """A file to write that takes the place of `path` once it is whole."""
  part = tempfile.NamedTemporaryFile(
    'w', dir=path.parent, newline='', delete=False
  )
  with part as file:
    yield file
  os.chmod(part.name, 0o644)
  os.replace(part.name, path)


if __name__ == '__main__':
  main(sys.argv)
