"""Classification datasets as arrays in memory.

`digits` comes with scikit-learn. Any other name is a TFDS dataset prepared as
array_record. It is read without TensorFlow and decoded once into a cache
($HNS_CACHE_DIR, else ~/.cache/hns). For a dataset of your own, put a function
that returns a `Dataset` in `SOURCES`. Its fields may be arrays or lists:

  inputs  pictures [n, h, w, c] or grey [n, h, w], of any real dtype; both
          splits on the same scale; they are standardised: (x - mean) /
          deviation. With standardise=False anything [n, ...]
  labels  [n], whole numbers from 0 to classes - 1; for another task, such as
          NEXT_TOKEN or regression(labels), what it takes
  groups  [n], who made each example, for partition=natural; or []

`from_clients` makes a dataset and a partition of arrays of each client.
"""

import os
import pathlib
import sys
import zlib

import numpy as np

from hns.data import prepared
from hns.data.cache import cached
from hns.data.clients import from_clients as from_clients
from hns.data.dataset import Dataset, checked
from hns.data.tasks import CLASSIFICATION as CLASSIFICATION
from hns.data.tasks import NEXT_TOKEN as NEXT_TOKEN
from hns.data.tasks import Task as Task
from hns.data.tasks import regression as regression
from hns.errors import invalid


def load(name: str, group: str = '') -> Dataset:
  """The dataset of that name, checked by `hns.data.dataset.checked`.

  Args:
    name: one of `SOURCES`, or a TFDS name such as `mnist` or `emnist/balanced`.
    group: the feature that names who made an example; '' for none.

  Raises:
    InputError: it is not prepared (the message says how to), not image
      classification, or has an example that cannot be used.
  """
  if name in SOURCES:
    return _report_absent(name, checked(name, SOURCES[name]()))
  folder = prepared.newest(data_dir(), name)
  stamp = (folder / 'dataset_info.json').stat().st_mtime_ns
  fields = ' '.join(Dataset._fields)  # a cache of other fields is another
  key = zlib.crc32(f'{folder.resolve()} {stamp} {group} {fields}'.encode())
  path = cache_dir() / f'{name.replace("/", "-")}-{key:08x}.npz'

  def decode():
    decoded = checked(name, prepared.decode(name, folder, group))._asdict()
    return {name: x for name, x in decoded.items() if name != 'task'}

  return _report_absent(name, checked(name, Dataset(**cached(path, decode))))


def _report_absent(name: str, dataset: Dataset) -> Dataset:
  """The dataset; reports classes without training examples on stderr."""
  if not dataset.task.has_classes:
    return dataset
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
  """The version of a dataset that `load` reads."""
  if name in SOURCES:
    return 'built in'
  return prepared.newest(data_dir(), name).name


def data_dir() -> pathlib.Path:
  """The folder of TFDS: $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
  return _folder('TFDS_DATA_DIR', '~/tensorflow_datasets')


def cache_dir() -> pathlib.Path:
  """The folder of cached arrays: $HNS_CACHE_DIR, else ~/.cache/hns."""
  return _folder('HNS_CACHE_DIR', '~/.cache/hns')


def _folder(variable: str, default: str) -> pathlib.Path:
  """The folder that a variable names; `InputError` if ~ cannot be expanded."""
  value = os.environ.get(variable) or default
  try:
    return pathlib.Path(value).expanduser()
  except RuntimeError as error:
    raise invalid(variable, value, f'{error} set it to a folder') from None


def digits() -> Dataset:
  """1,797 real 8x8 digits (UCI), a quarter of each class for testing."""
  from sklearn.datasets import load_digits

  digits = load_digits()
  # 0..16 to 0..255; float rounding is exact here.
  images = np.rint(digits.images * 255 / 16).astype(np.uint8)[..., None]
  labels = digits.target.astype(np.int32)
  place = np.zeros(len(labels), int)  # within its class
  for label in range(10):
    place[labels == label] = np.arange((labels == label).sum())
  test, none = place % 4 == 3, np.zeros(0, np.int32)
  train = ~test
  return Dataset(
    images[train], labels[train], none, images[test], labels[test], none, 10
  )


SOURCES = {'digits': digits}
