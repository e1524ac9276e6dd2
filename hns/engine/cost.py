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
from hns.engine.client import Engine
from hns.engine.training import Federation
from hns.methods.federated import Birth


class Cost(NamedTuple):
  """FLOPs of one client.

  Attributes:
    step: of one training step, its optimiser's included.
    scored: of trying a model on one example before training; 0 for methods that
      do not.
  """

  step: float
  scored: float


def of(engine: Engine, birth: Birth, federation: Federation) -> Cost:
  """The cost of a method on a network; traces it and compiles nothing."""
  method, key = engine.method, jax.random.key(0)
  message = jax.eval_shape(
    method.download, key, birth.fixed, rounds.begin(birth).shared
  )
  start = jax.eval_shape(method.join, key, birth.fixed, message, birth.own)
  examples = federation.examples

  def step(start, key, fixed, examples):
    state = method.optimizer.init(start)
    loss = training.batch_loss(method, engine.apply, examples, fixed, start)
    chosen = jnp.arange(engine.plan.batch_size)
    grads = jax.grad(loss)(start, key, chosen, chosen >= 0)
    return method.optimizer.update(grads, state, start)

  def prepare(score, message, key, birth, examples):
    def tried(variables):
      image, _ = training.batch(examples, jnp.arange(1))
      return jnp.max(engine.apply(variables, image)) if score else 1.0

    return method.prepare(key, birth.fixed, message, birth.own, tried)

  with_score, without = (
    _flops(functools.partial(prepare, score), message, key, birth, examples)
    for score in (True, False)
  )
  return Cost(
    _flops(step, start, key, birth.fixed, examples), with_score - without
  )


def _flops(function: Any, *given: Any) -> float:
  counted = jax.jit(function).lower(*given).cost_analysis() or {}
  return max(counted.get('flops', 0.0), 0.0)
