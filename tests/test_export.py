"""A model file: small, exact, and refused when it cannot be right."""

import functools
import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import sharing, slow_if, small_config, small_file
from flax.traverse_util import flatten_dict, unflatten_dict

from hns import config as configs
from hns import data, export
from hns.errors import InputError
from hns.networks import models
from hns.report import files
from hns.runs import devices, experiment


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  folder = tmp_path_factory.mktemp('export') / 'run'
  with sharing():
    experiment.run(small_config(), folder)
  return folder


@pytest.fixture(scope='module')
def averaged(tmp_path_factory):
  folder = tmp_path_factory.mktemp('export') / 'averaged'
  with sharing():
    experiment.run(small_config(algorithm='fedavg', rounds=1), folder)
  return folder


@functools.cache
def file_of(run, client):
  """The model file of a run's client, written once for all tests."""
  with sharing():
    return export.from_run(run, client)


def told(monkeypatch, *words):
  """What `hns.export` says as it ends, '' if all went well."""
  monkeypatch.setattr(devices, 'start', lambda: None)  # JAX runs already
  try:
    export.main(['export', *map(str, words)])
  except SystemExit as stop:
    assert len(str(stop).splitlines()) == 1
    return str(stop)
  return ''


def test_predictions_are_those_of_the_run(shared, run):
  """The global accuracy is that of the metrics."""
  rows = (run / 'metrics.jsonl').read_text().splitlines()
  accuracy = json.loads(rows[-1])['global_accuracy']
  content = export.from_run(run, None)
  assert export.evaluate(run, content, None) == pytest.approx(accuracy)
  mine = export.from_run(run, 2)
  assert mine != content and len(mine) < 4000
  told = json.loads(rows[-1])['client_accuracies']  # equal clients, by id
  assert told[2] == pytest.approx(export.evaluate(run, mine, 2), abs=1e-4)


@pytest.mark.parametrize('algorithm', [slow_if(True, 'hidenseek'), 'fedmrn'])
def test_a_client_that_keeps_bits_or_a_key_can_be_exported(algorithm, tmp_path):
  """Its personal accuracy is that of the metrics."""
  config = small_config(algorithm=algorithm, rounds=2)
  config.hidenseek.update(remember=True, download_bits=1)
  with sharing():
    rows = experiment.run(config, tmp_path)
    for client in range(3):
      arrays = export.arrays(tmp_path, client)
      found = correct(models.create('tiny', 10), arrays, tmp_path, client)
      told = rows[-1]['client_accuracies'][client]
      assert found == pytest.approx(told, abs=1e-4)


def test_a_file_loads_bit_for_bit(shared, run):
  content = export.from_run(run, 1)
  model = export.load(content)
  assert export.dump(model.spec, model.variables) == content
  fresh = export.redraw(model.spec).variables
  for name in ('weights', 'mask'):
    jax.tree.map(
      np.testing.assert_array_equal, fresh[name], model.variables[name]
    )
  x = jax.random.normal(jax.random.key(0), (3, *model.spec.shape))
  _, trained = export.trained(run, 1)
  logits = [model.net.apply(v, x) for v in (model.variables, trained)]
  np.testing.assert_array_equal(*logits)
  assert logits[0].shape == (3, 10)


def test_a_model_of_other_pictures_is_refused(shared, run):
  model = export.load(file_of(run, None))
  other = model.spec._replace(dataset='mnist')
  content = export.dump(other, model.variables)
  with pytest.raises(InputError, match="dataset='mnist': the run has digits"):
    export.evaluate(run, content, None)


def test_a_file_says_what_its_pixels_are_divided_by(shared, run):
  model = export.load(file_of(run, None))
  scale = np.float32(model.spec.scale)
  pixels = data.digits().train_inputs.astype(np.float64)
  np.testing.assert_array_equal(
    scale, np.float32([pixels.mean(), pixels.std()])
  )
  some = data.digits().train_inputs[:20]
  seen = (some - scale[0]) / scale[1]
  logits = model.net.apply(model.variables, seen)
  np.testing.assert_allclose(model.predict(some), logits, atol=1e-4)
  darker = model.spec._replace(scale=(255.0, model.spec.scale[1]))
  content = export.dump(darker, model.variables)
  known, blind = (
    export.evaluate(run, file, None) for file in (file_of(run, None), content)
  )
  assert blind < known


