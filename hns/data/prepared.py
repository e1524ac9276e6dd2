"""TFDS datasets prepared as array_record, read without TensorFlow."""

import difflib
import json
import pathlib
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hns.data.columns import Features, Kind, Split, bar, choose, dataset_of
from hns.data.dataset import Dataset
from hns.errors import InputError, invalid, shown

if TYPE_CHECKING:
  import tensorflow_datasets as tfds

_NAME = re.compile(r'\w[\w+-]*(\.[\w+-]+)*(/\w[\w+-]*(\.[\w+-]+)*)?', re.ASCII)
_VERSION = re.compile(r'\d+\.\d+\.\d+', re.ASCII)
_SHARDS = '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}'


class Version(NamedTuple):
  """The newest version that can be read.

  Attributes:
    folder: its folder, whose name is its number.
    skipped: by number, why a newer one cannot be read.
  """

  folder: pathlib.Path
  skipped: dict[str, str]


def newest(root: pathlib.Path, name: str) -> Version:
  """A dataset's newest version that is whole and in the array_record format.

  A version is whole if its descriptions can be read and its files hold as many
  examples as they say.

  Args:
    root: the folder of all datasets.
    name: such as mnist or emnist/balanced.

  Raises:
    InputError: there is no such version.
  """
  if not _NAME.fullmatch(name) or len(name) > 100:
    remedy = 'must be a name such as digits, mnist or emnist/balanced, or'
    raise invalid('dataset', name, f'{remedy} folder:PATH or hf:PATH')
  versions = [
    path
    for path in (root / name).glob('*/dataset_info.json')
    if _VERSION.fullmatch(path.parent.name)
  ]
  skipped, damage = {}, None
  for path in sorted(versions, key=_version, reverse=True):
    try:
      formats = _formats(path)
    except InputError as error:
      damage = damage or error
      skipped[path.parent.name] = str(error)
      continue
    if 'array_record' in formats:
      return Version(path.parent, skipped)
    skipped[path.parent.name] = f'is {" and ".join(formats)}'
  raise damage or _absent(root, name, skipped)


def _absent(
  root: pathlib.Path, name: str, skipped: dict[str, str]
) -> InputError:
  """The error for a dataset of which no version is array_record."""
  problem = f'nothing prepared as array_record in {root / name}'
  if skipped:
    others = (f'{version} {reason}' for version, reason in skipped.items())
    problem += f' ({", ".join(others)})'
  return invalid(
    'dataset',
    name,
    f'{problem}; set TFDS_DATA_DIR to the folder that holds {name} as '
    'array_record, or prepare it in a folder without it: '
    f'{_instructions(root, name)}',
  )


def _version(path: pathlib.Path) -> list[int]:
  return [int(n) for n in path.parent.name.split('.')]


def _formats(path: pathlib.Path) -> list[str]:
  """The formats of a prepared version; `InputError` if it is damaged."""
  info = _description(path)
  _description(path.parent / 'features.json')
  try:
    info['name'], info['splits']  # else a KeyError: the file is damaged
    main = info.get('fileFormat', 'tfrecord')  # missing in older files
    others = [str(f) for f in info.get('alternativeFileFormats', ())]
    wanted = {x['name']: x for x in info['splits'] if main == 'array_record'}
    for split in ('train', 'test'):
      if split in wanted:
        _check_shards(path.parent, split, wanted[split])
  except (OSError, RuntimeError, ValueError, LookupError, TypeError) as error:
    raise _damaged(path, error) from error
  return [str(main), *others]


def _description(path: pathlib.Path) -> Any:
  """A JSON file of a prepared version; `InputError` if it is damaged."""
  try:
    return json.loads(path.read_text(encoding='utf-8'))
  except (OSError, ValueError, RecursionError) as error:
    raise _damaged(path, error) from error


