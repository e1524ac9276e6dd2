"""Partitions of a dataset over clients. NumPy only.

`RandomState` is the only generator of NumPy whose stream is guaranteed not to
change, so a seed gives the same partition on any machine.

For a partition of your own, put a function in `PARTITIONS` that returns, for
each client, a list of indices into the train split:

  PARTITIONS['mine'] = lambda rng, train, each, scheme, test: lists

A `validation_fraction` of each list is then held out for validation, and the
client gets test examples in the proportions of its labels. One that returns
`Shares` says all of that itself.
"""

import math
from typing import NamedTuple

import numpy as np

from hns.data.matching import Rng, matching_test_examples
from hns.data.shares import (
  Scheme,
  Shares,
  check_enough,
  check_held_out,
  checked_lists,
  own_shares,
)
from hns.errors import invalid


class Labelled(NamedTuple):
  """The part of a split that a partition depends on.

  Attributes:
    labels: int [n].
    groups: int [n], who made the example; empty where that is not known.
  """

  labels: np.ndarray
  groups: np.ndarray


def divide(
  seed: int, name: str, train: Labelled, test: Labelled, scheme: Scheme
) -> Shares:
  """Partitions a dataset.

  Args:
    seed: of all random choices.
    name: one of `PARTITIONS`.
    train, test: the splits.
    scheme: the parameters.

  Raises:
    InputError: a client would lack examples that it needs, the scheme needs
      more examples than there are, or a user's partition did not return lists
      of indices.
  """
  rng = np.random.RandomState(seed)
  each = math.ceil(round(scheme.examples / (1 - scheme.validation), 9))
  try:
    if not callable(PARTITIONS[name]):
      kind = type(PARTITIONS[name]).__name__
      remedy = f'hns.PARTITIONS must hold functions, not {kind}'
      raise invalid('partition', name, remedy)
    pools = PARTITIONS[name](rng, train, each, scheme, test)
  except _TooFew as error:
    raise invalid(
      'examples_per_client',
      scheme.examples,
      f'{error}, validation included: lower it, or num_clients',
    ) from None
  count = len(train.labels)
  if isinstance(pools, Shares):
    counts = count, count, len(test.labels)
    shares = own_shares(name, pools, scheme, counts)
  else:
    pools = checked_lists(name, pools, scheme.clients, count)
    halves = [hold_out(rng, pool, each, scheme) for pool in pools]
    tests = _tests(rng, name, pools, train, test, scheme.test)
    shares = Shares(*map(list, zip(*halves)), tests)
    check_enough(shares, scheme)
  check_held_out(name, shares, count)
  return shares


def _tests(
  rng: Rng,
  name: str,
  pools: list[np.ndarray],
  train: Labelled,
  test: Labelled,
  most: int,
) -> list[np.ndarray]:
  """Each client's test examples: of its group, or with classes as it holds."""
  if name != 'natural':
    return matching_test_examples(rng, pools, train.labels, test.labels, most)
  groups = [train.groups[pool[0]] for pool in pools]
  orders = [rng.permutation(np.flatnonzero(test.groups == g)) for g in groups]
  return [order[:most] for order in orders]


def iid(
  rng: Rng, labels: np.ndarray, clients: int, each: int
) -> list[np.ndarray]:
  """`each` random examples per client; 0 for all examples in equal parts."""
  _check_clients(clients, len(labels))
  _check_available(clients * each, len(labels), 'the dataset')
  order = rng.permutation(len(labels))
  return np.array_split(order[: clients * each] if each else order, clients)


def shards(
  rng: Rng, labels: np.ndarray, clients: int, each: int, classes: int
) -> list[np.ndarray]:
  """`classes` classes per client, with `each` examples in equal parts.

  Every class goes to nearly the same number of clients. With `each` 0 all
  examples of a class are divided among its clients. This is the "pathological"
  partition of McMahan et al. 2017, with distinct classes.
  """
  names = np.unique(labels)
  if not 1 <= classes <= len(names):
    raise invalid(
      'classes_per_client', classes, f'the data has {len(names)} classes'
    )
  _check_clients(clients, len(labels))
  chosen = _choose_classes(rng, clients, classes, len(names))
  pools = [[] for _ in range(clients)]
  for number, name in enumerate(names):
    members = [k for k in range(clients) if number in chosen[k]]
    if not members:
      continue
    order = rng.permutation(np.flatnonzero(labels == name))
    counts = [
      each // classes + (chosen[k].index(number) < each % classes)
      for k in members
    ]
    _check_available(sum(counts), len(order), f'class {name}')
    if each:
      cuts = np.cumsum(counts)
      parts = np.split(order[: cuts[-1]], cuts[:-1])
    else:
      parts = np.array_split(order, len(members))
    for client, part in zip(members, parts):
      pools[client].append(part)
  return [np.concatenate(parts) for parts in pools]


