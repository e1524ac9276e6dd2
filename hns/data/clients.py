"""A dataset and a partition from arrays of each client."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from hns.data.dataset import (
  Dataset,
  Inputs,
  checked,
  checked_classes,
  count,
)
from hns.data.shares import Shares
from hns.data.tasks import CLASSIFICATION, Task, checked_task
from hns.errors import InputError

# A client's inputs [n, ...], or a dict of such, and their labels [n].
Examples = tuple[Any, Any]
_NONE = (np.zeros(0), np.zeros(0, int))


def from_clients(
  train: Sequence[Examples],
  test: Sequence[Examples],
  classes: int,
  validation: Sequence[Examples] | None = None,
  standardise: bool = True,
  task: Task = CLASSIFICATION,
) -> tuple[Dataset, Callable[..., Shares]]:
  """A dataset, and the partition that gives every client its own examples.

  For `hns.DATASETS`, as a function that returns it, and `hns.PARTITIONS`.
  Client k holds the k-th entry of each list, and `num_clients` must be their
  length. `examples_per_client`, `validation_fraction` and
  `test_examples_per_client` do not apply.

  Args:
    train, test: for each client its inputs and labels, at least one example.
    classes: number of classes.
    validation: as `train`, but a client may have none; None: nobody has any.
    standardise, task: as in `Dataset`.

  Raises:
    InputError: names the client, and the example that is wrong.
  """
  dataset, shares = of_clients(
    train, test, classes, validation, standardise, task
  )
  return dataset, partition_of(dataset, shares)


def of_clients(
  train: Sequence[Examples],
  test: Sequence[Examples],
  classes: int,
  validation: Sequence[Examples] | None,
  standardise: bool,
  task: Task = CLASSIFICATION,
) -> tuple[Dataset, Shares]:
  """As `from_clients`, with what each client has in place of a function."""
  classes = checked_classes(classes, checked_task(task).least_classes)
  splits = {'train': _listed('train', train), 'test': _listed('test', test)}
  number = len(splits['train'])
  nobody = [None] * number
  splits['validation'] = (
    nobody if validation is None else _listed('validation', validation)
  )
  first = None
  for name, clients in splits.items():
    if len(clients) != number:
      problem = f'has {len(clients)} clients, but train has {number}'
      raise InputError(f'{name}: {problem}: give one entry a client')
    for k, part in enumerate(clients):
      where = f'{name} of client {k}'
      if part is None and name == 'validation':
        part = _NONE
      clients[k] = _part(
        where, part, first, classes, task, name != 'validation'
      )
      first = clients[k][0] if first is None else first
  _check_labels_alike(splits)
  # Validation examples are of the train split, behind all that train.
  held, tests = splits['train'] + splits['validation'], splits['test']
  none = np.zeros(0, np.int32)
  arrays = *_joined(held), none, *_joined(tests), none
  given = Dataset(*arrays, classes, standardise, task)
  dataset = checked('of clients', given)
  ranges = _ranges(held)
  shares = Shares(ranges[:number], ranges[number:], _ranges(tests))
  return dataset, shares


def partition_of(dataset: Dataset, shares: Shares) -> Callable[..., Shares]:
  """The partition of a dataset; it raises `InputError` for another one."""
  wanted = [dataset.train_labels, dataset.test_labels]
  if not dataset.task.has_classes:  # a partition then sees zeros as labels
    wanted = [np.zeros(len(labels)) for labels in wanted]

  def partition(rng, train, each, scheme, test):
    for split, labels in zip((train, test), wanted):
      if not np.array_equal(split.labels, labels):
        remedy = 'register both of one call of from_clients'
        raise InputError(f'partition: is of another dataset: {remedy}')
    return shares

  return partition


def _check_labels_alike(splits: dict[str, list[Examples]]) -> None:
  """Raises `InputError` for labels unlike in shape those of client 0."""
  first = splits['train'][0][1].shape[1:]
  for name, clients in splits.items():
    for k, (inputs, labels) in enumerate(clients):
      if count(inputs) and labels.shape[1:] != first:
        problem = f'labels are {list(labels.shape[1:])} each, and {list(first)}'
        where = f'{name} of client {k}'
        raise InputError(f'{where}: {problem} at client 0: they must be alike')


def _listed(name: str, clients: Any) -> list[Any]:
  """The clients of a split as a list; raises `InputError` if there are none."""
  if isinstance(clients, dict) or not np.iterable(clients):
    kind = type(clients).__name__
    raise InputError(f'{name}: must be a list, one entry a client, not {kind}')
  clients = list(clients)
  if not clients:
    raise InputError(f'{name}: has no clients')
  return clients


def _part(
  where: str,
  part: Examples,
  first: Inputs | None,
  classes: int,
  task: Task,
  is_needed: bool,
) -> tuple[Inputs, np.ndarray]:
  """A client's arrays; raises `InputError` for what cannot be used.

  Args:
    where: which split of which client.
    part: what was given.
    first: the inputs of the first client, which these must be like.
    classes, task: number of classes, and what a model is to do.
    is_needed: whether there must be an example.
  """
  inputs, labels = _pair(where, part)
  if not count(inputs):
    if is_needed:
      raise InputError(f'{where}: has no examples: leave the client out')
    return _NONE
  _check_inputs(where, inputs, inputs if first is None else first)
  try:
    labels = task.check('labels', labels, count(inputs), classes)
  except InputError as error:
    raise InputError(f'{where}: {error}') from None
  return inputs, labels


def _pair(where: str, part: Examples) -> tuple[Inputs, np.ndarray]:
  """A client's inputs and labels, as many."""
  if not isinstance(part, tuple | list) or len(part) != 2:
    kind = type(part).__name__
    raise InputError(f'{where}: must be (inputs, labels), not a {kind}')
  inputs, labels = part
  parts = inputs if isinstance(inputs, dict) else {'': inputs}
  if any(map(np.ma.is_masked, [*parts.values(), labels])):
    raise InputError(f'{where}: has masked values: leave such examples out')
  try:
    parts = {key: np.asarray(array) for key, array in parts.items()}
    labels = np.asarray(labels)
  except ValueError as error:
    problem = f'inputs of one shape, and their labels ({error})'
    raise InputError(f'{where}: must be {problem}') from None
  for key, array in parts.items():
    if not array.ndim or labels.shape[:1] != array.shape[:1]:
      problem = f'inputs {key}{list(array.shape)} and labels'
      remedy = f'{list(labels.shape)}: give one label an input'
      raise InputError(f'{where}: has {problem} {remedy}')
  return (parts if isinstance(inputs, dict) else parts['']), labels


