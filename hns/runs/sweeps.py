"""A sweep: what it varies, and the runs it stands for.

`sweep()` of a config file returns points, each what one run changes in the
config, by dotted field: `[{'upload': 'ternary', 'seed': 0}, ...]`; a dict
`SWEEPS` there gives others by name. Two sweeps are joined with `+`. The field
`config` names a case: what is changed is then `get_config(case)`.
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
from hns.values import fit

Point = dict[str, Any]

_LONGEST = 255  # bytes of a name, on most file systems
# What a run's folder cannot be called: these have a meaning in every folder,
# or are files of the sweep.
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


def read(file: str, given: dict[str, Any], name: str = '') -> list[Point]:
  """The points of a config file.

  Args:
    file: its path; a case behind it is left out.
    given: fields that the user set, for all runs.
    name: of one of its `SWEEPS`, '' for `sweep()`.

  Raises:
    InputError: the file has no such sweep, or one that sets a field of `given`
      or its cases though one was given.
  """
  path, case = configs.case_of(file)
  found = runpy.run_path(path)
  named = found.get('SWEEPS', {})
  known = {'': found.get('sweep', list), **named}
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
  for field in {field for point in points for field in point} & set(given):
    raise invalid(f'config.{field}', given[field], 'the sweep sets this field')
  return points


def _is_point(point: Any) -> bool:
  """Whether it is a dict of values by name, the case a text."""
  if not isinstance(point, dict):
    return False
  return all(isinstance(f, str) for f in [*point, point.get('config', '')])


class Run(NamedTuple):
  """One run of a sweep.

  Attributes:
    folder: its own, named by what it varies.
    point: the fields that the sweep sets.
    config: all fields.
  """

  folder: pathlib.Path
  point: Point
  config: dict[str, Any]


def plan(
  get_config: Callable[[str], Any], points: list[Point], folder: pathlib.Path
) -> list[Run]:
  """The runs of a sweep, in its order, those with equal configs once.

  A folder whose files are damaged is left alone: see `damage`.

  Args:
    get_config: the ConfigDict of a case, '' for points without one.
    points: what each run changes.
    folder: where their folders go.

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
  found = {}
  for run in planned.values():
    other = found.setdefault(run.folder, run)
    if other is not run:
      raise invalid('sweep', run.point, f'has the same name as {other.point}')
  return list(planned.values())


def change(config: Any, point: Point) -> Any:
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
  """A folder's name: words first, the seed last; `signsgd,pruned=True,seed=0`.

  It depends on nothing but the point, so that a sweep may grow. Where a folder
  cannot have the name, or not all of it, a checksum of the point follows.
  """
  fields = sorted(
    point, key=lambda f: (f == 'seed', not isinstance(point[f], str), f)
  )
  short = lambda field: field.removeprefix(f'{algorithm}.')
  words = [
    point[f] if isinstance(point[f], str) else f'{short(f)}={point[f]}'
    for f in fields
  ]
  whole = ','.join(words)
  name = re.sub(r'[^\w.,=+-]', '-', whole) or 'run'
  if name not in _TAKEN and len(name.encode()) <= _LONGEST:
    return name
  end = f'-{zlib.crc32(whole.encode(errors="replace")):08x}'
  start = name.encode()[: _LONGEST - len(end)].decode(errors='ignore')
  return start + end


def choose(planned: list[Run], pattern: str, index: int = -1) -> list[Run]:
  """The runs whose name a pattern finds; of these the one at `index`, if >= 0.

  Raises:
    InputError: there is no such run, or the pattern cannot be read.
  """
  chosen = matching(pattern, planned, lambda run: run.folder.name)
  if index < 0:
    return chosen
  if index >= len(chosen):
    raise invalid('index', index, f'the last run is {len(chosen) - 1}')
  return [chosen[index]]


def damage(run: Run) -> str:
  """What is wrong with the files in a run's folder; '' for nothing."""
  try:
    files.about(run.folder)
    files.read(run.folder)
  except InputError as error:
    return str(error)
  return ''


def complete(run: Run) -> bool:
  """Whether a run's last round has been written, and its folder is whole."""
  rows = [] if damage(run) else files.read(run.folder)
  return bool(rows) and rows[-1]['round'] == run.config['rounds']


def left(planned: list[Run]) -> list[Run]:
  """The runs that can be played and are not complete."""
  return [run for run in planned if not (complete(run) or damage(run))]
