"""A method in one file: its signature is its table, everywhere it is shown."""

import json

import pytest
from conftest import ROOT

import hns
from hns import main
from hns.config import base, fields
from hns.errors import InputError
from hns.methods import recipes
from hns.methods.recipes import Optimizer, Rate
from hns.report import groups
from hns.runs import experiment, limits, sweeps, workdir
from hns.values import leaves


@recipes.same_fields(recipes.fedprox)
def borrowed(network, **table):
  """FedProx under another name."""
  return recipes.fedprox(network, **table)


def toy(
  network,
  learning_rate: Rate = 0.05,
  optimizer: Optimizer = 'sgd',
  strength: recipes.Pull = 0.25,
  bold: bool = False,
):
  """FedAvg with a pull.

  Args:
    strength: how much of the start
      a client keeps
    bold: does nothing
  """
  return recipes.fedprox(network, learning_rate, optimizer, strength)


@pytest.fixture
def method(monkeypatch):
  monkeypatch.setitem(hns.METHODS, 'toy', toy)
  monkeypatch.setitem(hns.METHODS, 'borrowed', borrowed)
  return 'toy'


def test_its_signature_is_its_table(method):
  found = leaves(base().to_dict())
  assert {k: v for k, v in found.items() if k.startswith('toy.')} == {
    'toy.learning_rate': 0.05,
    'toy.optimizer': 'sgd',
    'toy.strength': 0.25,
    'toy.bold': False,
  }
  assert base().borrowed == base().fedprox
  said = fields()
  assert said['toy.strength'].help() == 'how much of the start a client keeps'
  assert said['toy.optimizer'].help().endswith(': adam, sgd')


def test_help_explains_its_fields(method, capsys):
  with pytest.raises(SystemExit):
    main.main(['hns', f'--config={ROOT / "configs/test.py"}', '--help'])
  said = ' '.join(capsys.readouterr().out.split())
  assert (
    '--config.toy.strength: how much of the start a client keeps '
    '(default: 0.25)'
  ) in said
  names = said.split('--config.algorithm: the method: ')[1].split(' (')[0]
  assert names.split(', ')[-2:] == ['toy', 'borrowed']


@pytest.mark.parametrize(
  'table,said',
  [
    (dict(strength=-1.0), r'toy.strength=-1.0: must be in \[0, inf\)'),
    (dict(optimizer='rms'), "toy.optimizer='rms': choose one of adam, sgd"),
    (dict(bold=1), 'toy.bold=1: must be True or False'),
    (dict(size=1), "toy={'size': 1}: no such field; toy takes learning_rate"),
  ],
)
def test_its_limits_are_those_of_its_annotations(method, table, said):
  with pytest.raises(InputError, match='^' + said):
    limits.validate(base(algorithm='toy', toy=table))


def test_it_is_swept_run_and_reported(method, tmp_path, monkeypatch):
  monkeypatch.setattr(workdir, 'draw', lambda *given: None)
  small = dict(model='mlp', num_clients=4, cohort=2, rounds=1, local_epochs=1)
  config = lambda case: base(algorithm='toy', **small)
  points = sweeps.grid({'toy.bold': [False, True], 'seed': [0]})
  runs = sweeps.plan(config, points, tmp_path)
  assert [run.folder.name for run in runs] == [
    'bold=False,seed=0',
    'bold=True,seed=0',
  ]
  for run in runs:
    experiment.run(base(**run.config), run.folder)
  saved, skipped = groups.load([str(tmp_path)])
  labels = {g.label for g in groups.group(saved)}
  assert labels == {'toy', 'toy (bold)'} and not skipped
  about = json.loads((runs[1].folder / 'config.json').read_text())
  assert about['config']['toy']['bold'] is True
