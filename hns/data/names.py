"""Names of datasets: a word, or `folder:PATH` and `hf:PATH`."""

import collections
import pathlib
from collections.abc import Iterable

from hns.errors import invalid

DOORS = ('folder', 'hf')


def door(name: str) -> tuple[str, str]:
  """The door and the path of a name such as folder:PATH; ('', name) else."""
  kind, colon, path = name.partition(':')
  return (kind, path) if colon and kind in DOORS else ('', name)


def short(name: str) -> str:
  """A name for titles and folders: of a path its last part."""
  kind, path = door(name)
  return (pathlib.PurePath(path).name or path) if kind else name


def short_of(names: Iterable[str]) -> dict[str, str]:
  """By name the short one; the whole name where two would be the same."""
  names = set(names)
  counts = collections.Counter(map(short, names))
  return {x: short(x) if counts[short(x)] == 1 else x for x in names}


def expanded(field: str, path: str | pathlib.Path) -> pathlib.Path:
  """A folder with ~ expanded; `InputError` if that cannot be done."""
  try:
    return pathlib.Path(path).expanduser()
  except RuntimeError as error:
    raise invalid(field, str(path), f'{error} set it to a folder') from None
