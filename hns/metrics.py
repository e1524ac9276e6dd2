"""Numbers a run reports, one object an evaluated round."""

from typing import Any

import numpy as np


def accuracies(correct: np.ndarray, count: np.ndarray) -> np.ndarray:
  """Accuracy of each client, float64 [clients]; each count must be above 0."""
  return np.asarray(correct, np.float64) / np.asarray(count)


def summarise(evaluation: Any) -> dict[str, float]:
  """Personalised accuracy over clients, global accuracy over examples.

  `client_accuracies` are ordered by the clients' training examples, so that
  runs of one partition list the same clients. Methods of signs also tell
  `agreement`.

  Args:
    evaluation: `hns.evaluation.Evaluation`, as NumPy arrays.
  """
  each = accuracies(evaluation.personal, evaluation.count)
  right, asked = (
    int(np.sum(x)) for x in (evaluation.newcomer, evaluation.count)
  )
  return {
    'personal_accuracy': float(each.mean()),
    'personal_accuracy_std': float(each.std()),
    'personal_accuracy_p10': float(np.percentile(each, 10)),
    'global_accuracy': right / asked,
    'client_accuracies': each.round(4).tolist(),
    **agreement(evaluation.votes, evaluation.server, len(each)),
  }


def agreement(
  votes: np.ndarray | None, server: np.ndarray | None, clients: int
) -> dict[str, float]:
  """Share of the survivors on which two signs agree; {} without signs.

  `agree_with_server` is the mean over clients of a client's signs and the
  server's, `agree_with_clients` that over pairs of different clients, for
  which the sums of signs are enough: of K signs that sum to s, the products
  of all pairs sum to s^2 - K.

  Args:
    votes: int [weights], the sum of the clients' signs.
    server: int [weights], the server's sign, 0 where pruned.
    clients: how many they are.
  """
  if votes is None:
    return {}
  sums = votes[server != 0].astype(np.float64)
  half = lambda product: float((1 + product) / 2)
  found = {
    'agree_with_server': half(np.mean(sums * server[server != 0]) / clients)
  }
  if clients > 1:
    pairs = (np.mean(sums**2) - clients) / (clients * (clients - 1))
    found['agree_with_clients'] = half(pairs)
  return found


def traffic(reports: list[Any]) -> dict[str, float]:
  """Bytes and losses of the rounds since the last evaluation.

  Args:
    reports: `hns.rounds.Report`, one a round; losses and flips are the last's.
  """
  total = lambda field: sum(
    int(np.sum(getattr(r, field), dtype=np.int64)) for r in reports
  )
  uplink, uploaded = total('uplink'), total('uploaded')
  return {
    'train_loss': float(reports[-1].train_loss),
    'flip_rate': float(reports[-1].flip_rate),
    'uplink_bytes': uplink,
    'downlink_bytes': total('downlink'),
    'uplink_bits_per_weight': 8 * uplink / max(uploaded, 1),
  }


def size(count: float) -> str:
  """A number of bytes for people: 1.5 MB."""
  for unit in ('B', 'kB', 'MB', 'GB'):
    if count < 1000:
      return f'{count:.3g} {unit}'
    count /= 1000
  return f'{count:.3g} TB'
