"""Axes of pictures: sizes that can be read in every range."""

import math
import re

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hns.report import axes

BYTES = [
  *[(10**k, 10**k) for k in (2, 5, 9)],
  *[(6_050_000, 6_060_000), (3_900, 711_000), (1_100_000, 4_900_000)],
  *[(5_100_000, 12_000_000), (999_400, 1_001_000), (30, 9 * 10**11)],
  *[(40_000, 9 * 10**9), (1_000, 9_990), (200, 260)],
]


@pytest.mark.parametrize('low,high', BYTES)
@pytest.mark.parametrize('log_from', [0, 1e4, math.inf])
def test_sizes_on_an_axis_are_apart(low, high, log_from):
  figure = Figure(figsize=(14.5, 2.9), layout='constrained')
  FigureCanvasAgg(figure)
  panel = figure.subplots(1, 3)[1]
  panel.plot([low, high], [0, 1])
  if log_from == 0:
    panel.set_xscale('log')
  elif log_from < math.inf:
    panel.set_xscale('symlog', linthresh=log_from)
  axes.in_bytes(panel, log_from)
  figure.draw_without_rendering()
  labels = [x for x in panel.get_xticklabels() if x.get_text()]
  words = [label.get_text() for label in labels]
  assert 2 <= len(set(words)) == len(words)
  assert all(re.fullmatch(r'[\d.]+ (B|kB|MB|GB|TB)', word) for word in words)
  assert not panel.get_xticklabels(minor=True)
  boxes = [label.get_window_extent() for label in labels]
  assert all(a.x1 < b.x0 for a, b in zip(boxes, boxes[1:]))
