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
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from hns import config as configs
from hns import limits, workdir
from hns.errors import InputError, invalid
from hns.groups import matching

Point = dict[str, Any]


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
    InputError: the file has no such sweep, one that sets a field of `given` or
      its cases though one was given, or what went wrong in it.
  """
  path, case = configs.case_of(file)
  found = runpy.run_path(path)
  named = found.get('SWEEPS', {})
  known = {'': found.get('sweep', list), **named}
  if name not in known:
    raise invalid('sweep', name, f'{file} has {", ".join(named) or "none"}')
  try:
    points = known[name]()
  except (TypeError, ValueError) as error:
    raise invalid('sweep', name, f'{path}: {error}') from error
  if not points:
    raise invalid('config', file, 'it has no sweep() of at least one run')
  if not isinstance(points, list) or not isinstance(points[0], dict):
    raise invalid('sweep', name, 'must be a list of dicts: see hns/sweeps.py')
  if case and any('config' in point for point in points):
    remedy = f'the sweep sets the case: leave it out, or use --filter={case}'
    raise invalid('config', file, remedy)
  for field in {field for point in points for field in point} & set(given):
    raise invalid(f'config.{field}', given[field], 'the sweep sets this field')
  return points


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

  Args:
    get_config: the ConfigDict of a case, '' for points without one.
    points: what each run changes.
    folder: where their folders go.

  Raises:
    InputError: a run's config is not valid, its folder holds another config, or
      two runs would have the same folder.
  """
  runs = {}
  for point in points:
    changed = change(get_config(point.get('config', '')), point)
    name = name_of(point, changed.algorithm)
    held = json.loads(changed.to_json())
    try:
      limits.validate(changed)
      workdir.check(held, folder / name)
    except InputError as error:
      raise InputError(f'{name}: {error}') from error
    runs.setdefault(changed.to_json(), Run(folder / name, point, held))
  found = {}
  for run in runs.values():
    other = found.setdefault(run.folder, run)
    if other is not run:
      raise invalid('sweep', run.point, f'has the same name as {other.point}')
  return list(runs.values())


def change(config: Any, point: Point) -> Any:
  """A copy of a config with the fields of a point; raises `InputError`."""
  config = copy.deepcopy(config).lock()
  for field, value in point.items():
    if field == 'config':
      continue
    try:
      config.update_from_flattened_dict({field: value})
    except KeyError as error:
      raise invalid(field, value, 'the sweep sets no such field') from error
    except TypeError as error:
      cause = str(error).split('. ')[-1]
      raise invalid(field, value, f'of the wrong type: {cause}') from error
  return config


def name_of(point: Point, algorithm: str) -> str:
  """A folder's name: words first, the seed last; `signsgd,pruned=True,seed=0`.

  It depends on nothing but the point, so that a sweep may grow.
  """
  fields = sorted(
    point, key=lambda f: (f == 'seed', not isinstance(point[f], str), f)
  )
  short = lambda field: field.removeprefix(f'{algorithm}.')
  words = [
    point[f] if isinstance(point[f], str) else f'{short(f)}={point[f]}'
    for f in fields
  ]
  return re.sub(r'[^\w.,=+-]', '-', ','.join(words)) or 'run'


def choose(runs: list[Run], pattern: str, index: int = -1) -> list[Run]:
  """The runs whose name a pattern finds; of these the one at `index`, if >= 0.

  Raises:
    InputError: there is no such run, or the pattern cannot be read.
  """
  chosen = matching(pattern, runs, lambda run: run.folder.name)
  if index < 0:
    return chosen
  if index >= len(chosen):
    raise invalid('index', index, f'the last run is {len(chosen) - 1}')
  return [chosen[index]]


def complete(run: Run) -> bool:
  """Whether a run's last round has been written."""
  rows = workdir.rows(run.folder)
  return bool(rows) and rows[-1]['round'] == run.config['rounds']


def left(runs: list[Run]) -> list[Run]:
  """The runs that are not complete."""
  return [run for run in runs if not complete(run)]
