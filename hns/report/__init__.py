"""Runs side by side: tables, pictures, TensorBoard.

  python -m hns.report RUN... [--out=FOLDER] [--tensorboard=FOLDER]

prints a line for every group of runs that differ in their seed alone, methods
by settings, and ours against each rival (`hns.report.versus`), by the accuracy
that `--accuracy` names, of methods in whose label `--filter` is found. The
first folder gets it as `report.md`, with pictures (`hns.report.pictures`), and
`table.csv`, a line for every run; the second, event files of every run. RUN is
a run's folder, a folder of such, or a file of runs that `--pack=FILE` has
written, without what each client did.
"""

import collections
import contextlib
import csv
import functools
import math
import os
import pathlib
import statistics
from collections.abc import Iterator
from typing import Any

import numpy as np
import tqdm
from absl import flags

from hns import command, streams
from hns.engine.metrics import size, trouble
from hns.errors import InputError, invalid
from hns.report import pictures, versus
from hns.report.files import Row
from hns.report.groups import Group, group, load, matching, pack

_COLUMNS = {
  'round': ('round', '{:d}'),
  'personal_accuracy': ('personalised', '{:.3f}'),
  'personal_accuracy_p10': ('worst tenth', '{:.3f}'),
  'held_accuracy': ('held', '{:.3f}'),
  'global_accuracy': ('global', '{:.3f}'),
  'train_loss': ('objective', '{:.3g}'),
  'diverged_clients': ('diverged', '{:.3f}'),
  'uplink_bytes': ('up', None),
  'downlink_bytes': ('down', None),
  'seconds': ('s/round', '{:.2f}'),
}