def test_damaged_and_foreign_files_are_refused(run):
  content = file_of(run, 1)
  for bad in (b'', b'PNG' * 9, content[:-1], content + b'\0', content[1:]):
    with pytest.raises(InputError):
      export.load(bad)
  for place in range(0, len(content), 7):
    flipped = bytearray(content)
    flipped[place] ^= 4
    with pytest.raises(InputError):
      export.load(bytes(flipped))


def test_weights_of_another_generator_are_refused(run):
  content = file_of(run, 1)
  with jax.threefry_partitionable(not jax.config.jax_threefry_partitionable):
    with pytest.raises(InputError, match='version of jax'):
      export.load(content)


def test_a_run_whose_weights_are_drawn_otherwise_is_refused(run):
  with jax.threefry_partitionable(not jax.config.jax_threefry_partitionable):
    with pytest.raises(InputError, match='other weights are drawn here'):
      export.from_run(run, None)


def test_nothing_to_do_is_said(run, monkeypatch):
  said = told(monkeypatch, run, '--client=1')
  assert said == 'hns: give --file, --evaluate or both'
  said = told(monkeypatch, '--file=model.hns')
  missing = 'an argument is missing, a file or a folder: see --help'
  assert said == f'hns: {missing}'
  said = told(monkeypatch, run, 'more', '--file=model.hns')
  assert said == "hns: 'more' is not a flag: write --FLAG=VALUE"


def test_a_client_that_is_not_there_is_named(run, monkeypatch):
  said = told(monkeypatch, run, '--client=99', '--file=model.hns')
  assert said == 'hns: client=99: the run has 6, from 0'


def test_the_command_exports_and_another_process_evaluates(
  shared, run, tmp_path, monkeypatch
):
  file = tmp_path / 'model.hns'
  assert not told(monkeypatch, run, '--client=2', f'--file={file}')
  words = [run, '--client=2', f'--config={small_file(tmp_path)}']
  call = [sys.executable, '-m', 'hns.export', *words]
  done = subprocess.run(
    [*call, f'--evaluate={file}'], capture_output=True, text=True
  )
  expected = export.evaluate(run, file.read_bytes(), 2)
  assert done.stdout.strip() == f'accuracy {expected:.4f}', done.stderr


def test_a_folder_may_be_a_text(shared, run):
  content = export.from_run(run, 0)
  assert export.from_run(str(run), 0) == content
  accuracy = export.evaluate(run, content, 0)
  assert export.evaluate(str(run), content, 0) == accuracy
  assert export.trained(str(run), None)[0].dataset == 'digits'


@pytest.mark.parametrize(
  'word',
  [
    *('²', '١', '-1', '+1', ' 1', '1 ', '1_0', '1.0', '0x1', '', 'Global'),
    *('9' * 19, '9' * 5000, 'None', '1\n'),
  ],
)
def test_a_client_is_a_number_in_ascii(run, monkeypatch, word):
  said = told(monkeypatch, run, f'--client={word}', '--file=model.hns')
  assert said.endswith(': write a number from 0, or global')
  assert said.startswith(f'hns: client={word!r}')


@pytest.mark.parametrize('client', [-1, 6, 10**20, '1', 0.5])
def test_a_client_is_one_of_the_run_s(run, client):
  with pytest.raises(InputError, match='client=.*: the run has 6, from 0'):
    export.from_run(run, client)


def shapes(model):
  """Of the arrays of a plain network for digits, by path."""
  net, picture = models.create(model, 10), np.zeros((1, 8, 8, 1))
  like = jax.eval_shape(net.init, jax.random.key(0), picture)['params']
  whole = {k: x.shape for k, x in flatten_dict(like, sep='/').items()}
  return {**whole, 'scale': (2,)}


def correct(net, arrays, run, client=None):
  """The accuracy of arrays in a plain network on test pictures of a run."""
  arrays = dict(arrays)
  mean, deviation = arrays.pop('scale')
  params = unflatten_dict(arrays, sep='/')
  built = experiment.build(configs.base(**files.read_run_info(run)['config']))
  images = np.asarray(built.federation.examples.inputs)
  rows = jax.tree.map(np.asarray, built.federation.test)
  chosen = range(len(rows.size)) if client is None else [client]
  index = np.concatenate([rows.index[c][: rows.size[c]] for c in chosen])
  x = (images[index] - mean) / deviation
  logits = net.apply({'params': params}, np.float32(x))
  labels = np.asarray(built.federation.examples.labels)[index]
  return np.mean(np.argmax(logits, -1) == labels)


