"""What a client computes: operations on arrays, as XLA counts them.

An operation on integers counts too, such as those that draw random bits, and a
convolution as the backend computes it, on a CPU maybe by
`hns.networks.winograd`. Work that a method's pruning on the client could save
is not taken off: units that `hermes` has cut are computed with.

Left out is what a client does once: it draws the network, and with a supermask
prunes it, `pruning_steps` forward and backward passes over one picture.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hns.engine import rounds, training
from hns.engine.client import RoundConfig
from hns.engine.training import FederatedData
from hns.methods.contract import Initial


class Cost(NamedTuple):
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
) -> Cost:
  """The cost of a method on a network; traces it and compiles nothing."""
  method, key = round_config.method, jax.random.key(0)
  message = jax.eval_shape(
    method.download, key, initial.frozen, rounds.begin(initial).server_state
  )
  initial_params = jax.eval_shape(
    method.client_init, key, initial.frozen, message, initial.client_state
  )
  examples = federation.examples

  def step(initial_params, key, frozen, examples):
    state = method.optimizer.init(initial_params)
    loss = training.batch_loss(
      method, round_config.apply, examples, frozen, initial_params
    )
    chosen = jnp.arange(round_config.plan.batch_size)
    grads = jax.grad(loss)(initial_params, key, chosen, chosen >= 0)
    return method.optimizer.update(grads, state, initial_params)

  def before_training(score, message, key, initial, examples):
    def tried(variables):
      image, _ = training.batch(examples, jnp.arange(1))
      return jnp.max(round_config.apply(variables, image)) if score else 1.0

    return method.before_training(
      key, initial.frozen, message, initial.client_state, tried
    )

  with_score, without = (
    _flops(
      functools.partial(before_training, score), message, key, initial, examples
    )
    for score in (True, False)
  )
  return Cost(
    _flops(step, initial_params, key, initial.frozen, examples),
    with_score - without,
  )


def _flops(function: Any, *given: Any) -> float:
  counted = jax.jit(function).lower(*given).cost_analysis() or {}
  return max(counted.get('flops', 0.0), 0.0)
