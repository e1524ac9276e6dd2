"""What a model is to do with an example: loss, score and labels in one value.

For a task of your own, give a dataset `task=Task(measure)`. `measure(outputs,
labels)` returns losses and scores, float32 [n] both. A score is 1 for a right
answer and 0 for a wrong one, or any number of which more is better; what runs
call accuracy is its mean.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hns.data import labels as checks
from hns.errors import InputError

# `(outputs, labels) -> losses, scores`
Measure = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def _one_each(labels: jax.Array) -> jax.Array:
  return jnp.ones(labels.shape[:1], jnp.int32)


def _unknown(classes: int) -> float:
  del classes
  return math.inf


def _as_they_are(outputs: jax.Array) -> jax.Array:
  return outputs


class Task(NamedTuple):
  """A task.

  Attributes:
    measure: losses and scores of examples, float32 [n] each, summed over what
      an example counts for. One that is not finite makes an accuracy null.
    count: `labels -> int32 [n]`, what each example counts for: 1, or its
      tokens.
    check: `(field, labels, count, classes) -> labels` as an array with a row an
      example; raises `InputError` (`hns.data.labels`).
    shape: `(labels [1, ...], classes) -> ` the shape of the outputs for one
      example, which is checked; None: any.
    guess: `classes -> ` the loss of a model that tells nothing apart, to see
      who diverges.
    read: `outputs -> ` predictions in the user's own units.
    least_classes: how many there must be.
    has_classes: whether labels are int32 [n] of classes, by which partitions
      can share them out.
  """

  measure: Measure
  count: Callable[[jax.Array], jax.Array] = _one_each
  check: Callable[[str, Any, int, int], np.ndarray] = checks.of_numbers
  shape: Callable[[tuple[int, ...], int], tuple[int, ...]] | None = None
  guess: Callable[[int], float] = _unknown
  read: Callable[[jax.Array], jax.Array] = _as_they_are
  least_classes: int = 1
  has_classes: bool = False


def checked_task(task: Any) -> Task:
  """A task; raises `InputError` for what is none."""
  if not isinstance(task, Task):
    kind = type(task).__name__
    remedy = 'must be a hns.data.Task, such as data.regression(train_labels)'
    raise InputError(f'task: {remedy}, not a {kind}')
  return task


def _right_class(logits, labels) -> tuple[jax.Array, jax.Array]:
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  return losses, (jnp.argmax(logits, -1) == labels).astype(jnp.float32)


def _right_tokens(logits, labels) -> tuple[jax.Array, jax.Array]:
  """Logits [n, ..., classes] and labels [n, ...], -1 where none counts."""
  counts, places = labels >= 0, tuple(range(1, labels.ndim))
  each = _right_class(logits, jnp.maximum(labels, 0))
  return tuple(jnp.sum(x * counts, places) for x in each)


CLASSIFICATION = Task(
  _right_class,
  check=checks.of_classes,
  shape=lambda labels, classes: (1, classes),
  guess=math.log,
  least_classes=2,
  has_classes=True,
)

# The next token of every place, or any class a place, such as a pixel's.
NEXT_TOKEN = Task(
  _right_tokens,
  count=lambda labels: jnp.sum(
    labels >= 0, tuple(range(1, labels.ndim)), dtype=jnp.int32
  ),
  check=checks.of_tokens,
  shape=lambda labels, classes: (*labels, classes),
  guess=math.log,
  least_classes=2,
)


def regression(train_labels: Any) -> Task:
  """Numbers, float [n] or [n, k], predicted by outputs [n, 1] or [n, k].

  The loss is the squared error in units of the variance of the training labels,
  mean over the k. The score is 1 minus that: over the training labels the
  coefficient of determination, 1 for a perfect model, 0 for their mean.

  Args:
    train_labels: from which mean and variance are taken, of each of the k.

  Raises:
    InputError: they are no numbers, or all alike in one of the k.
  """
  given = checks.numbers('train_labels', train_labels)
  if not given.size:
    raise InputError('train_labels: there are none')
  checks.of_numbers('train_labels', given, len(given), 1)
  mean, deviation = given.mean(0, np.float64), given.std(0, dtype=np.float64)
  constant = np.flatnonzero(~(deviation > 1e-6 * np.abs(mean)))
  if len(constant):
    column = f'in column {constant[0]} ' if given.ndim > 1 else ''
    problem = f'{column}all are alike: nothing to fit'
    raise checks.wrong('train_labels', given[0], problem)
  center, scale = jnp.float32(mean), jnp.float32(deviation)

  def check(field, labels, count, classes):
    labels = checks.of_numbers(field, labels, count, classes)
    if labels.shape[1:] != mean.shape:
      problem = (
        f'are {list(labels.shape[1:])} each, and {list(mean.shape)} those'
      )
      raise InputError(f'{field}: {problem} that data.regression was given')
    return labels

  def measure(outputs, labels):
    wanted = (labels - center) / scale
    errors = jnp.square(outputs.reshape(labels.shape) - wanted)
    losses = jnp.mean(errors.reshape(len(labels), -1), 1)
    return losses, 1 - losses

  return Task(
    measure,
    check=check,
    shape=lambda labels, classes: (1, math.prod(labels[1:])),
    guess=lambda classes: 1.0,
    read=lambda outputs: outputs * scale + center,
  )
