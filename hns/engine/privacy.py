"""Epsilons: what the uploads and the model of a run tell of one client.

Two guarantees, for neighbours that differ in all examples of one client:

  local    of the uploads, against a server that reads them (`sign_epsilon`)
  central  of the server's state in all rounds, against all others, if the
           server is trusted (`private_mean`)

Accuracies and losses in the metrics are not private.
"""

from typing import NamedTuple

from hns.errors import InputError
from hns.methods.privacy import flip_probability


class Privacy(NamedTuple):
  """What epsilons depend on; zeros: no guarantee.

  Attributes:
    sign_epsilon: local, of one sign.
    signs: most of them in an upload.
    is_central: whether the server's rule is `private_mean`.
    noise_multiplier: central, of `private_mean`.
    clients, cohort: all that can take part, and those asked in a round.
    delta: of the epsilons stated.
  """

  sign_epsilon: float = 0.0
  signs: int = 0
  is_central: bool = False
  noise_multiplier: float = 0.0
  clients: int = 0
  cohort: int = 0
  delta: float = 1e-5


def spent(privacy: Privacy, rounds: int) -> dict[str, float]:
  """What a row states after some rounds; {} without a guarantee.

  `epsilon_upload` is local, of one upload, and `epsilon_local` of a client that
  took part in every round; `epsilon_central` is of the server's states, for
  cohorts drawn without replacement. All by Renyi differential privacy (Mironov
  2017, arXiv 1702.07476), composed by the library dp-accounting.
  """
  found = {}
  if privacy.sign_epsilon:
    found['epsilon_upload'] = _local(privacy, 1)
    found['epsilon_local'] = _local(privacy, rounds)
  if privacy.noise_multiplier:
    found['epsilon_central'] = _central(privacy, rounds)
  return found


def check_installed() -> None:
  """Raises `InputError` where the library is missing."""
  _library()


def _local(privacy: Privacy, uploads: int) -> float:
  """Of so many uploads of a client, each of independent signs."""
  dp = _library()
  # A bucket of two is drawn at random: half of the time it is the true one.
  noise = 2 * flip_probability(privacy.sign_epsilon)
  sign = dp.RandomizedResponseDpEvent(noise, 2)
  by_renyi = _composed(sign, privacy.signs * uploads, privacy.delta)
  return min(by_renyi, privacy.sign_epsilon * privacy.signs * uploads)


def _central(privacy: Privacy, rounds: int) -> float:
  dp = _library()
  # One client instead of another moves the sum by two clip norms.
  noise = dp.GaussianDpEvent(privacy.noise_multiplier / 2)
  drawn = dp.SampledWithoutReplacementDpEvent(
    privacy.clients, privacy.cohort, noise
  )
  # Both hold: the bound of sampling is loose where almost all are drawn.
  return min(_composed(e, rounds, privacy.delta) for e in (drawn, noise))


def _composed(event, count: int, delta: float) -> float:
  """The epsilon of an event that happens so many times."""
  dp = _library()
  relation = dp.NeighboringRelation.REPLACE_ONE
  accountant = dp.rdp.RdpAccountant(neighboring_relation=relation)
  if count:
    accountant.compose(event, count)
  return float(accountant.get_epsilon(delta))


def _library():
  """The module `dp_accounting`, which only runs with a guarantee need."""
  try:
    import dp_accounting
    import dp_accounting.rdp
  except ImportError as error:
    raise InputError(
      f'a run that is private needs dp-accounting ({error}): '
      "pip install -e '.[privacy]'"
    ) from None
  return dp_accounting
