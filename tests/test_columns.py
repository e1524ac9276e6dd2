"""Columns of Hugging Face, features of TFDS, and text, as arrays."""

import sys

import datasets
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from hns import data
from hns.data.text import tokens
from hns.errors import InputError

RNG = np.random.RandomState(0)
RGB = RNG.randint(0, 256, (6, 4, 5, 3)).astype(np.uint8)


def split(**columns):
  return datasets.Dataset.from_dict(columns)


def people(**columns):
  """A split of six, of two classes and three people."""
  fields = dict(who=['cy', 'bo', 'cy', 'al', 'bo', 'al'])
  fields |= dict(label=[0, 1, 0, 1, 1, 0]) | columns
  return split(**fields)


def test_pictures_of_hugging_face_and_their_people(tmp_path):
  both = people(image=[Image.fromarray(x) for x in RGB])
  saved = datasets.DatasetDict(train=both, test=both.select([3, 4]))
  saved.save_to_disk(tmp_path / 'a b')
  found = data.load(f'hf:{tmp_path}/a b', 'who')
  np.testing.assert_array_equal(found.train_inputs, RGB)
  np.testing.assert_array_equal(found.test_inputs, RGB[3:5])
  assert found.train_groups.tolist() == [2, 1, 2, 0, 1, 0]
  assert found.test_groups.tolist() == [0, 1]
  assert found.train_labels.tolist() == both['label'][:]
  assert found.standardise and found.classes == 2
  (tmp_path / 'a b' / 'train' / 'state.json').write_text('{')
  with pytest.raises(InputError, match="dataset='hf:.*': cannot be read"):
    data.load(f'hf:{tmp_path}/a b', 'who')
  both.save_to_disk(tmp_path / 'one')
  with pytest.raises(InputError, match='needs splits train and test'):
    data.load(f'hf:{tmp_path}/one')


def test_windows_and_texts_of_hugging_face():
  windows = RNG.randn(6, 5, 3).astype(np.float32)
  features = datasets.Features(
    window=datasets.Array2D((5, 3), 'float32'),
    kind=datasets.ClassLabel(names=['x', 'y', 'z']),
    who=datasets.Value('int64'),
  )
  rows = dict(window=windows, kind=[0, 1] * 3, who=[7, 7, 9, 9, 9, 1])
  both = datasets.Dataset.from_dict(rows, features=features)
  found = data.from_huggingface(both, both, labels='kind', group='who')
  np.testing.assert_array_equal(found.train_inputs, windows)
  assert found.classes == 3 and not found.standardise
  assert found.test_groups.tolist() == [1, 1, 2, 2, 2, 0]
  texts = people(text=['ab', 'é', '', 'c', 'd', 'e']).remove_columns('who')
  found = data.from_huggingface(texts, texts.select([0]))
  assert found.train_inputs[:3].tolist() == [[97, 98], [195, 169], [0, 0]]
  assert found.test_inputs.dtype == np.int32 and not found.standardise


ROWS = [[1.0, 2.0]] * 6


@pytest.mark.parametrize(
  'columns,fields,said',
  [
    (dict(row=ROWS), dict(inputs='x'), 'no feature x: it has who .text., lab'),
    (dict(row=ROWS), dict(), 'name the feature of train .* who .text., label'),
    (dict(row=ROWS), dict(inputs='label'), "inputs='label': must be pictures"),
    (dict(row=ROWS), dict(labels='who'), "labels='who': must be a class or"),
    (dict(row=ROWS), dict(group='row'), "group='row': must be a feature of on"),
    (
      dict(row=[[1.0, 2.0]] * 5 + [[1.0]]),
      dict(),
      r'train example 5: is \[1\]',
    ),
    (dict(row=[[1.0, None]] * 6), dict(), r'train_inputs\[0, 1\]=nan'),
    (
      dict(row=ROWS, label=[0, 1, None] * 2),
      dict(),
      'example 2: has the label',
    ),
    (dict(row=ROWS, label=[0, -1, 1] * 2), dict(), r'train_labels\[1\]=-1'),
    (dict(row=ROWS, label=[10**9] * 6), dict(), 'labels=10*: is the largest'),
    (dict(row=ROWS, who=['a', None] * 3), dict(), 'example 1: has no group'),
    (dict(text=['x' * 10_001] * 6), dict(), 'example 0: .* 10,001 bytes, 10,'),
  ],
)
def test_columns_that_cannot_be_used_are_named(columns, fields, said):
  both = people(**columns)
  group = {} if 'name the' in said else dict(group='who')
  with pytest.raises(InputError, match=said):
    data.from_huggingface(both, both, **(group | fields))


def test_hugging_face_that_is_not_installed(monkeypatch):
  monkeypatch.setitem(sys.modules, 'datasets', None)
  with pytest.raises(InputError, match=r"pip install -e '\.\[hf\]'"):
    data.load('hf:/x')


class Other(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Windows and texts of three people; no pictures, no classes."""

  VERSION = tfds.core.Version('1.0.0')
  name = 'other'

  def _info(self):
    features = dict(
      window=tfds.features.Tensor(shape=(3, 2), dtype=np.float32),
      label=tfds.features.Scalar(np.int64),
      who=tfds.features.Scalar(np.int64),
      said=tfds.features.Text(),
    )
    features = tfds.features.FeaturesDict(features)
    return tfds.core.DatasetInfo(builder=self, features=features)

  def _split_generators(self, dl_manager):
    return {
      'train': self._generate_examples(6),
      'test': self._generate_examples(2),
    }

  def _generate_examples(self, count):
    for i in range(count):
      window = np.full((3, 2), i + 0.5, np.float32)
      yield i, dict(window=window, label=i % 4, who=9 - i % 3, said='é' * i)


def test_other_features_of_tfds(tmp_path, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  monkeypatch.setenv('HNS_CACHE_DIR', str(tmp_path / 'cache'))
  Other(data_dir=tmp_path, file_format='array_record').download_and_prepare()
  found = data.load('other', 'who', inputs='window')
  order = found.train_inputs[:, 0, 0] - 0.5
  assert sorted(order) == [*range(6)] and not found.standardise
  np.testing.assert_array_equal(found.train_labels, order % 4)
  np.testing.assert_array_equal(found.train_groups, 2 - order % 3)
  assert found.classes == 4
  said = data.load('other', inputs='said', labels='who')  # cached apart
  assert said.train_inputs.shape == (6, 10) and said.classes == 10
  assert not len(said.train_groups)
  with pytest.raises(InputError, match='of other .*said .text.*window .arrays'):
    data.load('other')


def test_a_text_is_its_bytes():
  found = tokens(['0', '1', '2'], ['hé', b'\xff', ''])
  assert found.tolist() == [[104, 195, 169], [255, 0, 0], [0, 0, 0]]
  assert found.dtype == np.int32
  with pytest.raises(InputError, match='1: is int, not a text'):
    tokens(['0', '1'], ['a', 3])
