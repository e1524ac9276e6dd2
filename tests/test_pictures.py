"""Pictures: how a method looks, one legend, labels that can be read."""

import collections
import functools
import itertools
import json

import numpy as np
import pytest
from conftest import ROOT

from hns.methods.recipes import RECIPES
from hns.report import (
  families,
  field,
  hardship,
  pictures,
  placing,
  styles,
  versus,
)
from hns.report.groups import group, load
from hns.report.labels import label

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
      found[name].add(look)
  return found


def test_a_method_looks_the_same_in_every_panel_and_picture(stored):
  """In whichever order methods come, and whichever others there are."""
  groups = stored['frontier']
  some = [g for g in groups[::-1] if g.config['dataset'] != 'mnist']
  drawn = [looks(pictures.accuracy(g)) for g in (groups, some)]
  drawn += [looks(pictures.signs(groups))]
  for each in drawn:
    assert all(len(found) == 1 for found in each.values())
  first = drawn[0]
  assert len(first) == 21  # of the frontier
  for other in drawn[1:]:
    shared = set(first) & set(other)
    assert len(shared) >= 5
    assert all(first[name] == other[name] for name in shared)


def test_every_method_has_a_family_and_one_of_ones_own_too():
  assert set(RECIPES) <= families.FAMILY_OF.keys()
  of = lambda name, **table: families.family_of(
    {'algorithm': name, name: table}
  )
  ours, masks = of('hidenseek', gate='sign'), of('fedmask')
  assert of('hidenseek_personal') == of('hidenseek') == ours
  assert of('hidenseek', gate='binary') == of('fedpm') == masks != ours
  assert of('mine') == families.FAMILIES['other']
  looks = [look for _, *look in families.FAMILIES.values()]
  for each in zip(*looks):
    assert len(set(each)) == len(looks)


def dots(axes):
  """By place the lines of a panel of the field that are one dot."""
  alone = [line for line in axes.lines if line.get_marker() != 'None']
  return {tuple(line.get_xydata()[0]): line for line in alone}


def test_a_family_has_one_colour_in_every_panel_of_the_field(stored, front):
  found = collections.defaultdict(set)
  for axes, (setting, groups) in zip(
    front('scarce').axes, versus.settings(stored['scarce']).items()
  ):
    assert axes.get_title('left') == setting and len(dots(axes)) == 21
    for g in groups:
      place = max(versus.sent(g), axes.get_xlim()[0]), versus.final(g)
      line, family = dots(axes)[place], families.family_of(g.config)
      assert line.get_label() == family.name
      found[family].add((line.get_color(), line.get_marker()))
  assert len(found) == 5
  assert all(look == {family[1:]} for family, look in found.items())


def test_bytes_of_the_field_are_the_sum_on_a_logarithmic_axis(stored, front):
  for axes in front('scarce').axes:
    assert axes.get_xscale() == 'log'
  (ours,) = [g for g in stored['scarce'] if g.label.startswith('ditto')][:1]
  last = [rows[-1] for rows in ours.rows]
  total = np.mean([r['uplink_bytes'] + r['downlink_bytes'] for r in last])
  places = [place[0] for place in dots(front('scarce').axes[0])]
  assert total in places


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
  which = 'failing' if name in hardship.HARDSHIPS else 'moderate'
  figure = pictures.PICTURES[name][0](stored[which])
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


@pytest.mark.parametrize(
  'name,least', [('scarce', 6), ('moderate', 6), ('frontier', 3)]
)
def test_labels_of_the_field_do_not_overlap(front, name, least):
  """Neither each other nor a dot, and all stand in their panel."""
  figure = front(name)
  figure.draw_without_rendering()
  for axes in figure.axes:
    labels = [text for text in axes.texts if text.get_text()]
    boxes = [text.get_window_extent() for text in labels]
    marks = [line.get_window_extent() for line in dots(axes).values()]
    assert len(boxes) == len(marks) >= least
    for one, other in itertools.combinations(boxes, 2):
      assert not one.overlaps(other)
    for one, other in itertools.product(boxes, marks):
      assert not one.overlaps(other)
    for box in boxes:
      assert axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1
      assert axes.bbox.y0 <= box.y0 and box.y1 <= axes.bbox.y1


