"""FEMNIST from LEAF's JSON files, as the TFDS dataset `femnist`.

  python -m hns.data.femnist --json=FOLDER [--data_dir=DIR]

FOLDER is LEAF's data/femnist/data/all_data: all_data_0.json and so on, in each

  {"users": [name, ...], "num_samples": [n, ...],
   "user_data": {name: {"x": n lists of 784 numbers, "y": n labels}, ...}}

with labels 0 to 61 (digits, capitals, small letters) and pixels from 0 (ink) to
1 (paper): dark on bright, unlike MNIST. They are stored as round(255 x). Each
writer's pictures are shuffled with a fixed seed, and the first 90 % are for
training. One file at a time is in memory, at about five times its size.
TensorFlow is not needed, except for the command of TFDS, which prepares the
same:

  tfds build hns/data/femnist.py --manual_dir=FOLDER --file_format=array_record
"""

import functools
import io
import json
import pathlib
import re
import sys
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
import tqdm
from absl import flags
from PIL import Image

from hns import command, data
from hns.errors import InputError, invalid

_SIDE, _CLASSES = 28, 62


class Writer(NamedTuple):
  """The pictures of one writer.

  Attributes:
    name: as in the file.
    images: uint8 [n, 28, 28], paper 255.
    labels: int [n].
  """

  name: str
  images: np.ndarray
  labels: np.ndarray


class Femnist(tfds.core.GeneratorBasedBuilder):
  """The dataset: features image, label and writer, splits train and test."""

  VERSION = tfds.core.Version('1.0.0')
  MANUAL_DOWNLOAD_INSTRUCTIONS = 'The folder of LEAF that holds all_data_*.json'
  url_infos = None  # no downloads; looking them up needs importlib_resources

  def _info(self) -> tfds.core.DatasetInfo:
    features = {
      'image': tfds.features.Image(shape=(_SIDE, _SIDE, 1)),
      'label': tfds.features.ClassLabel(num_classes=_CLASSES),
      'writer': tfds.features.Text(),
    }
    return tfds.core.DatasetInfo(
      builder=self,
      description='Handwritten characters by writer, from LEAF (1812.01097).',
      features=tfds.features.FeaturesDict(features),
      supervised_keys=('image', 'label'),
    )

  def _split_generators(self, dl_manager):
    # TFDS generates train first. Test pictures, a tenth of all, are collected
    # meanwhile, so that every file is read once.
    test = []
    return {
      'train': self._generate_examples(files(dl_manager.manual_dir), test),
      'test': (example for example in test),
    }

  def _generate_examples(self, paths, test):
    for writer in read(paths):
      order, cut = split_order(writer.name, len(writer.labels))
      test += [_example(writer, i) for i in order[cut:]]
      yield from (_example(writer, i) for i in order[:cut])
    if not test:
      raise InputError('json: no writer has two pictures, one of them to test')


def prepare(folder: pathlib.Path, data_dir: pathlib.Path) -> pathlib.Path:
  """Prepares `femnist`, completely or not at all, unless it is prepared.

  Args:
    folder: of LEAF's JSON files.
    data_dir: of all TFDS datasets.

  Returns:
    The folder of the dataset.

  Raises:
    InputError: no files, or a damaged one; names the file and the writer.
  """
  builder = Femnist(data_dir=data_dir, file_format='array_record')
  target = pathlib.Path(builder.data_dir)
  if not target.exists():
    files(folder)
    config = tfds.download.DownloadConfig(manual_dir=folder)
    builder.download_and_prepare(download_config=config)
  return target


def files(folder: str | pathlib.Path) -> list[pathlib.Path]:
  """The JSON files of a folder, sorted by name."""
  paths = sorted(pathlib.Path(folder).glob('*.json'))
  if not paths:
    raise invalid(
      'json', str(folder), 'holds no *.json: give the folder of all_data_0.json'
    )
  return paths


