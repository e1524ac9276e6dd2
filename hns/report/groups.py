"""Runs from several places, each once, and those that differ in their seed.

A file from `pack` holds many runs.
"""

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
from typing import Any, NamedTuple

from hns import durable
from hns.errors import InputError, invalid
from hns.fields import Field, fields_of
from hns.methods.recipes import RECIPES
from hns.report import files
from hns.report.files import Row
from hns.values import leaves

# Fields of a config that change no number of a run.
_FREE = ('checkpoint_seconds',)


class Saved(NamedTuple):
  """A run on disk: its folder, its config.json and its metrics."""

  folder: pathlib.Path
  about: dict[str, Any]
  rows: list[Row]


def load(paths: list[str]) -> tuple[list[Saved], list[str]]:
  """Runs, each once, and what of the paths was left out, said.

  Args:
    paths: folders of runs, folders that hold such, or files from `pack`.
  """
  found, left_out = [], []
  for path in map(pathlib.Path, paths):
    try:
      readers = _packed(path) if path.is_file() else _folders(path)
    except InputError as error:
      readers, left_out = [], [*left_out, str(error)]
    for read in readers:
      try:
        found.append(read())
      except InputError as error:
        left_out.append(str(error))
  chosen, repeated = once(found)
  return chosen, left_out + repeated


def _folders(path: pathlib.Path) -> list[Callable[[], Saved]]:
  """Readers of the runs of a folder: of itself, or of those inside."""
  names = 'config.json', 'metrics.jsonl'
  inside = {p.parent for name in names for p in path.glob(f'*/{name}')}
  alone = any(os.path.lexists(path / name) for name in names) or not inside
  chosen = [path] if alone else sorted(inside)
  return [functools.partial(_load, folder) for folder in chosen]


def _load(folder: pathlib.Path) -> Saved:
  about, rows = files.read_run_info(folder), files.read(folder)
  if about is None or not rows:
    raise InputError(f'{folder}: no evaluated round')
  return Saved(folder, about, rows)


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
    found = files.parsed(line, where, files.finite)
    if type(found) is not list or [type(x) for x in found] != [str, dict, list]:
      raise InputError(f'{where}: not a run that --pack wrote')
    if not found[2]:
      raise InputError(f'{where}: no evaluated round')
    name, about, rows = found
    told = lambda row: f'{where}, row {row}'
    return Saved(
      path / name,
      files.checked_run_info(about, where),
      files.checked_rows(rows, told),
    )

  return [functools.partial(read, *pair) for pair in enumerate(lines, 1)]


def once(found: list[Saved]) -> tuple[list[Saved], list[str]]:
  """Runs of different configs or seeds; what repeats one of them, said.

  Of two that are the same run, the one that tells more numbers is kept, of
  equal ones the first.
  """
  kept, said = {}, []
  for run in found:
    key = json.dumps(identity(run), sort_keys=True)
    other = kept.setdefault(key, run)
    if other is run:
      continue
    first, second = sorted((other, run), key=lambda r: -sum(map(len, r.rows)))
    kept[key] = first
    if first.folder.resolve() == second.folder.resolve():
      said.append(f'{second.folder}: given twice, counted once')
      continue
    said.append(
      f'{second.folder}: left out, the same run as {first.folder} (config and '
      f'seed){_deviation(second.rows, first.rows)}'
    )
  return list(kept.values()), said


def identity(run: Saved) -> dict[str, Any]:
  """The fields of a run's config that its numbers depend on."""
  return {k: v for k, v in run.about['config'].items() if k not in _FREE}


def _deviation(left_out: list[Row], kept: list[Row]) -> str:
  """How far two runs differ, in words; '' if they are equal.

  Seconds do not count, nor lists, which `pack` leaves out.
  """
  others = {row['round']: row for row in kept}
  for row in left_out:
    other = others.get(row['round'], row)
    for name in row:
      counts = 'seconds' not in name and not isinstance(row[name], list)
      if counts and row[name] != other.get(name, row[name]):
        return (
          f', but their numbers differ: {name} of round {row["round"]} is '
          f'{row[name]}, in the one kept {other[name]}'
        )
  return ''


def pack(saved: list[Saved], path: pathlib.Path) -> None:
  """Writes runs as one file, a line each, without lists in their rows.

  Raises `OSError`; a file that was there is then as it was.
  """
  flat = lambda row: {k: v for k, v in row.items() if not isinstance(v, list)}
  lines = [
    json.dumps([folder.name, about, list(map(flat, rows))]) + '\n'
    for folder, about, rows in saved
  ]
  # No time in the header: the same runs give the same bytes.
  raw = io.BytesIO()
  with gzip.GzipFile('', 'wb', 9, raw, 0) as file:
    file.write(''.join(lines).encode())
  durable.replace(path, raw.getvalue())


