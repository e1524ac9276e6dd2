"""Texts as tokens: the bytes of their UTF-8."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from hns.errors import InputError

_LONGEST = 10_000  # bytes; as many numbers would be stored for every text


def tokens(places: Sequence[str], texts: Sequence[Any]) -> np.ndarray:
  """The bytes of each text, int32 [n, longest], with 0 behind shorter ones.

  Args:
    places: what each example is called in errors.
    texts: strings, or bytes, which are taken as they are.

  Raises:
    InputError: names an example that is no text, or is too long.
  """
  rows = [_bytes(place, text) for place, text in zip(places, texts)]
  longest = max(map(len, rows), default=0)
  table = np.zeros((len(rows), longest), np.int32)
  for line, row in zip(table, rows):
    line[: len(row)] = np.frombuffer(row, np.uint8)
  return table


def _bytes(place: str, text: Any) -> bytes:
  """A text's UTF-8."""
  if not isinstance(text, str | bytes):
    raise InputError(f'{place}: is {type(text).__name__}, not a text')
  try:
    row = text.encode() if isinstance(text, str) else text
  except UnicodeEncodeError as error:
    raise InputError(f'{place}: is no text of UTF-8 ({error})') from None
  if len(row) > _LONGEST:
    problem = f'is a text of {len(row):,} bytes, {_LONGEST:,} at most'
    raise InputError(f'{place}: {problem}: split it into several examples')
  return row
