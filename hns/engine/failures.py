"""Clients of a cohort that do not answer, or answer too late."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from hns.engine.parallel import ABSENT


class Failures(NamedTuple):
  """Which clients of a cohort fail; the default: none.

  Attributes:
    drop_share: each client vanishes after its training with this probability.
    slowest: not random clients do, but as many of those with the most steps.
    wanted: the server takes the first so many answers and then closes the
      round; 0: all.
    least: a round with fewer answers changes nothing.
  """

  drop_share: float = 0.0
  slowest: bool = False
  wanted: int = 0
  least: int = 1

  @property
  def drops(self) -> bool:
    """Whether the answer of any client can be missing."""
    return bool(self.drop_share or self.wanted)


def answers(
  failures: Failures, draws: jax.Array, ids: jax.Array, steps: jax.Array
) -> jax.Array:
  """Whose answer reaches the server while it waits, bool [cohort].

  Answers arrive in the order of the clients' steps; equal ones in the order of
  the draws. Padding (`ABSENT`) never answers.

  Args:
    failures: what can fail.
    draws: float32 [cohort], uniform in [0, 1), of round and client id.
    ids, steps: int32 [cohort].
  """
  there = ids != ABSENT
  lost = there & (draws < failures.drop_share)
  if failures.slowest:
    order = _ranks(jnp.lexsort((draws, jnp.where(there, -steps, 1))))
    lost = order < jnp.sum(lost)
  answered = there & ~lost
  if failures.wanted:
    arrival = _ranks(jnp.lexsort((draws, steps, ~answered)))
    answered &= arrival < failures.wanted
  return answered


def _ranks(order: jax.Array) -> jax.Array:
  """The place of each in an order, int32."""
  places = jnp.arange(order.shape[0], dtype=jnp.int32)
  return jnp.zeros_like(places).at[order].set(places)