def dirichlet(
  rng: Rng, labels: np.ndarray, clients: int, each: int, alpha: float
) -> list[np.ndarray]:
  """Each class divided in Dirichlet(alpha) proportions, so that sizes differ.

  Yurochkin et al. 2019 (arXiv 1905.12022). `each` is the mean number of
  examples per client; 0 for all examples.
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


def natural(
  rng: Rng, train: np.ndarray, test: np.ndarray, clients: int, each: int
) -> list[np.ndarray]:
  """One writer (or other group) per client, with at most `each` examples.

  Groups without test examples are not used.

  Args:
    rng: chooses groups and examples.
    train, test: int [n], the group of each example.
    clients: number of clients.
    each: the most training examples of a client; 0 for all.
  """
  if not len(train):
    raise invalid(
      'partition', 'natural', 'this dataset has no groups, such as writers'
    )
  names = np.intersect1d(train, test)
  if clients > len(names):
    remedy = f'the data has {len(names)} groups with examples in both splits'
    raise invalid('num_clients', clients, remedy)
  chosen = rng.permutation(names)[:clients]
  orders = [rng.permutation(np.flatnonzero(train == name)) for name in chosen]
  return [order[: each or None] for order in orders]


def hold_out(
  rng: Rng, pool: np.ndarray, each: int, scheme: Scheme
) -> tuple[np.ndarray, np.ndarray]:
  """Splits a client's examples at random into train and validation.

  Of the full size `each`, exactly `scheme.examples` remain for training.
  """
  pool = rng.permutation(pool)
  if scheme.examples and len(pool) == each:
    size = each - scheme.examples
  else:
    least = scheme.validation > 0 and len(pool) > 1
    size = max(int(least), round(len(pool) * scheme.validation))
  return pool[size:], pool[:size]


def pad(pools: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
  """Index table int32 [clients, width], padded with 0, and sizes [clients]."""
  sizes = np.array([len(p) for p in pools], np.int32)
  table = np.zeros((len(pools), max(1, sizes.max())), np.int32)
  for row, pool in zip(table, pools):
    row[: len(pool)] = pool
  return table, sizes


# (rng, train, examples per client with validation, scheme, test) -> for each
# client indices into the train split.
PARTITIONS = {
  'iid': lambda rng, train, each, s, test: iid(
    rng, train.labels, s.clients, each
  ),
  'shards': lambda rng, train, each, s, test: shards(
    rng, train.labels, s.clients, each, s.classes
  ),
  'dirichlet': lambda rng, train, each, s, test: dirichlet(
    rng, train.labels, s.clients, each, s.alpha
  ),
  'natural': lambda rng, train, each, s, test: natural(
    rng, train.groups, test.groups, s.clients, each
  ),
}


def _choose_classes(
  rng: Rng, clients: int, classes: int, total: int
) -> list[list[int]]:
  """Distinct classes for each client, all classes used about equally often."""
  used, chosen = np.zeros(total, int), []
  for _ in range(clients):
    order = np.lexsort((rng.permutation(total), used))[:classes]
    used[order] += 1
    chosen.append(order.tolist())
  return chosen


class _TooFew(Exception):
  """A partition needs more examples than there are."""


def _check_available(needed: int, available: int, where: str) -> None:
  if needed > available:
    raise _TooFew(f'{where} has {available} examples, {needed} are needed')


def _check_clients(clients: int, examples: int) -> None:
  if clients > examples:
    remedy = f'clients are left without examples: there are {examples}'
    raise invalid('num_clients', clients, remedy)
