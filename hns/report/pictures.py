"""Pictures of runs, readable without colour, as PNG.

A picture is a function of groups of runs that returns a figure, or None if no
run has the metrics that it shows; `PICTURES` holds all of them.
"""

import collections
import functools
import pathlib
from collections.abc import Callable, Iterator

import numpy as np
import tqdm
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hns.report import against, field, hardship, versus
from hns.report.axes import (
  WIDTH,
  curve,
  figure_of,
  in_bytes,
  legend,
  plain,
  save,
)
from hns.report.files import Row
from hns.report.groups import Group
from hns.report.styles import bar, style

# The lines of a run's own picture: label, format, colour.
_LINES = {
  'held_accuracy': ('as held (mean of clients)', 'D-', '#d55e00'),
  'held_accuracy_p10': ('as held (worst tenth)', '^:', '#d55e00'),
  'personal_accuracy': ('personalised (mean of clients)', 'o-', '#0072b2'),
  'personal_accuracy_p10': ('personalised (worst tenth)', 'v:', '#0072b2'),
  'unseen_accuracy': ('unseen (mean of clients)', 'x-.', '#009e73'),
  'global_accuracy': ('global', 's--', '#000000'),
}


def one_run(rows: list[Row], title: str) -> Figure:
  """A run's accuracies against rounds and against bytes.

  A line has a gap where a row does not have the accuracy.
  """
  figure = Figure(figsize=(WIDTH, 3.9), layout='constrained')
  rounds, traffic = figure.subplots(1, 2, sharey=True)
  column = lambda name: np.array([row.get(name) for row in rows], float)
  sent = column('uplink_bytes') + column('downlink_bytes')
  places = (
    (rounds, column('round'), 'round'),
    (traffic, sent, 'bytes sent so far, both directions'),
  )
  for axes, x, label in places:
    for name, (text, dash, color) in _LINES.items():
      if any(name in row for row in rows):
        options = dict(color=color, markersize=3, linewidth=1.3, label=text)
        axes.plot(x, column(name), dash, **options)
    axes.set_xlabel(label)
    plain(axes)
  in_bytes(traffic)
  rounds.set_ylabel('test accuracy')
  rounds.set_ylim(0, 1.02)
  legend(figure)
  figure.suptitle(title, fontsize=10)
  return figure


def accuracy(groups: list[Group]) -> Figure:
  """Personalised accuracy, mean and range over seeds, a row per setting."""
  titles = 'round', 'bytes sent so far, both directions', 'seconds of training'
  settings, names = _by_setting(groups), _names(groups)
  figure, rows = figure_of(settings, 3, sharey='row')
  for (setting, chosen), panels in zip(settings.items(), rows):
    for group in chosen:
      y = series(group, 'personal_accuracy')
      for axes, x in zip(panels, _clocks(group)):
        curve(axes, x, y, names[group.label])
    panels[0].set_ylabel(f'{setting}\npersonalised accuracy')
    panels[1].set_xscale('log')
    in_bytes(panels[1], 0)
  for axes, title in zip(rows[-1], titles):
    axes.set_xlabel(title)
  legend(figure)
  return figure


def _names(groups: list[Group]) -> dict[str, str]:
  """By label, the name of a group among these."""
  return versus.names(_by_setting(groups))


def _clocks(group: Group) -> Iterator[np.ndarray]:
  """Rounds, bytes and seconds so far, means over seeds, float [rows]."""
  rounds = series(group, 'round')
  yield rounds[0]
  sent = series(group, 'uplink_bytes') + series(group, 'downlink_bytes')
  yield sent.mean(0)
  since = np.diff(rounds, prepend=0)
  yield np.cumsum(since * series(group, 'seconds'), 1).mean(0)


def clients(groups: list[Group]) -> Figure | None:
  """Each client's accuracy at the last row, a dot per client and seed."""
  groups = _with_metric(groups, 'client_accuracies')
  if not groups:
    return None
  settings = _by_setting(groups)
  heights = [0.7 + 0.4 * len(chosen) for chosen in settings.values()]
  figure = Figure(figsize=(WIDTH, sum(heights)), layout='constrained')
  panels = figure.subplots(len(settings), height_ratios=heights, squeeze=False)
  for axes, (setting, chosen) in zip(panels[:, 0], settings.items()):
    values = [
      np.concatenate([rows[-1]['client_accuracies'] for rows in group.rows])
      for group in chosen
    ]
    places = np.arange(len(chosen), 0, -1)
    names = [group.label for group in chosen]
    _boxes(axes, values, places, [style(name)['color'] for name in names])
    axes.set_yticks(places, names)
    axes.set_xlabel(f'{setting}: personalised test accuracy of a client')
    plain(axes)
    axes.grid(axis='y', visible=False)
  return figure


def _boxes(
  axes: Axes, values: list[np.ndarray], places: np.ndarray, colors: list[str]
) -> None:
  """Draws boxes of the middle half, whiskers of the middle 80 %, and dots."""
  axes.boxplot(
    values,
    orientation='horizontal',
    positions=places,
    widths=0.6,
    whis=(10, 90),
    showfliers=False,
    showmeans=True,
    meanprops=dict(marker='D', markersize=5, mfc='white', mec='black'),
    medianprops=dict(color='black', linewidth=2),
    zorder=3,
  )
  for value, place, color in zip(values, places, colors):
    # Spread evenly instead of at random, so that pictures can be reproduced.
    shift = (np.arange(len(value)) * 0.618 % 1 - 0.5) * 0.5
    alpha = min(0.6, max(0.05, 40 / len(value)))
    axes.plot(value, place + shift, '.', color=color, alpha=alpha, markersize=6)


