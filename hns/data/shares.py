"""Who holds which examples: lists of each client, and what they must be."""

from typing import Any, NamedTuple

import numpy as np

from hns.errors import InputError, invalid


class Scheme(NamedTuple):
  """The parameters of a partition.

  Attributes:
    clients: number of clients.
    examples: training examples per client (for `dirichlet` the mean, for
      `natural` the most); 0 for all there are.
    classes: classes per client, for `shards`.
    alpha: concentration, for `dirichlet`; smaller is more uneven.
    validation: fraction of a client's examples held out for validation, in
      addition to `examples`.
    test: the most test examples per client.
    needed_by: the field that needs validation examples, such as
      eval_split=validation; '' if none does, so that a client may have none.
  """

  clients: int
  examples: int
  classes: int
  alpha: float
  validation: float
  test: int
  needed_by: str = ''


class Shares(NamedTuple):
  """Each client's examples: indices into the train or the test split."""

  train: list[np.ndarray]
  validation: list[np.ndarray]
  test: list[np.ndarray]


def checked_lists(
  name: str, lists: Any, clients: int, count: int
) -> list[np.ndarray]:
  """The clients' examples as int64 arrays.

  Args:
    name: of the partition, for errors.
    lists: what the partition returned: for each client indices.
    clients: the number of clients.
    count: the number of training examples.

  Raises:
    InputError: names the client and the wrong index.
  """
  if not np.iterable(lists):
    kind = type(lists).__name__
    remedy = f'must return a list of indices for each client, not a {kind}'
    raise invalid('partition', name, remedy)
  lists = list(lists)
  if len(lists) != clients:
    problem = f'partition {name!r} returned lists for {len(lists)} clients'
    raise invalid('num_clients', clients, f'{problem}: set it to that')
  for client, given in enumerate(lists):
    try:
      lists[client] = _indices(given, count)
    except InputError as error:
      raise invalid('partition', name, f'client {client}: {error}') from None
  return lists


def own_shares(
  name: str, given: Shares, scheme: Scheme, counts: tuple[int, int, int]
) -> Shares:
  """A user's own `Shares`, as `checked_lists` each.

  Args:
    name: of the partition, for errors.
    given: training, validation and test examples of each client.
    scheme: the parameters.
    counts: the examples that each of these chooses from.

  Raises:
    InputError: as `checked_lists`, or a client lacks examples that it needs.
  """
  shares = Shares(
    *(
      checked_lists(name, part, scheme.clients, count)
      for part, count in zip(given, counts)
    )
  )
  for client, lists in enumerate(zip(*shares)):
    for split, part in zip(Shares._fields, lists):
      if len(part) or (split == 'validation' and not scheme.needed_by):
        continue
      need = f', which {scheme.needed_by} needs' * (split == 'validation')
      problem = f'client {client} has no {split} examples{need}'
      raise invalid('partition', name, f'{problem}: give it some')
  return shares


def check_enough(shares: Shares, scheme: Scheme) -> None:
  """Raises `InputError` if a client lacks examples that it needs."""
  clients = len(shares.train)
  for client, (train, validation, test) in enumerate(zip(*shares)):
    without = f'client {client} is left without'
    if not len(train):
      remedy = 'take fewer clients, more examples_per_client, or a larger alpha'
      raise invalid('num_clients', clients, f'{without} examples: {remedy}')
    if not len(test):
      cause = 'the test split has none of its classes'
      raise invalid('num_clients', clients, f'{without} test examples: {cause}')
    if scheme.needed_by and not len(validation):
      raise invalid(
        'validation_fraction',
        scheme.validation,
        f'{without} validation examples, which {scheme.needed_by} needs: give '
        f'every client two, or change {scheme.needed_by.split("=")[0]}',
      )


def check_held_out(name: str, shares: Shares, count: int) -> None:
  """Raises `InputError` if an example for validation trains a client.

  Args:
    name: of the partition, for errors.
    shares: of examples.
    count: the number of examples of the train split.
  """
  trains = np.full(count, -1)  # the last client that each example trains
  for client, indices in enumerate(shares.train):
    trains[indices] = client
  for client, indices in enumerate(shares.validation):
    leaked = indices[trains[indices] >= 0]
    if len(leaked):
      remedy = (
        f'example {leaked[0]}, for validation of client {client}, trains '
        f'client {trains[leaked[0]]}: keep them apart (lists that overlap need '
        'validation_fraction=0)'
      )
      raise invalid('partition', name, remedy)


def _indices(given: Any, count: int) -> np.ndarray:
  """Distinct whole numbers below `count`, int64 [n]."""
  try:
    index = np.asarray(given)
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
