"""A picture of all methods: accuracy as held against bytes, as points."""

import math
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from hns.report import versus
from hns.report.axes import WIDTH, in_bytes, legend, plain
from hns.report.groups import Group
from hns.report.styles import style

_FONT_SIZE = 8  # points
_DOT = 9, 9  # points, with a margin
# Positions of a number relative to its dot, in points: the nearest first, and
# of equally near ones to the right first.
_SHIFTS = np.array(
  [
    (radius * math.cos(turn), radius * math.sin(turn))
    for radius in range(10, 60, 3)
    for turn in np.arange(24) * math.tau / 24
  ]
)


class Point(NamedTuple):
  """A method in a panel; `place` is its bytes and its accuracy."""

  number: int
  options: dict[str, Any]
  name: str
  place: tuple[float, float]


def front(groups: list[Group]) -> Figure | None:
  """Accuracy as held against all bytes, a panel for each setting.

  A method has the same number in all panels. It is bold, and on the line, where
  no other method is both cheaper and better.
  """
  settings = versus.settings(groups)
  if not settings:
    return None
  ranked = versus.ranked(settings)
  shape = WIDTH, 2.7 * len(settings) + 0.08 * len(ranked)
  figure = Figure(figsize=shape, layout='constrained')
  panels = figure.subplots(len(settings), squeeze=False)[:, 0]
  shown = [_points(setting, ranked) for setting in settings]
  for axes, setting, points in zip(panels, settings, shown):
    _draw(axes, points)
    axes.set_ylabel(f'{setting}\naccuracy as held')
  panels[-1].set_xlabel('bytes sent, both directions, all rounds and clients')
  legend(figure, lambda name: int(name.split()[0]))
  figure.draw_without_rendering()  # numbers need the final size of the axes
  for axes, points in zip(panels, shown):
    _number(axes, points)
  return figure


def _points(
  setting: str, ranked: list[tuple[str, dict[str, Group]]]
) -> list[Point]:
  """The methods of a setting, numbered by their rank over all settings."""
  return [
    Point(
      *(number, style(name), f'{number:\u2007>2}  {name}'),
      (max(1, versus.sent(row[setting])), versus.final(row[setting])),
    )
    for number, (name, row) in enumerate(ranked, 1)
    if setting in row
  ]


def _draw(axes: Axes, points: list[Point]) -> None:
  """Draws a dot for each method and a line through the best."""
  for point in points:
    options = point.options | dict(linestyle='', markersize=6, label=point.name)
    axes.plot(*point.place, **options, zorder=3)
  best = zip(*pareto([point.place for point in points]))
  axes.step(*best, where='post', color='0.6', linewidth=0.8, zorder=1)
  costs = [point.place[0] for point in points if point.place[0] > 1]
  linear = 10.0 ** math.floor(math.log10(min(costs, default=1e4)))
  axes.set_xscale('symlog', linthresh=linear, linscale=0.4)
  axes.margins(y=0.1)
  in_bytes(axes, linear)
  plain(axes)


def _number(axes: Axes, points: list[Point]) -> None:
  """Writes numbers beside dots, with a line to those that are far away."""
  scale = 72 / axes.figure.dpi
  placed = lambda xy: axes.transData.transform(xy) * scale
  best = pareto([point.place for point in points])
  chosen = shifts(
    placed([point.place for point in points]),
    [(1 + 6 * len(str(point.number)), _FONT_SIZE + 1) for point in points],
    axes.bbox.extents * scale,
    steps(placed(best)),
  )
  leader = dict(arrowstyle='-', linewidth=0.5, color='0.5', shrinkB=3)
  for point, shift in zip(points, chosen):
    axes.annotate(
      *(str(point.number), point.place, shift),
      textcoords='offset points',
      ha='center',
      va='center_baseline',
      fontsize=_FONT_SIZE,
      fontweight='bold' if point.place in best else 'normal',
      color=np.multiply(to_rgb(point.options['color']), 0.7),
      arrowprops=leader if math.hypot(*shift) > 14 else None,
    ).set_in_layout(False)


def steps(corners: np.ndarray) -> list[np.ndarray]:
  """Boxes around a line that goes from each corner to the right, then up."""
  return [
    np.array(box)
    for (x, y), (right, up) in zip(corners, corners[1:])
    for box in ((x, y - 0.5, right, y + 0.5), (right - 0.5, y, right + 0.5, up))
  ]


def shifts(
  dots: ArrayLike, sizes: ArrayLike, room: ArrayLike, line: ArrayLike = ()
) -> list[tuple[float, float]]:
  """Positions of labels relative to their dots that cover little else.

  Args:
    dots: centres [n, 2].
    sizes: widths and heights of labels [n, 2].
    room: x0, y0, x1, y1 of the box that labels must not leave.
    line: boxes x0, y0, x1, y1 that labels must not cover.
  """
  taken, chosen = [*_boxes(dots, _DOT), *line], []
  for dot, size in zip(dots, sizes):
    costs = _costs(dot, size, dots, taken, room)
    chosen.append(tuple(map(float, _SHIFTS[costs.argmin()])))
    taken.append(_boxes(dot + chosen[-1], size))
  return chosen


def _costs(
  dot: np.ndarray,
  size: ArrayLike,
  dots: np.ndarray,
  taken: list[np.ndarray],
  room: ArrayLike,
) -> np.ndarray:
  """The cost of each position of a label, float [positions].

  It grows with the area covered, with the distance from the dot, and if another
  dot is nearer.
  """
  places, far = dot + _SHIFTS, np.hypot(*_SHIFTS.T)
  nearer = far - np.hypot(*(dots[:, None] - places).T).min(1)
  boxes = _boxes(places, size)
  outside = np.prod(size) - _common(boxes, [room])
  return np.round(10 * (_common(boxes, taken) + outside) + far / 10 + nearer, 6)


def _boxes(centres: ArrayLike, size: ArrayLike) -> np.ndarray:
  half = np.divide(size, 2)
  return np.concatenate([centres - half, centres + half], -1)


def _common(boxes: np.ndarray, others: ArrayLike) -> np.ndarray:
  """The area of each box that the others cover."""
  low = np.maximum(boxes[:, None, :2], np.array(others)[:, :2])
  high = np.minimum(boxes[:, None, 2:], np.array(others)[:, 2:])
  return np.maximum(high - low, 0).prod(-1).sum(-1)


def pareto(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
  """The points for which no other is cheaper and better, by rising cost."""
  best = []
  for cost, value in sorted(points, key=lambda p: (p[0], -p[1])):
    if not best or value > best[-1][1]:
      best.append((cost, value))
  return best
