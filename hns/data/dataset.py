"""The type of datasets, and checks of a dataset that a user gives."""

import operator
import reprlib
from typing import Any, NamedTuple

import numpy as np

from hns.errors import InputError, invalid

_LARGEST = 1e30  # of a pixel, so that differences are finite in float32


class Dataset(NamedTuple):
  """Two splits of labelled examples, as `checked` returns them.

  `checked` also accepts lists, pictures [n, h, w], inputs of any real dtype,
  and labels and groups of any integer dtype.

  Attributes:
    train_inputs, test_inputs: pictures, uint8 or float32 [n, h, w, c]; or, not
      standardised, float32 or int32 [n, ...]. Both of one dtype.
    train_labels, test_labels: int32 [n], in 0..classes-1.
    train_groups, test_groups: int32 [n], who made the example (a writer), with
      the same numbers in both splits; empty if that is not known.
    classes: number of classes, at least 2.
    standardise: whether the network sees (x - mean) / deviation, with those of
      all pixels of all training pictures; otherwise inputs as they are, such as
      tokens, or features on a scale that was chosen before.
  """

  train_inputs: np.ndarray
  train_labels: np.ndarray
  train_groups: np.ndarray
  test_inputs: np.ndarray
  test_labels: np.ndarray
  test_groups: np.ndarray
  classes: int
  standardise: bool = True


def checked(name: str, dataset: Any) -> Dataset:
  """Checks a dataset and converts it to the dtypes of `Dataset`.

  Integer pixels that are all in 0..255 become uint8, others float32.

  Args:
    name: of the dataset, for errors.
    dataset: what a user's function returned, a `Dataset` if it is right.

  Raises:
    InputError: names the field, and the first example that cannot be used.
  """
  if not isinstance(dataset, Dataset):
    kind = type(dataset).__name__
    raise invalid('dataset', name, f'must be a hns.data.Dataset, not a {kind}')
  try:
    return _checked(dataset)
  except InputError as error:
    raise InputError(f'{error} (dataset {name!r})') from None


def _checked(dataset: Dataset) -> Dataset:
  classes = checked_classes(dataset.classes)
  standardise = _is_true(dataset.standardise)
  prepare = _images if standardise else _as_they_are
  train, test = prepare(dataset.train_inputs, dataset.test_inputs)
  train_groups = _groups('train_groups', dataset.train_groups, len(train))
  test_groups = _groups('test_groups', dataset.test_groups, len(test))
  if len(train_groups) and not len(test_groups):
    remedy = f'must be [{len(test)}], as there are train_groups'
    raise invalid('test_groups.shape', [0], remedy)
  if len(test_groups) and not len(train_groups):
    remedy = f'must be [{len(train)}], as there are test_groups'
    raise invalid('train_groups.shape', [0], remedy)
  return Dataset(
    train,
    _labels('train_labels', dataset.train_labels, len(train), classes),
    train_groups,
    test,
    _labels('test_labels', dataset.test_labels, len(test), classes),
    test_groups,
    classes,
    standardise,
  )


def _is_true(value: Any) -> bool:
  """A bool, perhaps as an array [] that was stored."""
  array = np.asarray(value)
  if array.dtype != bool or array.ndim:
    raise _wrong('standardise', value, 'must be True or False')
  return bool(array)


def checked_classes(value: Any) -> int:
  """A number of classes; raises `InputError` for what is none."""
  remedy = 'must be a whole number, at least 2 and below 2**31'
  try:
    classes = operator.index(value)
  except TypeError:
    raise _wrong('classes', value, remedy) from None
  if isinstance(value, bool) or not 2 <= classes < 2**31:
    raise _wrong('classes', value, remedy)
  return classes


def _as_they_are(train: Any, test: Any) -> tuple[np.ndarray, np.ndarray]:
  """The inputs of both splits, both int32 or both float32 [n, ...]."""
  fields = {'train_inputs': _numbers('train_inputs', train)}
  fields['test_inputs'] = _numbers('test_inputs', test)
  kinds = {name: array.dtype.kind == 'f' for name, array in fields.items()}
  dtype = np.float32 if any(kinds.values()) else np.int32
  for name, array in fields.items():
    if 0 in array.shape or array.ndim < 2:
      remedy = 'must be [n, ...], each at least 1: a row an example'
      raise invalid(f'{name}.shape', list(array.shape), remedy)
    fields[name] = cast(name, array, dtype)
  train, test = fields.values()
  if train.shape[1:] != test.shape[1:]:
    wanted = ', '.join(map(str, train.shape[1:]))
    remedy = f'must be [n, {wanted}], as train_inputs are'
    raise invalid('test_inputs.shape', list(test.shape), remedy)
  return train, test


def cast(field: str, array: np.ndarray, dtype: type | str) -> np.ndarray:
  """An array of another dtype; raises `InputError` where that changes much."""
  with np.errstate(over='ignore', invalid='ignore'):
    new = array.astype(dtype, copy=False)
    wrong = ~np.isfinite(new) if new.dtype.kind == 'f' else new != array
  if np.any(wrong):
    place = tuple(int(i) for i in np.argwhere(wrong)[0])
    remedy = f'must be a finite number that fits {np.dtype(dtype)}'
    raise _wrong(f'{field}{list(place)}', array[place], remedy)
  return new


