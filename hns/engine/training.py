"""One client's examples, and its local steps on them."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hns.data.tasks import CLASSIFICATION, Task
from hns.methods.contract import Frozen, Method, Params, Variables
from hns.networks.modes import Apply, Observe
from hns.tree import Tree


class Examples(NamedTuple):
  """All examples of all clients, once, on the device.

  Attributes:
    inputs: pictures, uint8 or float32 [n, h, w, c]; or anything [n, ...]; or a
      dict of such arrays.
    labels: int32 [n] of classes; or what else the task takes, [n, ...].
    scale: float32 [2], mean and standard deviation of the pixels; () if the
      network sees inputs as they are.
  """

  inputs: jax.Array | dict[str, jax.Array]
  labels: jax.Array
  scale: jax.Array | tuple[()]


class ClientIndices(NamedTuple):
  """Which examples are a client's.

  Attributes:
    index: int32 [width], or [clients, width]; only the first `size` count.
    size: int32 [], or [clients].
  """

  index: jax.Array
  size: jax.Array


class FederatedData(NamedTuple):
  """All clients' examples; `ClientIndices` with a leading axis of clients.

  The pooled test set is all clients' test rows; an example that several hold
  counts once for each.
  """

  examples: Examples
  train: ClientIndices
  validation: ClientIndices
  test: ClientIndices


class Plan(NamedTuple):
  """How long a client trains in a round, and how fast.

  Attributes:
    batch_size: examples a step; an epoch's last batch may be smaller.
    epochs: passes over the client's examples.
    steps: if above 0, so many steps instead, however many passes that takes.
    rate_decay: a client's learning rate is so many times that of the round
      before.
  """

  batch_size: int
  epochs: int
  steps: int = 0
  rate_decay: float = 1.0


class Learner(NamedTuple):
  """What is trained, whatever the method: functions.

  Attributes:
    apply: how the network computes.
    task: what it is to do.
    statistics: of its batch norms, zeros; () without any.
    observe: how they take a batch into account; not needed without any.
    guess: the loss of a model that tells nothing apart.
    unpack: `variables -> variables` with kernels in the shapes of the network;
      `apply` and `observe` take either.
  """

  apply: Apply
  task: Task = CLASSIFICATION
  statistics: Tree = ()
  observe: Observe | None = None
  guess: float = math.inf
  unpack: Callable[[Variables], Variables] = lambda variables: variables


def steps_of(plan: Plan, size: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Steps that a client of `size` examples takes in a round, and in an epoch.

  int32 [] both; a client without examples takes none.
  """
  batches = -(-size // plan.batch_size)
  steps = plan.steps * (batches > 0) if plan.steps else plan.epochs * batches
  return steps, batches


def client_rows(rows: ClientIndices, index: jax.Array) -> ClientIndices:
  """A client's rows; none for an index that no client has."""
  present = (index >= 0) & (index < rows.size.shape[0])
  return ClientIndices(
    rows.index[index], jnp.where(present, rows.size[index], 0)
  )


def batch(examples: Examples, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Inputs as the network sees them, and labels, [b, ...] both."""
  inputs = jax.tree.map(lambda x: x[rows], examples.inputs)
  labels = examples.labels[rows]
  if isinstance(examples.scale, tuple):
    return inputs, labels
  center, spread = examples.scale
  return (inputs.astype(jnp.float32) - center) / spread, labels


def blank(examples: Examples) -> np.ndarray | dict[str, np.ndarray]:
  """Zeros in the shape and dtype in which the network sees one example."""
  row = jax.ShapeDtypeStruct((1,), jnp.int32)
  shapes = jax.eval_shape(batch, examples, row)[0]
  return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)


def shuffled(key: jax.Array, rows: ClientIndices, batch_size: int) -> jax.Array:
  """A client's examples in random order, padded to whole batches.

  int32 [ceil(width / batch_size) * batch_size]; the first `rows.size` are the
  client's, each once.
  """
  width = rows.index.shape[0]
  draw = jax.random.uniform(key, (width,), jnp.float32)
  order = jnp.argsort(jnp.where(jnp.arange(width) < rows.size, draw, 2.0))
  return jnp.pad(rows.index[order], (0, -width % batch_size))


def batch_loss(
  method: Method,
  learner: Learner,
  examples: Examples,
  frozen: Frozen,
  initial_params: Params,
) -> Callable[..., jax.Array]:
  """The loss of a step, `(params, key, progress, chosen, valid) -> float32 []`.

  `progress`, float32 [], is the share of the round's steps taken before it;
  `chosen`, int32 [b], are the examples of the batch; `valid`, bool [b], which
  of them count.
  """

  def loss(params, key, progress, chosen, valid):
    inputs, labels = batch(examples, chosen)
    count = jnp.sum(learner.task.count(labels) * valid)

    def forward(variables):
      outputs = learner.apply(variables, inputs, key, valid)
      losses, _ = learner.task.measure(outputs, labels)
      return jnp.sum(losses * valid) / jnp.maximum(count, 1)

    def to_variables(params):
      return method.client.to_variables(key, frozen, params)

    return method.client.objective(
      key, progress, forward, to_variables, initial_params, params
    )

  return loss


def fit(
  key: jax.Array,
  method: Method,
  learner: Learner,
  plan: Plan,
  examples: Examples,
  rows: ClientIndices,
  frozen: Frozen,
  initial_params: Params,
  rounds_before: jax.Array | int = 0,
) -> tuple[Params, jax.Array]:
  """Trains from `initial_params` on a client's examples.

  The number of steps follows the client's size, so a small client costs less
  when clients run one by one; under `vmap` it waits for the largest.
  `rounds_before`, int32 [], is how often the learning rate has fallen.

  Returns:
    The params, and the mean objective of the examples seen, 0 without any.
  """
  loss = batch_loss(method, learner, examples, frozen, initial_params)
  steps, batches = steps_of(plan, rows.size)
  shuffle = functools.partial(shuffled, rows=rows, batch_size=plan.batch_size)
  optimizer = _decayed(method.client.optimizer, plan, rounds_before)

  def step(number, carry):
    epoch, place = jnp.divmod(number, jnp.maximum(batches, 1))
    key_epoch = jax.random.fold_in(key, epoch)
    order = jax.lax.cond(place == 0, shuffle, lambda _: carry.order, key_epoch)
    first = place * plan.batch_size
    chosen = jax.lax.dynamic_slice(order, (first,), (plan.batch_size,))
    valid = first + jnp.arange(plan.batch_size) < rows.size
    key_step = jax.random.fold_in(key_epoch, place)
    value, grads = jax.value_and_grad(loss)(
      carry.params, key_step, number / steps, chosen, valid
    )
    return _moved(optimizer, carry._replace(order=order), value, grads, valid)

  order = jnp.zeros_like(jax.eval_shape(shuffle, key))
  nothing = order, jnp.float32(0), jnp.int32(0)
  carry = Carry(initial_params, optimizer.init(initial_params), *nothing)
  carry = jax.lax.fori_loop(0, steps, step, carry)
  return carry.params, carry.total / jnp.maximum(carry.seen, 1)


def _decayed(
  optimizer: optax.GradientTransformation,
  plan: Plan,
  rounds_before: jax.Array | int,
) -> optax.GradientTransformation:
  """The optimiser with its learning rate after so many rounds."""
  if plan.rate_decay == 1:
    return optimizer
  factor = jnp.float32(plan.rate_decay) ** rounds_before
  return optax.chain(optimizer, optax.scale(factor))


class Carry(NamedTuple):
  """What a training step hands to the next.

  Attributes:
    params, optimizer_state: after the step.
    order: int32 [examples, in whole batches], the epoch's.
    total: float32 [], the objective summed over examples.
    seen: int32 [], examples so far.
  """

  params: Params
  optimizer_state: optax.OptState
  order: jax.Array
  total: jax.Array
  seen: jax.Array


def _moved(
  optimizer: optax.GradientTransformation,
  carry: Carry,
  value: jax.Array,
  grads: Params,
  valid: jax.Array,
) -> Carry:
  """The carry after a step with this objective, on the `valid` examples."""
  updates, optimizer_state = optimizer.update(
    grads, carry.optimizer_state, carry.params
  )
  count = jnp.sum(valid, dtype=jnp.int32)
  return Carry(
    optax.apply_updates(carry.params, updates),
    optimizer_state,
    carry.order,
    carry.total + (value * count).astype(jnp.float32),
    carry.seen + count,
  )
