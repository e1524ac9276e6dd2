"""Fields of a config, read off a signature, its annotations and docstring.

A recipe's keyword arguments are the fields of its table, and `hns.config.Run`
has those of every run:

  def fedprox(network, learning_rate: Rate = 0.05, pull: Pull = 0.1):
    \"\"\"FedProx: Li et al. 2018.

    Args:
      pull: how strongly a model is drawn to the download.
    \"\"\"

An annotation may be `Annotated[type, ...]` with limits (`Within`, `AtLeast`,
`OneOf`, or any function `(field, value)` that raises `InputError`), a `Label`,
and a text, which says what the field is where the docstring does not.
"""

import functools
import inspect
import re
import typing
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from hns.errors import invalid
from hns.values import fit

REQUIRED = inspect.Parameter.empty


class Within(NamedTuple):
  """Numbers between two others; `ends` says which of these count: '[)'."""

  least: float
  most: float
  ends: str = '()'

  def __call__(self, field: str, value: float) -> None:
    remedy = f'must be in {self.ends[0]}{self.least}, {self.most}{self.ends[1]}'
    if not self._has(value):
      raise invalid(field, value, remedy)
    if not self._has(_single(value)):
      raise invalid(field, value, f'{remedy}, also in 32 bits')

  def _has(self, value: float) -> bool:
    above = value > self.least or (self.ends[0] == '[' and value == self.least)
    below = value < self.most or (self.ends[1] == ']' and value == self.most)
    return above and below


class NoneOr(NamedTuple):
  """0, for none, or a number between two others, both included."""

  least: float
  most: float

  def __call__(self, field: str, value: float) -> None:
    if value and not self.least <= value <= self.most:
      remedy = f'must be 0 or in [{self.least:g}, {self.most:g}]'
      raise invalid(field, value, remedy)


class AtLeast(NamedTuple):
  """Whole numbers from `least` on; a device counts in 32 bits."""

  least: int
  below: int = 2**31

  def __call__(self, field: str, value: int) -> None:
    if value < self.least:
      raise invalid(field, value, f'must be at least {self.least}')
    if value >= self.below:
      raise invalid(field, value, f'must be below {self.below}')


class OneOf(NamedTuple):
  """One of some names; of a dict, those that it has at that time."""

  names: Iterable[str]

  def __call__(self, field: str, value: str) -> None:
    if value not in self.names:
      raise invalid(field, value, f'choose one of {", ".join(self.names)}')


class Label(NamedTuple):
  """How a field is said where runs are compared.

  Attributes:
    words: `value -> str`, '' to say nothing of it.
    tuned: whether tuning chooses it, so that it makes no variant of a method.
  """

  words: Callable[[Any], str]
  tuned: bool = False


class ValidationThreshold(NamedTuple):
  """An accuracy on validation examples, below 1; below 0 asks for none."""

  def __call__(self, field: str, value: float) -> None:
    Within(-np.inf, 1)(field, value)


class Shared(NamedTuple):
  """The default of a table's field that is the run's field of that name."""


OF_RUN = Shared()


class Field(NamedTuple):
  """One field of a config.

  Attributes:
    default: its value where nothing is given; `OF_RUN`; or `REQUIRED`.
    kind: its type; None for any.
    limits: what checks a value, each `(field, value)`.
    label: how it is said where runs are compared; None for what is usual.
    text: what it is.
  """

  default: Any
  kind: type | None
  limits: tuple[Callable[[str, Any], None], ...]
  label: Label | None
  text: str

  def check(self, name: str, value: Any) -> None:
    """Raises `InputError` for a value of another type, or out of its limits."""
    plain = fit(name, value, self.like())
    for limit in self.limits:
      limit(name, plain)

  def like(self) -> Any:
    """A value of the field's type, None for any."""
    return None if self.kind is None else self.kind()

  def names(self) -> Iterable[str] | None:
    """The names that it may be, if it is one of some."""
    chosen = [limit.names for limit in self.limits if isinstance(limit, OneOf)]
    return chosen[0] if chosen else None

  def help(self) -> str:
    """What it is and what it may be."""
    names = self.names()
    return f'{self.text}: {", ".join(names)}' if names else self.text


def fields_of(source: Callable) -> dict[str, Field]:
  """The fields of a recipe, all but its first argument, or of a `NamedTuple`.

  A recipe that wraps another (`functools.wraps`, `same_fields`) has its fields.
  """
  return dict(_fields_of(inspect.unwrap(source)))


@functools.cache  # a sweep of 500 runs asks 40,000 times
def _fields_of(source: Callable) -> dict[str, Field]:
  arguments = [*inspect.signature(source).parameters.values()]
  hints = typing.get_type_hints(source, include_extras=True)
  texts = _texts(source)
  named = arguments if inspect.isclass(source) else arguments[1:]
  return {
    a.name: _field(a.default, hints.get(a.name), texts.get(a.name, ''))
    for a in named
    if a.kind is not a.VAR_KEYWORD
  }


def takes_any(recipe: Callable) -> bool:
  """Whether a recipe takes fields that its signature does not name."""
  arguments = inspect.signature(recipe).parameters.values()
  return any(a.kind is a.VAR_KEYWORD for a in arguments)


def same_fields(recipe: Callable) -> Callable[[Callable], Callable]:
  """Decorates a recipe that hands its `**table` on to another."""
  return functools.wraps(recipe, assigned=(), updated=())


def _field(default, hint, text) -> Field:
  annotated = typing.get_origin(hint) is typing.Annotated
  kind, *extras = typing.get_args(hint) if annotated else [hint]
  if kind is None and default is not REQUIRED and default is not OF_RUN:
    kind = type(default)
  kind = kind if kind in (bool, int, float, str) else None
  said = [x for x in extras if isinstance(x, str)]
  labels = [x for x in extras if isinstance(x, Label)]
  limits = [x for x in extras if callable(x)]
  label = labels[0] if labels else None
  return Field(default, kind, tuple(limits), label, text or ' '.join(said))


def _texts(source: Callable) -> dict[str, str]:
  """By argument, what the docstring says behind Args or Attributes."""
  lines = (inspect.getdoc(source) or '').splitlines()
  found, name, inside = {}, '', False
  for line in lines:
    if line and not line.startswith(' '):
      inside = line in ('Args:', 'Attributes:')
    entry = re.match(r'  (\w+): (.*)', line)
    if not inside:
      continue
    if entry:
      name, found[entry[1]] = entry[1], entry[2]
    elif line.strip() and name:
      found[name] += f' {line.strip()}'
  return {name: text.rstrip('.') for name, text in found.items()}


def _single(value: float) -> float:
  """What a device, which knows no subnormal numbers, makes of a number."""
  with np.errstate(over='ignore', under='ignore'):
    single = float(np.float32(value))
  return single if abs(single) >= np.finfo(np.float32).tiny else 0.0
