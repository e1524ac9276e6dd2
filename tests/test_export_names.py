"""Export reads a run's config: what is damaged or not registered is named."""

import json
import re

import pytest
from conftest import small_config
from test_export import told

from hns import data, export
from hns.methods import recipes
from hns.networks import models
from hns.runs import commandline, experiment


def told_of_a_run():
  """What a config.json says."""
  about = {'versions': {}, 'weights_downloaded': 1}
  about['dataset_version'] = 'built in'
  return {**about, 'config': small_config().to_dict()}


@pytest.mark.parametrize('content', ['', '{"config"', '[]', '{}', '\0'])
def test_a_damaged_config_is_named(tmp_path, monkeypatch, content):
  (tmp_path / 'config.json').write_text(content)
  said = told(monkeypatch, tmp_path, '--file=model.hns')
  assert f'{tmp_path / "config.json"}: cannot be read' in said


@pytest.mark.parametrize(
  'field, value',
  [
    *(('cohort', 'x'), ('rounds', 0), ('partition', ['iid']), ('group', None)),
    *(('density', 2.5), ('hidenseek', {'gate': []}), ('colour', 'red')),
  ],
)
def test_a_damaged_field_of_the_config_is_named(
  tmp_path, monkeypatch, field, value
):
  about = told_of_a_run()
  about['config'][field] = value
  (tmp_path / 'config.json').write_text(json.dumps(about))
  said = told(monkeypatch, tmp_path, '--file=model.hns')
  assert said.startswith(f'hns: {tmp_path / "config.json"}: ')
  assert re.search(rf'\b{field}(\.gate)?(=|:)', said)


OWN = """
from hns import config, data
from hns.methods import recipes
from hns.networks import models


def mine(network, learning_rate):
  return recipes.hidenseek(network, learning_rate, 'signs', 'sign', 4)


def inverted():
  digits = data.digits()
  return digits._replace(
    train_inputs=255 - digits.train_inputs, test_inputs=255 - digits.test_inputs
  )


recipes.RECIPES['mine'] = mine
data.SOURCES['inverted'] = inverted
models.MODELS['own'] = lambda classes: models.Network(classes, dense=(64,))


def get_config():
  return config.base(
    **dict(algorithm='mine', mine=dict(learning_rate=0.03), dataset='inverted'),
    **dict(model='own', num_clients=4, cohort=2, rounds=1, local_epochs=1),
    **dict(pruning_steps=2, examples_per_client=20),
  )
"""


@pytest.fixture
def forget():
  """Takes out of this process the names that were registered since."""
  registries = recipes.RECIPES, data.SOURCES, models.MODELS
  before = [set(names) for names in registries]

  def forget():
    for names, there in zip(registries, before):
      for name in names.keys() - there:
        del names[name]

  yield forget
  forget()


def test_names_that_a_config_file_registers(
  tmp_path, monkeypatch, capsys, forget
):
  file, folder, model = (tmp_path / n for n in ('own.py', 'run', 'model.hns'))
  file.write_text(OWN)
  experiment.run(commandline.read(str(file)), folder)
  arrays = tmp_path / 'model.npz'
  actions = f'--file={model}', f'--file={arrays}', f'--evaluate={model}'
  for action in actions:
    forget()
    said = told(monkeypatch, folder, action)
    assert re.search(r"='(mine|own)': not known here: give --config=FILE", said)
    assert told(monkeypatch, folder, action, f'--config={file}') == ''
  assert capsys.readouterr().out.split('\n')[-2].startswith('accuracy ')
  assert export.arrays(folder, None)['Dense_0/kernel'].shape == (64, 64)


@pytest.mark.parametrize(
  'field, name',
  [
    *(('algorithm', 'mine'), ('model', 'own'), ('dataset', 'inverted')),
    *(('pruning', 'fisher'), ('partition', 'rings'), ('upload', 'words')),
  ],
)
def test_a_name_that_is_not_registered_is_told(
  tmp_path, monkeypatch, field, name
):
  about = told_of_a_run()
  about['config'][field] = name
  if field == 'algorithm':
    about['config'][name] = {'learning_rate': 0.1}
  (tmp_path / 'config.json').write_text(json.dumps(about))
  said = told(monkeypatch, tmp_path, '--file=model.hns')
  assert f'{field}={name!r}: not known here: give --config=FILE' in said


def test_a_method_s_table_may_hold_such_names(tmp_path, monkeypatch):
  about = told_of_a_run()
  about['config']['hidenseek']['gate'] = 'ours'
  (tmp_path / 'config.json').write_text(json.dumps(about))
  said = told(monkeypatch, tmp_path, '--file=model.hns')
  assert "gate='ours': not known here: give --config=FILE" in said


def test_what_goes_wrong_in_a_config_file_is_the_users_own(
  tmp_path, monkeypatch
):
  file = tmp_path / 'own.py'
  file.write_text("open('/no/such')")
  with pytest.raises(FileNotFoundError):
    told(monkeypatch, tmp_path, '--file=model.hns', f'--config={file}')
