"""Classification datasets as arrays in memory.

`digits` comes with scikit-learn. `folder:PATH` is a folder of pictures, or of a
file a client, and `hf:PATH` one that Hugging Face's `datasets` saved. Any other
name is a TFDS dataset prepared as array_record. It is read without TensorFlow
and decoded once into a cache ($HNS_CACHE_DIR, else ~/.cache/hns). For a dataset
of your own, put a function that returns a `Dataset` in `SOURCES`. Its fields
may be arrays or lists:

  inputs  pictures [n, h, w, c] or grey [n, h, w], of any real dtype; both
          splits on the same scale; they are standardised: (x - mean) /
          deviation. With standardise=False anything [n, ...]
  labels  [n], whole numbers from 0 to classes - 1; for another task, such as
          NEXT_TOKEN or regression(labels), what it takes
  groups  [n], who made each example, for partition=natural; or []

`from_clients` makes a dataset and a partition of arrays of each client,
`from_folder` of files, and `from_huggingface` a dataset of two splits.
"""

import gzip
import importlib.util
import os
import pathlib
import sys
import zlib

import numpy as np

from hns.data import folders, huggingface, names, prepared
from hns.data.cache import cached
from hns.data.clients import from_clients as from_clients
from hns.data.columns import Features
from hns.data.dataset import Dataset, checked
from hns.data.folders import from_folder as from_folder
from hns.data.huggingface import from_huggingface as from_huggingface
from hns.data.tasks import CLASSIFICATION as CLASSIFICATION
from hns.data.tasks import NEXT_TOKEN as NEXT_TOKEN
from hns.data.tasks import Task as Task
from hns.data.tasks import regression as regression
from hns.errors import invalid


def load(
  name: str, group: str = '', inputs: str = '', labels: str = ''
) -> Dataset:
  """The dataset of that name, checked by `hns.data.dataset.checked`.

  Args:
    name: one of `SOURCES`, a TFDS name such as `mnist` or `emnist/balanced`,
      folder:PATH or hf:PATH.
    group: the feature that names who made an example; '' for none.
    inputs: the feature to learn from; '' for `image`, or the only one that it
      can be.
    labels: the feature of classes; '' for `label`.

  Raises:
    InputError: it is not there (the message says how to prepare it), has not
      these features, or has an example that cannot be used.
  """
  wanted = Features(group, inputs, labels)
  kind, path = names.door(name)
  if name in SOURCES:
    _refuse_features(name, wanted)
    if not callable(SOURCES[name]):
      kind = type(SOURCES[name]).__name__
      remedy = 'must be a function without arguments in hns.DATASETS'
      raise invalid('dataset', name, f'{remedy}, not a {kind}')
    dataset = SOURCES[name]()
  elif kind:
    read = {'folder': folders.load, 'hf': huggingface.load}[kind]
    dataset = read(name, _path(name, path), wanted)
  else:
    dataset = _prepared(name, wanted)
  return _report_absent(name, checked(name, dataset))


def has_features(name: str) -> bool:
  """Whether a dataset has features with names, of which a config chooses."""
  return name not in SOURCES and names.door(name)[0] != 'folder'


def _refuse_features(name: str, wanted: Features) -> None:
  """Raises `InputError` for features of a dataset that has no names of them."""
  for field in ('inputs', 'labels'):
    if value := getattr(wanted, field):
      raise invalid(field, value, f'{name} has no named features: leave it out')


def _path(name: str, path: str) -> pathlib.Path:
  """The folder of folder:PATH or hf:PATH."""
  if not path:
    raise invalid('dataset', name, 'needs a path behind the colon')
  return names.expanded('dataset', path)


def _prepared(name: str, wanted: Features) -> Dataset:
  """A TFDS dataset, from the cache if it was read before."""
  folder, skipped = prepared.newest(data_dir(), name)
  for version, reason in skipped.items():
    problem = f'version {version} of {name} is left out, as it {reason}'
    if version in reason:  # a whole sentence on its file
      problem = f'version {version} of {name} is left out: {reason}'
    print(f'hns: {problem}; {folder.name} is read', file=sys.stderr)
  stamp = (folder / 'dataset_info.json').stat().st_mtime_ns
  fields = ' '.join(Dataset._fields)  # a cache of other fields is another
  words = f'{folder.resolve()} {stamp} {tuple(wanted)} {fields}'
  key = zlib.crc32(words.encode())
  path = cache_dir() / f'{name.replace("/", "-")}-{key:08x}.npz'

  def decode():
    decoded = checked(name, prepared.decode(name, folder, wanted))
    return {k: x for k, x in decoded._asdict().items() if k != 'task'}

  return Dataset(**cached(path, decode))


def _report_absent(name: str, dataset: Dataset) -> Dataset:
  """The dataset; reports classes that a split has no example of on stderr."""
  if not dataset.task.has_classes:
    return dataset
  splits = {'training': dataset.train_labels, 'test': dataset.test_labels}
  for split, labels in splits.items():
    absent = np.setdiff1d(np.arange(dataset.classes), labels)
    if len(absent):
      some = ', '.join(map(str, absent[:10])) + ', ...' * (len(absent) > 10)
      print(
        f'hns: dataset {name!r} has no {split} example of {len(absent)} of its '
        f'{dataset.classes} classes: {some} (labels count from 0)',
        file=sys.stderr,
      )
  return dataset


def version(name: str) -> str:
  """The version of a dataset that `load` reads."""
  if name in SOURCES:
    return 'built in'
  if names.door(name)[0]:
    return 'files'
  return prepared.newest(data_dir(), name).folder.name


def data_dir() -> pathlib.Path:
  """The folder of TFDS: $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
  return _folder('TFDS_DATA_DIR', '~/tensorflow_datasets')


def cache_dir() -> pathlib.Path:
  """The folder of cached arrays: $HNS_CACHE_DIR, else ~/.cache/hns."""
  return _folder('HNS_CACHE_DIR', '~/.cache/hns')


def _folder(variable: str, default: str) -> pathlib.Path:
  """The folder that a variable names; `InputError` if ~ cannot be expanded."""
  return names.expanded(variable, os.environ.get(variable) or default)


def _digits_file() -> pathlib.Path:
  """The digits of scikit-learn, which takes 2 s to import and is not."""
  found = importlib.util.find_spec('sklearn')
  folders = found and found.submodule_search_locations or ()
  for folder in folders:
    file = pathlib.Path(folder) / 'datasets' / 'data' / 'digits.csv.gz'
    if file.exists():
      return file
  remedy = 'comes with scikit-learn, which is not installed as expected here'
  raise invalid('dataset', 'digits', f'{remedy}: pip install scikit-learn')


def digits() -> Dataset:
  """1,797 real 8x8 digits (UCI), a quarter of each class for testing."""
  with gzip.open(_digits_file(), 'rt') as lines:
    table = np.loadtxt(lines, delimiter=',')
  pixels, labels = table[:, :-1], table[:, -1].astype(np.int32)
  # 0..16 to 0..255; float rounding is exact here.
  images = np.rint(pixels * 255 / 16).astype(np.uint8).reshape(-1, 8, 8, 1)
  place = np.zeros(len(labels), int)  # within its class
  for label in range(10):
    place[labels == label] = np.arange((labels == label).sum())
  test, none = place % 4 == 3, np.zeros(0, np.int32)
  train = ~test
  return Dataset(
    images[train], labels[train], none, images[test], labels[test], none, 10
  )


SOURCES = {'digits': digits}
