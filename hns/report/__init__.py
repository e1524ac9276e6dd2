"""Runs side by side: tables, pictures, TensorBoard.

  python -m hns.report RUN... [--out=FOLDER] [--tensorboard=FOLDER]

prints three tables of the methods whose label matches `--filter`: a line for
each group of runs that differ only in their seed, methods by settings, and
HideNseek relative to each other method (`hns.report.versus`), by the accuracy
that `--accuracy` names, and accuracy against what goes wrong, where it does
(`hns.report.hardship`). `--out` gets them as `report.md`, with pictures
(`hns.report.pictures`), and `table.csv` with a line for each run.
`--tensorboard` gets event files of each run. RUN is a run's folder, a folder of
runs, or a file of runs that `--pack=FILE` wrote (without the numbers of each
client).
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
from hns.engine.metrics import trouble
from hns.errors import InputError, invalid
from hns.report import hardship, versus
from hns.report.files import Row
from hns.report.groups import Group, group, load, matching, pack

_COLUMNS = {
  'round': ('round', '{:d}'),
  'personal_accuracy': ('personalised', '{:.3f}'),
  'personal_accuracy_p10': ('worst tenth', '{:.3f}'),
  'held_accuracy': ('held', '{:.3f}'),
  'unseen_accuracy': ('unseen', '{:.3f}'),
  'global_accuracy': ('global', '{:.3f}'),
  'train_loss': ('objective', '{:.3g}'),
  'diverged_clients': ('diverged', '{:.3f}'),
  'bytes': (versus.BYTES, None),
  'seconds': ('s/round', '{:.2f}'),
}

# Of `compare`, in its order, and their titles.
_ACCURACIES = {
  'held_accuracy': 'held',
  'held_accuracy_p10': 'its worst tenth',
  'personal_accuracy': 'personalised',
  'personal_accuracy_p10': 'its worst tenth',
  'unseen_accuracy': 'unseen',
  'global_accuracy': 'global',
}


def table(rows: list[Row], most: int = 8) -> str:
  """A text table of at most `most` rows, evenly spaced, including the last.

  It has the columns that occur in any row; `-` is a number that is not finite.
  """
  step = max(1, -(-len(rows) // most))
  chosen = rows[::-1][::step][::-1]
  columns = {
    name: column
    for name, column in _COLUMNS.items()
    if name == 'bytes' or any(name in row for row in rows)
  }
  cells = [[title for title, _ in columns.values()]] + [
    [_cell(row, name, form) for name, (_, form) in columns.items()]
    for row in chosen
  ]
  widths = [max(map(len, column)) for column in zip(*cells)]
  return '\n'.join(
    '  '.join(cell.rjust(width) for cell, width in zip(line, widths))
    for line in cells
  )


def _cell(row: Row, name: str, form: str | None) -> str:
  """A number of a row, bytes if `form` is None; '' if it is missing."""
  if form is None:
    return versus.sum_of_bytes([row])
  value = row.get(name)
  if value is None or not math.isfinite(value):
    return '-' if name in row else ''
  return form.format(value)


def compare(groups: list[Group]) -> str:
  """A Markdown table of the last round's metrics, mean and sd over seeds.

  `-` is a number that not all seeds have. Clients that never take part have a
  column where any run has some.
  """
  last = [rows[-1] for g in groups for rows in g.rows]
  accuracies = _ACCURACIES.copy()
  if not any('unseen_accuracy' in row for row in last):
    del accuracies['unseen_accuracy']
  titles = [
    *('data', 'method', 'weights sent down', 'round', 'seeds'),
    *(*accuracies.values(), versus.BYTES),
  ]
  return versus.markdown(titles, [_cells(g, list(accuracies)) for g in groups])


def _cells(group: Group, accuracies: list[str]) -> list[str]:
  """One row of `compare`."""
  last = [rows[-1] for rows in group.rows]
  pick = lambda name: [row[name] for row in last]
  return [
    group.setting,
    group.label,
    f'{round(statistics.mean(group.weights)):,}',
    '/'.join(sorted({str(number) for number in pick('round')})),
    ' '.join(map(str, group.seeds)),
    *(versus.over_seeds(last, name) for name in accuracies),
    versus.sum_of_bytes(last),
  ]


def write(groups: list[Group], text: str, folder: pathlib.Path) -> None:
  """Writes `report.md` around the table `text`, its pictures, `table.csv`."""
  from hns.report import pictures  # matplotlib takes long to import

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
  """For each run its name, method and seed, and numbers of its last row."""
  return [
    {
      'run': str(folder),
      'data': group.setting,
      'method': group.label,
      'seed': seed,
      'bytes': rows[-1]['uplink_bytes'] + rows[-1]['downlink_bytes'],
      **scalars(rows[-1]),
      **over_rounds(rows),
    }
    for group in groups
    for folder, seed, rows in zip(group.folders, group.seeds, group.rows)
  ]


def over_rounds(rows: list[Row]) -> dict[str, float]:
  """The mean of the last five rows, and the best, of each accuracy.

  Accuracies that are not finite in some row are left out.
  """
  summary = {}
  for kind in ('held', 'personal', 'unseen', 'global'):
    name = f'{kind}_accuracy'
    values = [row[name] for row in rows if name in row]
    if values and None not in values:
      summary[f'{name}_last_five'] = statistics.mean(values[-5:])
      summary[f'{name}_best_ever'] = max(values)
  return summary


def scalars(row: Row) -> dict[str, float]:
  """The metrics of a row that are one number."""
  return {k: v for k, v in row.items() if isinstance(v, (int, float))}


def tensorboard(groups: list[Group], folder: pathlib.Path) -> None:
  """Writes every run's metrics as TensorBoard's event files.

  The folder of a run is its path without the part common to all paths. Event
  files in it are replaced.

  Raises:
    InputError: tensorboardX is not installed.
  """
  try:
    from tensorboardX import SummaryWriter
  except ImportError as error:
    raise InputError(
      "--tensorboard needs tensorboardX: pip install -e '.[tensorboard]'"
    ) from error
  each = [run for g in groups for run in zip(g.folders, g.rows)]
  common = os.path.commonpath([path.resolve().parent for path, _ in each])
  taken = collections.Counter()
  for path, rows in tqdm.tqdm(each, 'events', leave=False, disable=None):
    target = folder / path.resolve().relative_to(common)
    taken[target] += 1
    if taken[target] > 1:  # runs of one --pack file may have equal names
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
  only = 'only methods whose label matches this regular expression'
  text('filter', '', only)
  which = 'the accuracy by which methods are compared'
  flags.DEFINE_enum('accuracy', 'held', versus.ACCURACIES, which, values)
  text('tensorboard', '', 'a folder for event files')
  text('pack', '', 'a file for all the numbers')
  return values


@contextlib.contextmanager
def _writing(flag: str, path: str) -> Iterator[None]:
  """Turns an `OSError` into an `InputError`."""
  try:
    yield
  except OSError as error:
    remedy = f'cannot be written ({error.strerror or error}): give another'
    raise invalid(flag, path, remedy) from error


def notes(groups: list[Group], left_out: list[str]) -> str:
  """Warnings for a reader of the tables, one per line.

  Args:
    groups: the runs shown.
    left_out: warnings of `hns.report.groups.load`.
  """
  lines = list(left_out)
  runs = [run for g in groups for run in zip(g.folders, g.rows)]
  for folder, rows in runs:
    names = dict.fromkeys(name for row in rows for name in row)
    gaps = [(row['round'], n) for row in rows for n in names if _gap(row, n)]
    if gaps:
      fields = ', '.join(dict.fromkeys(name for _, name in gaps))
      first = gaps[0][0]
      lines.append(f'{folder}: no finite number, from round {first}: {fields}')
    if trouble(rows):
      lines.append(f'{folder}: {trouble(rows)}')
  return '\n'.join(lines)


def _gap(row: Row, name: str) -> bool:
  """Whether a field holds no number, or one that is not finite."""
  value = row.get(name)
  return None in (value if isinstance(value, list) else [value])


def _report(folders: list[str], values: flags.FlagValues) -> None:
  runs, left_out = load(folders)
  groups = matching(values.filter, group(runs), lambda g: g.label)
  warnings = notes(groups, left_out)
  if not groups:
    raise InputError(f'nothing to compare\n{warnings}')
  tables = [
    compare(groups),
    versus.overview(groups, values.accuracy),
    versus.claims(groups, values.accuracy),
    *hardship.tables(groups),
  ]
  text = '\n\n'.join(filter(None, [*tables, warnings]))
  streams.show(text)
  writers = {
    'out': lambda folder: write(groups, text, folder),
    'pack': lambda file: pack(runs, file),
    'tensorboard': lambda folder: tensorboard(groups, folder),
  }
  for flag, writer in writers.items():
    if values[flag].value:
      with _writing(flag, values[flag].value):
        writer(pathlib.Path(values[flag].value))
