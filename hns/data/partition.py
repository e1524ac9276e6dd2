"""Who holds which examples: labels or writers to clients. NumPy only.

`RandomState` is NumPy's one generator whose stream is promised never to
change, so a seed gives the same partition on any machine.

A partition of your own is a function in `PARTITIONS` that returns the clients'
examples, a list of indices into the train split for each:

  PARTITIONS['mine'] = lambda rng, train, each, scheme, test: lists

`validation_fraction` of a list is then kept for validation, and the client's
test examples are dealt to it by the labels that it holds.
"""

import math
from typing import NamedTuple

import numpy as np

from hns.data.dealing import deal_test
from hns.data.pools import checked_pools
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
    asking: what asks for validation examples, such as eval_split=validation;
      '' if nothing does, so that a client may be without.
  """

  clients: int
  examples: int
  classes: int
  alpha: float
  validation: float
  test: int
  asking: str = ''


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
    InputError: a client would be left without examples that it needs, the
      scheme asks for more than there is, or a partition of the user's own
      returned something else than lists of examples.
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
  pools = checked_pools(name, pools, scheme.clients, len(train.labels))
  halves = [hold_out(rng, pool, each, scheme) for pool in pools]
  if name == 'natural':
    tests = [
      rng.permutation(np.flatnonzero(test.groups == train.groups[pool[0]]))
      for pool in pools
    ]
    tests = [client_state[: scheme.test] for client_state in tests]
  else:
    tests = deal_test(rng, pools, train.labels, test.labels, scheme.test)
  shares = Shares(*map(list, zip(*halves)), tests)
  check(shares, scheme)
  return shares


def iid(rng, labels, clients: int, each: int) -> list[np.ndarray]:
  """`each` examples a client drawn from all alike; 0 shares out everything."""
  _one_each(clients, len(labels))
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
  _one_each(clients, len(labels))
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


def pad(pools: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
  """Index table int32 [clients, width], padded with 0, and sizes [clients]."""
  sizes = np.array([len(p) for p in pools], np.int32)
  table = np.zeros((len(pools), max(1, sizes.max())), np.int32)
  for row, pool in zip(table, pools):
    row[: len(pool)] = pool
  return table, sizes


def check(shares: Shares, scheme: Scheme) -> None:
  """Raises `InputError` if a client lacks examples in a split that it needs."""
  clients = len(shares.train)
  for client, (train, validation, test) in enumerate(zip(*shares)):
    without = f'client {client} is left without'
    if not len(train):
      remedy = 'take fewer clients, more examples_per_client, or a larger alpha'
      raise invalid('num_clients', clients, f'{without} examples: {remedy}')
    if not len(test):
      remedy = 'the test split has none of its classes'
      raise invalid(
        'num_clients', clients, f'{without} test examples: {remedy}'
      )
    if scheme.asking and not len(validation):
      remedy = (
        f'{without} validation examples, which {scheme.asking} needs: give '
        f'every client two, or change {scheme.asking.split("=")[0]}'
      )
      raise invalid('validation_fraction', scheme.validation, remedy)


# (rng, train, pool size, scheme, test) -> one list of indices a client.
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


class _TooFew(Exception):
  """A partition asks for more examples than there are."""


def _enough(wanted: int, available: int, where: str) -> None:
  if wanted > available:
    raise _TooFew(f'{where} has {available} examples, {wanted} are asked for')


def _one_each(clients: int, examples: int) -> None:
  if clients > examples:
    remedy = f'clients are left without examples: there are {examples}'
    raise invalid('num_clients', clients, remedy)
