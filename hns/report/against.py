"""Pictures of accuracy against what is wrong: see `hns.report.hardship`."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hns.report.axes import WIDTH, legend, plain
from hns.report.groups import Group
from hns.report.hardship import METRICS, Hardship, alone
from hns.report.styles import style


def against(hardship: Hardship, groups: list[Group]) -> Figure | None:
  """Mean and range over seeds at the last row; None if nothing is wrong.

  Of runs in which nothing else is wrong.
  """
  titled = alone(hardship, groups)
  panels = sorted({title for title, _ in titled if title})
  if not panels:
    return None
  size = WIDTH, 1 + 2.4 * len(METRICS)
  figure = Figure(figsize=size, layout='constrained')
  grid = figure.subplots(len(METRICS), len(panels), sharey='row', squeeze=False)
  for axes_of_row, (metric, name) in zip(grid, METRICS.items()):
    axes_of_row[0].set_ylabel(f'{name} accuracy')
    for axes, title in zip(axes_of_row, panels):
      own = {group.label for t, group in titled if t == title}
      chosen = [group for t, group in titled if t in (title, '')]
      chosen = [group for group in chosen if group.label in own]
      _lines(axes, hardship, chosen, metric)
  for axes, title in zip(grid[0], panels):
    axes.set_title(title, fontsize=9)
  for axes in grid[-1]:
    axes.set_xlabel(hardship.label)
  legend(figure)
  return figure


def _lines(
  axes: Axes, hardship: Hardship, groups: list[Group], metric: str
) -> None:
  """A line for each method, through its groups."""
  by_label = {}
  for group in groups:
    values = [rows[-1].get(metric) for rows in group.rows]
    if None not in values:
      point = hardship.x(group), np.mean(values), min(values), max(values)
      by_label.setdefault(group.label, []).append(point)
  for label, points in by_label.items():
    x, mean, low, high = np.array(sorted(points)).T
    options = style(label)
    axes.plot(x, mean, **options, markersize=4.5, linewidth=1.2, label=label)
    axes.fill_between(x, low, high, color=options['color'], alpha=0.1)
  plain(axes)
  if hardship.log:
    axes.set_xscale('log')
