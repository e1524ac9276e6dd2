"""Axes of pictures: their style, curves, legends, and sizes in bytes."""

import io
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from hns.engine.metrics import size
from hns.report.styles import style

WIDTH = 9  # inches, about as wide as shown, so that text is legible
DPI = 180  # twice the resolution of a screen
_FONT_SIZE = 8  # points, of a legend
_BACKGROUND = dict(facecolor='white', edgecolor='none', alpha=0.8, pad=0.5)
_MAX_LABELS = 5  # of bytes, side by side
# Labels of a logarithmic axis: first digits, and the step in powers of ten.
_GRIDS = ((1, 2, 5), 1), ((1, 3), 1), *(((1,), step) for step in range(1, 9))


def figure_of(
  datasets: Sequence, columns: int, sharey: bool | str
) -> tuple[Figure, np.ndarray]:
  """A figure with a row of axes for each dataset."""
  shape = len(datasets), columns
  inches = WIDTH, 0.6 + 2.3 * len(datasets)
  figure = Figure(figsize=inches, layout='constrained')
  grid = figure.subplots(*shape, sharey=sharey, squeeze=False)
  for axes in grid.flat:
    plain(axes)
    axes.xaxis.set_major_locator(MaxNLocator(_MAX_LABELS, steps=(1, 2, 5, 10)))
  return figure, grid


def plain(axes: Axes) -> None:
  """Thin axes without a box, a light grid behind, small text."""
  axes.spines[['top', 'right']].set_visible(False)
  axes.spines[['left', 'bottom']].set(linewidth=0.6, color='0.4')
  axes.grid(color='0.9', linewidth=0.6)
  axes.set_axisbelow(True)
  axes.tick_params(width=0.6, color='0.4', labelsize=8)
  axes.xaxis.label.set_size(9)
  axes.yaxis.label.set_size(9)


def curve(axes: Axes, x: np.ndarray, values: np.ndarray, name: str) -> None:
  """Draws mean and range over seeds; a horizontal line if x stays 0.

  The line has a gap where a seed has no finite value.

  Args:
    axes: what is drawn on.
    x: float [rows].
    values: float [seeds, rows].
    name: of the method.
  """
  options, mean = style(name), values.mean(0)
  color = options['color']
  if not x[-1]:
    axes.axhline(mean[-1], linestyle=':', linewidth=1, color=color)
    place = dict(
      xycoords=('axes fraction', 'data'), va='bottom', bbox=_BACKGROUND
    )
    axes.annotate(f'{name}: 0 B', (0.01, mean[-1]), fontsize=8, **place)
    return
  every = max(1, len(x) // 4)
  size = dict(markersize=4.5, linewidth=1.2, markevery=every)
  axes.plot(x, mean, **options, **size, label=name)
  low, high = values.min(0), values.max(0)
  axes.fill_between(x, low, high, color=color, alpha=0.07, linewidth=0)


def legend(figure: Figure, order: Callable[[str], Any] | None = None) -> None:
  """One legend below all axes, with each name once.

  Args:
    figure: what is drawn on.
    order: sort key of names; by default the variants of a method are together.
  """
  handles = {}
  for axes in figure.axes:
    for handle, name in zip(*axes.get_legend_handles_labels()):
      handles.setdefault(name, handle)
  methods = [_method(name) for name in handles]
  names = sorted(handles, key=order or (lambda n: methods.index(_method(n))))
  if names:
    # Letters are about half as wide as high.
    each = _FONT_SIZE * (0.55 * max(map(len, names)) + 5)
    columns = max(1, int(72 * figure.get_figwidth() / each))
    figure.legend(
      *([handles[name] for name in names], names),
      loc='outside lower center',
      ncols=min(columns, len(names)),
      fontsize=_FONT_SIZE,
      frameon=False,
      handlelength=3,
    )


def _method(name: str) -> str:
  return name.split(' (')[0]


def save(figure: Figure, path: pathlib.Path) -> None:
  """Writes a PNG in few colours."""
  drawn = io.BytesIO()
  figure.savefig(drawn, dpi=DPI, format='png')
  image = Image.open(drawn).convert('RGB')
  image.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


def in_bytes(axes: Axes, log_from: float = math.inf) -> None:
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
  """Round sizes from `low` to `high` with distinct places and labels.

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
    ticks = next(ticks for ticks in inside if len(ticks) <= _MAX_LABELS)
    return [0.0, *ticks] if low < 1 < log_from else ticks
  locator = MaxNLocator(_MAX_LABELS - 1, steps=(1, 2, 5, 10))
  ticks = locator.tick_values(low, high)
  return [x for x in ticks if low <= x <= high and x == round(x)]


def heat(axes: Axes, matrix: np.ndarray, names: list[str]) -> None:
  """Draws a square matrix in greys, with named rows and columns and a scale."""
  image = axes.imshow(matrix, 'gray')
  axes.figure.colorbar(image, shrink=0.8)
  places = range(len(names))
  axes.set_xticks(places, names, rotation=90, fontsize=8)
  axes.set_yticks(places, names, fontsize=8)
