"""A model file: small, exact, and refused when it cannot be right."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import small_config

from hns import data, devices, experiment, export
from hns.errors import InputError


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  folder = tmp_path_factory.mktemp('export') / 'run'
  experiment.run(small_config(model='mlp'), folder)
  return folder


def test_predictions_are_those_of_the_run(run):
  """The global accuracy is that of the metrics."""
  rows = (run / 'metrics.jsonl').read_text().splitlines()
  accuracy = json.loads(rows[-1])['global_accuracy']
  content = export.from_run(run, None)
  assert export.evaluate(run, content, None) == pytest.approx(accuracy)
  mine = export.from_run(run, 2)
  assert mine != content and len(mine) < 4000
  told = json.loads(rows[-1])['client_accuracies']  # equal clients, by id
  assert told[2] == pytest.approx(export.evaluate(run, mine, 2), abs=1e-4)


def test_a_file_loads_bit_for_bit(run):
  content = export.from_run(run, 1)
  model = export.load(content)
  assert export.dump(model.spec, model.variables) == content
  fresh = export.redraw(model.spec).variables
  for name in ('weights', 'mask'):
    jax.tree.map(
      np.testing.assert_array_equal, fresh[name], model.variables[name]
    )
  x = jax.random.normal(jax.random.key(0), (3, *model.spec.image))
  _, trained = export.trained(run, 1)
  logits = [model.net.apply(v, x) for v in (model.variables, trained)]
  np.testing.assert_array_equal(*logits)
  assert logits[0].shape == (3, 10)


def test_a_model_of_other_pictures_is_refused(run):
  model = export.load(export.from_run(run, None))
  other = model.spec._replace(dataset='mnist')
  content = export.dump(other, model.variables)
  with pytest.raises(InputError, match="dataset='mnist': the run has digits"):
    export.evaluate(run, content, None)


def test_a_file_says_what_its_pixels_are_divided_by(run):
  model = export.load(export.from_run(run, None))
  scale = np.float32(model.spec.scale)
  pixels = data.digits().train_images.astype(np.float64)
  np.testing.assert_array_equal(
    scale, np.float32([pixels.mean(), pixels.std()])
  )
  darker = model.spec._replace(scale=(255.0, model.spec.scale[1]))
  content = export.dump(darker, model.variables)
  known, blind = (
    export.evaluate(run, file, None)
    for file in (export.from_run(run, None), content)
  )
  assert blind < known


def test_damaged_and_foreign_files_are_refused(run):
  content = export.from_run(run, 1)
  for bad in (b'', b'PNG' * 9, content[:-1], content + b'\0', content[1:]):
    with pytest.raises(InputError):
      export.load(bad)
  for place in range(0, len(content), 7):
    flipped = bytearray(content)
    flipped[place] ^= 4
    with pytest.raises(InputError):
      export.load(bytes(flipped))


def test_weights_of_another_generator_are_refused(run):
  content = export.from_run(run, 1)
  with jax.threefry_partitionable(not jax.config.jax_threefry_partitionable):
    with pytest.raises(InputError, match='version of jax'):
      export.load(content)


def test_a_run_whose_weights_are_drawn_otherwise_is_refused(run):
  with jax.threefry_partitionable(not jax.config.jax_threefry_partitionable):
    with pytest.raises(InputError, match='other weights are drawn here'):
      export.from_run(run, None)


def test_nothing_to_do_is_said(run, monkeypatch, capsys):
  monkeypatch.setattr(sys, 'argv', ['export', str(run), '--client=1'])
  with pytest.raises(SystemExit):
    export.main()
  assert 'give --file, --evaluate or both' in capsys.readouterr().err


def test_a_client_that_is_not_there_is_named(run, monkeypatch):
  words = ['export', str(run), '--client=99', '--file=model.hns']
  monkeypatch.setattr(sys, 'argv', words)
  monkeypatch.setattr(devices, 'start', lambda: None)  # JAX runs already
  with pytest.raises(SystemExit, match='client=99: the run has 6'):
    export.main()


def test_the_command_exports_and_another_process_evaluates(run, tmp_path):
  file = tmp_path / 'model.hns'
  call = [sys.executable, '-m', 'hns.export', run, '--client=2']
  done = subprocess.run([*call, f'--file={file}'], capture_output=True)
  assert done.returncode == 0, done.stderr
  done = subprocess.run(
    [*call, f'--evaluate={file}'], capture_output=True, text=True
  )
  expected = export.evaluate(run, file.read_bytes(), 2)
  assert done.stdout.strip() == f'accuracy {expected:.4f}', done.stderr
