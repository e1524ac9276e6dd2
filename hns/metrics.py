"""Numbers a run reports, one object an evaluated round."""

from typing import Any

import numpy as np


def accuracies(correct: np.ndarray, count: np.ndarray) -> np.ndarray:
  """Accuracy of each client, float64 [clients]; each count must be above 0."""
  return np.asarray(correct, np.float64) / np.asarray(count)


def summarise(evaluation: Any) -> dict[str, float]:
  """Personalised accuracy over clients, global accuracy over examples.

  Args:
    evaluation: `hns.evaluation.Evaluation`.
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
  }


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