def layers(groups: list[Group]) -> Figure | None:
  """The share of each layer's weights that pruning left, mean over seeds."""
  networks = collections.defaultdict(list)
  for group in groups:
    if any(group.layers):
      networks[f'{group.setting}, {group.config["model"]}'].append(group)
  if not networks:
    return None
  figure = Figure(
    figsize=(WIDTH, 0.3 + 2.3 * len(networks)), layout='constrained'
  )
  panels = figure.subplots(len(networks), squeeze=False)[:, 0]
  for axes, (name, chosen) in zip(panels, networks.items()):
    bars = {_pruning(g): _densities(g) for g in chosen}
    width = 0.8 / len(bars)
    for number, (label, share) in enumerate(bars.items()):
      x = np.arange(len(share)) + (number - (len(bars) - 1) / 2) * width
      drawn = axes.bar(x, share.values(), width, label=label, **bar(label))
      axes.bar_label(drawn, fmt='{:.2g}', fontsize=7)
      axes.set_xticks(range(len(share)), share)
    axes.set_ylabel(f'{name}\nshare of weights left')
    axes.set_ylim(0, 1.1)
    plain(axes)
    axes.grid(axis='x', visible=False)
  legend(figure)
  return figure


def _pruning(group: Group) -> str:
  config = group.config
  steps = ', single-shot' * (config['pruning_steps'] == 1)
  return f'{config["pruning"]}{steps}, density {config["density"]:g}'


def _densities(group: Group) -> dict[str, float]:
  """By layer, the share of its weights that survived pruning."""
  shares = collections.defaultdict(list)
  for run in group.layers:
    for name, (left, full) in run.items():
      shares[name].append(left / full)
  # Conv_2 before Conv_10 before Dense_0.
  order = lambda name: (name.split('_')[0], len(name), name)
  return {name: np.mean(shares[name]) for name in sorted(shares, key=order)}


def signs(groups: list[Group]) -> Figure | None:
  """The agreement of signs, and the share that a round flips, over rounds."""
  complete = _with_metric(groups, 'agree_with_server')
  settings = _by_setting(complete)
  if not settings:
    return None
  shares = {
    'agree_with_server': 'client and server agree',
    'agree_with_clients': 'two clients agree',
    'flip_rate': 'the server flips in a round',
  }
  figure, rows = figure_of(settings, len(shares), sharey=False)
  names = _names(groups)
  for (setting, chosen), panels in zip(settings.items(), rows):
    for axes, share in zip(panels, shares):
      for group in chosen:
        x = series(group, 'round')[0]
        curve(axes, x, series(group, share), names[group.label])
    panels[1].sharey(panels[0])
    panels[0].set_ylabel(f'{setting}\nshare of the signs')
  for top, bottom, title in zip(rows[0], rows[-1], shares.values()):
    top.set_title(title, fontsize=9)
    bottom.set_xlabel('round')
  legend(figure)
  return figure


PICTURES: dict[str, tuple[Callable[[list[Group]], Figure | None], str]] = {
  'accuracy': (
    accuracy,
    'Personalised accuracy against rounds, bytes and seconds of training; '
    'lines are means over seeds, bands their range.',
  ),
  'front': (
    field.front,
    'Accuracy as held (the model a client ended its last round with) against '
    'the bytes of both directions: up and to the left is better. The colour '
    'is what travels. No method is both cheaper and better than those on the '
    'thin line, in bold; other lines join one method at several densities or '
    'networks.',
  ),
  'clients': (
    clients,
    'Clients at the last row, a dot each: the box holds the middle half, the '
    'whiskers go from tenth to tenth, the diamond is the mean.',
  ),
  'signs': (
    signs,
    "How far clients' signs, after local training, agree with the server's "
    'and with each other (1/2 is chance), and the share of the signs of the '
    'server that a round flips.',
  ),
  'layers': (layers, 'What pruning left of each layer, mean over seeds.'),
  **{
    name: (
      functools.partial(against.against, kind),
      f'Accuracy at the last row against the {kind.label}, mean and range over '
      'seeds.',
    )
    for name, kind in hardship.HARDSHIPS.items()
  },
}


def write(groups: list[Group], folder: pathlib.Path) -> dict[str, str]:
  """Draws all pictures for which there are metrics; captions by file name."""
  written = {}
  for name, (draw, caption) in tqdm.tqdm(
    PICTURES.items(), 'drawing', leave=False, disable=None
  ):
    figure = draw(groups)
    if figure is not None:
      save(figure, folder / f'{name}.png')
      written[f'{name}.png'] = caption
  return written


def series(group: Group, name: str) -> np.ndarray:
  """A metric, float [seeds, rows], of the rows that all seeds have.

  NaN where a row does not have it.
  """
  rows = zip(*([row.get(name) for row in rows] for rows in group.rows))
  return np.array(list(rows), float).T


def _with_metric(groups: list[Group], name: str) -> list[Group]:
  """The groups in which all rows have this metric, in finite numbers."""

  def has(row):
    value = row.get(name)
    return None not in (value if isinstance(value, list) else [value])

  return [g for g in groups if all(has(r) for rows in g.rows for r in rows)]


def _by_setting(groups: list[Group]) -> dict[str, list[Group]]:
  lists = collections.defaultdict(list)
  for group in groups:
    lists[group.setting].append(group)
  return dict(lists)
