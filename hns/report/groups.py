"""Loads runs and groups those that differ only in their seed."""

import collections
import functools
import gzip
import io
import json
import os
import pathlib
import re
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from hns import durable
from hns.config import Run, table_defaults
from hns.errors import InputError, invalid
from hns.methods.recipes import RECIPES
from hns.report import files
from hns.report.files import Row, RunInfo
from hns.report.labels import Word, label_words, named, settings_of
from hns.values import leaves

# Fields of a config that do not affect the numbers of a run.
_FREE = ('checkpoint_seconds',)


T = TypeVar('T')


class Saved(NamedTuple):
  """A run on disk: its folder, its config.json and its metrics."""

  folder: pathlib.Path
  run_info: RunInfo
  rows: list[Row]


def load(paths: list[str]) -> tuple[list[Saved], list[str]]:
  """The runs of all paths without repetitions.

  Args:
    paths: folders of runs, parents of such folders, or files from `pack`.

  Returns:
    The runs, and a warning for each run or path that was left out.
  """
  runs, left_out = [], []
  for path in map(pathlib.Path, paths):
    try:
      readers = _packed(path) if path.is_file() else _folders(path)
    except InputError as error:
      readers, left_out = [], [*left_out, str(error)]
    for read in readers:
      try:
        runs.append(read())
      except InputError as error:
        left_out.append(str(error))
  runs, repeated = once(runs)
  return runs, left_out + repeated


def _folders(path: pathlib.Path) -> list[Callable[[], Saved]]:
  """Readers of the run in a folder, or of the runs in its subfolders."""
  names = 'config.json', 'metrics.jsonl'
  inside = {p.parent for name in names for p in path.glob(f'*/{name}')}
  alone = any(os.path.lexists(path / name) for name in names) or not inside
  chosen = [path] if alone else sorted(inside)
  return [functools.partial(_load, folder) for folder in chosen]


def _load(folder: pathlib.Path) -> Saved:
  run_info, rows = files.read_run_info(folder), files.read(folder)
  if run_info is None or not rows:
    raise InputError(f'{folder}: no evaluated round')
  return Saved(folder, run_info, rows)


def _packed(path: pathlib.Path) -> list[Callable[[], Saved]]:
  """Readers of the runs of a file from `pack`."""
  try:
    lines = gzip.decompress(path.read_bytes()).splitlines()
  except (gzip.BadGzipFile, EOFError, zlib.error, OSError) as error:
    what = 'neither a folder nor a whole file of --pack'
    raise InputError(f'{path}: {what} ({error})') from error

  if not lines:
    raise InputError(f'{path}: holds no run')

  def read(number, line):
    where = f'{path}, line {number}'
    run = files.parsed(line, where, files.finite)
    if type(run) is not list or [type(x) for x in run] != [str, dict, list]:
      raise InputError(f'{where}: not a run that --pack wrote')
    name, run_info, rows = run
    if not rows:
      raise InputError(f'{where}: no evaluated round')
    return Saved(
      path / name,
      files.checked_run_info(run_info, where),
      files.checked_rows(rows, lambda row: f'{where}, row {row}'),
    )

  return [functools.partial(read, *pair) for pair in enumerate(lines, 1)]


def once(runs: list[Saved]) -> tuple[list[Saved], list[str]]:
  """Removes runs of the same config and seed as another one.

  The run with more numbers remains; of equal ones the first.

  Returns:
    The remaining runs, and a warning for each of the others.
  """
  unique, warnings = {}, []
  for run in runs:
    key = json.dumps(identity(run), sort_keys=True)
    other = unique.setdefault(key, run)
    if other is run:
      continue
    first, second = sorted((other, run), key=lambda r: -sum(map(len, r.rows)))
    unique[key] = first
    if first.folder.resolve() == second.folder.resolve():
      warnings.append(f'{second.folder}: given twice, counted once')
      continue
    warnings.append(
      f'{second.folder}: left out, the same run as {first.folder} (config and '
      f'seed){_deviation(second.rows, first.rows)}'
    )
  return list(unique.values()), warnings


def identity(run: Saved) -> dict[str, Any]:
  """The fields of a run's config that affect its numbers.

  Those of every run and of its method. What an older run does not tell was not
  there yet: it is as by default.
  """
  config = Run()._asdict() | run.run_info['config']
  name = config['algorithm']
  usual = table_defaults(RECIPES[name], config.get) if name in RECIPES else {}
  fields = {
    k: v
    for k, v in config.items()
    if k not in _FREE and not isinstance(v, dict)
  }
  return fields | {name: usual | config.get(name, {})}


