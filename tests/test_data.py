import io
import json
import os
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from hns import data
from hns.data import prepared
from hns.errors import InputError


class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Ten pictures of two writers, prepared without TensorFlow."""

  VERSION = tfds.core.Version('1.0.0')
  name = 'tiny'
  shape = (4, 4, 1)

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(shape=self.shape),
          'label': tfds.features.ClassLabel(num_classes=3),
          'writer': tfds.features.Text(),
        }
      ),
    )

  def _split_generators(self, dl_manager):
    return {
      'train': self._generate_examples(7),
      'test': self._generate_examples(3),
    }

  def _generate_examples(self, count):
    for i in range(count):
      file = io.BytesIO()
      Image.fromarray(np.full((4, 4), 10 * i, np.uint8)).save(file, 'png')
      file.seek(0)
      yield i, {'image': file, 'label': i % 3, 'writer': 'ab'[i % 2]}


class Uneven(Tiny, skip_registration=True):
  name = 'uneven'
  shape = (None, None, 1)


@pytest.fixture
def home(tmp_path, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'tfds'))
  monkeypatch.setenv('HNS_CACHE_DIR', str(tmp_path / 'cache'))
  for builder in (Tiny, Uneven):
    builder(
      data_dir=tmp_path / 'tfds', file_format='array_record'
    ).download_and_prepare()
  return tmp_path


def test_a_prepared_dataset_is_read_and_cached(home, monkeypatch):
  first = data.load('tiny', 'writer')
  assert first.train_inputs.shape == (7, 4, 4, 1)
  assert first.train_inputs.dtype == np.uint8 and first.classes == 3
  number = first.train_inputs[:, 0, 0, 0] // 10
  np.testing.assert_array_equal(first.train_labels, number % 3)
  assert len(np.unique(first.train_groups)) == 2
  np.testing.assert_array_equal(
    first.train_groups[number % 2 == 0], first.train_groups[number == 0][0]
  )
  place = first.test_inputs[:, 0, 0, 0] == 0
  assert first.test_groups[place] == first.train_groups[number == 0]
  monkeypatch.setattr(prepared, 'decode', None)
  again = data.load('tiny', 'writer')
  for a, b in zip(first, again):
    np.testing.assert_array_equal(a, b)


def test_a_missing_dataset_says_where_and_how(home):
  with pytest.raises(InputError) as error:
    data.load('fashion_mnist')
  said = str(error.value)
  assert str(home / 'tfds' / 'fashion_mnist') in said
  assert "pip install -e '.[prepare]'" in said
  assert "tfds.builder('fashion_mnist'" in said
  assert f"data_dir='{home / 'tfds'}'" in said and '\n' not in said


def test_datasets_that_do_not_fit_are_refused(home):
  with pytest.raises(InputError, match="'uneven'.*shape"):
    data.load('uneven')
  with pytest.raises(InputError, match='no feature author'):
    data.load('tiny', 'author')


def test_the_newest_version_is_read(home):
  class Newer(Tiny, skip_registration=True):
    name = 'tiny'
    VERSION = tfds.core.Version('1.0.10')

  Newer(
    data_dir=home / 'tfds', file_format='array_record'
  ).download_and_prepare()
  assert data.version('tiny') == '1.0.10'


def again(home, version, **fields):
  """Prepares another version of `tiny`; fields of its description changed."""
  newer = type('Tiny', (Tiny,), dict(name='tiny'), skip_registration=True)
  newer.VERSION = tfds.core.Version(version)
  newer(
    data_dir=home / 'tfds', file_format='array_record'
  ).download_and_prepare()
  path = home / 'tfds' / 'tiny' / version / 'dataset_info.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | fields))
  return path


def test_the_newest_version_that_can_be_read_is(home, monkeypatch, capsys):
  again(home, '3.0.1')
  again(home, '3.0.10', fileFormat='tfrecord')
  for odd in ('9', '9.0.0.incompleteABC', 'incomplete.X_9.0.0', '9.0.0-copy'):
    shutil.copytree(home / 'tfds/tiny/1.0.0', home / 'tfds/tiny' / odd)
  (home / 'tfds/tiny/9.0.0').mkdir()
  seen, decode = [], prepared.decode

  def spy(name, folder, wanted):
    seen.append(folder.name)
    return decode(name, folder, wanted)

  monkeypatch.setattr(prepared, 'decode', spy)
  capsys.readouterr()
  assert len(data.load('tiny').train_labels) == 7
  assert capsys.readouterr().err == (
    'hns: version 3.0.10 of tiny is left out, as it is tfrecord; 3.0.1 is '
    'read\n'
  )
  assert seen == [data.version('tiny')] == ['3.0.1']
  again(home, '3.1.0', fileFormat='tfrecord')  # and a copy in another format
  path = home / 'tfds/tiny/3.1.0/dataset_info.json'
  about = json.loads(path.read_text())
  about['alternativeFileFormats'] = ['array_record']
  path.write_text(json.dumps(about))
  assert data.version('tiny') == '3.1.0'


@pytest.mark.parametrize('part', ['dataset_info', 'features', 'examples'])
def test_a_damaged_version_gives_way_to_an_older_one(home, part, capsys):
  path = again(home, '2.0.0')
  if part == 'examples':
    path = path.with_name('tiny-train.array_record-00000-of-00001')
    path.write_bytes(path.read_bytes()[:4000])
  else:
    path = path.with_name(f'{part}.json')
    path.write_text('{')
  capsys.readouterr()
  assert data.load('tiny').classes == 3 and data.version('tiny') == '1.0.0'
  said = capsys.readouterr().err
  assert said.startswith('hns: version 2.0.0 of tiny is left out: ')
  assert 'is damaged' in said and said.endswith('; 1.0.0 is read\n')
  assert said.count('\n') == 1


def test_no_version_that_can_be_read_names_them(home):
  path = home / 'tfds/tiny/1.0.0/dataset_info.json'
  about = json.loads(path.read_text())
  for changed in (about | {'fileFormat': 'tfrecord'}, about):
    changed.pop('fileFormat') if changed is about else None
    path.write_text(json.dumps(changed))
    with pytest.raises(InputError, match=r'tiny \(1.0.0 is tfrecord\); set'):
      data.load('tiny')


@pytest.mark.parametrize(
  'text',
  [
    '',
    '{',
    '[]',
    '7',
    '{}',
    '{"name": "tiny", "splits": [], "alternativeFileFormats": 5}',
    '{"name": "tiny", "splits": 5, "fileFormat": "array_record"}',
    '\0' * 9,
    '[' * 100_000,
  ],
)
def test_a_damaged_description_is_named(home, text):
  path = home / 'tfds' / 'tiny' / '1.0.0' / 'dataset_info.json'
  path.write_text(text)
  with pytest.raises(InputError, match=f'^{path}: is damaged ') as error:
    data.load('tiny')
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('damage', ['features', 'cut', 'flipped', 'gone'])
def test_damaged_examples_are_named(home, damage):
  folder = home / 'tfds' / 'tiny' / '1.0.0'
  path = folder / 'tiny-train.array_record-00000-of-00001'
  whole = bytearray(path.read_bytes())
  if damage == 'features':
    (folder / 'features.json').write_text('{')
  elif damage == 'cut':
    path.write_bytes(whole[:70_000])
  elif damage == 'flipped':
    whole[70] ^= 16
    path.write_bytes(whole)
  else:
    path.unlink()
  with pytest.raises(InputError, match=f'^{folder}.*: is damaged ') as error:
    data.load('tiny')
  assert '\n' not in str(error.value) and not (home / 'cache').exists()


def test_labels_that_a_dataset_lacks_are_named(home):
  """TFDS writes -1 where a test split has none; nothing is cached."""

  def split(self, dl_manager):
    examples = [x | {'label': -1} for _, x in self._generate_examples(3)]
    return {'train': self._generate_examples(7), 'test': enumerate(examples)}

  fields = dict(name='blind', _split_generators=split)
  blind = type('Blind', (Tiny,), fields, skip_registration=True)
  blind(
    data_dir=home / 'tfds', file_format='array_record'
  ).download_and_prepare()
  with pytest.raises(InputError, match=r'test_labels\[0\]=-1: must be in 0..2'):
    data.load('blind')
  assert not (home / 'cache').exists()


def test_a_group_is_one_value(home):
  with pytest.raises(
    InputError, match="group='image': must be a feature of one"
  ):
    data.load('tiny', 'image')


def test_a_damaged_cache_is_made_again(home, capsys):
  first = data.load('tiny', 'writer')
  (path,) = (home / 'cache').iterdir()
  path.write_bytes(path.read_bytes()[:300])
  capsys.readouterr()
  for said in (1, 0):
    for a, b in zip(first, data.load('tiny', 'writer')):
      np.testing.assert_array_equal(a, b)
    assert capsys.readouterr().err.count(f'hns: {path} cannot be used') == said


@pytest.mark.parametrize(
  'name',
  ['..', '.', '', '/etc', '../tiny', 'tiny/..', 'tiny/1.0.0/x', 'a\0b', 'a\nb']
  + ['x' * 300, 'x' * 10_000, 'tiny:1.0.0', '*', '~', 'é', ' tiny', 'tiny\n'],
)
def test_names_stay_inside_the_data_folder(home, name):
  with pytest.raises(InputError, match='^dataset=.*must be a name') as error:
    data.load(name)
  assert '\n' not in str(error.value)
  with pytest.raises(InputError, match='^dataset=.*must be a name'):
    data.version(name)


def test_names_may_have_a_config(home):
  nested = home / 'tfds' / 'emnist' / 'balanced'
  nested.parent.mkdir()
  shutil.move(home / 'tfds' / 'tiny', nested)
  assert data.load('emnist/balanced').classes == 3
  assert data.version('emnist/balanced') == '1.0.0'


def test_a_folder_of_nobody_is_named(monkeypatch):
  monkeypatch.setenv('HNS_CACHE_DIR', '~nobody-here/cache')
  with pytest.raises(InputError, match="HNS_CACHE_DIR='~nobody-here/cache': "):
    data.cache_dir()


def test_names_tfds_does_not_know_get_another_remedy(home):
  with pytest.raises(InputError, match='GeneratorBasedBuilder'):
    data.load('nothing')
  with pytest.raises(InputError, match='such as mnist or emnist/balanced'):
    data.load('fashion-mnist')
  with pytest.raises(
    InputError, match='python -m hns.data.femnist --json=FOLDER'
  ):
    data.load('femnist')


def test_digits_are_real_and_split_by_class():
  digits = data.load('digits')
  assert digits.train_inputs.shape[1:] == (8, 8, 1)
  assert len(digits.train_labels) + len(digits.test_labels) == 1797
  counts = np.bincount(digits.train_labels) + np.bincount(digits.test_labels)
  share = np.bincount(digits.test_labels) / counts
  assert np.all((share > 0.24) & (share < 0.26))
  assert digits.train_inputs.max() == 255


REAL = {
  'mnist': ((28, 28, 1), 60_000, 10_000, 10),
  'cifar10': ((32, 32, 3), 50_000, 10_000, 10),
  'femnist': ((28, 28, 1), None, None, 62),  # as many writers as prepared
}


@pytest.mark.parametrize('name', REAL)
def test_real_datasets(name):
  if not (data.data_dir() / name).exists():
    pytest.skip(f'{name} is not in {data.data_dir()}: set TFDS_DATA_DIR')
  shape, train, test, classes = REAL[name]
  try:
    loaded = data.load(name, 'writer' if name == 'femnist' else '')
  except InputError as error:
    if 'array_record' not in str(error):
      raise
    pytest.skip(str(error))
  for images, count in (
    (loaded.train_inputs, train),
    (loaded.test_inputs, test),
  ):
    assert images.shape == (count or len(images), *shape)
  assert loaded.classes == classes
  assert os.listdir(data.cache_dir())
