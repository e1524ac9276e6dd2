"""Axes of pictures: a row a dataset, a curve a method, sizes in bytes."""

import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hns.engine.metrics import size

_STYLES = ('o-', 's--', '^:', 'v-.', 'D-', 'x--', '*:', '+-.')
_MOST = 5  # labels of bytes side by side
# On a logarithmic axis: first digits, and every how many powers of ten.
_GRIDS = ((1, 2, 5), 1), ((1, 3), 1), *(((1,), step) for step in range(1, 9))


def figure_of(
  datasets: list[Any], columns: int, sharey: Any
) -> tuple[Figure, np.ndarray]:
  """A figure with a row of axes a dataset."""
  shape = len(datasets), columns
  inches = (4 * columns + 2.5, 2.9 * len(datasets))
  figure = Figure(figsize=inches, layout='constrained')
  grid = figure.subplots(*shape, sharey=sharey, squeeze=False)
  for axes in grid.flat:
    axes.grid(alpha=0.3)
  return figure, grid


def curve(axes: Any, x: Any, values: Any, number: int, label: str) -> None:
  """Mean and range of values, float [seeds, rows]; level if x stays 0.

  The line has a gap where a seed has no finite value.
  """
  color, mean = f'C{number % 10}', values.mean(0)
  if not x[-1]:
    axes.axhline(mean[-1], linestyle=':', linewidth=1, color=color)
    place = dict(xycoords=('axes fraction', 'data'), ha='right', va='bottom')
    axes.annotate(f'{label}: 0 B', (0.98, mean[-1]), fontsize=8, **place)
    return
  style = _STYLES[number % len(_STYLES)]
  every = max(1, len(x) // 10)
  axes.plot(
    *(x, mean, style),
    color=color,
    markersize=4,
    markevery=every,
    label=label,
  )
  axes.fill_between(x, values.min(0), values.max(0), color=color, alpha=0.2)


def in_bytes(axes: Any, log_from: float = math.inf) -> None:
  """Labels the x axis of a finished plot with sizes.

  Args:
    axes: what is drawn on.
    log_from: bytes from which the axis is logarithmic: 0 for all of it.
  """
  low, high = map(float, axes.get_xlim())
  if 0 < low and high < 1.2 * low:
    low, high = low / 1.1, high * 1.1
    axes.set_xlim(low, high)
  ticks = byte_ticks(low, high, log_from)
  axes.set_xticks(ticks, [size(tick) for tick in ticks], fontsize=8)
  axes.set_xticks([], minor=True)


def byte_ticks(low: float, high: float, log_from: float) -> list[float]:
  """Whole bytes from `low` to `high` that are apart on the axis and as words.

  Args:
    low, high: bytes; they differ by a fifth or more.
    log_from: as in `in_bytes`.
  """
  low, start = max(low, 0), max(low, log_from, 1)
  grids = [
    [x * 10.0**k for k in range(0, 30, step) for x in digits]
    for digits, step in _GRIDS
  ]
  inside = [[x for x in grid if start <= x <= high] for grid in grids]
  if len(inside[0]) > 2:
    ticks = next(ticks for ticks in inside if len(ticks) <= _MOST)
    return [0.0, *ticks] if low < 1 < log_from else ticks
  found = MaxNLocator(_MOST - 1, steps=(1, 2, 5, 10)).tick_values(low, high)
  return [x for x in found if low <= x <= high and x == round(x)]
