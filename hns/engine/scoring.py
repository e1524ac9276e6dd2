"""How well a model does on a client's examples."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from hns.engine.training import ClientIndices, Examples, Learner, batch
from hns.methods.contract import Variables
from hns.networks.modes import STATISTICS
from hns.tree import Tree

_BATCH = 100  # examples a step


def score(
  learner: Learner,
  variables: Variables,
  examples: Examples,
  rows: ClientIndices,
) -> jax.Array:
  """The sum of a model's scores on a client's examples, float32 [].

  For classification, how many it classifies rightly. A network with batch norm
  needs the variables of `with_statistics`.
  """

  def add(total, chosen, valid):
    inputs, labels = batch(examples, chosen)
    outputs = learner.apply(variables, inputs)
    _, scores = learner.task.measure(outputs, labels)
    # NaN says that a model was not scored.
    scores = jnp.where(jnp.isfinite(scores), scores, -jnp.inf)
    scores = jnp.where(valid, scores, 0)
    return total + jnp.sum(scores, dtype=jnp.float32)

  return _over_batches(add, jnp.float32(0), rows)


def with_statistics(
  learner: Learner,
  variables: Variables,
  examples: Examples,
  rows: ClientIndices,
) -> Variables:
  """Variables with the statistics of batch norms on a client's examples.

  They are the mean over batches of at most 100 examples. Without batch norm, or
  with statistics already, the variables are those given.
  """
  if not learner.statistics or STATISTICS in variables:
    return variables

  def observe(carry, chosen, valid):
    statistics, seen = carry
    inputs, _ = batch(examples, chosen)
    statistics = learner.observe(variables, inputs, valid, statistics, seen)
    return statistics, seen + jnp.sum(valid, dtype=jnp.int32)

  start = learner.statistics, jnp.int32(0)
  statistics, _ = _over_batches(observe, start, rows)
  return {**variables, STATISTICS: statistics}


def _over_batches(
  step: Callable[[Tree, jax.Array, jax.Array], Tree],
  start: Tree,
  rows: ClientIndices,
) -> Tree:
  """Folds `(carry, chosen, valid) -> carry` over all of a client's examples."""
  width = rows.index.shape[0]
  size = min(_BATCH, width)
  index = jnp.pad(rows.index, (0, -width % size))

  def one(number, carry):
    first = number * size
    chosen = jax.lax.dynamic_slice(index, (first,), (size,))
    return step(carry, chosen, first + jnp.arange(size) < rows.size)

  return jax.lax.fori_loop(0, -(-rows.size // size), one, start)


def units(
  learner: Learner, examples: Examples, rows: ClientIndices
) -> jax.Array:
  """What clients' examples count for, int32 [clients]: examples, or tokens.

  Or int32 [] for the rows of one client.
  """
  each = learner.task.count(examples.labels[rows.index.reshape(-1)])
  valid = jnp.arange(rows.index.shape[-1]) < rows.size[..., None]
  return jnp.sum(each.reshape(rows.index.shape) * valid, -1)
