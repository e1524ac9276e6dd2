"""Datasets in a folder: pictures in a folder a class, or a file a client.

Names that begin with a dot are not read. Any other name that does not belong
there is an error.
"""

import pathlib
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from hns.data.clients import Examples, of_clients, partition_of
from hns.data.columns import Features, bar, count_classes, stacked
from hns.data.dataset import Dataset
from hns.data.names import expanded
from hns.data.pictures import pixels
from hns.data.shares import Shares
from hns.errors import InputError, invalid, shown

_NEEDED = tuple(
  f'{split}_{kind}'
  for split in ('train', 'test')
  for kind in ('inputs', 'labels')
)
_OPTIONAL = ('validation_inputs', 'validation_labels')


def load(name: str, folder: pathlib.Path, wanted: Features) -> Dataset:
  """The dataset of a folder; of files of clients, a client is a group.

  Args:
    name: of the dataset in the config.
    folder: with train/CLASS/PICTURE and test/CLASS/PICTURE, or NAME.npz.
    wanted: must be all '', because files have no named features.

  Raises:
    InputError: names the file, and the example that is wrong.
  """
  for field, value in wanted._asdict().items():
    if value:
      remedy = f'{name} has no named features: leave it out'
      raise invalid(field, value, remedy)
  if not any(path.suffix == '.npz' for path in _entries(folder)):
    return _of_classes(folder)
  clients = _clients(folder)
  for path, client in clients.items():
    if client.validation is not None:
      remedy = 'has validation examples, which need hns.data.from_folder'
      raise InputError(f'{shown(path)}: {remedy}')
  return _of_clients(clients, 0, None)[0]


def from_folder(
  path: str | pathlib.Path, classes: int = 0, standardise: bool | None = None
) -> tuple[Dataset, Callable[..., Shares]]:
  """A dataset of files of clients, and the partition that each file is.

  As `hns.data.from_clients`: client k holds the k-th file by name. A client is
  also a group of the dataset.

  Args:
    path: the folder of NAME.npz, each with arrays train_inputs, train_labels,
      test_inputs and test_labels, and perhaps validation_inputs and
      validation_labels.
    classes: number of classes; 0: the largest label and one.
    standardise: as in `Dataset`; None: whether inputs are pictures, which is
      bytes (uint8) [n, h, w] or [n, h, w, c].

  Raises:
    InputError: names the file, and the example that is wrong.
  """
  clients = _clients(expanded('path', path))
  return _of_clients(clients, classes, standardise)


def _entries(folder: pathlib.Path) -> list[pathlib.Path]:
  """What is in a folder, by name, without hidden files."""
  try:
    found = [x for x in folder.iterdir() if not x.name.startswith('.')]
  except (OSError, ValueError) as error:
    cause = getattr(error, 'strerror', None) or error
    problem = f'is no folder that can be read ({cause})'
    raise InputError(f'{shown(folder)}: {problem}') from None
  if not found:
    raise InputError(f'{shown(folder)}: is empty')
  return sorted(found, key=lambda path: path.name)


def _of_classes(folder: pathlib.Path) -> Dataset:
  """The pictures of folders of classes."""
  splits = {path.name: path for path in _entries(folder)}
  remedy = 'give folders train and test, or files NAME.npz, and nothing else'
  for name, path in splits.items():
    if name not in ('train', 'test'):
      raise InputError(f'{shown(path)}: does not belong there: {remedy}')
  for name in ('train', 'test'):
    if name not in splits:
      raise InputError(f'{shown(folder)}: has no folder {name}: {remedy}')
  classes = [path.name for path in _entries(splits['train'])]
  files = {name: _pictures(path, classes) for name, path in splits.items()}
  both = files['train'] + files['test']
  places = [shown(path) for path, _ in both]
  rows = (pixels(shown(path), path) for path, _ in bar(both, shown(folder)))
  inputs = np.split(stacked(places, rows), [len(files['train'])])
  train, test = (
    np.array([label for _, label in files[name]], np.int32)
    for name in ('train', 'test')
  )
  none = np.zeros(0, np.int32)
  return Dataset(inputs[0], train, none, inputs[1], test, none, len(classes))