def table(rows: list[Row], most: int = 8) -> str:
  """A text table of at most `most` rows, evenly chosen, the last included.

  Its columns are those that a row tells; `-` stands for a number that is not
  finite.
  """
  step = max(1, -(-len(rows) // most))
  chosen = rows[::-1][::step][::-1]
  told = {
    name: column
    for name, column in _COLUMNS.items()
    if any(name in row for row in rows)
  }
  cells = [[title for title, _ in told.values()]] + [
    [_cell(row, name, form) for name, (_, form) in told.items()]
    for row in chosen
  ]
  widths = [max(map(len, column)) for column in zip(*cells)]
  return '\n'.join(
    '  '.join(cell.rjust(width) for cell, width in zip(line, widths))
    for line in cells
  )


def _cell(row: Row, name: str, form: str | None) -> str:
  """A number of a row, as bytes without a format; '' where it is not told."""
  value = row.get(name)
  if value is None or not math.isfinite(value):
    return '-' if name in row else ''
  return form.format(value) if form else size(value)


def compare(groups: list[Group]) -> str:
  """A Markdown table: the last round's metrics, mean and sd over seeds.

  `-` stands for a number that not all seeds have.
  """
  titles = (
    'dataset | clients | method | weights sent down | round | seeds '
    '| held | its worst tenth | personalised | its worst tenth | global '
    '| up | down'
  )
  return versus.markdown(titles.split(' | '), [_cells(g) for g in groups])


def _cells(group: Group) -> list[str]:
  """One row of `compare`."""
  last = [rows[-1] for rows in group.rows]
  pick = lambda name: [row[name] for row in last]
  accuracies = (
    *('held_accuracy', 'held_accuracy_p10'),
    *('personal_accuracy', 'personal_accuracy_p10', 'global_accuracy'),
  )
  return [
    group.config['dataset'],
    str(group.config['num_clients']),
    group.label,
    f'{round(statistics.mean(group.weights)):,}',
    '/'.join(sorted({str(number) for number in pick('round')})),
    ' '.join(map(str, group.seeds)),
    *(versus.over_seeds(last, name) for name in accuracies),
    size(statistics.mean(pick('uplink_bytes'))),
    size(statistics.mean(pick('downlink_bytes'))),
  ]


def write(groups: list[Group], text: str, folder: pathlib.Path) -> None:
  """Writes `report.md` around the table `text`, its pictures, `table.csv`."""
  folder.mkdir(parents=True, exist_ok=True)
  drawn = pictures.write(groups, folder)
  parts = [f'![{name}]({name})\n\n{caption}' for name, caption in drawn.items()]
  page = '\n\n'.join(['# Runs compared', text, *parts])
  (folder / 'report.md').write_text(page + '\n')
  lines = records(groups)
  with open(folder / 'table.csv', 'w', newline='') as file:
    writer = csv.DictWriter(
      file, list(dict.fromkeys(k for x in lines for k in x))
    )
    writer.writeheader()
    writer.writerows(lines)


def records(groups: list[Group]) -> list[dict[str, Any]]:
  """What each run is and the numbers of its last row, one dict a run."""
  return [
    {
      'run': str(folder),
      'dataset': group.config['dataset'],
      'method': group.label,
      'seed': seed,
      **scalars(rows[-1]),
      **over_rounds(rows),
    }
    for group in groups
    for folder, seed, rows in zip(group.folders, group.seeds, group.rows)
  ]


def over_rounds(rows: list[Row]) -> dict[str, float]:
  """Of each accuracy, the mean of the last five rows, and the best ever.

  Of those alone that are finite in every row that tells them.
  """
  found = {}
  for name in ('held_accuracy', 'personal_accuracy', 'global_accuracy'):
    values = [row[name] for row in rows if name in row]
    if values and None not in values:
      found[f'{name}_last_five'] = statistics.mean(values[-5:])
      found[f'{name}_best_ever'] = max(values)
  return found


def scalars(row: Row) -> dict[str, float]:
  """The metrics of a row that are one number."""
  return {k: v for k, v in row.items() if isinstance(v, (int, float))}


def tensorboard(groups: list[Group], folder: pathlib.Path) -> None:
  """Writes every run's metrics as TensorBoard's event files.

  A run keeps its path below what all paths have in common; event files that
  are there already are replaced.

  Raises:
    InputError: tensorboardX is not installed.
  """
  try:
    from tensorboardX import SummaryWriter
  except ImportError as error:
    raise InputError(
      "--tensorboard needs tensorboardX: pip install 'hns[tensorboard]'"
    ) from error
  each = [run for g in groups for run in zip(g.folders, g.rows)]
  common = os.path.commonpath([path.resolve().parent for path, _ in each])
  taken = collections.Counter()
  for path, rows in tqdm.tqdm(each, 'events', leave=False, disable=None):
    target = folder / path.resolve().relative_to(common)
    taken[target] += 1
    if taken[target] > 1:  # of one file of --pack
      target = target.with_name(f'{target.name}-{taken[target]}')
    for old in target.glob('events.out.tfevents.*'):
      old.unlink()
    with SummaryWriter(str(target)) as writer:
      for row in rows:
        for name, value in scalars(row).items():
          writer.add_scalar(name, value, row['round'])
        clients = row.get('client_accuracies')
        if clients and None not in clients:
          writer.add_histogram(
            'client_accuracies', np.array(clients), row['round']
          )


def main(words: list[str]) -> None:
  values = _flags()
  with command.one_line(OSError):
    runs = command.parse(words, values, __doc__, count=None)
    if not runs:
      raise InputError('give the work folders of runs')
    _report(runs, values)


def _flags() -> flags.FlagValues:
  values = flags.FlagValues()
  text = functools.partial(flags.DEFINE_string, flag_values=values)
  text('out', '', 'a folder for tables and pictures')
  only = 'only methods in which this is found: a regular expression'
  text('filter', '', only)
  which = 'which ours and rivals are compared by'
  flags.DEFINE_enum('accuracy', 'held', versus.ACCURACIES, which, values)
  text('tensorboard', '', 'a folder for event files')
  text('pack', '', 'a file for all the numbers')
  return values


@contextlib.contextmanager
def _writing(flag: str, path: str) -> Iterator[None]:
  """Makes an `InputError` of what the disk says."""
  try:
    yield
  except OSError as error:
    remedy = f'cannot be written ({error.strerror or error}): give another'
    raise invalid(flag, path, remedy) from error


def notes(groups: list[Group], left_out: list[str]) -> str:
  """What a reader of the tables must know, a line each.

  Args:
    groups: the runs shown.
    left_out: what `hns.report.groups.load` said of others.
  """
  said = list(left_out)
  runs = [run for g in groups for run in zip(g.folders, g.rows)]
  for folder, rows in runs:
    names = dict.fromkeys(name for row in rows for name in row)
    gaps = [(row['round'], n) for row in rows for n in names if _gap(row, n)]
    if gaps:
      fields = ', '.join(dict.fromkeys(name for _, name in gaps))
      first = gaps[0][0]
      said.append(f'{folder}: no finite number, from round {first}: {fields}')
    if trouble(rows):
      said.append(f'{folder}: {trouble(rows)}')
  return '\n'.join(said)


def _gap(row: Row, name: str) -> bool:
  """Whether a field holds no number, or one that is not finite."""
  value = row.get(name)
  return None in (value if isinstance(value, list) else [value])


def _report(folders: list[str], values: flags.FlagValues) -> None:
  found, left_out = load(folders)
  groups = matching(values.filter, group(found), lambda g: g.label)
  said = notes(groups, left_out)
  if not groups:
    raise InputError(f'nothing to compare\n{said}')
  tables = versus.overview, versus.claims
  parts = [compare(groups), *(t(groups, values.accuracy) for t in tables), said]
  text = '\n\n'.join(filter(None, parts))
  streams.show(text)
  writers = {
    'out': lambda folder: write(groups, text, folder),
    'pack': lambda file: pack(found, file),
    'tensorboard': lambda folder: tensorboard(groups, folder),
  }
  for flag, writer in writers.items():
    if values[flag].value:
      with _writing(flag, values[flag].value):
        writer(pathlib.Path(values[flag].value))
