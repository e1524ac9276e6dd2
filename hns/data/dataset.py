"""What a dataset is, and what is wrong with one that cannot be used."""

import operator
import reprlib
from typing import Any, NamedTuple

import numpy as np

from hns.errors import InputError, invalid

_LARGEST = 1e30  # of a pixel, so that differences are finite in float32


class Dataset(NamedTuple):
  """Two splits of the same kind of picture.

  This is what `checked` returns. It takes lists too, pictures [n, h, w] and of
  any real dtype, and labels and groups of any integer dtype.

  Attributes:
    train_images, test_images: uint8 or float32 [n, h, w, c], both the same.
    train_labels, test_labels: int32 [n], in 0..classes-1.
    train_groups, test_groups: int32 [n], who made the example (a writer), the
      same numbers in both; empty without such a feature.
    classes: number of classes, at least 2.
  """

  train_images: np.ndarray
  train_labels: np.ndarray
  train_groups: np.ndarray
  test_images: np.ndarray
  test_labels: np.ndarray
  test_groups: np.ndarray
  classes: int


def checked(name: str, dataset: Any) -> Dataset:
  """The dataset in its own types.

  Whole pixels that are all in 0..255 become uint8, others float32.

  Args:
    name: of the dataset, for errors.
    dataset: a `Dataset`, as a user may give it.

  Raises:
    InputError: names the field, and the first example that cannot be used.
  """
  if not isinstance(dataset, Dataset):
    found = type(dataset).__name__
    raise invalid('dataset', name, f'must be a hns.data.Dataset, not a {found}')
  try:
    return _checked(dataset)
  except InputError as error:
    raise InputError(f'{error} (dataset {name!r})') from None


def _checked(given: Dataset) -> Dataset:
  classes = _classes(given.classes)
  train, test = _images(given.train_images, given.test_images)
  labels = [
    _labels('train_labels', given.train_labels, len(train), classes),
    _labels('test_labels', given.test_labels, len(test), classes),
  ]
  groups = [
    _groups('train_groups', given.train_groups, len(train)),
    _groups('test_groups', given.test_groups, len(test)),
  ]
  if len(groups[0]) and not len(groups[1]):
    remedy = f'must be [{len(test)}], as there are train_groups'
    raise invalid('test_groups.shape', [0], remedy)
  if len(groups[1]) and not len(groups[0]):
    remedy = f'must be [{len(train)}], as there are test_groups'
    raise invalid('train_groups.shape', [0], remedy)
  return Dataset(
    *(train, labels[0], groups[0]), *(test, labels[1], groups[1]), classes
  )


def _classes(value: Any) -> int:
  remedy = 'must be a whole number, at least 2 and below 2**31'
  try:
    classes = operator.index(value)
  except TypeError:
    raise _wrong('classes', value, remedy) from None
  if isinstance(value, bool) or not 2 <= classes < 2**31:
    raise _wrong('classes', value, remedy)
  return classes


def _images(train: Any, test: Any) -> list[np.ndarray]:
  """The pictures of both splits, of one shape and one dtype."""
  given = train, test = [
    _pictures('train_images', train),
    _pictures('test_images', test),
  ]
  if train.shape[1:] != test.shape[1:]:
    wanted = ', '.join(map(str, train.shape[1:]))
    remedy = f'must be [n, {wanted}], as train_images are'
    raise invalid('test_images.shape', list(test.shape), remedy)
  kinds = [array.dtype.kind.replace('i', 'u') for array in given]
  if kinds[0] != kinds[1]:
    remedy = f'train_images are {train.dtype}: both must be on one scale'
    raise invalid('test_images.dtype', str(test.dtype), remedy)
  bytes_do = kinds[0] != 'f' and all(
    0 <= array.min() and array.max() <= 255 for array in given
  )
  dtype = np.uint8 if bytes_do else np.float32
  with np.errstate(over='ignore'):
    images = [array.astype(dtype, copy=False) for array in given]
  for field, array, source in zip(
    ('train_images', 'test_images'), images, given
  ):
    _check_pixels(field, array, source)
  _check_scales(*images)
  return images


def _check_scales(train: np.ndarray, test: np.ndarray) -> None:
  """Raises if a few pixels drown all others, or the splits differ in scale."""
  ranges = np.ptp(train.reshape(len(train), -1).astype(np.float32), 1)
  spread = float(np.std(train, dtype=np.float64))
  if 0 < np.median(ranges) < 1e-5 * spread:
    place = int(np.argmax(ranges))
    remedy = 'has pixels so large that all other pictures become alike'
    raise InputError(f'train_images[{place}]: {remedy}: mend or drop it')
  other = float(np.std(test, dtype=np.float64))
  if len(test) > 1 and not 1e-2 < other / spread < 1e2:
    remedy = f'is {other:g}, that of train_images {spread:g}: scale both alike'
    raise InputError(f'test_images: the deviation of their pixels {remedy}')


def _pictures(field: str, value: Any) -> np.ndarray:
  """Real numbers [n, h, w, c]; a grey picture may lack c."""
  images = _numbers(field, value)
  if 0 in images.shape or images.ndim not in (3, 4):
    remedy = 'must be [n, h, w] or [n, h, w, c], each at least 1'
    raise invalid(f'{field}.shape', list(images.shape), remedy)
  return images if images.ndim == 4 else images[..., None]


