"""Sweeps: many runs of one config file.

`sweep()` of a config file returns points. A point is a dict of the fields that
one run changes: `[{'upload': 'ternary', 'seed': 0}, ...]`. A dict `SWEEPS` in
the file holds more such functions by name. Two sweeps are joined with `+`. The
field `config` of a point names a case: the run then changes `get_config(case)`.
"""

import copy
import itertools
import json
import pathlib
import re
import runpy
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from hns import config as configs
from hns.errors import InputError, invalid
from hns.report import files
from hns.report.groups import matching
from hns.runs import limits, workdir
from hns.values import ConfigDict, fit

Point = dict[str, Any]

_LONGEST = 255  # bytes of a name, on most file systems
# Names that a run's folder cannot have: special ones, and files of the sweep.
_TAKEN = '.', '..', 'table.csv', 'table.md'


def grid(fields: dict[str, Sequence]) -> list[Point]:
  """Every combination of the fields' values; the last field varies fastest."""
  rows = itertools.product(*fields.values())
  return [dict(zip(fields, row)) for row in rows]


def zipped(fields: dict[str, Sequence]) -> list[Point]:
  """The fields' first values, their second ones, and so on.

  Raises:
    ValueError: the fields have different numbers of values.
  """
  rows = zip(*fields.values(), strict=True)
  return [dict(zip(fields, row)) for row in rows]


def cross(*sweeps: list[Point]) -> list[Point]:
  """Every point of the first with every point of the second, and so on.

  Where two points have a field in common the later one's value counts.
  """
  return [
    {field: value for point in points for field, value in point.items()}
    for points in itertools.product(*sweeps)
  ]


def trials(
  tables: dict[str, dict[str, Sequence]], **fields: Any
) -> list[Point]:
  """For each method every combination of its fields, on validation examples.

  Args:
    tables: by method, the values to try of each field.
    **fields: of every trial.
  """
  points = [
    point
    for name, values in tables.items()
    for point in grid({'algorithm': [name], **values})
  ]
  return cross([{'eval_split': 'validation', **fields}], points)


def read(file: str, fixed: dict[str, Any], name: str = '') -> list[Point]:
  """The points of a config file.

  Args:
    file: its path; a case after it is ignored.
    fixed: fields that the user set for all runs.
    name: of one of its `SWEEPS`, '' for `sweep()`.

  Raises:
    InputError: there is no such sweep, or it sets a field of `fixed`, or it
      sets the case although `file` has one.
  """
  path, case = configs.case_of(file)
  module = runpy.run_path(path)
  named = module.get('SWEEPS', {})
  known = {'': module.get('sweep', list), **named}
  if name not in known:
    raise invalid('sweep', name, f'{file} has {", ".join(named) or "none"}')
  points = known[name]()
  if not points:
    raise invalid('config', file, 'it has no sweep() of at least one run')
  if not isinstance(points, list) or not all(map(_is_point, points)):
    remedy = 'must be a list of dicts of fields by name: see hns/runs/sweeps.py'
    raise invalid('sweep', name, remedy)
  if case and any('config' in point for point in points):
    remedy = f'the sweep sets the case: leave it out, or use --filter={case}'
    raise invalid('config', file, remedy)
  for field in {field for point in points for field in point} & set(fixed):
    raise invalid(f'config.{field}', fixed[field], 'the sweep sets this field')
  return points


def _is_point(point: Any) -> bool:
  """Whether it is a dict with string keys, and a string as its case."""
  if not isinstance(point, dict):
    return False
  return all(isinstance(f, str) for f in [*point, point.get('config', '')])


class Run(NamedTuple):
  """One run of a sweep.

  Attributes:
    folder: its own, named after its point.
    point: the fields that the sweep changes.
    config: all fields.
  """

  folder: pathlib.Path
  point: Point
  config: dict[str, Any]


def plan(
  get_config: Callable[[str], ConfigDict],
  points: list[Point],
  folder: pathlib.Path,
) -> list[Run]:
  """The runs of a sweep, in its order; of equal configs only the first.

  Folders whose files are damaged are not checked: see `damage`.

  Args:
    get_config: the config of a case, '' for points without one.
    points: what each run changes.
    folder: the parent of the runs' folders.

  Raises:
    InputError: a run's config is not valid, its folder holds another config, or
      two runs would have the same folder.
  """
  planned = {}
  for point in points:
    changed = change(get_config(point.get('config', '')), point)
    name = name_of(point, changed.algorithm)
    run = Run(folder / name, point, json.loads(changed.to_json()))
    try:
      limits.validate(changed)
      if not damage(run):
        workdir.check(run.config, run.folder)
    except InputError as error:
      raise InputError(f'{name}: {error}') from error
    planned.setdefault(changed.to_json(), run)
  by_folder = {}
  for run in planned.values():
    other = by_folder.setdefault(run.folder, run)
    if other is not run:
      raise invalid('sweep', run.point, f'has the same name as {other.point}')
  return list(planned.values())


def change(config: ConfigDict, point: Point) -> ConfigDict:
  """A copy of a config with the fields of a point; raises `InputError`."""
  config = copy.deepcopy(config).lock()
  fields = configs.leaves(config.to_dict())
  for field in point.keys() - {'config'} - fields.keys():
    raise configs.unknown(field, config)
  for field, value in point.items():
    if field != 'config':
      value = fit(field, value, fields[field])
      config.update_from_flattened_dict({field: value})
  return config


def name_of(point: Point, algorithm: str) -> str:
  """The name of a run's folder, such as `signsgd,pruned=True,seed=0`.

  It depends on the point alone, so that a sweep may be extended. Strings come
  first and the seed last. A checksum is appended to a name that is too long or
  that a folder cannot have.
  """
  fields = sorted(
    point, key=lambda f: (f == 'seed', not isinstance(point[f], str), f)
  )
  short = lambda field: field.removeprefix(f'{algorithm}.')
  words = [
    point[f] if isinstance(point[f], str) else f'{short(f)}={point[f]}'
    for f in fields
  ]
  full_name = ','.join(words)
  name = re.sub(r'[^\w.,=+-]', '-', full_name) or 'run'
  if name not in _TAKEN and len(name.encode()) <= _LONGEST:
    return name
  end = f'-{zlib.crc32(full_name.encode(errors="replace")):08x}'
  start = name.encode()[: _LONGEST - len(end)].decode(errors='ignore')
  return start + end


def choose(planned: list[Run], pattern: str, index: int = -1) -> list[Run]:
  """The runs whose names match a regular expression.

  Args:
    planned: all runs.
    pattern: the regular expression, which may match anywhere.
    index: of the only one of these to return; all if negative.

  Raises:
    InputError: there is no such run, or the pattern is malformed.
  """
  chosen = matching(pattern, planned, lambda run: run.folder.name)
  if index < 0:
    return chosen
  if index >= len(chosen):
    raise invalid('index', index, f'the last run is {len(chosen) - 1}')
  return [chosen[index]]


def damage(run: Run) -> str:
  """Why the files in a run's folder cannot be read; '' if they can."""
  try:
    files.read_run_info(run.folder)
    files.read(run.folder)
  except InputError as error:
    return str(error)
  return ''


def is_complete(run: Run) -> bool:
  """Whether the folder is not damaged and has the row of the last round."""
  rows = [] if damage(run) else files.read(run.folder)
  return bool(rows) and rows[-1]['round'] == run.config['rounds']


def incomplete(planned: list[Run]) -> list[Run]:
  """The runs that are neither complete nor damaged."""
  return [run for run in planned if not (is_complete(run) or damage(run))]
