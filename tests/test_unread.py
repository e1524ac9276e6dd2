"""A field that was set and is not read is told of; one that is read is not."""

import pytest

from hns.config import base
from hns.data.partition import PARTITIONS
from hns.engine.rules import RULES
from hns.methods.recipes import RECIPES
from hns.runs import unread

SIGNS = {name: {'upload': 'signs'} for name in ('hidenseek', 'fedmask')}
PRUNE = {'hidenseek', 'hidenseek_personal'}


@pytest.mark.parametrize('name', RECIPES)
def test_who_reads_the_density(name):
  config = base(algorithm=name)
  assert (not unread.notes(config, ['density'])) == (name in PRUNE | {'ssfl'})
  assert (not unread.notes(config, ['pruning'])) == (name in PRUNE)
  if 'pruned' in base()[name]:
    pruned = base(algorithm=name, **{name: {'pruned': True}})
    assert not unread.notes(pruned, ['density', 'pruning', 'pruning_steps'])


@pytest.mark.parametrize(
  'field,fields,why',
  [
    ('fedavg.learning_rate', {}, 'algorithm=hidenseek'),
    ('hidenseek.learning_rate', {}, ''),
    ('upload', {}, ''),
    ('upload', {'algorithm': 'fedavg'}, 'algorithm=fedavg'),
    ('download_bits', {}, 'algorithm=hidenseek'),
    ('download_bits', {'algorithm': 'eden'}, ''),
    ('alpha', {}, 'partition=shards'),
    ('alpha', {'partition': 'dirichlet'}, ''),
    ('classes_per_client', {'partition': 'iid'}, 'partition=iid'),
    ('trim_share', {'server_rule': 'median'}, 'server_rule=median'),
    ('clip_norm', {'server_rule': 'private_mean'}, ''),
    ('attack', {}, 'hostile_clients=0'),
    ('attack', {'hostile_clients': 1}, ''),
    ('drop_slowest', {}, 'drop_share=0.0'),
    ('seed', {}, ''),
    ('group', {}, 'partition=shards'),
    ('local_epochs', {}, ''),
    ('local_epochs', {'local_steps': 3}, 'local_steps=3'),
    ('hidenseek.momentum', {}, ''),
    *(
      (f'{name}.momentum', SIGNS | {'algorithm': name}, f'{name}.upload=signs')
      for name in ('hidenseek', 'fedmask')
    ),
    ('upload', SIGNS, 'hidenseek.upload=signs'),
    ('hidenseek.floats_rate', {}, 'hidenseek.floats=frozen'),
    (
      'pruning',
      {'algorithm': 'fedmask'},
      'algorithm=fedmask, whose server does not prune',
    ),
  ],
)
def test_which_fields_are_told_of(field, fields, why):
  said = unread.notes(base(**fields), [field])
  expected = f'config.{field} is set, but not read with {why}'
  assert said == ([expected] if why else [])


def test_names_that_a_user_added_may_read_anything(monkeypatch):
  monkeypatch.setitem(PARTITIONS, 'mine', None)
  monkeypatch.setitem(RULES, 'mine', None)
  monkeypatch.setitem(RECIPES, 'mine', lambda network, rate=0.1: None)
  config = base(partition='mine', server_rule='mine', algorithm='mine')
  assert not unread.notes(config, ['alpha', 'trim_share', 'density'])
