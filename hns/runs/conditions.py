"""Who a run's clients are, and under which conditions they train."""

from collections.abc import Sequence

import jax
import numpy as np

from hns import wire
from hns.engine.attacks import ATTACKS, Attack
from hns.engine.failures import Failures
from hns.engine.privacy import Privacy, check_installed
from hns.engine.rules import Rule, Settings, rule_of
from hns.errors import invalid
from hns.methods.contract import Initial, Method
from hns.runs.initialization import Initialized
from hns.values import ConfigDict


def failures(config: ConfigDict) -> Failures:
  """Which clients of a round fail."""
  return Failures(
    config.drop_share,
    config.drop_slowest,
    config.cohort if config.extra_clients else 0,
    config.min_answers,
  )


def privacy(config: ConfigDict, ready: Initialized) -> Privacy:
  """What epsilons depend on; raises `InputError` where none can be told."""
  is_central = config.server_rule == 'private_mean'
  if ready.method.wire.kept_mask is not None:
    remedy = 'needs a method whose clients do not choose what they send'
    if is_central:
      raise invalid('server_rule', config.server_rule, remedy)
    if config.sign_epsilon:
      raise invalid('sign_epsilon', config.sign_epsilon, remedy)
  if not (is_central or config.sign_epsilon):
    return Privacy()
  check_installed()
  return Privacy(
    config.sign_epsilon,
    weights_downloaded(ready.method, ready.key, ready.initial),
    is_central,
    config.noise_multiplier * is_central,
    config.num_clients - config.unseen_clients,
    config.cohort + config.extra_clients,
    config.delta,
  )


def weights_downloaded(method: Method, key: jax.Array, initial: Initial) -> int:
  """Coordinates of the first download; an upload has no more."""

  @jax.jit
  def count(key, frozen, server_state):
    return wire.coordinates(method.server.broadcast(key, frozen, server_state))

  return int(count(key, initial.frozen, initial.server_state))


def rule(config: ConfigDict) -> Rule | None:
  """How the server makes one of the uploads; None for their mean."""
  settings = Settings(
    config.trim_share,
    config.clip_norm,
    config.noise_multiplier,
    config.cohort,
  )
  return rule_of(config.server_rule, settings)


def attack(config: ConfigDict, hostile: np.ndarray) -> Attack:
  """What hostile clients do."""
  return Attack(tuple(hostile.tolist()), ATTACKS[config.attack])


def draw_apart(
  seed: int,
  stream: int,
  count: int,
  sizes: np.ndarray,
  others: Sequence[int] = (),
) -> np.ndarray:
  """Random clients, such as those that never take part, ordered by size.

  None of them is one of the `others`.
  """
  # Not the stream of the partition, or who is drawn could tell of its classes.
  order = np.random.RandomState([seed, stream]).permutation(len(sizes))
  return _by_size(order[~np.isin(order, others)][:count], sizes)


def eval_client_ids(
  seed: int, count: int, sizes: np.ndarray, others: np.ndarray
) -> np.ndarray:
  """Random clients to evaluate, ordered by size; 0 for all but `others`."""
  order = np.random.RandomState(seed).permutation(len(sizes))
  order = order[~np.isin(order, others)]
  return _by_size(order[: count or len(order)], sizes)


def _by_size(ids: np.ndarray, sizes: np.ndarray) -> np.ndarray:
  """Clients in the order of a cohort."""
  ids = np.sort(ids)
  return ids[np.argsort(sizes[ids], kind='stable')]