def _check_shards(
  folder: pathlib.Path, split: str, about: dict[str, Any]
) -> None:
  """Raises `ValueError` unless a split's files hold all of its examples."""
  if about.get('filepathTemplate', _SHARDS) != _SHARDS:
    return  # files of other names: whether they are whole is seen later
  from array_record.python import array_record_module

  found = 0
  for path in folder.glob(f'*-{split}.array_record-*'):
    reader = array_record_module.ArrayRecordReader(str(path))
    found += reader.num_records()  # 0 for a file that was cut
    reader.close()
  wanted = sum(int(count) for count in about['shardLengths'])
  if found != wanted:
    raise ValueError(f'files of {split} hold {found} of {wanted} examples')


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
      f"pip install -e '.[prepare]' && python -c \"import "
      f"tensorflow_datasets as tfds; tfds.builder('{name}', "
      f"data_dir='{root}', file_format='array_record')"
      f'.download_and_prepare()"'
    )
  except tfds.core.DatasetNotFoundError:
    near = difflib.get_close_matches(
      name, tfds.list_builders(with_community_datasets=False), 1
    )
    return (
      'TFDS does not know it'
      + ''.join(f' (did you mean {other}?)' for other in near)
      + '. Put a function into hns.DATASETS, name folder:PATH or hf:PATH, or '
      'write a tfds.core.GeneratorBasedBuilder with '
      'features image and label, and prepare it with '
      "file_format='array_record'"
    )
  except ValueError:
    return 'TFDS has no such name: write one such as mnist or emnist/balanced'


def decode(name: str, folder: pathlib.Path, wanted: Features) -> Dataset:
  """Reads and decodes a prepared dataset, which is slow.

  Args:
    name: of the dataset.
    folder: of one of its versions.
    wanted: the features that the user named.

  Raises:
    InputError: it is damaged, or has not the features that are needed.
  """
  import tensorflow_datasets as tfds

  try:
    builder = tfds.builder_from_directory(folder)
  except Exception as error:  # each format has its own errors
    raise _damaged(folder / 'dataset_info.json', error) from error
  features = builder.info.features
  # Sorted, as TFDS has them in any order.
  kinds = {feature: _kind(features[feature]) for feature in sorted(features)}
  chosen = choose(name, kinds, wanted)
  _check(name, builder.info, chosen.inputs, kinds[chosen.inputs])
  try:
    train, test = (
      _read(builder.as_data_source(split=split), f'{name} {split}', chosen)
      for split in ('train', 'test')
    )
  except MemoryError:
    raise
  except Exception as error:  # and so has each image decoder
    raise _damaged(folder, error) from error
  classes = getattr(features[chosen.labels], 'num_classes', 0)
  return dataset_of(kinds[chosen.inputs], train, test, classes or 0)


def _kind(feature: Any) -> Kind:
  """What a feature holds."""
  from tensorflow_datasets import features

  shape, dtype = feature.shape, feature.np_dtype
  if isinstance(feature, features.Image):
    return Kind.PICTURE
  if isinstance(feature, features.ClassLabel) and feature.num_classes:
    return Kind.CLASS
  if isinstance(feature, features.Text):
    return Kind.TEXT
  if not isinstance(shape, tuple) or isinstance(dtype, dict):
    return Kind.OTHER
  if np.dtype(dtype).kind not in 'biuf':
    return Kind.OTHER if shape else Kind.TEXT
  return Kind.ARRAY if shape else Kind.NUMBER


def _check(
  name: str, info: 'tfds.core.DatasetInfo', inputs: str, kind: Kind
) -> None:
  """Raises `InputError` for pictures that differ, or a split that is absent."""
  shape = info.features[inputs].shape
  if kind == Kind.PICTURE and None in shape:
    raise invalid('dataset', name, f'images differ in shape: {shape}')
  if not {'train', 'test'} <= set(info.splits):
    raise invalid(
      'dataset', name, f'needs splits train and test, has {list(info.splits)}'
    )


def _read(source: Any, title: str, chosen: Features) -> Split:
  """The values of a split; `title` is shown with a bar."""
  split = Split([], [], [])
  for example in bar(source, title):
    split.inputs.append(example[chosen.inputs])
    split.labels.append(example[chosen.labels])
    if chosen.group:
      split.groups.append(example[chosen.group])
  return split