def _pictures(
  folder: pathlib.Path, classes: list[str]
) -> list[tuple[pathlib.Path, int]]:
  """The pictures of a split, and the numbers of their classes."""
  found = []
  for path in _entries(folder):
    if path.name not in classes:
      problem = 'is no class, as train has no folder of that name'
      raise InputError(f'{shown(path)}: {problem}')
    label = classes.index(path.name)
    found += [(picture, label) for picture in _entries(path)]
  return found


class _Client(NamedTuple):
  """The examples of a file."""

  train: Examples
  test: Examples
  validation: Examples | None


def _clients(folder: pathlib.Path) -> dict[pathlib.Path, _Client]:
  """The clients of a folder, by file in the order of their names."""
  paths = _entries(folder)
  for path in paths:
    if path.suffix != '.npz':
      remedy = 'only NAME.npz is read here, a file a client: move it elsewhere'
      raise InputError(f'{shown(path)}: {remedy}')
  return {path: _client(path) for path in paths}


def _client(path: pathlib.Path) -> _Client:
  """The arrays of a file."""
  try:
    with np.load(path, allow_pickle=False) as file:
      found = {name: file[name] for name in file}
  except MemoryError:
    raise
  except Exception as error:  # zip, NumPy and the disk have their own
    cause = ' '.join(f'{type(error).__name__} {error}'.split())[:200]
    raise InputError(f'{shown(path)}: cannot be read ({cause})') from error
  wanted = _NEEDED
  if set(found) & set(_OPTIONAL):
    wanted += _OPTIONAL
  if set(found) != set(wanted):
    problem = f'has arrays {", ".join(sorted(found)) or "none"}'
    remedy = f'give it {", ".join(wanted)}'
    raise InputError(f'{shown(path)}: {problem}: {remedy}')
  parts = [(found[x], found[y]) for x, y in zip(wanted[::2], wanted[1::2])]
  return _Client(*parts, *[None] * (3 - len(parts)))


def _of_clients(
  clients: dict[pathlib.Path, _Client], classes: int, standardise: bool | None
) -> tuple[Dataset, Callable[..., Shares]]:
  """`from_clients` of files, with groups; its errors name the file."""
  paths = list(clients)
  train, test, validation = map(list, zip(*clients.values()))
  if standardise is None:
    standardise = all(_are_pictures(inputs) for inputs, _ in train)
  classes = classes or count_classes(*_whole(train + test))
  try:
    dataset, shares = of_clients(train, test, classes, validation, standardise)
  except InputError as error:
    name = lambda match: shown(paths[int(match[1])])
    said = re.sub(r'\bclient (\d+)\b', name, str(error))
    raise InputError(said) from None
  partition = partition_of(dataset, shares)
  return dataset._replace(
    train_groups=_groups(
      dataset.train_labels, [*shares.train, *shares.validation], len(paths)
    ),
    test_groups=_groups(dataset.test_labels, shares.test, len(paths)),
  ), partition


def _are_pictures(inputs: np.ndarray) -> bool:
  return inputs.dtype == np.uint8 and inputs.ndim in (3, 4)


def _whole(parts: list[Examples]) -> list[np.ndarray]:
  """Labels that are whole numbers; `from_clients` names the others."""
  return [labels for _, labels in parts if labels.dtype.kind in 'iu']


def _groups(
  labels: np.ndarray, rows: list[np.ndarray], count: int
) -> np.ndarray:
  """The client of each example, int32 [n]."""
  groups = np.zeros(len(labels), np.int32)
  for place, row in enumerate(rows):
    groups[row] = place % count
  return groups
