"""Named features of examples, as TFDS and Hugging Face have them, as arrays."""

import enum
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tqdm

from hns.data.dataset import Dataset
from hns.data.text import tokens
from hns.errors import InputError, invalid

_MOST = 100_000  # classes that are counted from labels: more are a mistake


class Kind(enum.StrEnum):
  """What a feature holds."""

  PICTURE = 'pictures'
  TEXT = 'text'
  ARRAY = 'arrays of numbers'
  NUMBER = 'numbers'
  CLASS = 'classes'
  OTHER = 'of another kind'


_INPUTS = Kind.PICTURE, Kind.TEXT, Kind.ARRAY
_LABELS = Kind.CLASS, Kind.NUMBER
_GROUPS = Kind.TEXT, Kind.NUMBER, Kind.CLASS


class Features(NamedTuple):
  """The names of the features that are used; '' for what is usual.

  Attributes:
    group: who made an example; '' for none.
    inputs: what is learnt from; '' for `image`, or the only one that it can be.
    labels: what is learnt; '' for `label`.
  """

  group: str = ''
  inputs: str = ''
  labels: str = ''


def choose(name: str, kinds: dict[str, Kind], wanted: Features) -> Features:
  """The features that are used, none of inputs and labels ''.

  Args:
    name: of the dataset, for errors.
    kinds: of each feature.
    wanted: what the user named.

  Raises:
    InputError: there is no such feature, it is of another kind, or there are
      several to choose from; lists all there are.
  """
  told = ', '.join(f'{feature} ({kind})' for feature, kind in kinds.items())
  chosen = wanted._replace(labels=wanted.labels or 'label')
  for field, feature in chosen._asdict().items():
    if feature and feature not in kinds:
      remedy = f'{name} has no feature {feature}: it has {told}'
      raise invalid(field, feature, remedy)
  if not chosen.inputs:
    chosen = chosen._replace(inputs=_only_inputs(name, kinds, chosen, told))
  _check('inputs', chosen.inputs, kinds, _INPUTS, 'must be pictures, text or')
  _check('labels', chosen.labels, kinds, _LABELS, 'must be a class or')
  if chosen.group:
    text = 'must be a feature of one value an example: text or'
    _check('group', chosen.group, kinds, _GROUPS, text)
  return chosen


def _only_inputs(
  name: str, kinds: dict[str, Kind], chosen: Features, told: str
) -> str:
  """The feature `image`, or the only one that can be inputs."""
  if 'image' in kinds:
    return 'image'
  found = [
    feature
    for feature, kind in kinds.items()
    if kind in _INPUTS and feature not in chosen
  ]
  if len(found) != 1:
    remedy = f'name the feature of {name} to learn from: it has {told}'
    raise invalid('inputs', '', remedy)
  return found[0]


def _check(
  field: str,
  feature: str,
  kinds: dict[str, Kind],
  allowed: tuple[Kind, ...],
  text: str,
) -> None:
  """Raises `InputError` for a feature of another kind."""
  if kinds[feature] not in allowed:
    last = 'arrays' if Kind.ARRAY in allowed else 'whole numbers'
    problem = f'{text} {last}; this one is {kinds[feature]}'
    raise invalid(field, feature, problem)


class Split(NamedTuple):
  """The values of a split, one an example; no groups where none are used."""

  inputs: Sequence[Any]
  labels: Sequence[Any]
  groups: Sequence[Any]


def dataset_of(kind: Kind, train: Split, test: Split, classes: int) -> Dataset:
  """A dataset of the values of both splits. Pictures are standardised.

  Args:
    kind: of the inputs.
    train, test: the splits.
    classes: how many; 0: as many as labels say.

  Raises:
    InputError: names the split and the example that is wrong.
  """
  places = places_of('train', train) + places_of('test', test)
  inputs, labels, groups = (a + b for a, b in zip(train, test))
  join = tokens if kind == Kind.TEXT else stacked
  cut = [len(train.labels)]
  xs = np.split(join(places, inputs), cut)
  ys = np.split(whole(places, labels), cut)
  who = np.split(numbered(places, groups), cut if groups else [0])
  classes = classes or count_classes(*ys)
  is_picture = kind == Kind.PICTURE
  return Dataset(
    xs[0], ys[0], who[0], xs[1], ys[1], who[1], classes, is_picture
  )


def places_of(name: str, split: Split) -> list[str]:
  """What the examples of a split are called in errors."""
  if not len(split.labels):
    raise InputError(f'{name}: has no examples')
  return [f'{name} example {i}' for i in range(len(split.labels))]


def stacked(places: Sequence[str], rows: Iterable[np.ndarray]) -> np.ndarray:
  """Arrays of one shape as one; `InputError` names the first unlike the rest.

  Args:
    places: what each example is called.
    rows: the examples, read one by one.
  """
  kept = []
  for place, row in zip(places, rows):
    row = np.asarray(row)
    if row.dtype.kind not in 'biuf':
      problem = f'is {row.dtype}, not numbers in rows of one length'
      raise InputError(f'{place}: {problem}')
    if kept and row.shape != kept[0].shape:
      problem = f'is {list(row.shape)}, and {places[0]} {list(kept[0].shape)}'
      raise InputError(f'{place}: {problem}: all must be of one shape')
    kept.append(row)
  return np.stack(kept)


def whole(places: Sequence[str], labels: Sequence[Any]) -> np.ndarray:
  """Labels as int64 [n]; `InputError` names the first that is not whole."""
  for place, label in zip(places, labels):
    if not isinstance(label, int | np.integer | np.bool_):
      problem = f'has the label {label!r}, which is not of an integer type'
      remedy = 'choose another column with labels, or number the classes'
      raise InputError(f'{place}: {problem}: {remedy}')
  return np.array(labels, np.int64)


def count_classes(*labels: np.ndarray) -> int:
  """The largest label and one, at least 2; `InputError` for very many."""
  count = max([2, *(int(x.max()) + 1 for x in labels if x.size)])
  if count > _MOST:
    remedy = 'the largest label, where labels count the classes from 0'
    raise invalid('labels', count - 1, f'is {remedy}: number them')
  return count


def numbered(places: Sequence[str], groups: Sequence[Any]) -> np.ndarray:
  """Numbers of groups in their order, int32 [n]; [0] for no groups."""
  for place, group in zip(places, groups):
    if group is None or group != group:
      problem = f'has no group, but {group}'
      remedy = 'choose another column with group, or leave the example out'
      raise InputError(f'{place}: {problem}: {remedy}')
  numbers = {group: i for i, group in enumerate(sorted(set(groups)))}
  return np.array([numbers[group] for group in groups], np.int32)


def bar(rows: Iterable[Any], title: str) -> Iterable[Any]:
  """The rows, with a bar on a terminal while they are read."""
  # None: unless stderr is no terminal.
  disable = None if sys.stderr else True
  return tqdm.tqdm(rows, f'decoding {title}', leave=False, disable=disable)
