"""What the value of a field may be, from Python and from a command line."""

import ast
import contextlib
import math
import re
from typing import Any

import ml_collections
from ml_collections import ConfigDict as ConfigDict

from hns.errors import invalid

TABLE = dict, ml_collections.ConfigDict


def fit(field: str, value: Any, like: Any) -> Any:
  """A value as a field takes it that has the value `like` now.

  Numbers are finite, may be scalars of NumPy or JAX, and may be whole where
  `like` is a float; a field that has None takes anything. Raises `InputError`.
  """
  plain = value.item() if getattr(value, 'ndim', None) == 0 else value
  kind = TABLE if isinstance(like, TABLE) else type(like)
  if like is None:
    return plain
  if kind is float and type(plain) is int:
    with contextlib.suppress(OverflowError):
      plain = float(plain)
  # Python's truths are whole numbers.
  truth = isinstance(plain, bool) != (kind is bool)
  if truth or not isinstance(plain, kind):
    raise invalid(field, value, takes(like))
  if kind is float and not math.isfinite(plain):
    raise invalid(field, value, 'must be finite')
  return plain


def from_text(field: str, text: str, like: Any) -> Any:
  """What a word of a command line is for a field that has the value `like`.

  Numbers are ASCII, without underscores. Raises `InputError`.
  """
  if isinstance(like, str):
    return text
  try:
    value = _READ.get(type(like), ast.literal_eval)(text)
  except (KeyError, MemoryError, SyntaxError, TypeError, ValueError):
    raise invalid(field, text, takes(like)) from None
  return fit(field, value, like)


def leaves(table: dict, prefix: str = '') -> dict[str, Any]:
  """Fields by their whole names, those of tables as TABLE.FIELD."""
  found = {}
  for name, value in table.items():
    inner = isinstance(value, dict)
    found |= (
      leaves(value, f'{prefix}{name}.') if inner else {prefix + name: value}
    )
  return found


def takes(value: Any) -> str:
  """What a field takes that has this value."""
  if isinstance(value, TABLE):
    return 'is a table: change one of its fields'
  kind = type(value)
  return f'must be {_KINDS.get(kind, f"a {kind.__name__}")}'


def _number(kind: type, pattern: str, text: str) -> Any:
  if not re.fullmatch(pattern, text, re.ASCII):
    raise ValueError(text)
  return kind(text)


_TRUTH = dict.fromkeys(('true', 't', '1'), True)
_TRUTH |= dict.fromkeys(('false', 'f', '0'), False)
_READ = {
  bool: lambda text: _TRUTH[text.lower()],
  int: lambda text: _number(int, r'[+-]?\d+', text),
  float: lambda text: _number(float, r'[-+.\da-zA-Z]+', text),
}
_KINDS = {
  bool: 'True or False',
  int: 'a whole number',
  float: 'a number',
  str: 'a text',
  type(None): 'a Python literal',
}
