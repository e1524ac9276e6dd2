"""Image classification datasets as arrays in memory.

`digits` comes with scikit-learn. Any other name is a TFDS dataset prepared as
array_record, read without TensorFlow, decoded once into a cache
($HNS_CACHE_DIR, else ~/.cache/hns). A dataset of your own is a function that
returns a `Dataset`; put it in `SOURCES`.
"""

import os
import pathlib
import tempfile
import zlib
from typing import NamedTuple

import numpy as np
import tqdm

from hns.errors import InputError, invalid


class Dataset(NamedTuple):
  """Two splits of the same kind of picture.

  Attributes:
    train_images, test_images: uint8 [n, h, w, c].
    train_labels, test_labels: int32 [n].
    train_groups, test_groups: int32 [n], who made the example (a writer), the
      same numbers in both; empty without such a feature.
    classes: number of classes.
  """

  train_images: np.ndarray
  train_labels: np.ndarray
  train_groups: np.ndarray
  test_images: np.ndarray
  test_labels: np.ndarray
  test_groups: np.ndarray
  classes: int


def load(name: str, group: str = '') -> Dataset:
  """The dataset of that name.

  Args:
    name: one of `SOURCES`, or a TFDS name such as `mnist` or `emnist/balanced`.
    group: the feature that says who made an example; '' for none.

  Raises:
    InputError: not prepared (it says how to), or not image classification.
  """
  if name in SOURCES:
    return _checked(name, SOURCES[name]())
  home = _prepared(name)
  key = zlib.crc32(f'{home.resolve()} {_stamp(home)} {group}'.encode())
  cached = cache_dir() / f'{name.replace("/", "-")}-{key:08x}.npz'
  if not cached.exists():
    _write(cached, _decode(name, home, group))
  with np.load(cached) as arrays:
    found = Dataset(**{k: arrays[k] for k in arrays})
  return _checked(name, found._replace(classes=int(found.classes)))


def _checked(name: str, dataset: Dataset) -> Dataset:
  for images in (dataset.train_images, dataset.test_images):
    if images.dtype != np.uint8 or images.ndim != 4:
      found = f'{images.dtype} {list(images.shape)}'
      remedy = f'images must be uint8 [n, h, w, c], not {found}'
      raise invalid('dataset', name, remedy)
  return dataset


def data_dir() -> pathlib.Path:
  """Where TFDS datasets are: $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
  default = '~/tensorflow_datasets'
  return pathlib.Path(os.environ.get('TFDS_DATA_DIR') or default).expanduser()


def cache_dir() -> pathlib.Path:
  """Where decoded arrays are kept: $HNS_CACHE_DIR, else ~/.cache/hns."""
  default = '~/.cache/hns'
  return pathlib.Path(os.environ.get('HNS_CACHE_DIR') or default).expanduser()


def digits() -> Dataset:
  """1,797 real 8x8 digits (UCI), a quarter of each class for testing."""
  from sklearn.datasets import load_digits

  digits = load_digits()
  # 0..16 to 0..255; float rounding is exact here.
  images = np.rint(digits.images * 255 / 16).astype(np.uint8)[..., None]
  labels = digits.target.astype(np.int32)
  place = np.zeros(len(labels), int)
  for name in range(10):
    place[labels == name] = np.arange((labels == name).sum())
  test, none = place % 4 == 3, np.zeros(0, np.int32)
  train = ~test
  return Dataset(
    images[train], labels[train], none, images[test], labels[test], none, 10
  )


SOURCES = {'digits': digits}


def _prepared(name: str) -> pathlib.Path:
  """The newest prepared version of a dataset."""
  root = data_dir() / name
  versions = [p.parent for p in root.glob('*/dataset_info.json')]
  if not versions:
    raise _missing(name, f'nothing prepared as array_record in {root}')
  return max(versions, key=_version)


def _version(path: pathlib.Path) -> list[int]:
  return [int(n) for n in path.name.split('.') if n.isdigit()]


def _missing(name: str, why: str) -> InputError:
  return invalid(
    'dataset',
    name,
    f'{why}; set TFDS_DATA_DIR to the folder that holds {name} as '
    f'array_record, or prepare it in a folder without it: {_how(name)}',
  )


def _how(name: str) -> str:
  """How to prepare a dataset."""
  import tensorflow_datasets as tfds

  if name == 'femnist':
    return (
      'python -m hns.femnist --json=FOLDER --data_dir='
      f"'{data_dir()}', with LEAF's JSON files in FOLDER"
    )
  try:
    tfds.builder_cls(name.split('/')[0])
    return (
      f"pip install 'hns[prepare]' && python -c \"import "
      f"tensorflow_datasets as tfds; tfds.builder('{name}', "
      f"data_dir='{data_dir()}', file_format='array_record')"
      f'.download_and_prepare()"'
    )
  except tfds.core.DatasetNotFoundError:
    return (
      'TFDS does not know it, so write a tfds.core.GeneratorBasedBuilder with '
      'features image and label, and prepare it with '
      "file_format='array_record'"
    )
  except ValueError:
    return 'no name of TFDS: write one such as mnist or emnist/balanced'


def version(name: str) -> str:
  """Which version of a dataset `load` reads."""
  return 'built in' if name in SOURCES else _prepared(name).name


def _stamp(home: pathlib.Path) -> int:
  return (home / 'dataset_info.json').stat().st_mtime_ns


def _decode(name, home, group) -> Dataset:
  """Reads and decodes a prepared dataset; slow, see `load`."""
  import tensorflow_datasets as tfds

  builder = tfds.builder_from_directory(home)
  _check_features(name, builder.info, group)
  try:
    splits = [
      _read(builder.as_data_source(split=split), f'{name} {split}', group)
      for split in ('train', 'test')
    ]
  except NotImplementedError as error:
    raise _missing(name, f'{home} is not array_record') from error
  (train, train_labels, train_groups), (test, test_labels, test_groups) = splits
  _, groups = np.unique(
    np.concatenate([train_groups, test_groups]), return_inverse=True
  )
  groups = groups.astype(np.int32)
  cut = len(train_groups)
  classes = builder.info.features['label'].num_classes
  return Dataset(
    *(train, train_labels, groups[:cut]),
    *(test, test_labels, groups[cut:]),
    classes,
  )


def _check_features(name, info, group) -> None:
  features = info.features
  wanted = ['image', 'label'] + ([group] if group else [])
  absent = [f for f in wanted if f not in features]
  if absent:
    raise invalid('dataset', name, f'it has no feature {", ".join(absent)}')
  if None in features['image'].shape:
    raise invalid(
      'dataset', name, f'images differ in shape: {features["image"].shape}'
    )
  if not {'train', 'test'} <= set(info.splits):
    raise invalid(
      'dataset', name, f'needs splits train and test, has {list(info.splits)}'
    )


def _read(source, title, group) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  images, labels, groups = [], [], []
  for example in tqdm.tqdm(
    source, f'decoding {title}', leave=False, disable=None
  ):
    images.append(example['image'])
    labels.append(example['label'])
    groups.extend([example[group]] if group else [])
  return np.stack(images), np.array(labels, np.int32), np.array(groups)


def _write(path: pathlib.Path, dataset: Dataset) -> None:
  """Writes beside `path` first, so that a reader never sees half a file."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
    np.savez(file, **dataset._asdict())
  os.replace(file.name, path)
