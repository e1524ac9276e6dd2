"""Our method against rivals: targets, costs and the front."""

import pathlib

import numpy as np
import pytest

from hns.engine import metrics
from hns.report import field, versus
from hns.report.groups import Group
from hns.report.labels import Word, named

ADAM = Word('optimizer', 'adam', tuned=True)
MNIST, FEMNIST = 'mnist, 100 clients', 'femnist, 100 clients'


def group(name, held, each, **table):
  """Two seeds of a method that costs `each` of everything a row."""
  rows = [
    [
      {
        'round': 10 * (n + 1),
        'held_accuracy': accuracy + shift,
        'personal_accuracy': 1 - accuracy - shift,
        'uplink_bytes': each * (n + 1),
        'downlink_bytes': 2 * each * (n + 1),
        'client_flops': 1e9 * each * (n + 1),
        'client_steps': each * (n + 1),
      }
      for n, accuracy in enumerate(held)
    ]
    for shift in (-0.1, 0.1)
  ]
  config = {'algorithm': name, 'dataset': 'mnist', 'num_clients': 100}
  config |= {'model': 'cnn', name: table}
  folders = pathlib.Path('a'), pathlib.Path('b')
  about = MNIST, config, (0, 1), folders, (1, 1), ({}, {})
  return versus.with_accuracy(Group(name, (), *about, tuple(rows)))


def said(group, *words):
  """The group with these words in its label."""
  label = named(group.config['algorithm'], words)
  return group._replace(label=label, words=words)


OURS = group('hidenseek', [0.5, 0.7, 0.8], 10, gate='sign')
RIVAL = group('fedmask', [0.3, 0.4, 0.5], 20)
BETTER = group('fedavg', [0.6, 0.8, 0.9], 600)
SILENT = group('local', [0.2, 0.2, 0.6], 0)


def test_costs_are_those_of_the_first_row_at_the_target():
  """The rival ends at 0.5, where we are after a row of 10 and it after 3."""
  found = versus.compared(OURS, RIVAL)
  assert found == [
    *('+60.0 %', '-83.3 %', '-83.3 %', '-83.3 %', '-66.7 %'),
  ]
  assert versus.compared(OURS, BETTER)[0] == '-11.1 %'
  assert versus.compared(OURS, SILENT)[1:3] == ['', '']


def test_bytes_are_compared_by_their_sum():
  """Twice the upload at a tenth of the download is fewer bytes."""
  moved = lambda row: row | {'uplink_bytes': 40, 'downlink_bytes': 4}
  rows = tuple([moved(row) for row in rows] for rows in RIVAL.rows)
  ours = versus.with_accuracy(OURS._replace(rows=rows))
  rival = RIVAL._replace(rows=tuple(rows[:1] for rows in RIVAL.rows))
  assert versus.compared(ours, rival)[1] == versus.percent(44, 60)
  assert versus.sum_of_bytes(ours.rows[0]) == '44 B (40 B + 4 B)'
  assert versus.sent(ours) == 44
  assert 'ours: bytes |' in versus.claims([ours, rival])


def test_an_accuracy_that_is_never_reached_is_an_error():
  with pytest.raises(ValueError, match='never reaches'):
    versus.at(RIVAL, 0.51)


def test_a_table_for_every_setting_that_has_ours():
  binary = group('hidenseek', [0.9, 0.9, 0.9], 10, gate='binary')
  text = versus.claims([RIVAL, binary, OURS]).splitlines()
  assert text[0] == '**mnist, 100 clients**' and len(text) == 7
  names = [line.split(' | ')[0] for line in text[4:]]
  assert names == ['| hidenseek', '| **hidenseek**', '| fedmask']
  held = ' | 0.500 ± 0.141 |  |  | 180 B (60 B + 120 B) | +60.0 % | -83.3 %'
  assert held in text[6]
  assert versus.claims([RIVAL, binary]) == ''


def test_methods_by_settings_with_the_closest_to_the_best_first():
  """Ours is the best in one and 0.1 behind in the other: 0.05 on average."""
  other, ours = (g._replace(setting=FEMNIST) for g in (BETTER, OURS))
  assert versus.overview([OURS, RIVAL]) == ''
  text = versus.overview([RIVAL, OURS, other, ours]).splitlines()
  titles = [x for name in (MNIST, FEMNIST) for x in (name, 'bytes (up + down)')]
  assert text[0] == f'| method | {" | ".join(titles)} |'
  mine = '0.800 ± 0.141', '90 B (30 B + 60 B)'
  assert text[2:] == [
    '| fedavg |  |  | **0.900 ± 0.141** | 5.4 kB (1.8 kB + 3.6 kB) |',
    f'| hidenseek | **{mine[0]}** | {mine[1]} | {mine[0]} | {mine[1]} |',
    '| fedmask | 0.500 ± 0.141 | 180 B (60 B + 120 B) |  |  |',
  ]


