"""What a client computes: operations on arrays, as XLA counts them.

An operation on integers counts too, such as those that draw random bits, and a
convolution as the backend computes it, on a CPU maybe by
`hns.networks.winograd`. Work that a method's pruning on the client could save
is not taken off: units that `hermes` has cut are computed with.

Left out is what a client does once: it draws the network, and with a supermask
prunes it, `pruning_steps` forward and backward passes over one picture.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hns.engine import scoring, training
from hns.engine.context import RoundConfig
from hns.engine.training import FederatedData
from hns.methods.contract import Initial


class Flops(NamedTuple):
  """FLOPs of one client.

  Attributes:
    step: of one training step, its optimiser's included.
    scored: of trying a model on one example before training; 0 for methods that
      do not.
  """

  step: float
  scored: float


def of(
  round_config: RoundConfig, initial: Initial, federation: FederatedData
) -> Flops:
  """The FLOPs of a method on a network; traces it and compiles nothing."""
  return Flops(
    _flops_of_step(round_config, initial, federation.examples),
    _flops_of_score(round_config, initial, federation.examples),
  )


def _flops_of_step(round_config, initial, examples) -> float:
  client, key = round_config.method.client, jax.random.key(0)
  message = _first_message(round_config, initial)
  params = jax.eval_shape(
    client.init, key, initial.frozen, message, initial.client_state
  )

  def step(params, key, frozen, examples):
    loss = training.batch_loss(
      round_config.method, round_config.learner, examples, frozen, params
    )
    chosen = jnp.arange(round_config.plan.batch_size)
    grads = jax.grad(loss)(params, key, 0.0, chosen, chosen >= 0)
    return client.optimizer.update(grads, client.optimizer.init(params), params)

  return _flops(step, params, key, initial.frozen, examples)


def _flops_of_score(round_config, initial, examples) -> float:
  """What looking before training costs with its score, less without."""
  prepare = round_config.method.client.before_training
  if prepare is None:
    return 0.0

  def before_training(counted, message, key, initial, examples):
    def score(variables):
      if not counted:
        return 1.0
      learner, one = round_config.learner, jnp.arange(1)
      rows = training.ClientIndices(one, 1)
      known = scoring.with_statistics(learner, variables, examples, rows)
      inputs, _ = training.batch(examples, one)
      return jnp.max(learner.apply(known, inputs))

    return prepare(key, initial.frozen, message, initial.client_state, score)

  message, key = _first_message(round_config, initial), jax.random.key(0)
  with_score, without = (
    _flops(
      functools.partial(before_training, counted),
      message,
      key,
      initial,
      examples,
    )
    for counted in (True, False)
  )
  return with_score - without


def _first_message(round_config, initial):
  """The shapes of the first download."""
  return jax.eval_shape(
    round_config.method.server.broadcast,
    jax.random.key(0),
    initial.frozen,
    initial.server_state,
  )


def _flops(function: Callable, *given: Any) -> float:
  counted = jax.jit(function).lower(*given).cost_analysis() or {}
  return max(counted.get('flops', 0.0), 0.0)
