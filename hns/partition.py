"""Who holds which examples: labels or writers to clients. NumPy only.

`RandomState` is NumPy's one generator whose stream is promised never to
change, so a seed gives the same partition on any machine.
"""

import math
from typing import NamedTuple

import numpy as np

from hns.errors import invalid


class Labelled(NamedTuple):
  """What a partition may look at.

  Attributes:
    labels: int [n].
    groups: int [n], who made the example; empty where that is not known.
  """

  labels: np.ndarray
  groups: np.ndarray


class Scheme(NamedTuple):
  """How examples are shared out.

  Attributes:
    clients: how many.
    examples: training examples a client (for `dirichlet` the mean, for
      `natural` the most); 0 for all there are.
    classes: classes a client, for `shards`.
    alpha: concentration, for `dirichlet`; smaller is more uneven.
    validation: share of a client's examples kept for validation, on top of
      `examples`.
    test: test examples a client, at most.
  """

  clients: int
  examples: int
  classes: int
  alpha: float
  validation: float
  test: int


class Shares(NamedTuple):
  """Each client's examples: indices into the train or the test split."""

  train: list[np.ndarray]
  validation: list[np.ndarray]
  test: list[np.ndarray]


def divide(
  seed: int, name: str, train: Labelled, test: Labelled, scheme: Scheme
) -> Shares:
  """Shares out a dataset; `name` is one of `PARTITIONS`.

  Raises:
    InputError: a client would be left without train or test examples, or the
      scheme asks for more than there is.
  """
  rng = np.random.RandomState(seed)
  each = math.ceil(round(scheme.examples / (1 - scheme.validation), 9))
  try:
    pools = PARTITIONS[name](rng, train, each, scheme, test)
  except _TooFew as error:
    raise invalid(
      'examples_per_client',
      scheme.examples,
      f'{error}, validation included: lower it, or num_clients',
    ) from None
  halves = [hold_out(rng, pool, each, scheme) for pool in pools]
  if name == 'natural':
    tests = [
      rng.permutation(np.flatnonzero(test.groups == train.groups[pool[0]]))
      for pool in pools
    ]
    tests = [own[: scheme.test] for own in tests]
  else:
    tests = deal_test(rng, pools, train.labels, test.labels, scheme.test)
  shares = Shares(*map(list, zip(*halves)), tests)
  check(shares, scheme)
  return shares


def iid(rng, labels, clients: int, each: int) -> list[np.ndarray]:
  """`each` examples a client drawn from all alike; 0 shares out everything."""
  _enough(clients * each, len(labels), 'the dataset')
  order = rng.permutation(len(labels))
  return np.array_split(order[: clients * each] if each else order, clients)


def shards(
  rng, labels, clients: int, each: int, classes: int
) -> list[np.ndarray]:
  """`classes` classes a client, `each` examples in all, equally of each class.

  Every class goes to nearly the same number of clients. With `each` 0 a class
  is shared out whole among its clients. McMahan et al. 2017's "pathological"
  partition, with classes that are distinct.
  """
  names = np.unique(labels)
  if not 1 <= classes <= len(names):
    raise invalid(
      'classes_per_client', classes, f'the data has {len(names)} classes'
    )
  chosen = _deal_classes(rng, clients, classes, len(names))
  pools = [[] for _ in range(clients)]
  for number, name in enumerate(names):
    holders = [k for k in range(clients) if number in chosen[k]]
    if not holders:
      continue
    order = rng.permutation(np.flatnonzero(labels == name))
    counts = [
      each // classes + (chosen[k].index(number) < each % classes)
      for k in holders
    ]
    _enough(sum(counts), len(order), f'class {name}')
    cuts = np.cumsum(counts)
    parts = (
      np.split(order[: cuts[-1]], cuts[:-1])
      if each
      else (np.array_split(order, len(holders)))
    )
    for holder, part in zip(holders, parts):
      pools[holder].append(part)
  return [np.concatenate(parts) for parts in pools]


def dirichlet(
  rng, labels, clients: int, each: int, alpha: float
) -> list[np.ndarray]:
  """Each class shared out in Dirichlet(alpha) proportions: sizes differ.

  Yurochkin et al. 2019 (arXiv 1905.12022). `each` is the mean number of
  examples a client; 0 shares out everything.
  """
  if not alpha > 0:
    raise invalid('alpha', alpha, 'must be above 0')
  pool = np.concatenate(iid(rng, labels, clients, each))
  pools = [[] for _ in range(clients)]
  for name in np.unique(labels):
    order = rng.permutation(pool[labels[pool] == name])
    ends = np.cumsum(rng.dirichlet(np.full(clients, alpha))) * len(order)
    cuts = np.rint(ends[:-1]).astype(int)
    for client, part in enumerate(np.split(order, cuts)):
      pools[client].append(part)
  return [np.concatenate(parts) for parts in pools]


