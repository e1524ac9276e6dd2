"""What makes a column of a table, and what a row."""

import json

import pytest
from conftest import ROOT

from hns.report import compare, pictures, versus
from hns.report.groups import group, load


@pytest.fixture(scope='module')
def saved():
  """A stored run of HideNseek at density 0.2, on shards of MNIST."""
  runs, _ = load([ROOT / 'launch' / 'results' / 'moderate.jsonl.gz'])
  fields = {'algorithm': 'hidenseek', 'dataset': 'mnist'}.items()
  return next(r for r in runs if fields <= r.run_info['config'].items())


def changed(saved, **fields):
  """A run whose config has other values of some fields."""
  about = json.loads(json.dumps(saved.run_info))
  about['config'] |= fields
  return saved._replace(run_info=about)


def test_networks_and_densities_are_rows_of_one_column(saved):
  (alone,) = group([saved])
  other = changed(saved, dataset='femnist')
  wide = changed(saved, model='lenet', density=0.1)
  first, second, third = group([saved, wide, other])
  before = alone.label[:-1]
  assert 'cnn' not in alone.label and before.endswith('density 0.2')
  assert first.label == third.label == f'{before}, cnn)'
  assert second.label == before.replace('0.2', '0.1, lenet)')
  assert first.setting == second.setting == 'mnist, 30 clients'
  assert third.setting == 'femnist, 30 clients'
  (titles, _, *rows) = versus.overview([first, second, third]).splitlines()
  assert titles.count('mnist, 30 clients') == 2 and len(rows) == 2
  assert len(pictures.accuracy([first, second]).axes) == 3


def test_a_setting_tells_the_partition_where_it_differs(saved):
  elsewhere = changed(saved, dataset='femnist', partition='natural')
  uneven = changed(saved, partition='dirichlet', alpha=0.1)
  more = changed(saved, partition='dirichlet', alpha=1.0)
  found = group([saved, elsewhere, uneven, more])
  settings = [
    'mnist, 30 clients, shards',
    'femnist, 30 clients',
    'mnist, 30 clients, dirichlet 0.1',
    'mnist, 30 clients, dirichlet 1.0',
  ]
  assert [g.setting for g in found] == settings
  assert len({g.label for g in found}) == 1
  assert len(pictures.accuracy(found).axes) == 4 * 3
  lines = compare(found).splitlines()[2:]
  assert [line.split(' | ')[0] for line in lines] == [
    f'| {setting}' for setting in settings
  ]
