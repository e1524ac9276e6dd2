"""Places for labels beside dots, where they cover little else.

All lengths are in points. A box is x0, y0, x1, y1.
"""

import math

import numpy as np
from numpy.typing import ArrayLike

_DOT = 9, 9  # with a margin
_PASSES = 4  # after the first, a label is placed anew among all others
# Gaps between a label and its dot, the nearest first, and where on a square
# around the dot the label's centre is: of equally near ones the right first.
_TURNS = np.arange(24) * math.tau / 24
_GAPS = np.repeat(np.arange(6, 63, 3), len(_TURNS))
_SQUARE = np.clip(1.5 * np.array([np.cos(_TURNS), np.sin(_TURNS)]).T, -1, 1)
_CENTRES = np.tile(_SQUARE, (len(_GAPS) // len(_TURNS), 1))


def along(corners: ArrayLike) -> list[np.ndarray]:
  """Small boxes on a line through these corners [n, 2]."""
  boxes = []
  for one, other in zip(corners, corners[1:]):
    length = np.hypot(*np.subtract(other, one))
    places = np.linspace(one, other, 2 + int(length / 3))
    boxes.extend(_boxes(places, (1.5, 1.5)))
  return boxes


def shifts(
  dots: ArrayLike, sizes: ArrayLike, room: ArrayLike, line: ArrayLike = ()
) -> list[tuple[float, float]]:
  """Positions of the centres of labels relative to their dots.

  Args:
    dots: centres [n, 2].
    sizes: widths and heights of labels [n, 2].
    room: the box that labels must not leave.
    line: boxes that labels must not cover.
  """
  dots, fixed = np.asarray(dots), [*_boxes(dots, _DOT), *line]
  choices = [_shifts(size) for size in sizes]
  boxes = [_boxes(d + c, size) for d, c, size in zip(dots, choices, sizes)]
  costs = [_costs(b, n, dots, fixed, room) for n, b in enumerate(boxes)]
  best = {}
  for number in [*range(len(dots))] * _PASSES:
    others = [boxes[n][place] for n, place in best.items() if n != number]
    covered = _common(boxes[number], others) if others else 0
    best[number] = np.argmin(costs[number] + 10 * covered)
  return [tuple(map(float, choices[n][best[n]])) for n in range(len(dots))]


def nearest(shift: ArrayLike, size: ArrayLike) -> np.ndarray:
  """The point of a label nearest to its dot, relative to the dot."""
  half = np.divide(size, 2)
  return np.clip(0, np.subtract(shift, half), np.add(shift, half))


def _shifts(size: ArrayLike) -> np.ndarray:
  """Where the centre of a label may be, so that its edge is near the dot."""
  return _CENTRES * (_GAPS[:, None] + np.divide(size, 2))


def _costs(
  boxes: np.ndarray,
  own: int,
  dots: np.ndarray,
  fixed: list[np.ndarray],
  room: ArrayLike,
) -> np.ndarray:
  """The cost of each box for the label of the dot `own`, float [boxes].

  It grows with the area that it covers of fixed boxes, with the distance from
  the dot, and if another dot is nearer.
  """
  away = np.stack([_distance(boxes, dot) for dot in dots], -1)
  area = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
  outside = area - _common(boxes, [room])
  covered = 10 * (_common(boxes, fixed) + outside)
  far = away[:, own]
  return np.round(covered + far / 5 + far - away.min(1), 6)


def _distance(boxes: np.ndarray, dot: np.ndarray) -> np.ndarray:
  """From each box to a dot; 0 inside."""
  gaps = np.maximum(boxes[:, :2] - dot, dot - boxes[:, 2:])
  return np.hypot(*np.maximum(gaps, 0).T)


def _boxes(centres: ArrayLike, size: ArrayLike) -> np.ndarray:
  half = np.divide(size, 2)
  return np.concatenate([centres - half, centres + half], -1)


def _common(boxes: np.ndarray, others: ArrayLike) -> np.ndarray:
  """The area of each box that the others cover."""
  low = np.maximum(boxes[:, None, :2], np.array(others)[:, :2])
  high = np.minimum(boxes[:, None, 2:], np.array(others)[:, 2:])
  return np.maximum(high - low, 0).prod(-1).sum(-1)
