"""Datasets of Hugging Face, from a folder or from Python; no network."""

import io
import pathlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from hns.data.columns import (
  Features,
  Kind,
  Split,
  bar,
  choose,
  dataset_of,
)
from hns.data.dataset import Dataset, checked
from hns.data.pictures import pixels
from hns.errors import InputError, invalid

if TYPE_CHECKING:
  import datasets


def from_huggingface(
  train: 'datasets.Dataset',
  test: 'datasets.Dataset',
  inputs: str = '',
  labels: str = '',
  group: str = '',
) -> Dataset:
  """A `Dataset` of two splits of Hugging Face, for `hns.DATASETS`.

  Args:
    train, test: the splits, with the same columns.
    inputs: the column to learn from: pictures, text, or arrays of numbers; ''
      for `image`, or the only one that it can be.
    labels: the column of classes or whole numbers; '' for `label`.
    group: the column that says who made an example; '' for none.

  Raises:
    InputError: there is no such column, or an example that cannot be used.
  """
  library = _library()
  for name, split in (('train', train), ('test', test)):
    if not isinstance(split, library.Dataset):
      kind = type(split).__name__
      raise InputError(f'{name}: must be a datasets.Dataset, not a {kind}')
  wanted = Features(group, inputs, labels)
  return checked('of Hugging Face', _read(train, test, wanted))


def load(name: str, folder: pathlib.Path, wanted: Features) -> Dataset:
  """The splits train and test of a folder of `DatasetDict.save_to_disk`.

  Args:
    name: of the dataset in the config.
    folder: what `save_to_disk` wrote.
    wanted: the columns that the user named.

  Raises:
    InputError: it cannot be read, or as `from_huggingface`.
  """
  library = _library()
  remedy = 'give a folder that DatasetDict.save_to_disk wrote'
  if not folder.is_dir():  # else the library could ask a server
    raise invalid('dataset', name, f'there is no such folder: {remedy}')
  try:
    splits = library.load_from_disk(str(folder))
  except MemoryError:
    raise
  except Exception as error:  # Arrow has errors of its own
    problem = f'cannot be read ({_cause(error)}): {remedy}'
    raise invalid('dataset', name, problem) from error
  found = list(splits) if isinstance(splits, dict) else 'one without a name'
  if not {'train', 'test'} <= set(found):
    problem = f'needs splits train and test, has {found}'
    raise invalid('dataset', name, problem)
  try:
    return _read(splits['train'], splits['test'], wanted)
  except (InputError, MemoryError):
    raise
  except Exception as error:
    problem = f'is damaged ({_cause(error)}): save it again'
    raise invalid('dataset', name, problem) from error


def _library() -> ModuleType:
  """The package `datasets`; `InputError` where it is not installed."""
  try:
    import datasets
  except ImportError as error:
    remedy = "needs the package datasets: pip install -e '.[hf]'"
    raise InputError(f'hf: {remedy} ({error})') from None
  return datasets


def _cause(error: Exception) -> str:
  return ' '.join(f'{type(error).__name__} {error}'.split())[:200]


def _read(
  train: 'datasets.Dataset', test: 'datasets.Dataset', wanted: Features
) -> Dataset:
  kinds = _kinds(train)
  chosen = choose('train', kinds, wanted)
  choose('test', _kinds(test), chosen)
  for column in filter(None, chosen):
    _check_alike(column, train.features[column], test.features[column])
  kind = kinds[chosen.inputs]
  classes = getattr(train.features[chosen.labels], 'num_classes', 0)
  parts = [
    _split(part, name, chosen, kind)
    for part, name in ((train, 'train'), (test, 'test'))
  ]
  return dataset_of(kind, *parts, classes or 0)


def _check_alike(column: str, train: Any, test: Any) -> None:
  """Raises `InputError` where a column of test is not that of train."""
  kind = _kind(train)
  others = kind == Kind.CLASS and getattr(test, 'names', None) != train.names
  if _kind(test) != kind or others:
    problem = f'is {train} in train and {test} in test: make them alike'
    raise InputError(f'column {column}: {problem}')


def _kinds(split: 'datasets.Dataset') -> dict[str, Kind]:
  return {name: _kind(feature) for name, feature in split.features.items()}


def _kind(feature: Any) -> Kind:
  """What a column holds."""
  library = _library()
  arrays = (library.Array2D, library.Array3D, library.Array4D, library.Array5D)
  if isinstance(feature, library.Image):
    return Kind.PICTURE
  if isinstance(feature, library.ClassLabel):
    return Kind.CLASS
  if isinstance(feature, library.List | library.LargeList):
    inner = _kind(feature.feature)
    return Kind.ARRAY if inner in (Kind.NUMBER, Kind.ARRAY) else Kind.OTHER
  if isinstance(feature, arrays):
    return Kind.ARRAY
  dtype = getattr(feature, 'dtype', '')
  if dtype.startswith(('int', 'uint', 'float', 'bool')):
    return Kind.NUMBER
  is_text = dtype.removeprefix('large_') in ('string', 'binary')
  return Kind.TEXT if is_text else Kind.OTHER


def _split(
  split: 'datasets.Dataset', name: str, chosen: Features, kind: Kind
) -> Split:
  """The values of a split's columns."""
  plain = split.with_format(None)
  column = lambda feature: plain.select_columns([feature])[:][feature]
  groups = column(chosen.group) if chosen.group else []
  labels = column(chosen.labels)
  if kind == Kind.TEXT:
    return Split(column(chosen.inputs), labels, groups)
  read = _pictures if kind == Kind.PICTURE else _arrays
  rows = read(plain.select_columns([chosen.inputs]), name, chosen.inputs)
  return Split(rows, labels, groups)


def _pictures(
  split: 'datasets.Dataset', name: str, column: str
) -> list[np.ndarray]:
  """The pixels of each picture."""
  mode = split.features[column].mode
  # The library would read a picture that is stored as a link from the network.
  stored = split.cast_column(column, _library().Image(decode=False))
  return [
    _pixels(f'{name} example {i}', row[column], mode)
    for i, row in enumerate(bar(stored, name))
  ]


def _pixels(place: str, stored: Any, mode: str | None) -> np.ndarray:
  if not stored:
    raise InputError(f'{place}: has no picture')
  content, path = stored['bytes'], stored['path']
  source = pathlib.Path(path) if content is None else io.BytesIO(content)
  return pixels(place, source, mode)


def _arrays(
  split: 'datasets.Dataset', name: str, column: str
) -> list[np.ndarray]:
  rows = bar(split.with_format('numpy'), name)
  return [row[column] for row in rows]
