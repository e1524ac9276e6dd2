"""Checks of the lists of examples that a partition returns."""

from typing import Any

import numpy as np

from hns.errors import InputError, invalid


def checked_shares(
  name: str, shares: Any, clients: int, count: int
) -> list[np.ndarray]:
  """The clients' examples as int64 arrays.

  Args:
    name: of the partition, for errors.
    shares: what the partition returned: for each client indices.
    clients: the number of clients.
    count: the number of training examples.

  Raises:
    InputError: names the client and the wrong index.
  """
  if not np.iterable(shares):
    kind = type(shares).__name__
    remedy = f'must return a list of indices for each client, not a {kind}'
    raise invalid('partition', name, remedy)
  shares = list(shares)
  if len(shares) != clients:
    problem = f'partition {name!r} returned lists for {len(shares)} clients'
    raise invalid('num_clients', clients, f'{problem}: set it to that')
  for client, share in enumerate(shares):
    try:
      shares[client] = _indices(share, count)
    except InputError as error:
      raise invalid('partition', name, f'client {client}: {error}') from None
  return shares


def checked_splits(
  name: str,
  splits: tuple[Any, Any, Any],
  clients: int,
  counts: tuple[int, int, int],
) -> list[list[np.ndarray]]:
  """A user's own `hns.data.partition.Shares`, as `checked_shares` each.

  Args:
    name, clients: as in `checked_shares`.
    splits: training, validation and test examples of each client.
    counts: the examples that each of these chooses from.
  """
  return [
    checked_shares(name, part, clients, count)
    for part, count in zip(splits, counts)
  ]


def check_held_out(
  name: str,
  train: list[np.ndarray],
  held_out: list[np.ndarray],
  count: int,
) -> None:
  """Raises InputError if an example for validation trains a client.

  Args:
    name: of the partition, for errors.
    train, held_out: indices of each client.
    count: the number of examples that both choose from.
  """
  trains = np.full(count, -1)  # the last client that each example trains
  for client, indices in enumerate(train):
    trains[indices] = client
  for client, indices in enumerate(held_out):
    leaked = indices[trains[indices] >= 0]
    if len(leaked):
      remedy = (
        f'example {leaked[0]}, for validation of client {client}, trains '
        f'client {trains[leaked[0]]}: keep them apart (lists that overlap need '
        'validation_fraction=0)'
      )
      raise invalid('partition', name, remedy)


def _indices(share: Any, count: int) -> np.ndarray:
  """Distinct whole numbers below `count`, int64 [n]."""
  try:
    index = np.asarray(share)
  except ValueError:  # rows of several lengths
    raise InputError('must be a list of indices, not of lists') from None
  if index.shape == (0,):
    return np.zeros(0, np.int64)
  if index.ndim != 1 or index.dtype.kind not in 'iu':
    hint = ': take np.flatnonzero of a mask' if index.dtype == bool else ''
    kind = f'{index.dtype} {list(index.shape)}'
    if index.dtype.kind == 'f' and index.ndim == 1:
      place = np.argmax(index != np.rint(index))
      kind += f', as index {place} is {index[place]}'
    raise InputError(f'indices must be whole numbers [n], not {kind}{hint}')
  outside = np.flatnonzero((index < 0) | (index >= count))
  if len(outside):
    place = outside[0]
    remedy = f'must be in 0..{count - 1}'
    raise InputError(f'index {place} is {index[place]}: {remedy}')
  _, first = np.unique(index, return_index=True)
  if len(first) < len(index):
    place = np.setdiff1d(np.arange(len(index)), first)[0]
    raise InputError(f'index {place} is {index[place]}, which is repeated')
  return index.astype(np.int64, copy=False)
