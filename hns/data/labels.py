"""Labels as arrays, and the checks that all of a dataset's arrays share.

A function that checks labels takes the name of the field, the labels as given,
how many there must be, and the number of classes. It raises `InputError` for
the first label that cannot be used.
"""

import reprlib
from typing import Any

import numpy as np

from hns.errors import InputError, invalid


def of_classes(field: str, value: Any, count: int, classes: int) -> np.ndarray:
  """One class an example, int32 [count]."""
  labels = whole(field, value, count)
  outside = np.flatnonzero((labels < 0) | (labels >= classes))
  if len(outside):
    place = outside[0]
    remedy = (
      f'must be in 0..{classes - 1}, as classes={classes}: count from 0, or '
      'raise classes'
    )
    raise wrong(f'{field}[{place}]', labels[place], remedy)
  return labels.astype(np.int32, copy=False)


def of_tokens(field: str, value: Any, count: int, classes: int) -> np.ndarray:
  """One class a place, int32 [count, ...]; -1 where a place does not count."""
  labels = _counted(field, numbers(field, value), count)
  if labels.ndim < 2 or labels.dtype.kind not in 'iu':
    kind = f'{labels.dtype} {list(labels.shape)}'
    remedy = f'must be whole numbers [{count}, places], not {kind}'
    raise InputError(f'{field}: {remedy}')
  outside = (labels < -1) | (labels >= classes)
  if np.any(outside):
    place = tuple(int(i) for i in np.argwhere(outside)[0])
    remedy = f'must be in 0..{classes - 1}, or -1 where there is none'
    raise wrong(f'{field}{list(place)}', labels[place], remedy)
  empty = ~np.any(labels.reshape(count, -1) >= 0, 1)
  if np.any(empty):
    problem = 'has no place that counts: leave the example out'
    raise InputError(f'{field}[{np.argmax(empty)}]: {problem}')
  return labels.astype(np.int32, copy=False)


def of_numbers(field: str, value: Any, count: int, classes: int) -> np.ndarray:
  """Any finite numbers, float32 [count, ...]."""
  del classes
  return cast(field, _counted(field, numbers(field, value), count), np.float32)


def _counted(field: str, array: np.ndarray, count: int) -> np.ndarray:
  if array.shape[:1] != (count,):
    remedy = f'must be [{count}, ...], one an example'
    raise invalid(f'{field}.shape', list(array.shape), remedy)
  return array


def cast(field: str, array: np.ndarray, dtype: type | str) -> np.ndarray:
  """An array of another dtype; raises `InputError` where that changes much."""
  with np.errstate(over='ignore', invalid='ignore'):
    new = array.astype(dtype, copy=False)
    outside = ~np.isfinite(new) if new.dtype.kind == 'f' else new != array
  if np.any(outside):
    place = tuple(int(i) for i in np.argwhere(outside)[0])
    remedy = f'must be a finite number that fits {np.dtype(dtype)}'
    raise wrong(f'{field}{list(place)}', array[place], remedy)
  return new


def whole(field: str, value: Any, count: int) -> np.ndarray:
  """An array [count] of any integer dtype."""
  array = numbers(field, value)
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
    raise wrong(f'{field}[{place}]', array[place], remedy)
  return array


def numbers(field: str, value: Any) -> np.ndarray:
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
        raise wrong(f'{field}[{place}]', row, 'must be real numbers')
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


def wrong(field: str, value: Any, remedy: str) -> InputError:
  """The error for a value of any type, which the message shortens."""
  plain = value.item() if isinstance(value, np.generic) else value
  shown = ' '.join(reprlib.repr(plain).split())
  return InputError(f'{field}={shown}: {remedy}')
