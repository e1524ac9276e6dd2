"""The field of methods: accuracy as held against bytes, a point a method."""

import math
from typing import Any, NamedTuple

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from hns.report import versus
from hns.report.axes import WIDTH, in_bytes, legend, plain
from hns.report.styles import style

_LETTERS = 8  # points
_DOT = 9, 9  # points, with some room around
# Where a number may stand, in points from its dot: near it first, and there to
# the right first.
_SHIFTS = np.array(
  [
    (radius * math.cos(turn), radius * math.sin(turn))
    for radius in range(10, 60, 3)
    for turn in np.arange(24) * math.tau / 24
  ]
)


class Point(NamedTuple):
  """A method in a panel: its number, its look, its name, bytes and accuracy."""

  number: int
  look: dict[str, Any]
  name: str
  place: tuple[float, float]


def front(groups: list[Any]) -> Figure | None:
  """Accuracy as held against all bytes, a panel a setting.

  Methods have numbers, the same in all panels, bold where no other is both
  cheaper and better; a line goes through these.
  """
  found = versus.settings(groups)
  if not found:
    return None
  ranked = versus.ranked(found)
  shape = WIDTH, 2.7 * len(found) + 0.08 * len(ranked)
  figure = Figure(figsize=shape, layout='constrained')
  panels = figure.subplots(len(found), squeeze=False)[:, 0]
  shown = [_points(setting, ranked) for setting in found]
  for axes, setting, points in zip(panels, found, shown):
    _draw(axes, points)
    axes.set_ylabel(f'{setting}\naccuracy as held')
  panels[-1].set_xlabel('bytes sent, both directions, all rounds and clients')
  legend(figure, lambda name: int(name.split()[0]))
  figure.draw_without_rendering()  # numbers stand on axes that are laid out
  for axes, points in zip(panels, shown):
    _number(axes, points)
  return figure


def _points(setting: str, ranked: list[Any]) -> list[Point]:
  return [
    Point(
      *(number, style(name), f'{number:\u2007>2}  {name}'),
      (max(1, versus.sent(row[setting])), versus.final(row[setting])),
    )
    for number, (name, row) in enumerate(ranked, 1)
    if setting in row
  ]


def _draw(axes: Any, points: list[Point]) -> None:
  """A dot a method, and a line through the best."""
  for point in points:
    look = point.look | dict(linestyle='', markersize=6, label=point.name)
    axes.plot(*point.place, **look, zorder=3)
  best = zip(*pareto([point.place for point in points]))
  axes.step(*best, where='post', color='0.6', linewidth=0.8, zorder=1)
  costs = [point.place[0] for point in points if point.place[0] > 1]
  linear = 10.0 ** math.floor(math.log10(min(costs, default=1e4)))
  axes.set_xscale('symlog', linthresh=linear, linscale=0.4)
  axes.margins(y=0.1)
  in_bytes(axes, linear)
  plain(axes)


def _number(axes: Any, points: list[Point]) -> None:
  """Writes numbers beside dots, a shade darker; a line leads to one afar."""
  scale = 72 / axes.figure.dpi
  placed = lambda xy: axes.transData.transform(xy) * scale
  best = pareto([point.place for point in points])
  chosen = shifts(
    placed([point.place for point in points]),
    [(1 + 6 * len(str(point.number)), _LETTERS + 1) for point in points],
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
      fontsize=_LETTERS,
      fontweight='bold' if point.place in best else 'normal',
      color=np.multiply(to_rgb(point.look['color']), 0.7),
      arrowprops=leader if math.hypot(*shift) > 14 else None,
    ).set_in_layout(False)


def steps(corners: Any) -> list[np.ndarray]:
  """Boxes of a line's steps, first to the right and then up."""
  return [
    np.array(box)
    for (x, y), (right, up) in zip(corners, corners[1:])
    for box in ((x, y - 0.5, right, y + 0.5), (right - 0.5, y, right + 0.5, up))
  ]


def shifts(
  dots: Any, sizes: Any, room: Any, line: Any = ()
) -> list[tuple[float, float]]:
  """How far from its dot each label stands to cover nothing.

  Each takes the first free place, or else that which covers least.

  Args:
    dots: centres [n, 2].
    sizes: widths and heights of labels [n, 2].
    room: x0, y0, x1, y1, which labels do not leave.
    line: boxes x0, y0, x1, y1 to keep free too.
  """
  taken, found = [*_boxes(dots, _DOT), *line], []
  for dot, size in zip(dots, sizes):
    costs = _costs(dot, size, dots, taken, room)
    found.append(tuple(map(float, _SHIFTS[costs.argmin()])))
    taken.append(_boxes(dot + found[-1], size))
  return found


def _costs(dot, size, dots, taken, room) -> np.ndarray:
  """What a label in each place covers, how far it is, how near another dot."""
  places, far = dot + _SHIFTS, np.hypot(*_SHIFTS.T)
  astray = far - np.hypot(*(dots[:, None] - places).T).min(1)
  boxes = _boxes(places, size)
  outside = np.prod(size) - _common(boxes, [room])
  return np.round(10 * (_common(boxes, taken) + outside) + far / 10 + astray, 6)


def _boxes(centres: Any, size: Any) -> np.ndarray:
  half = np.divide(size, 2)
  return np.concatenate([centres - half, centres + half], -1)


def _common(boxes: np.ndarray, others: Any) -> np.ndarray:
  """The area of each box that others cover."""
  low = np.maximum(boxes[:, None, :2], np.array(others)[:, :2])
  high = np.minimum(boxes[:, None, 2:], np.array(others)[:, 2:])
  return np.maximum(high - low, 0).prod(-1).sum(-1)


def pareto(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
  """The points that no other has both cheaper and better, by rising cost."""
  best = []
  for cost, value in sorted(points, key=lambda p: (p[0], -p[1])):
    if not best or value > best[-1][1]:
      best.append((cost, value))
  return best
