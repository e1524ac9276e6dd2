"""Axes of pictures: a row a dataset, a curve a method, sizes in bytes."""

import io
import math
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from hns.engine.metrics import size
from hns.report.styles import style

WIDTH = 9  # inches; shown about as wide, so that letters are legible
_LETTERS = 8  # points, of a legend
_PAPER = dict(facecolor='white', edgecolor='none', alpha=0.8, pad=0.5)
_MOST = 5  # labels of bytes side by side
# On a logarithmic axis: first digits, and every how many powers of ten.
_GRIDS = ((1, 2, 5), 1), ((1, 3), 1), *(((1,), step) for step in range(1, 9))


def figure_of(
  datasets: list[Any], columns: int, sharey: Any
) -> tuple[Figure, np.ndarray]:
  """A figure with a row of axes a dataset."""
  shape = len(datasets), columns
  inches = WIDTH, 0.6 + 2.3 * len(datasets)
  figure = Figure(figsize=inches, layout='constrained')
  grid = figure.subplots(*shape, sharey=sharey, squeeze=False)
  for axes in grid.flat:
    plain(axes)
    axes.xaxis.set_major_locator(MaxNLocator(_MOST, steps=(1, 2, 5, 10)))
  return figure, grid


def plain(axes: Any) -> None:
  """Thin lines around, no box; a light grid behind; small letters."""
  axes.spines[['top', 'right']].set_visible(False)
  axes.spines[['left', 'bottom']].set(linewidth=0.6, color='0.4')
  axes.grid(color='0.9', linewidth=0.6)
  axes.set_axisbelow(True)
  axes.tick_params(width=0.6, color='0.4', labelsize=8)
  axes.xaxis.label.set_size(9)
  axes.yaxis.label.set_size(9)


def curve(axes: Any, x: Any, values: Any, name: str) -> None:
  """Mean and range of values, float [seeds, rows]; level if x stays 0.

  The line has a gap where a seed has no finite value.
  """
  look, mean = style(name), values.mean(0)
  color = look['color']
  if not x[-1]:
    axes.axhline(mean[-1], linestyle=':', linewidth=1, color=color)
    place = dict(xycoords=('axes fraction', 'data'), va='bottom', bbox=_PAPER)
    axes.annotate(f'{name}: 0 B', (0.01, mean[-1]), fontsize=8, **place)
    return
  every = max(1, len(x) // 4)
  size = dict(markersize=4.5, linewidth=1.2, markevery=every)
  axes.plot(x, mean, **look, **size, label=name)
  low, high = values.min(0), values.max(0)
  axes.fill_between(x, low, high, color=color, alpha=0.07, linewidth=0)


def legend(figure: Figure, order: Callable[[str], Any] | None = None) -> None:
  """One legend of all axes below them: each name once, variants together.

  With as many columns as fit, of letters about half as wide as they are high.

  Args:
    figure: what is drawn on.
    order: what names are sorted by, if not by their methods.
  """
  found = {}
  for axes in figure.axes:
    for handle, name in zip(*axes.get_legend_handles_labels()):
      found.setdefault(name, handle)
  methods = [_method(name) for name in found]
  names = sorted(found, key=order or (lambda n: methods.index(_method(n))))
  if names:
    each = _LETTERS * (0.55 * max(map(len, names)) + 5)
    columns = max(1, int(72 * figure.get_figwidth() / each))
    figure.legend(
      *([found[name] for name in names], names),
      loc='outside lower center',
      ncols=min(columns, len(names)),
      fontsize=_LETTERS,
      frameon=False,
      handlelength=3,
    )


def _method(name: str) -> str:
  return name.split(' (')[0]


def save(figure: Figure, path: pathlib.Path) -> None:
  """Writes a picture, sharp where it is shown half as wide, in few colours."""
  drawn = io.BytesIO()
  figure.savefig(drawn, dpi=180, format='png')
  image = Image.open(drawn).convert('RGB')
  image.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


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
