import io
import os
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from hns import data, prepared
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
  assert first.train_images.shape == (7, 4, 4, 1)
  assert first.train_images.dtype == np.uint8 and first.classes == 3
  number = first.train_images[:, 0, 0, 0] // 10
  np.testing.assert_array_equal(first.train_labels, number % 3)
  assert len(np.unique(first.train_groups)) == 2
  np.testing.assert_array_equal(
    first.train_groups[number % 2 == 0], first.train_groups[number == 0][0]
  )
  place = first.test_images[:, 0, 0, 0] == 0
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
  assert "pip install 'hns[prepare]'" in said
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


def test_names_may_have_a_config(home):
  nested = home / 'tfds' / 'emnist' / 'balanced'
  nested.parent.mkdir()
  shutil.move(home / 'tfds' / 'tiny', nested)
  assert data.load('emnist/balanced').classes == 3
  assert data.version('emnist/balanced') == '1.0.0'


def test_names_tfds_does_not_know_get_another_remedy(home):
  with pytest.raises(InputError, match='GeneratorBasedBuilder'):
    data.load('nothing')
  with pytest.raises(InputError, match='such as mnist or emnist/balanced'):
    data.load('fashion-mnist')
  with pytest.raises(InputError, match='python -m hns.femnist --json=FOLDER'):
    data.load('femnist')


def test_digits_are_real_and_split_by_class():
  digits = data.load('digits')
  assert digits.train_images.shape[1:] == (8, 8, 1)
  assert len(digits.train_labels) + len(digits.test_labels) == 1797
  counts = np.bincount(digits.train_labels) + np.bincount(digits.test_labels)
  share = np.bincount(digits.test_labels) / counts
  assert np.all((share > 0.24) & (share < 0.26))
  assert digits.train_images.max() == 255


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
    (loaded.train_images, train),
    (loaded.test_images, test),
  ):
    assert images.shape == (count or len(images), *shape)
  assert loaded.classes == classes
  assert os.listdir(data.cache_dir())
