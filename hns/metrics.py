"""Numbers a run reports, one object an evaluated round."""

from typing import Any, NamedTuple

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


class Tally(NamedTuple):
  """What rounds told so far, in Python's numbers.

  Attributes:
    rounds: rounds since the last evaluation.
    uplink, downlink: bytes of all rounds.
    uplink_since, uploaded_since: bytes and weights since the last evaluation.
    train_loss, flip_rate, seconds: of the last round.
  """

  rounds: int = 0
  uplink: int = 0
  downlink: int = 0
  uplink_since: int = 0
  uploaded_since: int = 0
  train_loss: float = 0.0
  flip_rate: float = 0.0
  seconds: float = 0.0


def add(tally: Tally, report: Any, seconds: float) -> Tally:
  """The tally after one more round, of `hns.rounds.Report`."""
  up, down, weights = (
    int(np.sum(x, dtype=np.int64))
    for x in (report.uplink, report.downlink, report.uploaded)
  )
  return Tally(
    tally.rounds + 1,
    tally.uplink + up,
    tally.downlink + down,
    tally.uplink_since + up,
    tally.uploaded_since + weights,
    float(report.train_loss),
    float(report.flip_rate),
    seconds,
  )


def evaluated(tally: Tally) -> Tally:
  """The tally after an evaluation."""
  return tally._replace(rounds=0, uplink_since=0, uploaded_since=0)


def traffic(tally: Tally) -> dict[str, float]:
  """A row's bytes, loss and flips."""
  return {
    'train_loss': tally.train_loss,
    'flip_rate': tally.flip_rate,
    'uplink_bytes': tally.uplink,
    'downlink_bytes': tally.downlink,
    'uplink_bits_per_weight': 8
    * tally.uplink_since
    / max(tally.uploaded_since, 1),
  }