def _deviation(left_out: list[Row], chosen: list[Row]) -> str:
  """The first difference of two runs, as text; '' if they are equal.

  Seconds are not compared, nor lists, which `pack` leaves out.
  """
  others = {row['round']: row for row in chosen}
  for row in left_out:
    other = others.get(row['round'], row)
    for name in row:
      compare = 'seconds' not in name and not isinstance(row[name], list)
      if compare and row[name] != other.get(name, row[name]):
        return (
          f', but their numbers differ: {name} of round {row["round"]} is '
          f'{row[name]}, in the one kept {other[name]}'
        )
  return ''


def pack(saved: list[Saved], path: pathlib.Path) -> None:
  """Writes runs to one file, a line for each, without lists in their rows.

  On an `OSError` an existing file is unchanged.
  """
  flat = lambda row: {k: v for k, v in row.items() if not isinstance(v, list)}
  lines = [
    json.dumps([run.folder.name, run.run_info, list(map(flat, run.rows))])
    + '\n'
    for run in saved
  ]
  # Without a time in the header, the same runs give the same bytes.
  raw = io.BytesIO()
  with gzip.GzipFile('', 'wb', 9, raw, 0) as file:
    file.write(''.join(lines).encode())
  durable.replace(path, raw.getvalue())


def matching(pattern: str, items: list[T], name: Callable[[T], str]) -> list[T]:
  """The items whose name matches a regular expression anywhere.

  Raises:
    InputError: there is none, or the expression is malformed.
  """
  try:
    chosen = [item for item in items if re.search(pattern, name(item))]
  except re.error as error:
    raise invalid('filter', pattern, f'cannot be read: {error}') from error
  if items and not chosen:
    raise invalid('filter', pattern, f'finds no {name(items[0])} or other')
  return chosen


class Group(NamedTuple):
  """Runs that differ only in their seed, in the order of their seeds.

  Attributes:
    label: the method and its words.
    words: what the label says of the method.
    setting: on which data methods are compared: dataset, clients, partition.
    config: their config without the seed.
    seeds: of each run.
    folders: of each run.
    weights: the coordinates of a download, of each run.
    layers: of each run, by layer, the weights that survived pruning and all
      weights.
    rows: of each run, the metrics.
  """

  label: str
  words: tuple[Word, ...]
  setting: str
  config: dict[str, Any]
  seeds: tuple[int, ...]
  folders: tuple[pathlib.Path, ...]
  weights: tuple[int, ...]
  layers: tuple[dict[str, list[int]], ...]
  rows: tuple[list[Row], ...]


def group(saved: list[Saved]) -> list[Group]:
  """Groups runs that differ only in their seed.

  Labels tell the network where the runs have several, settings the partition
  where it differs between runs of one dataset and number of clients.
  """
  by_config = collections.defaultdict(list)
  for run in saved:
    config = identity(run)
    seed = config.pop('seed')
    by_config[json.dumps(config, sort_keys=True)].append((seed, run))
  configs = list(map(json.loads, by_config))
  several = len({config['model'] for config in configs}) > 1
  return _with_unique_labels(
    [
      _grouped(config, setting, runs, several)
      for config, setting, runs in zip(
        configs, settings_of(configs), by_config.values()
      )
    ]
  )


def _grouped(
  config: dict[str, Any],
  setting: str,
  pairs: list[tuple[int, Saved]],
  tell_model: bool,
) -> Group:
  """The group of runs of one config, given with their seeds."""
  seeds, runs = zip(*sorted(pairs, key=lambda pair: (pair[0], pair[1].folder)))
  words = label_words(config, runs[0].run_info.get('layers', {}))
  words += [Word('model', config['model'], tuned=True)] * tell_model
  return Group(
    named(config['algorithm'], words),
    tuple(words),
    setting,
    config,
    seeds,
    tuple(run.folder for run in runs),
    tuple(run.run_info['weights_downloaded'] for run in runs),
    tuple(run.run_info.get('layers', {}) for run in runs),
    tuple(run.rows for run in runs),
  )


def _with_unique_labels(groups: list[Group]) -> list[Group]:
  """Adds the fields that differ to equal labels of one setting."""
  same_label = collections.defaultdict(list)
  for g in groups:
    same_label[g.label, g.setting].append(leaves(g.config))

  def renamed(g):
    fields, others = leaves(g.config), same_label[g.label, g.setting]
    added = [
      Word(name, f'{name}={value}')
      for name, value in fields.items()
      if any(other.get(name) != value for other in others)
    ]
    words = (*g.words, *added)
    return g._replace(label=named(g.config['algorithm'], words), words=words)

  return [renamed(g) for g in groups]
