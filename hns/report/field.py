"""A picture of all methods: accuracy as held against bytes, as points."""

import collections
import math
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from hns.report import placing, versus
from hns.report.axes import DPI, WIDTH, in_bytes, legend, plain
from hns.report.families import FAMILIES, Family, family_of
from hns.report.groups import Group
from hns.report.labels import Word, named

_FRONT = 'no method is both cheaper and better'
_BETTER = 'up and to the left is better: more accuracy, fewer bytes'
_FONT_SIZE = 7.5  # points
_FAR = 8  # points from a dot to its label
_LEADER = dict(arrowstyle='-', linewidth=0.5, color='0.5', shrinkA=0, shrinkB=3)
# Fields that move a method along its curve.
_ALONG = 'density', 'model'


class Point(NamedTuple):
  """A method in a panel.

  Attributes:
    text: its label.
    family: what it sends.
    curve: which method it is at one of several densities or networks.
    place: its bytes and its accuracy.
  """

  text: str
  family: Family
  curve: str
  place: tuple[float, float]


def front(groups: list[Group]) -> Figure | None:
  """Accuracy as held against all bytes, a panel for each setting.

  A family of methods has one colour. A method's label is bold, and it is on the
  thin line, where no other method is both cheaper and better.
  """
  by_setting = versus.settings(groups)
  if not by_setting:
    return None
  shape = WIDTH, 0.8 + 2.9 * len(by_setting)
  figure = Figure(figsize=shape, dpi=DPI, layout='constrained')
  panels = figure.subplots(len(by_setting), squeeze=False)[:, 0]
  shown = _points(by_setting)
  for axes, (setting, points) in zip(panels, shown.items()):
    _draw(axes, points)
    axes.set_title(setting, loc='left', fontsize=9, fontweight='bold')
    axes.set_ylabel('accuracy as held')
  panels[0].set_title(_BETTER, loc='right', fontsize=9)
  panels[-1].set_xlabel('bytes up + down, all rounds and clients')
  order = [*(family.name for family in FAMILIES.values()), _FRONT]
  legend(figure, order.index)
  figure.draw_without_rendering()  # labels need the final size of the axes
  for axes, points in zip(panels, shown.values()):
    _label(axes, points)
  return figure


def _points(by_setting: dict[str, list[Group]]) -> dict[str, list[Point]]:
  """By setting its points, by rising bytes; of a curve the last has its name.

  The others of a curve are labelled by their density and network.
  """
  brief, shown = _brief(by_setting), {}
  for setting, groups in by_setting.items():
    points, ends = [], {}
    for group in sorted(groups, key=versus.sent, reverse=True):
      name, words = group.config['algorithm'], brief[group.label]
      curve = named(name, [w for w in words if w.field not in _ALONG])
      where = ', '.join(word.text for word in words if word.field in _ALONG)
      text = where if where and curve in ends else named(name, words)
      ends.setdefault(curve, group)
      place = versus.sent(group), versus.final(group)
      points.append(Point(text, family_of(group.config), curve, place))
    shown[setting] = points[::-1]
  return shown


def _brief(by_setting: dict[str, list[Group]]) -> dict[str, list[Word]]:
  """By label the words that tell a method from others of its algorithm."""
  words, by_algorithm = versus.row_words(by_setting), {}
  for groups in by_setting.values():
    for group in groups:
      labels = by_algorithm.setdefault(group.config['algorithm'], set())
      labels.add(group.label)
  return {
    label: [word for word in words[label] if word not in shared]
    for labels in by_algorithm.values()
    for shared in [set.intersection(*(set(words[name]) for name in labels))]
    for label in labels
  }


