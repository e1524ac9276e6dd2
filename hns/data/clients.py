"""A dataset and a partition from arrays of each client."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hns.data.dataset import Dataset, checked
from hns.data.partition import Shares
from hns.errors import InputError

# A client's inputs [n, ...] and their labels [n].
Examples = tuple[Any, Any]
_NONE = (np.zeros(0), np.zeros(0, int))


def from_clients(
  train: Sequence[Examples],
  test: Sequence[Examples],
  classes: int,
  validation: Sequence[Examples] | None = None,
  standardise: bool = True,
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
    standardise: as in `Dataset`.

  Raises:
    InputError: names the client, and the example that is wrong.
  """
  if not len(train):
    raise InputError('train: has no clients')
  splits = {'train': train, 'test': test}
  splits['validation'] = (
    [_NONE] * len(train) if validation is None else validation
  )
  shape = _shape(train[0])
  for name, clients in splits.items():
    if len(clients) != len(train):
      problem = f'has {len(clients)} clients, but train has {len(train)}'
      raise InputError(f'{name}: {problem}: give one entry a client')
    splits[name] = [
      _part(f'{name} of client {k}', part, shape, classes, name != 'validation')
      for k, part in enumerate(clients)
    ]
  # Validation examples are of the train split, behind all that train.
  held, tests = splits['train'] + splits['validation'], splits['test']
  none = np.zeros(0, np.int32)
  given = (*_joined(held), none, *_joined(tests), none, classes, standardise)
  dataset = checked('of clients', Dataset(*given))
  ranges = _ranges(held)
  shares = Shares(ranges[: len(train)], ranges[len(train) :], _ranges(tests))
  return dataset, lambda rng, train, each, scheme, test: shares


def _shape(part: Examples) -> tuple[int, ...]:
  """The shape of one input; () where `_part` will tell what is wrong."""
  try:
    return np.shape(part[0])[1:]
  except ValueError:
    return ()


def _part(
  where: str,
  part: Examples,
  shape: tuple[int, ...],
  classes: int,
  is_needed: bool,
) -> tuple[np.ndarray, np.ndarray]:
  """A client's arrays; raises `InputError` for what cannot be used."""
  try:
    inputs, labels = map(np.asarray, part)
  except ValueError as error:
    problem = f'inputs of one shape, and their labels ({error})'
    raise InputError(f'{where}: must be {problem}') from None
  if labels.shape != inputs.shape[:1]:
    problem = f'inputs {list(inputs.shape)} and labels {list(labels.shape)}'
    raise InputError(f'{where}: has {problem}: give one label an input')
  if not len(inputs):
    if is_needed:
      raise InputError(f'{where}: has no examples: leave the client out')
    return _NONE
  if inputs.shape[1:] != shape:
    problem = f'inputs are {list(inputs.shape[1:])} each, and {list(shape)} at'
    raise InputError(f'{where}: {problem} client 0: they must be alike')
  if inputs.dtype.kind == 'f':
    finite = np.isfinite(inputs.reshape(len(inputs), -1)).all(1)
    _refuse(where, ~finite, 'has NaN or infinity: remove or correct it')
  if labels.dtype.kind not in 'iu':
    raise InputError(f'{where}: labels are {labels.dtype}, not whole numbers')
  outside = (labels < 0) | (labels >= classes)
  _refuse(where, outside, f'has a label that is not in 0..{classes - 1}')
  return inputs, labels


def _refuse(where: str, wrong: np.ndarray, problem: str) -> None:
  if np.any(wrong):
    raise InputError(f'{where}: example {np.argmax(wrong)} {problem}')


def _joined(parts: list[Examples]) -> tuple[np.ndarray, np.ndarray]:
  """All clients' inputs and labels; empty parts have no shape to join."""
  inputs, labels = zip(*(part for part in parts if len(part[0])))
  return np.concatenate(inputs), np.concatenate(labels)


def _ranges(parts: list[Examples]) -> list[np.ndarray]:
  """Where each part is among all, int64 [n] each."""
  sizes = [len(labels) for _, labels in parts]
  return np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
