"""Test examples in the proportions of a client's own labels. NumPy only."""

import numpy as np

Rng = np.random.RandomState


def matching_test_examples(
  rng: Rng,
  shares: list[np.ndarray],
  train_labels: np.ndarray,
  test_labels: np.ndarray,
  each: int,
) -> list[np.ndarray]:
  """Gives each client test examples in the proportions of its own labels.

  The test examples of a class go to its clients in turn, without overlap until
  all are used, and from the first again after that.

  Args:
    rng: shuffles the examples of each class.
    shares: the clients' examples, indices into `train_labels`.
    train_labels, test_labels: int [n].
    each: the most test examples of a client; it gets fewer where a class has
      too few for its proportions.

  Returns:
    For each client int [examples], indices into `test_labels`.
  """
  classes = int(train_labels.max()) + 1
  counts = np.stack(
    [np.bincount(train_labels[s], minlength=classes) for s in shares]
  )
  stock = np.bincount(test_labels, minlength=classes)[:classes]
  wanted = np.stack([_affordable(c, stock, each) for c in counts])
  tests = [[] for _ in shares]
  for label in np.flatnonzero(wanted.sum(0)):
    order = rng.permutation(np.flatnonzero(test_labels == label))
    start = 0
    for client in np.flatnonzero(wanted[:, label]):
      size = min(wanted[client, label], len(order))
      places = np.arange(start, start + size) % max(len(order), 1)
      tests[client].append(order[places])
      start += size
  empty = np.zeros(0, int)
  return [np.concatenate([empty, *parts]) for parts in tests]


def _affordable(counts: np.ndarray, stock: np.ndarray, each: int) -> np.ndarray:
  """Examples per class in the proportions of `counts`, limited by `stock`."""
  counts = np.where(stock > 0, counts, 0)
  present = counts > 0
  if not present.any():
    return counts
  share = counts[present] / counts.sum()
  return _apportion(counts, min(each, int(min(stock[present] / share))))


def _apportion(counts: np.ndarray, total: int) -> np.ndarray:
  """Splits `total` in the proportions of `counts`, by largest remainder."""
  exact = counts / max(counts.sum(), 1) * total
  sizes = np.floor(exact).astype(int)
  order = np.argsort(sizes - exact, kind='stable')
  sizes[order[: int(round(exact.sum())) - sizes.sum()]] += 1
  return sizes