def split_order(name: str, count: int) -> tuple[np.ndarray, int]:
  """An order of a writer's pictures, and how many of them are for training."""
  order = np.random.default_rng(zlib.crc32(name.encode())).permutation(count)
  return order, max(1, min(count * 9 // 10, count - 1))


def read(paths: list[pathlib.Path]) -> Iterator[Writer]:
  """Yields all writers, with one file at a time in memory.

  Raises:
    InputError: a damaged file, or a writer that is in two files.
  """
  file_of = {}
  hidden = None if sys.stderr else True  # None: only on a terminal
  for path in tqdm.tqdm(
    paths, 'preparing femnist', unit='file', disable=hidden
  ):
    content = _content(path)
    for name, count in zip(map(str, content['users']), content['num_samples']):
      if name in file_of:
        raise _damaged(path, name, f'is in {file_of[name]} already')
      file_of[name] = path.name
      # Popped, so that the memory is free before the next file is read.
      yield _writer(path, name, count, content['user_data'].pop(name, None))


def _content(path: pathlib.Path) -> dict[str, Any]:
  """The JSON of a file, with its three tables checked."""
  try:
    content = json.loads(path.read_text(encoding='utf-8'))
  except (ValueError, RecursionError) as error:
    opened = re.findall(r'"([^"]*)"\s*:\s*\{', getattr(error, 'doc', ''))
    name = opened[-1] if opened[1:] else None
    where = 'somewhere' if name is None else f'in writer {name}'
    raise invalid(
      'json', str(path), f'cut off or damaged {where}: get it again ({error})'
    ) from error
  kinds = {'users': list, 'num_samples': list, 'user_data': dict}
  for key, kind in kinds.items():
    if not isinstance(content, dict) or not isinstance(content.get(key), kind):
      raise _damaged(path, None, f'has no {kind.__name__} {key}')
  users, counts, examples = (content[key] for key in kinds)
  if len(users) != len(counts):
    raise _damaged(
      path, None, f'has {len(users)} users but {len(counts)} num_samples'
    )
  for name in examples.keys() - set(map(str, users)):
    raise _damaged(path, name, 'is in user_data but not in users')
  return content


def _writer(path: pathlib.Path, name: Any, count: Any, examples: Any) -> Writer:
  """A writer of a file, checked against the module's docstring."""
  if not isinstance(examples, dict):
    raise _damaged(path, name, 'is in users but not in user_data')
  for key in ('x', 'y'):
    if not isinstance(examples.get(key), list):
      raise _damaged(path, name, f'has no list {key}')
    if len(examples[key]) != count:
      raise _damaged(
        path,
        name,
        f'num_samples says {count}, {key} holds {len(examples[key])}',
      )
  for i, label in enumerate(examples['y']):
    if type(label) is not int or not 0 <= label < _CLASSES:
      raise _damaged(
        path, name, f'y[{i}] is {label!r}, not 0 to {_CLASSES - 1}'
      )
  images = [_image(path, name, i, row) for i, row in enumerate(examples['x'])]
  return Writer(name, np.array(images, np.uint8), np.array(examples['y'], int))


def _image(path: pathlib.Path, name: str, i: int, row: Any) -> np.ndarray:
  """A row of numbers in 0..1 as uint8 [28, 28]."""
  if not isinstance(row, list) or len(row) != _SIDE**2:
    size = len(row) if isinstance(row, list) else 'no'
    raise _damaged(path, name, f'x[{i}] has {size} numbers, not {_SIDE**2}')
  try:
    pixels = np.array(row, float)
  except (TypeError, ValueError, OverflowError):
    pixels = np.array(np.nan)
  if not np.all((pixels >= 0) & (pixels <= 1)):
    raise _damaged(path, name, f'x[{i}] holds something else than numbers 0..1')
  return np.rint(255 * pixels).astype(np.uint8).reshape(_SIDE, _SIDE)


def _damaged(path: pathlib.Path, name: Any, what: str) -> InputError:
  writer = '' if name is None else f'writer {name} '
  return invalid('json', str(path), f'{writer}{what}')


def _example(writer: Writer, i: int) -> tuple[str, dict[str, Any]]:
  """A key and an example, with a PNG, which TFDS stores without TensorFlow."""
  file = io.BytesIO()
  Image.fromarray(writer.images[i]).save(file, 'png')
  file.seek(0)
  label = int(writer.labels[i])
  example = {'image': file, 'label': label, 'writer': writer.name}
  return f'{writer.name}/{i}', example


def main(words: list[str]) -> None:
  values = flags.FlagValues()
  text = functools.partial(flags.DEFINE_string, flag_values=values)
  text('json', None, "the folder of LEAF's JSON files", required=True)
  text('data_dir', str(data.data_dir()), 'where datasets are')
  tfds.disable_progress_bar()
  with command.one_line(OSError):
    command.parse(words, values, __doc__)
    print(prepare(pathlib.Path(values.json), pathlib.Path(values.data_dir)))


if __name__ == '__main__':
  main(sys.argv)