def test_labels_of_the_field_say_what_tells_methods_apart(front):
  """Bold where nothing is both cheaper and better."""
  panel = front('scarce').axes[1]
  said = {text.get_text(): text for text in panel.texts if text.get_text()}
  assert {'hidenseek (change)', 'fedpm', 'local (0 B)'} <= said.keys()
  assert {'signsgd (adam)', 'signsgd (pruned, density 0.2)'} <= said.keys()
  for text in said.values():
    assert text.xy in dots(panel)
    cheaper = [y for x, y in dots(panel) if x <= text.xy[0]]
    is_best = text.xy[1] == max(cheaper)
    assert text.get_fontweight() == ('bold' if is_best else 'normal')


def test_what_sends_nothing_stands_at_the_edge_with_a_line(front):
  for axes in front('scarce').axes:
    (text,) = [text for text in axes.texts if '0 B' in text.get_text()]
    (line,) = [line for line in axes.lines if line.get_linestyle() == ':']
    low = axes.get_xlim()[0]
    assert text.xy == (low, line.get_ydata()[0])
    assert all(low < x for x, _ in dots(axes) if x != low)


def at_density(run, density, factor, model):
  """A run as at another density and network, for a share of its bytes."""
  about = json.loads(json.dumps(run.run_info))
  about['config'] |= {'density': density, 'model': model}
  names = 'uplink_bytes', 'downlink_bytes'
  scaled = lambda row: row | {name: int(row[name] * factor) for name in names}
  return run._replace(run_info=about, rows=list(map(scaled, run.rows)))


def test_densities_and_networks_of_a_variant_are_a_curve(tmp_path):
  """In the order of bytes, not of density; the last has the variant's name."""
  runs = load([ROOT / 'launch' / 'results' / 'scarce.jsonl.gz'])[0]
  runs = [r for r in runs if r.run_info['config']['dataset'] == 'cifar10']
  default = 'hidenseek (change, 4 down, density 0.2)'
  changes = (0.05, 3, 'cnn'), (0.1, 0.5, 'lenet'), (0.02, 0.1, 'cnn')
  ours = [
    at_density(run, *change)
    for run in runs
    for change in changes
    if label(run.run_info['config'], run.run_info['layers']) == default
  ]
  figure = field.front(group([*runs, *ours]))
  (axes,) = figure.axes
  (curve,) = [line for line in axes.lines if line.get_linewidth() > 1.5]
  said = {text.xy: text.get_text() for text in axes.texts if text.get_text()}
  assert [said[tuple(place)] for place in curve.get_xydata()] == [
    *('density 0.02, cnn', 'density 0.1, lenet', 'density 0.2, cnn'),
    'hidenseek (change, density 0.05, cnn)',
  ]
  assert np.all(np.diff(curve.get_xdata()) > 0)
  assert curve.get_color() == families.FAMILIES['signs'].color
  pictures.save(figure, tmp_path / 'a.png')
  assert (tmp_path / 'a.png').stat().st_size < 150_000


def test_labels_of_dots_in_one_place_stand_around_it():
  dots, sizes, room = np.full((6, 2), 50.0), [(8, 8)] * 6, (0, 0, 100, 100)
  found = placing.shifts(dots, sizes, room)
  gaps = [np.subtract(*pair) for pair in itertools.combinations(found, 2)]
  assert all(np.abs(gap).max() >= 8 for gap in gaps)
  corner = placing.shifts(np.zeros((1, 2)), [(8, 8)], room)
  assert np.all(np.array(corner) >= 4)
  free = placing.shifts(dots[:1], [(8, 8)], room)
  line = placing.along([(50, 50), (99, 50)])
  blocked = placing.shifts(dots[:1], [(8, 8)], room, line)
  assert free[0] == (10, 0) and abs(blocked[0][1]) >= 4
  assert tuple(placing.nearest((10, 0), (8, 8))) == (6, 0)
  assert tuple(placing.nearest((-10, 20), (8, 8))) == (-6, 16)


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
