"""Lists of examples, one a client, that a user's partition may give."""

from typing import Any

import numpy as np

from hns.errors import InputError, invalid


def checked_pools(
  name: str, pools: Any, clients: int, count: int
) -> list[np.ndarray]:
  """The clients' examples as int64 arrays.

  Args:
    name: of the partition, for errors.
    pools: lists or arrays of indices, one a client.
    clients: how many there should be.
    count: examples of the train split; indices are below it.

  Raises:
    InputError: names the client, and the index that cannot be used.
  """
  if not np.iterable(pools):
    found = type(pools).__name__
    remedy = f'must return a list of indices for each client, not a {found}'
    raise invalid('partition', name, remedy)
  pools = list(pools)
  if len(pools) != clients:
    remedy = f'partition {name!r} returned lists for {len(pools)} clients'
    raise invalid('num_clients', clients, remedy)
  for client, pool in enumerate(pools):
    try:
      pools[client] = _indices(pool, count)
    except InputError as error:
      raise invalid('partition', name, f'client {client}: {error}') from None
  return pools


def _indices(pool: Any, count: int) -> np.ndarray:
  """Whole numbers below `count`, each once."""
  try:
    index = np.asarray(pool)
  except ValueError:  # rows of several lengths
    raise InputError('must be a list of indices, not of lists') from None
  if index.shape == (0,):
    return np.zeros(0, np.int64)
  if index.ndim != 1 or index.dtype.kind not in 'iu':
    hint = ': take np.flatnonzero of a mask' if index.dtype == bool else ''
    found = f'{index.dtype} {list(index.shape)}'
    if index.dtype.kind == 'f' and index.ndim == 1:
      place = np.argmax(index != np.rint(index))
      found += f', as index {place} is {index[place]}'
    raise InputError(f'indices must be whole numbers [n], not {found}{hint}')
  outside = np.flatnonzero((index < 0) | (index >= count))
  if len(outside):
    place = outside[0]
    remedy = f'must be in 0..{count - 1}'
    raise InputError(f'index {place} is {index[place]}: {remedy}')
  _, first = np.unique(index, return_index=True)
  if len(first) < len(index):
    place = np.setdiff1d(np.arange(len(index)), first)[0]
    raise InputError(f'index {place} is {index[place]}, which is there before')
  return index.astype(np.int64, copy=False)
