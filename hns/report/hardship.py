"""Accuracy against what is wrong: hostile clients, lost ones, privacy."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hns.report.axes import WIDTH, legend, plain
from hns.report.groups import Group
from hns.report.labels import named
from hns.report.styles import style

# Rows of panels: the metric, and what it is.
_ROWS = {
  'global_accuracy': 'global accuracy',
  'personal_accuracy': 'personalised accuracy',
}

# Fields that say where on an axis a group is, not which line it is on.
_PLACES = 'sign_epsilon', 'noise_multiplier'


class Hardship(NamedTuple):
  """What is on an x axis.

  Attributes:
    label: of the axis.
    panel: `group -> ` the title of its panel; '' for all panels, None for none.
    x: `group -> ` its place on the axis.
    log: whether the axis is logarithmic.
  """

  label: str
  panel: Callable[[Group], str | None]
  x: Callable[[Group], float]
  log: bool = False


def _share(field: str, group: Group) -> float:
  return group.config.get(field, 0) / group.config['num_clients']


def _attack(group: Group) -> str:
  return group.config['attack'] if _share('hostile_clients', group) else ''


def _who_drops(group: Group) -> str:
  if not group.config.get('drop_share'):
    return ''
  slow = group.config['drop_slowest']
  return 'the slowest vanish' if slow else 'any client vanishes'


# The metrics of guarantees, and whom they are against.
_GUARANTEES = {
  'epsilon_local': 'local: against the server',
  'epsilon_central': 'central: against all others',
}


def _epsilon(group: Group) -> str | None:
  """The metric of its guarantee; None without one."""
  return next((n for n in _GUARANTEES if n in group.rows[0][-1]), None)


def _spent(group: Group) -> float:
  return float(np.mean([rows[-1][_epsilon(group)] for rows in group.rows]))


HARDSHIPS = {
  'hostile': Hardship(
    'share of clients that are hostile',
    _attack,
    functools.partial(_share, 'hostile_clients'),
  ),
  'dropping': Hardship(
    "share of a round's clients that vanish",
    _who_drops,
    lambda group: group.config.get('drop_share', 0.0),
  ),
  'private': Hardship(
    'epsilon of all rounds',
    lambda group: _GUARANTEES.get(_epsilon(group)),
    _spent,
    log=True,
  ),
}


def against(hardship: Hardship, groups: list[Group]) -> Figure | None:
  """Mean and range over seeds at the last row; None if nothing is wrong.

  Of runs in which nothing else is wrong.
  """
  others = [kind for kind in HARDSHIPS.values() if kind is not hardship]
  titled = [
    (hardship.panel(group), group)
    for group in groups
    if not any(other.panel(group) for other in others)
  ]
  panels = sorted({title for title, _ in titled if title})
  if not panels:
    return None
  size = WIDTH, 1 + 2.4 * len(_ROWS)
  figure = Figure(figsize=size, layout='constrained')
  grid = figure.subplots(len(_ROWS), len(panels), sharey='row', squeeze=False)
  for axes_of_row, (metric, name) in zip(grid, _ROWS.items()):
    axes_of_row[0].set_ylabel(name)
    for axes, title in zip(axes_of_row, panels):
      own = {_line(group) for t, group in titled if t == title}
      chosen = [group for t, group in titled if t in (title, '')]
      chosen = [group for group in chosen if _line(group) in own]
      _lines(axes, hardship, chosen, metric)
  for axes, title in zip(grid[0], panels):
    axes.set_title(title, fontsize=9)
  for axes in grid[-1]:
    axes.set_xlabel(hardship.label)
  legend(figure)
  return figure


def _line(group: Group) -> str:
  """The name of the line that a group is on."""
  words = [word for word in group.words if word.field not in _PLACES]
  return named(group.config['algorithm'], words)


def _lines(
  axes: Axes, hardship: Hardship, groups: list[Group], metric: str
) -> None:
  """A line for each method, through its groups."""
  by_label = {}
  for group in groups:
    values = [rows[-1].get(metric) for rows in group.rows]
    if None not in values:
      point = hardship.x(group), np.mean(values), min(values), max(values)
      by_label.setdefault(_line(group), []).append(point)
  for label, points in by_label.items():
    x, mean, low, high = np.array(sorted(points)).T
    options = style(label)
    axes.plot(x, mean, **options, markersize=4.5, linewidth=1.2, label=label)
    axes.fill_between(x, low, high, color=options['color'], alpha=0.1)
  plain(axes)
  if hardship.log:
    axes.set_xscale('log')
