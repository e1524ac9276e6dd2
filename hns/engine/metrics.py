"""Numbers a run reports, one object an evaluated round."""

import statistics
from typing import Any, NamedTuple

import numpy as np

from hns.engine.evaluation import Evaluation
from hns.engine.flops import Flops
from hns.engine.rounds import RoundMetrics


def accuracies(score: np.ndarray, count: np.ndarray) -> np.ndarray:
  """Accuracy of each client, float64 [clients]; each count must be above 0."""
  return np.asarray(score, np.float64) / np.asarray(count)


def spread(name: str, each: np.ndarray) -> dict[str, float]:
  """Mean, standard deviation and 10th percentile over clients, by `name`.

  NaN if one of them is not finite.
  """
  if not np.all(np.isfinite(each)):
    each = np.full(1, np.nan)
  return {
    name: float(each.mean()),
    f'{name}_std': float(each.std()),
    f'{name}_p10': float(np.percentile(each, 10)),
  }


def held_accuracy(score: np.ndarray, count: np.ndarray) -> dict[str, float]:
  """Accuracy as held, of the clients that took part; {} if none did.

  Args:
    score: float [clients], summed scores of the model that a client ended its
      last round with, NaN if there was none.
    count: int [clients], what each one's examples count for.
  """
  part = ~np.isnan(score)
  if not part.any():
    return {}
  each = accuracies(score[part], count[part])
  return {**spread('held_accuracy', each), 'held_clients': int(part.sum())}


def unseen_accuracy(score: np.ndarray, count: np.ndarray) -> dict[str, float]:
  """Personalised accuracy of clients that never take part; {} without any.

  Args:
    score: float [unseen], summed scores of the model after local training.
    count: int [unseen], what each one's examples count for.
  """
  if not len(score):
    return {}
  return spread('unseen_accuracy', accuracies(score, count))


def summarise(evaluation: Evaluation) -> dict[str, float]:
  """Personalised accuracy over clients, global accuracy over examples.

  `client_accuracies` are ordered by the clients' training examples, so that
  runs of one partition list the same clients. Methods of signs also tell
  `agreement`, and clients that never take part only `unseen_accuracy`.

  Args:
    evaluation: `hns.engine.evaluation.Evaluation`, as NumPy arrays.
  """
  each = accuracies(evaluation.score_personal, evaluation.count)
  right, examples = (
    float(np.sum(x, dtype=np.float64))
    for x in (evaluation.score_global, evaluation.count)
  )
  return {
    **spread('personal_accuracy', each),
    'global_accuracy': right / examples,
    'client_accuracies': each.round(4).tolist(),
    **agreement(evaluation.votes, evaluation.server, len(each)),
    **unseen_accuracy(evaluation.score_unseen, evaluation.count_unseen),
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


class Tally(NamedTuple):
  """Sums over the rounds so far, in Python's numbers.

  Attributes:
    rounds: rounds since the last evaluation.
    uplink, downlink: bytes of all rounds.
    uplink_since, uploaded_since: bytes and weights since the last evaluation.
    seconds_since: spent on rounds since the last evaluation.
    steps, scored, rejected, dropped, skipped: of all rounds and clients, as in
      `hns.engine.rounds.RoundMetrics`.
    train_loss, flip_rate: of the last round.
    diverged: share of the last round's clients whose training diverged.
  """

  rounds: int = 0
  uplink: int = 0
  downlink: int = 0
  uplink_since: int = 0
  uploaded_since: int = 0
  seconds_since: float = 0.0
  steps: int = 0
  scored: int = 0
  rejected: int = 0
  dropped: int = 0
  skipped: int = 0
  train_loss: float = 0.0
  flip_rate: float = 0.0
  diverged: float = 0.0


def add(tally: Tally, report: RoundMetrics, seconds: float) -> Tally:
  """The tally after one more round, of `hns.engine.rounds.RoundMetrics`."""
  total = lambda name: int(np.sum(getattr(report, name), dtype=np.int64))
  up = total('uplink')
  return Tally(
    rounds=tally.rounds + 1,
    uplink=tally.uplink + up,
    downlink=tally.downlink + total('downlink'),
    uplink_since=tally.uplink_since + up,
    uploaded_since=tally.uploaded_since + total('uploaded'),
    seconds_since=tally.seconds_since + seconds,
    steps=tally.steps + total('steps'),
    scored=tally.scored + total('scored'),
    rejected=tally.rejected + total('rejected'),
    dropped=tally.dropped + total('dropped'),
    skipped=tally.skipped + int(report.skipped),
    train_loss=float(report.train_loss),
    flip_rate=float(report.flip_rate),
    diverged=total('diverged') / max(total('took_part'), 1),
  )


def counted(report: RoundMetrics) -> np.ndarray:
  """Which clients' updates the server used, bool [cohort]."""
  left_out = report.rejected | report.dropped | report.skipped
  return report.took_part & ~left_out


def evaluated(tally: Tally) -> Tally:
  """The tally after an evaluation."""
  return tally._replace(
    rounds=0, uplink_since=0, uploaded_since=0, seconds_since=0.0
  )


def traffic(tally: Tally, flops: Flops) -> dict[str, float]:
  """A row's bytes, steps, FLOPs, loss and flips; `flops`: `flops.Flops`."""
  return {
    'train_loss': tally.train_loss,
    'rejected_clients': tally.rejected,
    'dropped_clients': tally.dropped,
    'skipped_rounds': tally.skipped,
    'diverged_clients': tally.diverged,
    'flip_rate': tally.flip_rate,
    'uplink_bytes': tally.uplink,
    'downlink_bytes': tally.downlink,
    'uplink_bits_per_weight': 8
    * tally.uplink_since
    / max(tally.uploaded_since, 1),
    'client_steps': tally.steps,
    'client_flops': tally.steps * flops.step + tally.scored * flops.scored,
  }


def trouble(rows: list[dict[str, Any]]) -> str:
  """What went wrong in a run's training, as one line; '' if nothing did.

  Args:
    rows: of `metrics.jsonl`; those of older versions tell nothing of it.
  """
  last, said = rows[-1] if rows else {}, []
  share, rejected, skipped = (
    last.get(name) or 0
    for name in ('diverged_clients', 'rejected_clients', 'skipped_rounds')
  )
  if share >= 0.5:
    said.append(
      f'TRAINING DIVERGED: of the clients of the last round {share:.0%} had an '
      'objective that was not finite, or no better than that of a guess'
    )
  if rejected:
    updates = 'update was' if rejected == 1 else 'updates were'
    said.append(f'{rejected} {updates} not finite and left out')
  if said and share:
    said.append('lower the learning rate')
  if skipped:
    rounds = 'round' if skipped == 1 else 'rounds'
    said.append(f'{skipped} {rounds} had too few answers and changed nothing')
  return '; '.join(said)


def size(count: float) -> str:
  """A number of bytes for people: 1.5 MB."""
  for unit in ('B', 'kB', 'MB', 'GB'):
    if count < 999.5:  # which three digits would round up
      return f'{count:.3g} {unit}'
    count /= 1000
  return f'{count:.3g} TB'


def mean_sd(values: list[float]) -> str:
  """Mean and sample standard deviation, 0.975 ± 0.002; '' without values."""
  if not values:
    return ''
  mean = f'{statistics.mean(values):.3f}'
  return mean if len(values) < 2 else f'{mean} ± {statistics.stdev(values):.3f}'
