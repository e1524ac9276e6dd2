"""Metrics files to tables and pictures.

  python -m hns.report RUN...

prints a line for every group of runs that differ in their seed alone.
"""

import collections
import json
import pathlib
import statistics
import sys
from typing import Any

_COLUMNS = {
  'round': ('round', '{:d}'),
  'personal_accuracy': ('personalised', '{:.3f}'),
  'personal_accuracy_p10': ('worst tenth', '{:.3f}'),
  'global_accuracy': ('global', '{:.3f}'),
  'uplink_bytes': ('up', None),
  'downlink_bytes': ('down', None),
  'seconds': ('s/round', '{:.2f}'),
}


def read(workdir: str | pathlib.Path) -> list[dict[str, Any]]:
  """The rows of a run's `metrics.jsonl`; a last line cut short is left out."""
  text = (pathlib.Path(workdir) / 'metrics.jsonl').read_text()
  return [json.loads(line) for line in text.split('\n')[:-1]]


def size(count: float) -> str:
  """A number of bytes for people: 1.5 MB."""
  for unit in ('B', 'kB', 'MB', 'GB'):
    if count < 1000:
      return f'{count:.3g} {unit}'
    count /= 1000
  return f'{count:.3g} TB'


def table(rows: list[dict[str, Any]], most: int = 8) -> str:
  """A text table of at most `most` rows, evenly chosen, the last included."""
  step = max(1, -(-len(rows) // most))
  chosen = rows[::-1][::step][::-1]
  cells = [[title for title, _ in _COLUMNS.values()]] + [
    [
      form.format(row[name]) if form else size(row[name])
      for name, (_, form) in _COLUMNS.items()
    ]
    for row in chosen
  ]
  widths = [max(map(len, column)) for column in zip(*cells)]
  return '\n'.join(
    '  '.join(cell.rjust(width) for cell, width in zip(line, widths))
    for line in cells
  )


def draw(rows: list[dict[str, Any]], title: str, path: pathlib.Path) -> None:
  """Accuracy against rounds and against bytes, as a PNG."""
  from matplotlib.figure import Figure

  figure = Figure(figsize=(9, 3.6), layout='constrained')
  rounds, traffic = figure.subplots(1, 2, sharey=True)
  bytes_so_far = [r['uplink_bytes'] + r['downlink_bytes'] for r in rows]
  places = (
    (rounds, [r['round'] for r in rows], 'round'),
    (traffic, bytes_so_far, 'bytes sent so far, both directions'),
  )
  for axes, x, label in places:
    for name, text, style in (
      ('personal_accuracy', 'personalised (mean of clients)', 'o-'),
      ('personal_accuracy_p10', 'personalised (worst tenth)', 'v:'),
      ('global_accuracy', 'global', 's--'),
    ):
      y = [r[name] for r in rows]
      axes.plot(x, y, style, markersize=3, linewidth=1.3, label=text)
    axes.set_xlabel(label)
    axes.grid(alpha=0.3)
  traffic.xaxis.set_major_formatter(lambda x, _: size(x))
  rounds.set_ylabel('test accuracy')
  rounds.set_ylim(0, 1.02)
  rounds.legend(loc='lower right', fontsize=8)
  figure.suptitle(title, fontsize=10)
  figure.savefig(path, dpi=130)


def compare(workdirs: list[str]) -> str:
  """A Markdown table: the last round's metrics, mean and sd over seeds.

  Folders without a finished evaluation are named below the table.
  """
  groups, skipped = collections.defaultdict(list), []
  for workdir in map(pathlib.Path, workdirs):
    try:
      about = json.loads((workdir / 'config.json').read_text())
      last = read(workdir)[-1]
    except (FileNotFoundError, NotADirectoryError, IndexError):
      skipped.append(f'{workdir}: no evaluated round')
      continue
    seed = about['config'].pop('seed')
    key = json.dumps(about['config'], sort_keys=True)
    groups[key].append((seed, about['weights_downloaded'], last))
  titles = (
    'dataset | method | weights sent down | round | seeds | personalised '
    '| worst tenth | global | up | down'
  )
  lines = [f'| {titles} |', '|' + ' --- |' * titles.count(' | ') + ' --- |']
  for key, runs in groups.items():
    lines.append(f'| {" | ".join(_cells(json.loads(key), runs))} |')
  return '\n'.join(lines + skipped)


def _cells(config, runs) -> list[str]:
  """One row of `compare`: runs are (seed, weights downloaded, last row)."""
  seeds, weights, rows = zip(*sorted(runs, key=lambda run: run[0]))
  pick = lambda name: [row[name] for row in rows]
  accuracies = ('personal_accuracy', 'personal_accuracy_p10', 'global_accuracy')
  return [
    config['dataset'],
    config['algorithm'],
    f'{round(statistics.mean(weights)):,}',
    '/'.join(sorted({str(number) for number in pick('round')})),
    ' '.join(map(str, seeds)),
    *(spread(pick(name)) for name in accuracies),
    size(statistics.mean(pick('uplink_bytes'))),
    size(statistics.mean(pick('downlink_bytes'))),
  ]


def spread(values: list[float]) -> str:
  """Mean and sample standard deviation, 0.975 ± 0.002."""
  mean = f'{statistics.mean(values):.3f}'
  return mean if len(values) < 2 else f'{mean} ± {statistics.stdev(values):.3f}'


if __name__ == '__main__':
  print(compare(sys.argv[1:]))