def test_arrays_are_the_model_in_any_program(averaged, tmp_path, monkeypatch):
  file, rows = tmp_path / 'model.npz', files.read(averaged)
  assert not told(monkeypatch, averaged, '--client=2', f'--file={file}')
  with np.load(file) as held:
    arrays = dict(held)
  assert {x.dtype for x in arrays.values()} == {np.dtype(np.float32)}
  assert {k: x.shape for k, x in arrays.items()} == shapes('tiny')
  found = correct(models.create('tiny', 10), arrays, averaged, 2)
  assert found == pytest.approx(rows[-1]['client_accuracies'][2], abs=1e-4)
  assert [p.name for p in tmp_path.iterdir()] == ['model.npz']


@pytest.mark.slow
def test_arrays_have_the_units_that_pruning_cut_off(tmp_path, monkeypatch):
  convs = ((32, 3, 2, False), (32, 3, 2, True))
  net = lambda classes: models.Network(classes, convs, dense=(48,))
  monkeypatch.setitem(models.MODELS, 'narrow', net)
  fields = dict(model='narrow', density=0.02, rounds=1)
  rows = experiment.run(small_config(**fields), tmp_path)
  arrays = export.arrays(tmp_path, None)
  assert {k: x.shape for k, x in arrays.items()} == shapes('narrow')
  cut = export.trained(tmp_path, None)[1]['weights']
  assert cut['Conv_1']['kernel'].shape != arrays['Conv_1/kernel'].shape
  found = correct(net(10), arrays, tmp_path)
  assert found == pytest.approx(rows[-1]['global_accuracy'], abs=1e-4)


def test_arrays_of_signs_are_weights_times_signs(shared, run):
  model = export.load(file_of(run, 1))
  kernel = jax.tree.map(
    lambda w, m, s: np.asarray(w * m * s),
    *(model.variables[name] for name in ('weights', 'mask', 'signs')),
  )
  found = export.arrays(run, 1)
  for layer in ('Dense_0', 'Dense_1'):
    whole, part = found[f'{layer}/kernel'], kernel[layer]['kernel']
    assert np.sum(whole != 0) == np.sum(part != 0)
    np.testing.assert_array_equal(
      np.sort(whole[whole != 0]), np.sort(part[part != 0])
    )
  np.testing.assert_array_equal(found['scale'], np.float32(model.spec.scale))


def test_a_run_without_signs_asks_for_arrays(averaged, tmp_path, monkeypatch):
  said = told(monkeypatch, averaged, f'--file={tmp_path / "model.hns"}')
  assert 'fedavg: its models are not signs' in said
  assert '--file=NAME.npz' in said
  assert not [*tmp_path.iterdir()]


def test_a_place_that_cannot_be_written_is_refused_first(
  run, tmp_path, monkeypatch
):
  build = lambda config: pytest.fail('an experiment was built')
  monkeypatch.setattr(experiment, 'build', build)
  for file in (tmp_path, tmp_path / 'none' / 'model.hns', '/dev/null'):
    said = told(monkeypatch, run, f'--file={file}')
    assert 'must be a file, in a folder that exists' in said


def test_other_pictures_of_the_same_name_are_refused(shared, run):
  spec = export.load(file_of(run, None)).spec
  other = export.redraw(spec._replace(shape=(8, 4, 1)))
  content = export.dump(other.spec, other.variables)
  with pytest.raises(InputError, match=r'shape=\(8, 4, 1\): the run has'):
    export.evaluate(run, content, None)


@pytest.mark.parametrize('content', [b'', b'HNSM', b'\0' * 2**23])
def test_a_file_that_is_no_model_is_refused(
  run, tmp_path, monkeypatch, content
):
  (tmp_path / 'model.hns').write_bytes(content)
  said = told(monkeypatch, run, f'--evaluate={tmp_path / "model.hns"}')
  assert said == 'hns: this is not a model of signs that hns.export wrote'