def matching(
  pattern: str, items: list[Any], name: Callable[[Any], str]
) -> list[Any]:
  """The items in whose name a regular expression is found.

  Raises:
    InputError: there is none, or the expression cannot be read.
  """
  try:
    chosen = [item for item in items if re.search(pattern, name(item))]
  except re.error as error:
    raise invalid('filter', pattern, f'cannot be read: {error}') from error
  if items and not chosen:
    raise invalid('filter', pattern, f'finds no {name(items[0])} or other')
  return chosen


class Group(NamedTuple):
  """Runs that differ in their seed alone, in the order of their seeds.

  Attributes:
    label: the method and its variant.
    variant: the label without what tuning chooses.
    chosen: the words of that.
    config: what they have in common.
    seeds: one a run.
    folders: one a run.
    weights: coordinates of a download, one a run.
    layers: by layer, weights that survived pruning and weights, one a run.
    rows: the metrics, one list a run.
  """

  label: str
  variant: str
  chosen: tuple[str, ...]
  config: dict[str, Any]
  seeds: tuple[int, ...]
  folders: tuple[pathlib.Path, ...]
  weights: tuple[int, ...]
  layers: tuple[dict[str, list[int]], ...]
  rows: tuple[list[Row], ...]


def group(saved: list[Saved]) -> list[Group]:
  """Runs that differ in their seed alone, together."""
  found = collections.defaultdict(list)
  for run in saved:
    folder, about, rows = run
    config = identity(run)
    seed = config.pop('seed')
    told = about['weights_downloaded'], about.get('layers', {}), rows
    key = json.dumps(config, sort_keys=True)
    found[key].append((seed, folder, *told))
  groups = []
  for key, alike in found.items():
    config = json.loads(key)
    ordered = zip(*sorted(alike, key=lambda run: run[:2]))
    layers = alike[0][3]
    frozen = _words(config, layers, tuned=False)
    words = _words(config, layers)
    chosen = tuple(word for word in words if word not in frozen)
    names = label(config, layers), label(config, layers, tuned=False)
    groups.append(Group(*names, chosen, config, *ordered))
  return _told_apart(groups)


def _told_apart(groups: list[Group]) -> list[Group]:
  """Groups of one dataset and label, with the fields added that differ."""
  alike = collections.defaultdict(list)
  for g in groups:
    alike[g.label, g.config['dataset']].append(leaves(g.config))

  def renamed(g):
    peers, mine = alike[g.label, g.config['dataset']], leaves(g.config)
    client_state = [
      name for name in mine if any(p.get(name) != mine[name] for p in peers)
    ]
    words = ''.join(f', {name}={mine[name]}' for name in client_state)
    return g._replace(label=g.label + words, variant=g.variant + words)

  return [renamed(g) for g in groups]


def label(
  config: dict[str, Any], layers: dict[str, list[int]], tuned: bool = True
) -> str:
  """A method and its variant, in a few words.

  Args:
    config: of a run.
    layers: of its config.json: what survived pruning.
    tuned: whether what tuning chooses is said too, as recipes label it.
  """
  name, words = config['algorithm'], _words(config, layers, tuned)
  return f'{name} ({", ".join(words)})' if words else name


def _words(config, layers, tuned: bool = True) -> list[str]:
  """What a recipe's labels say of its table, and how the server pruned."""
  name = config['algorithm']
  table = config.get(name, {})
  fields = fields_of(RECIPES[name]) if name in RECIPES else {}
  order = [
    *(f for f in fields if f in table),
    *sorted(table.keys() - fields.keys()),
  ]
  words = [_word(f, table[f], fields.get(f), tuned) for f in order]
  if _is_pruned(config, layers):
    words.append(f'density {config["density"]:g}')
    words += [p for p in [config.get('pruning')] if p not in (None, 'synflow')]
    words += ['single-shot'] * (config.get('pruning_steps') == 1)
  return [word for word in words if word]


def _is_pruned(config, layers) -> bool:
  """Whether the server pruned, be it to all of the weights."""
  whole = all(left == size for left, size in layers.values())
  return bool(layers) and (not whole or config['density'] == 1)


def _word(name: str, value: Any, field: Field | None, tuned: bool) -> str:
  """A field as its label says it; a truth without one by its name."""
  if field is not None and field.label is not None:
    return field.label.words(value) if tuned or not field.label.tuned else ''
  return name if value is True else ''
