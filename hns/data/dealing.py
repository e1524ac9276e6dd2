"""Test examples with the labels that a client holds. NumPy only."""

import numpy as np


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


def _affordable(counts, stock, each) -> np.ndarray:
  """Seats in the proportions of `counts`, as many as the stock allows."""
  counts = np.where(stock > 0, counts, 0)
  present = counts > 0
  if not present.any():
    return counts
  share = counts[present] / counts.sum()
  return _apportion(counts, min(each, int(min(stock[present] / share))))


def _apportion(counts: np.ndarray, total: int) -> np.ndarray:
  """`total` seats in the proportions of `counts`, by largest remainder."""
  exact = counts / max(counts.sum(), 1) * total
  seats = np.floor(exact).astype(int)
  order = np.argsort(seats - exact, kind='stable')
  seats[order[: int(round(exact.sum())) - seats.sum()]] += 1
  return seats


def _top(labels: np.ndarray) -> int:
  return int(labels.max()) + 1
