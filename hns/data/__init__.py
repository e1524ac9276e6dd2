"""Image classification datasets as arrays in memory.

`digits` comes with scikit-learn. Any other name is a TFDS dataset prepared as
array_record, read without TensorFlow, decoded once into a cache
($HNS_CACHE_DIR, else ~/.cache/hns). A dataset of your own is a function that
returns a `Dataset`; put it in `SOURCES`. Its columns may be arrays or lists:

  pictures  [n, h, w, c] or grey [n, h, w], of any real dtype; both splits on
            one scale, which is then standardised: (x - mean) / deviation
  labels    [n], whole numbers from 0 to classes - 1
  groups    [n], who made each example, for partition=natural; or []
"""

import os
import pathlib
import sys
import zlib

import numpy as np

from hns.data import prepared
from hns.data.cache import cached
from hns.data.dataset import Dataset, checked
from hns.errors import invalid


def load(name: str, group: str = '') -> Dataset:
  """The dataset of that name, checked as `hns.data.dataset.checked` says.

  Args:
    name: one of `SOURCES`, or a TFDS name such as `mnist` or `emnist/balanced`.
    group: the feature that says who made an example; '' for none.

  Raises:
    InputError: not prepared (it says how to), not image classification, or
      with an example that cannot be used, which is named.
  """
  if name in SOURCES:
    return _complete(name, checked(name, SOURCES[name]()))
  home = prepared.newest(data_dir(), name)
  key = zlib.crc32(f'{home.resolve()} {_stamp(home)} {group}'.encode())
  path = cache_dir() / f'{name.replace("/", "-")}-{key:08x}.npz'

  def decode():
    return checked(name, prepared.decode(name, home, group))._asdict()

  return _complete(name, checked(name, Dataset(**cached(path, decode))))


def _complete(name: str, dataset: Dataset) -> Dataset:
  """The dataset; says on stderr if it has no training example of a class."""
  absent = np.setdiff1d(np.arange(dataset.classes), dataset.train_labels)
  if len(absent):
    some = ', '.join(map(str, absent[:10])) + ', ...' * (len(absent) > 10)
    print(
      f'hns: dataset {name!r} has no training example of {len(absent)} of its '
      f'{dataset.classes} classes: {some} (labels count from 0)',
      file=sys.stderr,
    )
  return dataset


def version(name: str) -> str:
  """Which version of a dataset `load` reads."""
  if name in SOURCES:
    return 'built in'
  return prepared.newest(data_dir(), name).name


def data_dir() -> pathlib.Path:
  """Where TFDS datasets are: $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
  return _folder('TFDS_DATA_DIR', '~/tensorflow_datasets')


def cache_dir() -> pathlib.Path:
  """Where decoded arrays are kept: $HNS_CACHE_DIR, else ~/.cache/hns."""
  return _folder('HNS_CACHE_DIR', '~/.cache/hns')


def _folder(variable: str, default: str) -> pathlib.Path:
  """What an environment variable says; `InputError` if ~ is nobody's."""
  said = os.environ.get(variable) or default
  try:
    return pathlib.Path(said).expanduser()
  except RuntimeError as error:
    raise invalid(variable, said, f'{error} set it to a folder') from None


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


def _stamp(home: pathlib.Path) -> int:
  return (home / 'dataset_info.json').stat().st_mtime_ns
