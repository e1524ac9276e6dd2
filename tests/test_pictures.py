"""Pictures: how a method looks, one legend, numbers that can be read."""

import collections
import functools
import itertools
import json

import numpy as np
import pytest
from conftest import ROOT

from hns.report import field, pictures, styles
from hns.report.groups import group, load

STORED = sorted((ROOT / 'launch' / 'results').glob('*.jsonl.gz'))


@pytest.fixture(scope='module')
def stored():
  """By file the groups of stored results."""
  return {path.name.split('.')[0]: group(load([path])[0]) for path in STORED}


@pytest.fixture(scope='module')
def front(stored):
  """Draws the field of a file."""
  return functools.cache(lambda name: field.front(stored[name]))


def looks(figure):
  """By name how its lines are drawn, one set of all panels and the legend."""
  found = collections.defaultdict(set)
  handles = [line for box in figure.legends for line in box.get_lines()]
  names = [
    text.get_text() for box in figure.legends for text in box.get_texts()
  ]
  lines = [line for axes in figure.axes for line in axes.get_lines()]
  named = [(line.get_label(), line) for line in lines]
  for name, line in (*named, *zip(names, handles)):
    if not name.startswith('_'):
      fill = line.get_markerfacecolor()
      look = line.get_color(), line.get_marker(), fill, line.get_linestyle()
      found[name.split('\u2007')[-1]].add(look)
  return found


def test_a_method_looks_the_same_in_every_panel_and_picture(stored):
  """In whichever order methods come, and whichever others there are."""
  groups = stored['results']
  some = [g for g in groups[::-1] if g.config['dataset'] != 'mnist']
  drawn = [looks(pictures.accuracy(g)) for g in (groups, some)]
  drawn += [looks(pictures.signs(groups))]
  for each in drawn:
    assert all(len(found) == 1 for found in each.values())
  first = drawn[0]
  assert len(first) == 12
  for other in drawn[1:]:
    shared = set(first) & set(other)
    assert len(shared) > 5
    assert all(first[name] == other[name] for name in shared)


def test_a_method_has_its_colour_and_marker_in_the_field_too(stored, front):
  lines = looks(pictures.accuracy(stored['scarce']))
  dots = looks(front('scarce'))
  brief = lambda found: {look[:3] for look in found}
  called = {name.split('  ')[1]: found for name, found in dots.items()}
  assert len(called) == len(lines) == 21
  for name, found in called.items():
    assert len(brief(found)) == 1 and brief(found) == brief(lines[name]), name


@pytest.mark.parametrize('path', STORED, ids=lambda path: path.name)
def test_methods_that_meet_look_different(stored, path):
  meet = collections.defaultdict(set)
  for g in stored[path.name.split('.')[0]]:
    meet[g.config['dataset']].add(g.label)
  for names in meet.values():
    assert len({str(styles.style(name)) for name in names}) == len(names)


def test_variants_share_the_colour_of_their_method():
  style = styles.style
  for method in ('hidenseek', 'nobody_knows_it'):
    names = [f'{method} ({words}, 4 down)' for words in ('change', 'of mine')]
    one, other = map(style, names)
    assert one['color'] == other['color'] == style(method)['color']
    assert one['marker'] != other['marker']
    again = style(f'{method} (4 down), {method}.learning_rate=0.5')
    assert again['color'] == one['color']
  assert style('hidenseek (change, {0, 1}, 4 down)')['marker'] == 'P'
  assert style('hidenseek (density 0.2)')['markerfacecolor'] == 'white'
  assert style('hidenseek (density 1)')['markerfacecolor'] != 'white'
  assert styles.bar('synflow, density 0.2') != styles.bar('synflow, density 1')


@pytest.mark.parametrize('name', [*pictures.PICTURES])
def test_one_legend_names_each_once(stored, name):
  figure = pictures.PICTURES[name][0](stored['results'])
  if figure is None:  # what is stored does not tell of single clients
    assert name == 'clients'
    return
  (legend,) = figure.legends
  assert not any(axes.get_legend() for axes in figure.axes)
  names = [text.get_text() for text in legend.get_texts()]
  drawn = {x for a in figure.axes for x in a.get_legend_handles_labels()[1]}
  assert len(names) == len(set(names)) and set(names) == drawn
  figure.draw_without_rendering()
  box, whole = legend.get_window_extent(), figure.bbox
  assert box.x0 >= 0 and box.x1 <= whole.x1 and box.y0 >= 0


@pytest.mark.parametrize('name', ['scarce', 'moderate', 'results', 'ablation'])
def test_numbers_of_the_field_do_not_overlap(front, name):
  """Neither each other nor a dot, and all stand in their panel."""
  figure = front(name)
  figure.draw_without_rendering()
  for axes in figure.axes:
    numbers = [text.get_window_extent() for text in axes.texts]
    dots = [
      line.get_window_extent()
      for line in axes.lines
      if line.get_marker() != 'None'
    ]
    assert len(numbers) == len(dots) > 5
    for one, other in itertools.combinations(numbers, 2):
      assert not one.overlaps(other)
    for one, other in itertools.product(numbers, dots):
      assert not one.overlaps(other)
    for box in numbers:
      assert axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1
      assert axes.bbox.y0 <= box.y0 and box.y1 <= axes.bbox.y1


def test_numbers_are_those_of_the_legend_in_every_panel(front):
  figure = front('scarce')
  (legend,) = figure.legends
  named = [text.get_text().split()[0] for text in legend.get_texts()]
  assert named == [str(n) for n in range(1, 22)]
  for axes in figure.axes:
    for text in axes.texts:
      (line,) = [
        line
        for line in axes.lines
        if line.get_label().split()[0] == text.get_text()
      ]
      assert text.xy == tuple(line.get_xydata()[0])


def test_labels_of_dots_in_one_place_stand_around_it():
  dots, sizes, room = np.full((6, 2), 50.0), [(8, 8)] * 6, (0, 0, 100, 100)
  found = field.shifts(dots, sizes, room)
  gaps = [np.subtract(*pair) for pair in itertools.combinations(found, 2)]
  assert all(np.abs(gap).max() >= 8 for gap in gaps)
  corner = field.shifts(np.zeros((1, 2)), [(8, 8)], room)
  assert np.all(np.array(corner) >= 4)
  free = field.shifts(dots[:1], [(8, 8)], room)
  blocked = field.shifts(dots[:1], [(8, 8)], room, [np.array([50, 0, 99, 99])])
  assert free[0][0] > 0 > blocked[0][0]


def test_the_bars_of_a_benchmark_are_its_ratios(monkeypatch):
  monkeypatch.syspath_prepend(ROOT / 'launch')
  from engine import chart

  path = ROOT / 'launch' / 'results' / 'benchmark_engine.json'
  told = json.loads(path.read_text())
  panels = chart.draw(told).axes
  found = {
    axes.get_title(): [bar.get_width() for bar in axes.containers[0]]
    for axes in panels
  }
  assert len(found) == 5
  for workload, ratios in told['ratio'].items():
    assert found[f'{workload}, fedavg'] == [*ratios.values()]
  for workload, ratios in told['hidenseek'].items():
    assert found[f'{workload}, hidenseek'] == [*ratios.values()]
