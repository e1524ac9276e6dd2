"""Checks and converts values of a config's fields."""

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
  """A value converted to the type of a field.

  Args:
    field: for the message.
    value: scalars of NumPy and JAX, and an int for a float, are converted.
    like: the field's current value; None allows any value.

  Raises:
    InputError: the value has another type or is not finite.
  """
  plain = value.item() if getattr(value, 'ndim', None) == 0 else value
  kind = TABLE if isinstance(like, TABLE) else type(like)
  if like is None:
    return plain
  if kind is float and type(plain) is int:
    with contextlib.suppress(OverflowError):
      plain = float(plain)
  # In Python a bool is an int.
  wrong_bool = isinstance(plain, bool) != (kind is bool)
  if wrong_bool or not isinstance(plain, kind):
    raise invalid(field, value, requirement(like))
  if kind is float and not math.isfinite(plain):
    raise invalid(field, value, 'must be finite')
  return plain


def from_text(field: str, text: str, like: Any) -> Any:
  """The value of a command line's text for a field.

  Args:
    field: for the message.
    text: a string, or a Python literal; numbers are ASCII without underscores.
    like: the field's current value.

  Raises:
    InputError: the text is not a value of the field's type.
  """
  if isinstance(like, str):
    return text
  try:
    value = _READ.get(type(like), ast.literal_eval)(text)
  except (KeyError, MemoryError, SyntaxError, TypeError, ValueError):
    raise invalid(field, text, requirement(like)) from None
  return fit(field, value, like)


def leaves(table: dict, prefix: str = '') -> dict[str, Any]:
  """All fields by name, those of tables as TABLE.FIELD."""
  flat = {}
  for name, value in table.items():
    if isinstance(value, dict):
      flat |= leaves(value, f'{prefix}{name}.')
    else:
      flat[prefix + name] = value
  return flat


def requirement(value: Any) -> str:
  """What a field with this value requires, for messages."""
  if isinstance(value, TABLE):
    return 'is a table: change one of its fields'
  kind = type(value)
  return f'must be {_KINDS.get(kind, f"a {kind.__name__}")}'


def _number(kind: type, pattern: str, text: str) -> Any:
  if not re.fullmatch(pattern, text, re.ASCII):
    raise ValueError(text)
  return kind(text)


_BOOLS = dict.fromkeys(('true', 't', '1'), True)
_BOOLS |= dict.fromkeys(('false', 'f', '0'), False)
_READ = {
  bool: lambda text: _BOOLS[text.lower()],
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
