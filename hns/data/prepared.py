"""TFDS datasets prepared as array_record, read without TensorFlow."""

import json
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tqdm

from hns.data.dataset import Dataset
from hns.errors import InputError, invalid, shown

if TYPE_CHECKING:
  import tensorflow_datasets as tfds

_NAME = re.compile(r'\w[\w+-]*(\.[\w+-]+)*(/\w[\w+-]*(\.[\w+-]+)*)?', re.ASCII)
_VERSION = re.compile(r'\d+\.\d+\.\d+', re.ASCII)


def newest(root: pathlib.Path, name: str) -> pathlib.Path:
  """The folder of a dataset's newest version in the array_record format.

  Args:
    root: the folder of all datasets.
    name: such as mnist or emnist/balanced.

  Raises:
    InputError: no such version, or the description of a newer one is damaged.
  """
  if not _NAME.fullmatch(name) or len(name) > 100:
    remedy = 'must be a name such as digits, mnist or emnist/balanced'
    raise invalid('dataset', name, remedy)
  versions = [
    path
    for path in (root / name).glob('*/dataset_info.json')
    if _VERSION.fullmatch(path.parent.name)
  ]
  others = []
  for path in sorted(versions, key=_version, reverse=True):
    formats = _formats(path)
    if 'array_record' in formats:
      return path.parent
    others.append(f'{path.parent.name} is {" and ".join(formats)}')
  problem = f'nothing prepared as array_record in {root / name}'
  if others:
    problem += f' ({", ".join(others)})'
  raise invalid(
    'dataset',
    name,
    f'{problem}; set TFDS_DATA_DIR to the folder that holds {name} as '
    'array_record, or prepare it in a folder without it: '
    f'{_instructions(root, name)}',
  )


def _version(path: pathlib.Path) -> list[int]:
  return [int(n) for n in path.parent.name.split('.')]


def _formats(path: pathlib.Path) -> list[str]:
  """The formats of a prepared version, from its dataset_info.json."""
  try:
    info = json.loads(path.read_text(encoding='utf-8'))
    info['name'], info['splits']  # else a KeyError: the file is damaged
    main = info.get('fileFormat', 'tfrecord')  # missing in older files
    return [str(f) for f in (main, *info.get('alternativeFileFormats', ()))]
  except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
    raise _damaged(path, error) from error


def _damaged(path: pathlib.Path, error: Exception) -> InputError:
  cause = ' '.join(f'{type(error).__name__} {error}'.split())[:200]
  return InputError(
    f'{shown(path)}: is damaged ({cause}): prepare the dataset again'
  )


def _instructions(root: pathlib.Path, name: str) -> str:
  """The command that prepares a dataset."""
  import tensorflow_datasets as tfds

  if name == 'femnist':
    return (
      'python -m hns.data.femnist --json=FOLDER --data_dir='
      f"'{root}', with LEAF's JSON files in FOLDER"
    )
  try:
    tfds.builder_cls(name.split('/')[0])
    return (
      f"pip install 'hns[prepare]' && python -c \"import "
      f"tensorflow_datasets as tfds; tfds.builder('{name}', "
      f"data_dir='{root}', file_format='array_record')"
      f'.download_and_prepare()"'
    )
  except tfds.core.DatasetNotFoundError:
    return (
      'TFDS does not know it, so write a tfds.core.GeneratorBasedBuilder with '
      'features image and label, and prepare it with '
      "file_format='array_record'"
    )
  except ValueError:
    return 'TFDS has no such name: write one such as mnist or emnist/balanced'


def decode(name: str, folder: pathlib.Path, group: str) -> Dataset:
  """Reads and decodes a prepared dataset, which is slow.

  Args:
    name: of the dataset.
    folder: of one of its versions.
    group: the feature that names who made an example; '' for none.

  Raises:
    InputError: it is damaged, or not image classification.
  """
  import tensorflow_datasets as tfds

  try:
    builder = tfds.builder_from_directory(folder)
  except Exception as error:  # each format has its own errors
    raise _damaged(folder / 'dataset_info.json', error) from error
  _check_features(name, builder.info, group)
  try:
    splits = [
      _read(builder.as_data_source(split=split), f'{name} {split}', group)
      for split in ('train', 'test')
    ]
  except MemoryError:
    raise
  except Exception as error:  # and so has each image decoder
    raise _damaged(folder, error) from error
  (train, train_labels, train_groups), (test, test_labels, test_groups) = splits
  _, groups = np.unique(
    np.concatenate([train_groups, test_groups]), return_inverse=True
  )
  classes = builder.info.features['label'].num_classes
  split = np.split(groups.astype(np.int32), [len(train_groups)])
  return Dataset(
    train, train_labels, split[0], test, test_labels, split[1], classes
  )


def _check_features(
  name: str, info: 'tfds.core.DatasetInfo', group: str
) -> None:
  """Raises `InputError` for a dataset that is not image classification."""
  features = info.features
  wanted = ['image', 'label'] + ([group] if group else [])
  absent = [f for f in wanted if f not in features]
  if absent:
    raise invalid('dataset', name, f'it has no feature {", ".join(absent)}')
  if None in features['image'].shape:
    raise invalid(
      'dataset', name, f'images differ in shape: {features["image"].shape}'
    )
  if not getattr(features['label'], 'num_classes', None):
    raise invalid('dataset', name, 'its feature label is no class')
  if group and features[group].shape != ():
    raise invalid('group', group, 'must be a feature of one value an example')
  if not {'train', 'test'} <= set(info.splits):
    raise invalid(
      'dataset', name, f'needs splits train and test, has {list(info.splits)}'
    )


def _read(
  source: Sequence[dict[str, Any]], title: str, group: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Images, labels and groups of a split; `title` is shown with a bar."""
  images, labels, groups = [], [], []
  for example in tqdm.tqdm(
    source,
    f'decoding {title}',
    leave=False,
    disable=None if sys.stderr else True,  # None: unless it is a terminal
  ):
    images.append(example['image'])
    labels.append(example['label'])
    groups.extend([example[group]] if group else [])
  return np.array(images), np.array(labels, np.int32), np.array(groups)