def _check_pixels(field: str, images: np.ndarray, given: np.ndarray) -> None:
  """Raises for pixels that no standardisation brings to order.

  Args:
    field: train_images or test_images.
    images: uint8 or float32 [n, h, w, c].
    given: the same before it was converted, for errors.
  """
  low, high = float(images.min()), float(images.max())  # NaN if any pixel is
  size = max(abs(low), abs(high))
  if not (abs(low) <= _LARGEST and abs(high) <= _LARGEST):
    flat = np.argmin(np.abs(images) <= _LARGEST)
    place = tuple(int(i) for i in np.unravel_index(flat, images.shape))
    remedy = f'must be a finite number of size {_LARGEST:.0e} at most'
    raise _wrong(f'{field}{list(place)}', given[place], remedy)
  if len(images) == 1 and field == 'test_images':
    return
  if low == high:
    remedy = 'every pixel of every picture is this: pictures must differ'
    raise invalid(field, images.flat[0].item(), remedy)
  if high - low <= max(1e-6 * size, 1 / _LARGEST):
    remedy = 'are alike in float32: subtract their mean, or scale them up'
    raise InputError(f'{field}: pixels from {low:g} to {high:g} {remedy}')
  if len(images) > 1 and all(np.array_equal(images[0], x) for x in images):
    raise InputError(f'{field}: all {len(images)} pictures are the same one')


def _labels(field: str, value: Any, count: int, classes: int) -> np.ndarray:
  labels = _whole(field, value, count)
  strange = np.flatnonzero((labels < 0) | (labels >= classes))
  if len(strange):
    place = strange[0]
    remedy = (
      f'must be in 0..{classes - 1}, as classes={classes}: count from 0, or '
      'raise classes'
    )
    raise _wrong(f'{field}[{place}]', labels[place], remedy)
  return labels.astype(np.int32, copy=False)


def _groups(field: str, value: Any, count: int) -> np.ndarray:
  if np.ndim(value) and not np.size(value):
    return np.zeros(0, np.int32)
  groups = _whole(field, value, count)
  limits = np.iinfo(np.int32)
  strange = np.flatnonzero((groups < limits.min) | (groups > limits.max))
  if len(strange):
    place = strange[0]
    remedy = 'must fit int32: number groups with np.unique, return_inverse=True'
    raise _wrong(f'{field}[{place}]', groups[place], remedy)
  return groups.astype(np.int32, copy=False)


def _whole(field: str, value: Any, count: int) -> np.ndarray:
  """Whole numbers of any integer dtype, [count]."""
  array = _numbers(field, value)
  if array.shape != (count,):
    remedy = f'must be [{count}], one a picture'
    if array.ndim == 2:
      column = array.shape[1] == 1
      remedy += ': take [:, 0]' if column else ': of one-hot take argmax(1)'
    raise invalid(f'{field}.shape', list(array.shape), remedy)
  if array.dtype.kind not in 'iu':
    broken = np.flatnonzero(array != np.rint(array.astype(float)))
    remedy = f'must be a whole number of an integer dtype, not {array.dtype}'
    if not len(broken):
      remedy += f": convert with np.asarray({field}, 'int32')"
    place = broken[0] if len(broken) else 0
    raise _wrong(f'{field}[{place}]', array[place], remedy)
  return array


def _numbers(field: str, value: Any) -> np.ndarray:
  """An array of real numbers, made from an array or from lists of such."""
  try:
    array = np.asarray(value)
  except ValueError:  # rows of several shapes
    place, shape = _odd_row(value)
    remedy = 'all rows must have one shape, that of row 0'
    raise InputError(f'{field}[{place}].shape={shape}: {remedy}') from None
  if not array.ndim:
    found = type(value).__name__
    raise InputError(f'{field}: must be an array or a list, not a {found}')
  if array.dtype.kind in 'biuf':
    return array
  if array.dtype == object or isinstance(value, list | tuple):
    for place, row in enumerate(value):
      if not _is_real(row):
        raise _wrong(f'{field}[{place}]', row, 'must be real numbers')
  remedy = 'must be of real numbers'
  if array.dtype == object:
    remedy += ': np.stack makes one array of many'
  raise invalid(f'{field}.dtype', str(array.dtype), remedy)


def _is_real(row: Any) -> bool:
  try:
    return np.asarray(row).dtype.kind in 'biuf'
  except ValueError:
    return False


def _odd_row(rows: Any) -> tuple[int, str]:
  """The first row whose shape is not that of row 0, and what it is."""
  first = None
  for place, row in enumerate(rows):
    try:
      shape = str(list(np.shape(row)))
    except ValueError:
      return place, 'uneven'
    first = first or shape
    if shape != first:
      return place, shape
  return 0, 'uneven'


def _wrong(field: str, value: Any, remedy: str) -> InputError:
  """The error for a value of any kind, which is shown shortened."""
  plain = value.item() if isinstance(value, np.generic) else value
  shown = ' '.join(reprlib.repr(plain).split())
  return InputError(f'{field}={shown}: {remedy}')
