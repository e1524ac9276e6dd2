"""Metrics files to tables and pictures.

  python -m hns.report RUN... [--picture=FILE.png]

prints a line for every group of runs that differ in their seed alone, and
draws them: personalised accuracy against rounds and against bytes.
"""

import argparse
import collections
import itertools
import json
import pathlib
import statistics
from typing import Any, NamedTuple

_COLUMNS = {
  'round': ('round', '{:d}'),
  'personal_accuracy': ('personalised', '{:.3f}'),
  'personal_accuracy_p10': ('worst tenth', '{:.3f}'),
  'global_accuracy': ('global', '{:.3f}'),
  'uplink_bytes': ('up', None),
  'downlink_bytes': ('down', None),
  'seconds': ('s/round', '{:.2f}'),
}

_STYLES = ('o-', 's--', '^:', 'v-.', 'D-', 'x--', '*:', '+-.')


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


class Group(NamedTuple):
  """Runs that differ in their seed alone, in the order of their seeds.

  Attributes:
    config: what they have in common.
    seeds: one a run.
    weights: coordinates of a download, one a run.
    rows: the metrics, one list a run.
  """

  config: dict[str, Any]
  seeds: tuple[int, ...]
  weights: tuple[int, ...]
  rows: tuple[list[dict[str, Any]], ...]


def group(workdirs: list[str]) -> tuple[list[Group], list[str]]:
  """Reads runs; also names the folders that hold no evaluated round."""
  found, skipped = collections.defaultdict(list), []
  for workdir in map(pathlib.Path, workdirs):
    try:
      about = json.loads((workdir / 'config.json').read_text())
      rows = read(workdir)
    except (FileNotFoundError, NotADirectoryError):
      rows = []
    if not rows:
      skipped.append(f'{workdir}: no evaluated round')
      continue
    seed = about['config'].pop('seed')
    key = json.dumps(about['config'], sort_keys=True)
    found[key].append((seed, about['weights_downloaded'], rows))
  groups = []
  for key, runs in found.items():
    ordered = zip(*sorted(runs, key=lambda run: run[0]))
    groups.append(Group(json.loads(key), *ordered))
  return groups, skipped


def label(config: dict[str, Any]) -> str:
  """A method and its variant, in a few words."""
  name = config['algorithm']
  table = config.get(name, {})
  if name == 'hidenseek':
    upload = table.get('upload', 'signs')
    words = ['paper' if upload == 'signs' else upload]
  else:
    words = [table['optimizer']] if table.get('optimizer') == 'adam' else []
    words += [f'{b} bits up' for b in [table.get('upload_bits')] if b]
    words += [w for w in ('feedback', 'pruned') if table.get(w)]
  words += [f'{b} down' for b in [table.get('download_bits')] if b]
  if name == 'hidenseek' or table.get('pruned'):
    words.append(f'density {config["density"]:g}')
  return f'{name} ({", ".join(words)})' if words else name


def compare(groups: list[Group]) -> str:
  """A Markdown table: the last round's metrics, mean and sd over seeds."""
  titles = (
    'dataset | method | weights sent down | round | seeds | personalised '
    '| worst tenth | global | up | down'
  )
  lines = [f'| {titles} |', '|' + ' --- |' * (titles.count(' | ') + 1)]
  return '\n'.join(lines + [f'| {" | ".join(_cells(g))} |' for g in groups])


def _cells(group: Group) -> list[str]:
  """One row of `compare`."""
  pick = lambda name: [rows[-1][name] for rows in group.rows]
  accuracies = ('personal_accuracy', 'personal_accuracy_p10', 'global_accuracy')
  return [
    group.config['dataset'],
    label(group.config),
    f'{round(statistics.mean(group.weights)):,}',
    '/'.join(sorted({str(number) for number in pick('round')})),
    ' '.join(map(str, group.seeds)),
    *(spread(pick(name)) for name in accuracies),
    size(statistics.mean(pick('uplink_bytes'))),
    size(statistics.mean(pick('downlink_bytes'))),
  ]


def spread(values: list[float]) -> str:
  """Mean and sample standard deviation, 0.975 ± 0.002."""
  mean = f'{statistics.mean(values):.3f}'
  return mean if len(values) < 2 else f'{mean} ± {statistics.stdev(values):.3f}'


def draw_groups(groups: list[Group], path: pathlib.Path) -> None:
  """Personalised accuracy, mean and range over seeds, a row a dataset."""
  from matplotlib.figure import Figure

  datasets = list(dict.fromkeys(g.config['dataset'] for g in groups))
  figure = Figure(figsize=(12, 2.9 * len(datasets)), layout='constrained')
  panels = figure.subplots(len(datasets), 2, sharey='row', squeeze=False)
  for (rounds, traffic), dataset in zip(panels, datasets):
    chosen = [g for g in groups if g.config['dataset'] == dataset]
    for one, style in zip(chosen, itertools.cycle(_STYLES)):
      _draw_group(rounds, traffic, one, style)
    rounds.set_ylabel(f'{dataset}\npersonalised test accuracy')
    rounds.set_xlabel('round')
    traffic.set_xlabel('bytes sent so far, both directions')
    traffic.set_xscale('log')
    traffic.xaxis.set_major_formatter(lambda x, _: size(x))
    handles, labels = rounds.get_legend_handles_labels()
    beside = dict(loc='center left', bbox_to_anchor=(1.02, 0.5))
    traffic.legend(handles, labels, fontsize=8, **beside)
    for axes in (rounds, traffic):
      axes.grid(alpha=0.3)
  figure.savefig(path, dpi=130)


def _draw_group(rounds, traffic, group: Group, style: str) -> None:
  table = list(zip(*group.rows))
  accuracy = [[row['personal_accuracy'] for row in rows] for rows in table]
  sent = [rows[0]['uplink_bytes'] + rows[0]['downlink_bytes'] for rows in table]
  mean = [statistics.mean(values) for values in accuracy]
  low, high = map(min, accuracy), map(max, accuracy)
  x = [rows[0]['round'] for rows in table]
  (line,) = rounds.plot(x, mean, style, markersize=4, label=label(group.config))
  color = line.get_color()
  rounds.fill_between(x, list(low), list(high), color=color, alpha=0.2)
  if sent[-1]:
    traffic.plot(sent, mean, style, markersize=4, color=color)
  else:
    traffic.axhline(mean[-1], linestyle=':', color=color)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('runs', nargs='+', help='work folders of runs')
  parser.add_argument('--picture', help='where to draw them, a PNG')
  flags = parser.parse_args()
  groups, skipped = group(flags.runs)
  print('\n'.join([compare(groups), *skipped]))
  if flags.picture and groups:
    draw_groups(groups, pathlib.Path(flags.picture))


if __name__ == '__main__':
  main()