def test_what_was_tuned_apart_is_one_row_unless_it_meets():
  kept = said(RIVAL, Word('target', 'keeps 0.8', tuned=True))
  adam = said(BETTER, ADAM)._replace(setting=FEMNIST)
  other = kept._replace(setting=FEMNIST)
  text = versus.overview([kept, RIVAL, BETTER, adam, other]).splitlines()
  best, sent = '**0.900 ± 0.141**', '5.4 kB (1.8 kB + 3.6 kB)'
  assert text[2] == f'| fedavg | {best} | {sent} | {best} (adam) | {sent} |'
  assert sorted(line.split(' | ')[0] for line in text[3:]) == [
    '| fedmask',
    '| fedmask (keeps 0.8)',
  ]


def test_what_differs_within_a_setting_names_rows_and_else_stands_in_a_cell():
  """Two densities meet on MNIST; networks and optimisers differ by setting."""
  density = lambda x: Word('density', f'density {x}', tuned=True)
  model = lambda name: Word('model', name, tuned=True)
  full = Word('upload', 'change')
  groups = [
    said(OURS, full, density(0.2), model('cnn')),
    said(RIVAL, model('cnn')),
    said(OURS, full, density(0.1), model('cnn')),
    said(OURS, full, density(0.1), model('lenet'))._replace(setting=FEMNIST),
    said(RIVAL, ADAM, model('lenet'))._replace(setting=FEMNIST),
  ]
  lines = versus.overview(groups).splitlines()[2:]
  cells = [line.split(' | ') for line in lines]
  ours, rival = '0.800 ± 0.141', '0.500 ± 0.141'
  assert [[row[0][2:], row[1], row[3]] for row in cells] == [
    ['hidenseek (change, density 0.2)', f'**{ours}** (cnn)', ''],
    [
      'hidenseek (change, density 0.1)',
      f'**{ours}** (cnn)',
      f'**{ours}** (lenet)',
    ],
    ['fedmask', f'{rival} (cnn)', f'{rival} (adam, lenet)'],
  ]


def test_the_best_of_ours_is_compared():
  worse = group('hidenseek', [0.1, 0.2, 0.3], 10, gate='sign')
  text = versus.claims([worse._replace(label='worse'), OURS, RIVAL])
  assert '| **hidenseek** | 0.800' in text and '| worse | 0.300' in text


def test_the_default_of_ours_is_compared_though_another_is_better():
  table = dict(gate='sign', upload='change')
  default = group('hidenseek', [0.1, 0.2, 0.3], 10, **table)
  text = versus.claims([default._replace(label='default'), OURS, RIVAL])
  assert '| **default** | 0.300' in text and '| hidenseek | 0.800' in text


def test_another_accuracy_can_be_asked_for():
  """By what is 1 minus that as held, the order is the reverse."""
  text = versus.claims([OURS, RIVAL], 'personal').splitlines()
  assert text[2].startswith('| method | personal | its worst tenth')
  assert text[4].startswith('| fedmask | 0.500 ± 0.141')
  assert text[5].startswith('| **hidenseek** | 0.200 ± 0.141')
  assert ' -60.0 % ' in text[4]


def test_seeds_are_compared_with_themselves():
  """Of the rival only seed 1 was run, where we hold 0.9."""
  alone = RIVAL._replace(rows=RIVAL.rows[1:], seeds=(1,))
  assert versus.compared(OURS, alone)[0] == versus.percent(0.9, 0.6)
  other = RIVAL._replace(seeds=(2, 3))
  assert versus.compared(OURS, other) == [''] * 5


def test_seeds_that_are_behind_do_not_count_twice():
  """Of a seed cut off after a row, that row counts, of the other too."""
  behind = OURS._replace(rows=(OURS.rows[0][:1], OURS.rows[1]))
  assert versus.final(behind) == pytest.approx(0.5)
  assert versus.at(behind, 0.5)['round'] == 10


def test_nothing_on_the_front_is_beaten_in_both():
  points = [(30, 0.8), (30, 0.7), (60, 0.5), (0, 0.6), (1800, 0.9)]
  assert field.pareto(points) == [(0, 0.6), (30, 0.8), (1800, 0.9)]
  assert field.front([OURS, RIVAL, SILENT]) is not None
  assert field.front([]) is None


def test_held_is_over_the_clients_that_took_part():
  found = metrics.held_accuracy(
    np.array([5, np.nan, 10, 0]), np.array([10, 10, 10, 10])
  )
  assert found['held_accuracy'] == 0.5 and found['held_clients'] == 3
  assert found['held_accuracy_p10'] == pytest.approx(0.1)
  assert (
    metrics.held_accuracy(np.array([np.nan, np.nan]), np.array([3, 3])) == {}
  )