def natural(rng, train, test, clients: int, each: int) -> list[np.ndarray]:
  """One writer (or another group) a client, at most `each` examples of his.

  Writers without test examples are passed over; `train` and `test` are int
  [n], who made each example.
  """
  if not len(train):
    raise invalid(
      'partition', 'natural', 'this dataset does not say who made an example'
    )
  names = np.intersect1d(train, test)
  if clients > len(names):
    raise invalid('num_clients', clients, f'the data has {len(names)} groups')
  chosen = rng.permutation(names)[:clients]
  orders = [rng.permutation(np.flatnonzero(train == name)) for name in chosen]
  return [order[: each or None] for order in orders]


def hold_out(rng, pool, each, scheme) -> tuple[np.ndarray, np.ndarray]:
  """Splits a client's pool into train and validation, at random.

  A pool of the full size `each` keeps exactly `scheme.examples` for training.
  """
  pool = rng.permutation(pool)
  if scheme.examples and len(pool) == each:
    size = each - scheme.examples
  else:
    least = scheme.validation > 0 and len(pool) > 1
    size = max(int(least), round(len(pool) * scheme.validation))
  return pool[size:], pool[:size]


def deal_test(
  rng, pools, train_labels, test_labels, each: int
) -> list[np.ndarray]:
  """Test examples with each client's own label distribution.

  A class's test examples are dealt round to its holders without overlap, and
  from the start again where there are fewer than are asked for.

  Args:
    rng: a `RandomState`.
    pools: the clients' examples, indices into `train_labels`.
    train_labels, test_labels: int [n].
    each: test examples a client, at most; fewer where a class of his has too
      few for his distribution.
  """
  counts = np.stack(
    [np.bincount(train_labels[p], minlength=_top(train_labels)) for p in pools]
  )
  stock = np.bincount(test_labels, minlength=counts.shape[1])
  stock = stock[: counts.shape[1]]
  wanted = np.stack([_affordable(c, stock, each) for c in counts])
  tests = [[] for _ in pools]
  for name in np.flatnonzero(wanted.sum(0)):
    order = rng.permutation(np.flatnonzero(test_labels == name))
    start = 0
    for client in np.flatnonzero(wanted[:, name]):
      size = min(wanted[client, name], len(order))
      places = np.arange(start, start + size) % max(len(order), 1)
      tests[client].append(order[places])
      start += size
  empty = np.zeros(0, int)
  return [np.concatenate([empty, *parts]) for parts in tests]


def pad(pools: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
  """Index table int32 [clients, width], padded with 0, and sizes [clients]."""
  sizes = np.array([len(p) for p in pools], np.int32)
  table = np.zeros((len(pools), max(1, sizes.max())), np.int32)
  for row, pool in zip(table, pools):
    row[: len(pool)] = pool
  return table, sizes


def check(shares: Shares, scheme: Scheme) -> None:
  """Raises `InputError` if a client has no examples in a split."""
  for split in shares._fields:
    if split == 'validation' and not scheme.validation:
      continue
    for client, examples in enumerate(getattr(shares, split)):
      if not len(examples):
        raise invalid(
          'num_clients',
          len(shares.train),
          f'client {client} is left without {split} examples: take fewer '
          'clients, more examples_per_client, or a larger alpha',
        )


# A new partition: (rng, train, pool size, scheme, test) -> pools of indices.
PARTITIONS = {
  'iid': lambda rng, data, each, s, test: iid(
    rng, data.labels, s.clients, each
  ),
  'shards': lambda rng, data, each, s, test: shards(
    rng, data.labels, s.clients, each, s.classes
  ),
  'dirichlet': lambda rng, data, each, s, test: dirichlet(
    rng, data.labels, s.clients, each, s.alpha
  ),
  'natural': lambda rng, data, each, s, test: natural(
    rng, data.groups, test.groups, s.clients, each
  ),
}


def _deal_classes(rng, clients, classes, total) -> list[list[int]]:
  """Distinct classes for each client, all classes used about equally often."""
  used, dealt = np.zeros(total, int), []
  for _ in range(clients):
    order = np.lexsort((rng.permutation(total), used))[:classes]
    used[order] += 1
    dealt.append([int(c) for c in order])
  return dealt


def _affordable(counts, stock, each) -> np.ndarray:
  """Seats in the proportions of `counts`, as many as the stock allows."""
  counts = np.where(stock > 0, counts, 0)
  held = counts > 0
  if not held.any():
    return counts
  share = counts[held] / counts.sum()
  return _apportion(counts, min(each, int(min(stock[held] / share))))


def _apportion(counts: np.ndarray, total: int) -> np.ndarray:
  """`total` seats in the proportions of `counts`, by largest remainder."""
  exact = counts / max(counts.sum(), 1) * total
  seats = np.floor(exact).astype(int)
  order = np.argsort(seats - exact, kind='stable')
  seats[order[: int(round(exact.sum())) - seats.sum()]] += 1
  return seats


def _top(labels: np.ndarray) -> int:
  return int(labels.max()) + 1


class _TooFew(Exception):
  """A partition asks for more examples than there are."""


def _enough(wanted: int, available: int, where: str) -> None:
  if wanted > available:
    raise _TooFew(f'{where} has {available} examples, {wanted} are asked for')