def _draw(axes: Axes, points: list[Point]) -> None:
  """Draws a dot for each method, curves, and a thin line through the best.

  What sends nothing stands at the left edge, with a dotted line.
  """
  axes.set_xscale('log')
  costs = [point.place[0] for point in points if point.place[0]] or [1.0]
  low, high = min(costs) / 1.6, max(costs) * 1.6
  axes.set_xlim(low, high)
  axes.margins(y=0.12)
  for corners, family in _curves(points):
    axes.plot(*zip(*corners), color=family.color, linewidth=1.8, zorder=2)
  for point in points:
    x, y = max(low, point.place[0]), point.place[1]
    look = dict(color=point.family.color, marker=point.family.marker)
    look |= dict(markersize=6.5, markeredgecolor='white', markeredgewidth=0.5)
    options = dict(linestyle='', label=point.family.name, clip_on=False)
    axes.plot(x, y, **look, **options, zorder=3)
    if not point.place[0]:
      axes.axhline(y, color='0.6', linestyle=':', linewidth=1, zorder=1)
  line = dict(color='0.3', linewidth=0.7, zorder=1, label=_FRONT)
  axes.plot(*zip(*_steps(points, low)), **line)
  in_bytes(axes, 0)
  plain(axes)


def _curves(
  points: list[Point],
) -> list[tuple[list[tuple[float, float]], Family]]:
  """The places of methods that have several, by rising bytes."""
  by_curve = collections.defaultdict(list)
  for point in points:
    by_curve[point.curve].append(point)
  return [
    ([point.place for point in found], found[0].family)
    for found in by_curve.values()
    if len(found) > 1
  ]


def _steps(points: list[Point], low: float) -> list[tuple[float, float]]:
  """The corners of a line from the cheapest of the best, right, then up."""
  best = pareto([point.place for point in points])
  places = [(max(low, cost), value) for cost, value in best]
  corners = places[:1]
  for cost, value in places[1:]:
    corners += [(cost, corners[-1][1]), (cost, value)]
  return corners


def _label(axes: Axes, points: list[Point]) -> None:
  """Writes labels beside dots, with a line to those that are far away."""
  scale, low = 72 / axes.figure.dpi, axes.get_xlim()[0]
  placed = lambda xy: axes.transData.transform(xy) * scale
  dots = [(max(low, cost), value) for cost, value in (p.place for p in points)]
  lines = [_steps(points, low), *(corners for corners, _ in _curves(points))]
  best = pareto([point.place for point in points])
  styles = [_text_style(point, point.place in best) for point in points]
  texts = [p.text if p.place[0] else f'{p.text} (0 B)' for p in points]
  sizes = [_size(axes, text, style) for text, style in zip(texts, styles)]
  along = [box for line in lines for box in placing.along(placed(line))]
  room = axes.bbox.extents * scale
  chosen = placing.shifts(placed(dots), sizes, room, along)
  for text, style, dot, size, shift in zip(texts, styles, dots, sizes, chosen):
    place = dict(xy=dot, textcoords='offset points')
    axes.annotate(text, xytext=shift, **place, **style).set_in_layout(False)
    end = placing.nearest(shift, size)
    if math.hypot(*end) > _FAR:
      axes.annotate('', xytext=end, **place, arrowprops=_LEADER)


def _text_style(point: Point, is_best: bool) -> dict[str, Any]:
  """Keywords of a label: a darker colour of its family, bold if best."""
  return dict(
    ha='center',
    va='center',
    fontsize=_FONT_SIZE,
    fontweight='bold' if is_best else 'normal',
    color=np.multiply(to_rgb(point.family.color), 0.7),
  )


def _size(axes: Axes, text: str, style: dict[str, Any]) -> tuple[float, float]:
  """Width and height of a text in points, with a margin."""
  drawn = axes.text(0.5, 0.5, text, transform=axes.transAxes, **style)
  box, scale = drawn.get_window_extent(), 72 / axes.figure.dpi
  drawn.remove()
  return box.width * scale + 2, box.height * scale + 1


def pareto(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
  """The points for which no other is cheaper and better, by rising cost."""
  best = []
  for cost, value in sorted(points, key=lambda p: (p[0], -p[1])):
    if not best or value > best[-1][1]:
      best.append((cost, value))
  return best