def _images(train: Any, test: Any) -> tuple[np.ndarray, np.ndarray]:
  """The images of both splits, uint8 or float32 [n, h, w, c]."""
  train, test = _pictures('train_inputs', train), _pictures('test_inputs', test)
  if train.shape[1:] != test.shape[1:]:
    wanted = ', '.join(map(str, train.shape[1:]))
    remedy = f'must be [n, {wanted}], as train_inputs are'
    raise invalid('test_inputs.shape', list(test.shape), remedy)
  kinds = [array.dtype.kind.replace('i', 'u') for array in (train, test)]
  if kinds[0] != kinds[1]:
    remedy = f'train_inputs are {train.dtype}: both must be on one scale'
    raise invalid('test_inputs.dtype', str(test.dtype), remedy)
  fits_uint8 = kinds[0] != 'f' and all(
    0 <= array.min() and array.max() <= 255 for array in (train, test)
  )
  dtype = np.uint8 if fits_uint8 else np.float32
  with np.errstate(over='ignore'):
    images = train.astype(dtype, copy=False), test.astype(dtype, copy=False)
  _check_pixels('train_inputs', images[0], train)
  _check_pixels('test_inputs', images[1], test)
  _check_scales(*images)
  return images


def _check_scales(train: np.ndarray, test: np.ndarray) -> None:
  """Raises `InputError` for a few huge pixels, or splits of other scales."""
  ranges = np.ptp(train.reshape(len(train), -1).astype(np.float32), 1)
  spread = float(np.std(train, dtype=np.float64))
  if 0 < np.median(ranges) < 1e-5 * spread:
    place = int(np.argmax(ranges))
    problem = 'has pixels so large that all other pictures become alike'
    raise InputError(f'train_inputs[{place}]: {problem}: correct or remove it')
  other = float(np.std(test, dtype=np.float64))
  if len(test) > 1 and not 1e-2 < other / spread < 1e2:
    raise InputError(
      f'test_inputs: the standard deviation of their pixels is {other:g}, that '
      f'of train_inputs is {spread:g}: scale both alike'
    )


def _pictures(field: str, value: Any) -> np.ndarray:
  """Real numbers [n, h, w, c], from [n, h, w] for grey pictures."""
  images = _numbers(field, value)
  if 0 in images.shape or images.ndim not in (3, 4):
    remedy = 'must be [n, h, w] or [n, h, w, c], each at least 1'
    raise invalid(f'{field}.shape', list(images.shape), remedy)
  return images if images.ndim == 4 else images[..., None]


def _check_pixels(field: str, images: np.ndarray, source: np.ndarray) -> None:
  """Raises `InputError` for pixels that cannot be standardised.

  Args:
    field: train_inputs or test_inputs.
    images: uint8 or float32 [n, h, w, c].
    source: the images before conversion, for messages.
  """
  low, high = float(images.min()), float(images.max())  # NaN if any pixel is
  size = max(abs(low), abs(high))
  if not (abs(low) <= _LARGEST and abs(high) <= _LARGEST):
    flat = np.argmin(np.abs(images) <= _LARGEST)
    place = tuple(int(i) for i in np.unravel_index(flat, images.shape))
    remedy = f'must be a finite number of size {_LARGEST:.0e} at most'
    raise _wrong(f'{field}{list(place)}', source[place], remedy)
  if len(images) == 1 and field == 'test_inputs':
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
  wrong = np.flatnonzero((labels < 0) | (labels >= classes))
  if len(wrong):
    place = wrong[0]
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
  wrong = np.flatnonzero((groups < limits.min) | (groups > limits.max))
  if len(wrong):
    place = wrong[0]
    remedy = 'must fit int32: number groups with np.unique, return_inverse=True'
    raise _wrong(f'{field}[{place}]', groups[place], remedy)
  return groups.astype(np.int32, copy=False)


def _whole(field: str, value: Any, count: int) -> np.ndarray:
  """An array [count] of any integer dtype."""
  array = _numbers(field, value)
  if array.shape != (count,):
    remedy = f'must be [{count}], one an example'
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
  """An array of real numbers from an array or nested lists."""
  try:
    array = np.asarray(value)
  except ValueError:  # rows of several shapes
    place, shape = _odd_row(value)
    remedy = 'all rows must have one shape, that of row 0'
    raise InputError(f'{field}[{place}].shape={shape}: {remedy}') from None
  if not array.ndim:
    kind = type(value).__name__
    raise InputError(f'{field}: must be an array or a list, not a {kind}')
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
  """The first row whose shape is not that of row 0, and its shape."""
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
  """The error for a value of any type, which the message shortens."""
  plain = value.item() if isinstance(value, np.generic) else value
  shown = ' '.join(reprlib.repr(plain).split())
  return InputError(f'{field}={shown}: {remedy}')
