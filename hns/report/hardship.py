"""Accuracy against what is wrong: hostile clients, lost ones, privacy."""

import collections
import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from hns.report.groups import Group
from hns.report.versus import BYTES, markdown, over_seeds, sum_of_bytes

# The metric, and what it is.
METRICS = {'global_accuracy': 'global', 'personal_accuracy': 'personalised'}


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


def alone(hardship: Hardship, groups: list[Group]) -> list[tuple[str, Group]]:
  """The groups in which nothing else is wrong, each with its panel.

  '' is the panel of groups in which nothing is wrong at all, of methods of
  which there are others; nothing is left if there are no others.
  """
  others = [kind for kind in HARDSHIPS.values() if kind is not hardship]
  titled = [
    (hardship.panel(group), group)
    for group in groups
    if not any(other.panel(group) for other in others)
  ]
  wrong = {group.label for title, group in titled if title}
  return [
    (title, group)
    for title, group in titled
    if title or (title == '' and group.label in wrong)
  ]


def tables(groups: list[Group]) -> list[str]:
  """Markdown tables of accuracy against each hardship that there is."""
  chosen = [(kind, alone(kind, groups)) for kind in HARDSHIPS.values()]
  return [
    _private(titled) if kind.log else _pivot(kind, titled)
    for kind, titled in chosen
    if titled
  ]


def _pivot(kind: Hardship, titled: list[tuple[str, Group]]) -> str:
  """A line for each method and metric, a column for each share."""
  cells = collections.defaultdict(dict)
  for title, group in titled:
    place = title, kind.x(group)
    last = [rows[-1] for rows in group.rows]
    for metric in METRICS:
      cells[group.label, metric][place] = over_seeds(last, metric)
  places = sorted({place for line in cells.values() for place in line})
  titles = [f'{title}, {x:.0%}' if title else 'none' for title, x in places]
  return markdown(
    ['method', 'accuracy', *titles],
    [
      [method, METRICS[metric], *(line.get(place, '') for place in places)]
      for (method, metric), line in cells.items()
    ],
  )


def _private(titled: list[tuple[str, Group]]) -> str:
  """A line for each group."""
  number = lambda value: '' if value is None else f'{value:,.0f}'
  lines = []
  order = lambda pair: (pair[0], pair[1].label, _spent(pair[1]))
  for title, group in sorted(titled, key=order):
    last = [rows[-1] for rows in group.rows]
    upload, spent = last[0].get('epsilon_upload'), last[0][_epsilon(group)]
    accuracies = [over_seeds(last, metric) for metric in METRICS]
    lines.append(
      [group.label, title, number(upload), number(spent), *accuracies]
      + [sum_of_bytes(last)]
    )
  return markdown(
    [
      *('method', 'guarantee', 'epsilon of an upload', 'of all rounds'),
      *(*METRICS.values(), BYTES),
    ],
    lines,
  )
