"""The type of datasets, and checks of a dataset that a user gives."""

import operator
from typing import Any, NamedTuple

import numpy as np

from hns.data.labels import cast, numbers, whole, wrong
from hns.data.tasks import CLASSIFICATION, Task, checked_task
from hns.errors import InputError, invalid

_LARGEST = 1e30  # of a pixel, so that differences are finite in float32


Inputs = np.ndarray | dict[str, np.ndarray]


class Dataset(NamedTuple):
  """Two splits of labelled examples, as `checked` returns them.

  `checked` also accepts lists, pictures [n, h, w], inputs of any real dtype,
  and labels and groups of any integer dtype.

  Attributes:
    train_inputs, test_inputs: pictures, uint8 or float32 [n, h, w, c]; or, not
      standardised, float32 or int32 [n, ...], or a dict of such arrays. Both of
      one dtype.
    train_labels, test_labels: what the task takes; for classification int32
      [n], in 0..classes-1.
    train_groups, test_groups: int32 [n], who made the example (a writer), with
      the same numbers in both splits; empty if that is not known.
    classes: number of classes, at least 2; of a task without classes, of a
      model's outputs.
    standardise: whether the network sees (x - mean) / deviation, with those of
      all pixels of all training pictures; otherwise inputs as they are, such as
      tokens, or features on a scale that was chosen before.
    task: what a model is to do (`hns.data.tasks`).
  """

  train_inputs: Inputs
  train_labels: np.ndarray
  train_groups: np.ndarray
  test_inputs: Inputs
  test_labels: np.ndarray
  test_groups: np.ndarray
  classes: int
  standardise: bool = True
  task: Task = CLASSIFICATION


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
  task = checked_task(dataset.task)
  classes = checked_classes(dataset.classes, task.least_classes)
  standardise = _is_true(dataset.standardise)
  prepare = _images if standardise else _as_they_are
  train, test = prepare(dataset.train_inputs, dataset.test_inputs)
  sizes = count(train), count(test)
  train_groups = _groups('train_groups', dataset.train_groups, sizes[0])
  test_groups = _groups('test_groups', dataset.test_groups, sizes[1])
  if len(train_groups) and not len(test_groups):
    remedy = f'must be [{sizes[1]}], as there are train_groups'
    raise invalid('test_groups.shape', [0], remedy)
  if len(test_groups) and not len(train_groups):
    remedy = f'must be [{sizes[0]}], as there are test_groups'
    raise invalid('train_groups.shape', [0], remedy)
  given = 'train_labels', dataset.train_labels, sizes[0], classes
  train_labels = task.check(*given)
  given = 'test_labels', dataset.test_labels, sizes[1], classes
  test_labels = task.check(*given)
  if train_labels.shape[1:] != test_labels.shape[1:]:
    remedy = f'must be {list(train_labels.shape[1:])} each, as train_labels are'
    raise invalid('test_labels.shape', list(test_labels.shape), remedy)
  return Dataset(
    train,
    train_labels,
    train_groups,
    test,
    test_labels,
    test_groups,
    classes,
    standardise,
    task,
  )


def _is_true(value: Any) -> bool:
  """A bool, perhaps as an array [] that was stored."""
  array = np.asarray(value)
  if array.dtype != bool or array.ndim:
    raise wrong('standardise', value, 'must be True or False')
  return bool(array)


def checked_classes(value: Any, least: int = 2) -> int:
  """A number of classes; raises `InputError` for what is none."""
  remedy = f'must be a whole number, at least {least} and below 2**31'
  try:
    classes = operator.index(value)
  except TypeError:
    raise wrong('classes', value, remedy) from None
  if isinstance(value, bool) or not least <= classes < 2**31:
    raise wrong('classes', value, remedy)
  return classes


def _as_they_are(train: Any, test: Any) -> tuple[Inputs, Inputs]:
  """The inputs of both splits, arrays or dicts of arrays."""
  if not isinstance(train, dict) and not isinstance(test, dict):
    return _arrays(train, test)
  keys = [set(x) if isinstance(x, dict) else set() for x in (train, test)]
  if keys[0] != keys[1] or not keys[0]:
    problem = f'train_inputs have {sorted(map(str, keys[0]))}, and test_inputs'
    remedy = 'both must be dicts with the same keys'
    raise InputError(f'{problem} {sorted(map(str, keys[1]))}: {remedy}')
  pairs = {key: _arrays(train[key], test[key], f'[{key!r}]') for key in train}
  splits = tuple({key: pair[i] for key, pair in pairs.items()} for i in (0, 1))
  for name, split in zip(('train_inputs', 'test_inputs'), splits):
    sizes = {key: len(array) for key, array in split.items()}
    if len(set(sizes.values())) > 1:
      raise InputError(f'{name}: have {sizes} rows: give each a row an example')
  return splits


def _arrays(
  train: Any, test: Any, part: str = ''
) -> tuple[np.ndarray, np.ndarray]:
  """The inputs of both splits, both int32 or both float32 [n, ...]."""
  names = f'train_inputs{part}', f'test_inputs{part}'
  fields = {x: numbers(x, given) for x, given in zip(names, (train, test))}
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
    remedy = f'must be [n, {wanted}], as {names[0]} are'
    raise invalid(f'{names[1]}.shape', list(test.shape), remedy)
  return train, test


def count(inputs: Inputs) -> int:
  """How many examples inputs have."""
  return len(
    next(iter(inputs.values())) if isinstance(inputs, dict) else inputs
  )


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
  if isinstance(value, dict):
    remedy = 'a dict of arrays is not standardised: give standardise=False'
    raise InputError(f'{field}: {remedy}')
  images = numbers(field, value)
  if 0 in images.shape or images.ndim not in (3, 4):
    remedy = (
      'must be [n, h, w] or [n, h, w, c], each at least 1; for anything else '
      'give standardise=False'
    )
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
    raise wrong(f'{field}{list(place)}', source[place], remedy)
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


def _groups(field: str, value: Any, count: int) -> np.ndarray:
  if np.ndim(value) and not np.size(value):
    return np.zeros(0, np.int32)
  groups = whole(field, value, count)
  limits = np.iinfo(np.int32)
  outside = np.flatnonzero((groups < limits.min) | (groups > limits.max))
  if len(outside):
    place = outside[0]
    remedy = 'must fit int32: number groups with np.unique, return_inverse=True'
    raise wrong(f'{field}[{place}]', groups[place], remedy)
  return groups.astype(np.int32, copy=False)