def _check_inputs(where: str, inputs: Inputs, first: Inputs) -> None:
  """Raises `InputError` for inputs unlike those of the first client."""
  if not isinstance(inputs, dict) and not isinstance(first, dict):
    return _check_array(where, inputs, first)
  kinds = [
    sorted(x) if isinstance(x, dict) else 'an array' for x in (inputs, first)
  ]
  if kinds[0] != kinds[1]:
    problem = f'inputs are {kinds[0]}, and {kinds[1]} at client 0'
    raise InputError(f'{where}: {problem}: they must be alike')
  for key in inputs:
    _check_array(f'{where}: {key}', inputs[key], first[key])


def _check_array(where: str, inputs: np.ndarray, first: np.ndarray) -> None:
  """Raises `InputError` for an array unlike that of the first client."""
  if inputs.dtype.kind not in 'biuf':
    problem = f'inputs are {inputs.dtype}, not numbers of NumPy'
    raise InputError(f'{where}: {problem}: convert them, as to float32')
  if inputs.shape[1:] != first.shape[1:]:
    problem = f'inputs are {list(inputs.shape[1:])} each, and'
    wanted = f'{list(first.shape[1:])} at client 0'
    raise InputError(f'{where}: {problem} {wanted}: they must be alike')
  if (inputs.dtype.kind == 'f') != (first.dtype.kind == 'f'):
    problem = f'inputs are {inputs.dtype}, and {first.dtype} at client 0'
    raise InputError(f'{where}: {problem}: all must be on one scale')
  if inputs.dtype.kind == 'f':
    with np.errstate(over='ignore'):
      single = inputs.reshape(len(inputs), -1).astype(np.float32)
    finite = np.isfinite(single).all(1)
    _refuse(where, ~finite, 'has NaN, infinity, or too large a number')


def _refuse(where: str, wrong: np.ndarray, problem: str) -> None:
  if np.any(wrong):
    raise InputError(f'{where}: example {np.argmax(wrong)} {problem}')


def _joined(parts: list[Examples]) -> tuple[Inputs, np.ndarray]:
  """All clients' inputs and labels; empty parts have no shape to join."""
  inputs, labels = zip(*(part for part in parts if count(part[0])))
  joined = jax.tree.map(lambda *arrays: np.concatenate(arrays), *inputs)
  return joined, np.concatenate(labels)


def _ranges(parts: list[Examples]) -> list[np.ndarray]:
  """Where each part is among all, int64 [n] each."""
  sizes = [len(labels) for _, labels in parts]
  return np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
