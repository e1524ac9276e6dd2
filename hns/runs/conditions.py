"""Who a run's clients are, and under which conditions they train."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from hns import wire
from hns.engine.failures import Failures
from hns.engine.privacy import Privacy, check_installed
from hns.engine.rules import Rule, Settings, rule_of
from hns.engine.secure import Secure, secure_sums
from hns.errors import invalid
from hns.methods.contract import Initial, Method
from hns.methods.privacy import reads_in_proportion
from hns.once import once
from hns.runs.initialization import Initialized
from hns.values import ConfigDict
from hns.wire import Codec


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
  if not (is_central or config.sign_epsilon):
    return Privacy()
  if ready.method.wire.kept_mask is not None:
    field = 'server_rule' if is_central else 'sign_epsilon'
    remedy = 'needs a method whose clients do not choose what they send'
    raise invalid(field, config[field], remedy)
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

  @once
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


def secure(
  config: ConfigDict, ready: Initialized, sizes: np.ndarray
) -> Secure | None:
  """How uploads are summed under masks; None where the server reads each.

  Raises:
    InputError: what the config asks for needs more than a sum.
  """
  if not config.secure_aggregation:
    return None
  asked = config.cohort + config.extra_clients
  codec = ready.method.wire.upload_codec
  needs = {
    'a cohort of 2 clients or more': asked >= 2,
    'extra_clients below cohort: more than half of those that are asked must '
    'answer': config.extra_clients < config.cohort,
    f'min_answers above {asked // 2}, not {config.min_answers}: the shares of '
    'more than half remove the masks': config.min_answers > asked / 2,
    'server_rule=mean: others look at single uploads': config.server_rule
    == 'mean',
    'hostile_clients=0: under masks they are not bound to the alphabet, so '
    'what they can do would be understated': not config.hostile_clients,
    'sign_epsilon=0': not config.sign_epsilon,
    'uploads that are whole numbers, of coordinates that all clients share: '
    'hidenseek with upload=signs or votes, fedpm, majority_vote or pfed1bs': (
      _can_be_summed(ready)
    ),
  }
  for need, is_met in needs.items():
    if not is_met:
      raise invalid('secure_aggregation', True, f'needs {need}')
  return secure_sums(codec.symbols, sizes, asked, config.min_answers)


def _can_be_summed(ready: Initialized) -> bool:
  """Whether the server can make a mean of the sum of the uploads alone."""
  codec = ready.method.wire.upload_codec
  is_whole = isinstance(codec, Codec) and codec.symbols and not codec.stepped
  keys = tuple(jax.random.split(ready.key))
  return bool(
    is_whole
    and ready.method.wire.kept_mask is None
    and reads_in_proportion(ready.method, keys, ready.initial)
  )


class Roles(NamedTuple):
  """Who is what; ids ordered by the clients' size.

  Attributes:
    unseen: never take part.
    hostile: attack.
    evaluated: of all others.
  """

  unseen: np.ndarray
  hostile: np.ndarray
  evaluated: np.ndarray


def roles(config: ConfigDict, sizes: np.ndarray) -> Roles:
  """Draws who is what; `sizes`: training examples of each client."""
  draw = functools.partial(_draw, sizes)
  # Not the stream of the partition, or who is drawn could tell of its classes.
  unseen = draw([config.seed, 1], config.unseen_clients)
  hostile = draw([config.seed, 2], config.hostile_clients, unseen)
  apart = np.append(unseen, hostile)
  count = config.eval_clients or len(sizes)
  return Roles(unseen, hostile, draw(config.seed, count, apart))


def _draw(
  sizes: np.ndarray,
  seed: int | list[int],
  count: int,
  others: Sequence[int] = (),
) -> np.ndarray:
  """Random clients that are none of the `others`, ordered by size."""
  order = np.random.RandomState(seed).permutation(len(sizes))
  ids = np.sort(order[~np.isin(order, others)][:count])
  return ids[np.argsort(sizes[ids], kind='stable')]
