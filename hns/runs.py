"""Runs on disk: read, packed into one file, grouped by what they share."""

import collections
import gzip
import json
import pathlib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from hns.errors import invalid


class Saved(NamedTuple):
  """A run on disk: its folder, its config.json and its metrics."""

  folder: pathlib.Path
  about: dict[str, Any]
  rows: list[dict[str, Any]]


def read(workdir: str | pathlib.Path) -> list[dict[str, Any]]:
  """The rows of a run's `metrics.jsonl`; a last line cut short is left out."""
  text = (pathlib.Path(workdir) / 'metrics.jsonl').read_text()
  return [json.loads(line) for line in text.split('\n')[:-1]]


def load(paths: list[str]) -> tuple[list[Saved], list[str]]:
  """Runs, and what of the paths holds no evaluated round, said.

  Args:
    paths: folders of runs, folders that hold such, or files from `pack`.
  """
  found, skipped = [], []
  for path in map(pathlib.Path, paths):
    if path.is_file():
      try:
        found += _unpack(path)
      except gzip.BadGzipFile:
        skipped.append(f'{path}: neither a folder nor a file of --pack')
      continue
    inside = [p.parent for p in sorted(path.glob('*/config.json'))]
    alone = (path / 'config.json').exists() or not inside
    for folder in [path] if alone else inside:
      run = _load(folder)
      if run:
        found.append(run)
      else:
        skipped.append(f'{folder}: no evaluated round')
  return found, skipped


def _unpack(path: pathlib.Path) -> list[Saved]:
  with gzip.open(path, 'rt') as file:
    lines = [json.loads(line) for line in file]
  return [Saved(pathlib.Path(name), *rest) for name, *rest in lines]


def _load(folder: pathlib.Path) -> Saved | None:
  try:
    about = json.loads((folder / 'config.json').read_text())
    rows = read(folder)
  except (FileNotFoundError, NotADirectoryError):
    return None
  return Saved(folder, about, rows) if rows else None


def pack(runs: list[Saved], path: pathlib.Path) -> None:
  """Writes runs as one file, a line each, without lists in their rows."""
  # No time in the header: the same runs give the same bytes.
  with open(path, 'wb') as raw, gzip.GzipFile('', 'wb', 9, raw, 0) as file:
    for folder, about, rows in runs:
      flat = [
        {k: v for k, v in row.items() if not isinstance(v, list)}
        for row in rows
      ]
      file.write(json.dumps([folder.name, about, flat]).encode() + b'\n')


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
  rows: tuple[list[dict[str, Any]], ...]


def group(runs: list[Saved]) -> list[Group]:
  """Runs that differ in their seed alone, together."""
  found = collections.defaultdict(list)
  for folder, about, rows in runs:
    config = dict(about['config'])
    seed = config.pop('seed')
    told = about['weights_downloaded'], about.get('layers', {}), rows
    key = json.dumps(config, sort_keys=True)
    found[key].append((seed, folder, *told))
  groups = []
  for key, alike in found.items():
    config = json.loads(key)
    ordered = zip(*sorted(alike, key=lambda run: run[:2]))
    fixed = _words(config, tuned=False)
    chosen = tuple(word for word in _words(config) if word not in fixed)
    names = label(config), label(config, tuned=False)
    groups.append(Group(*names, chosen, config, *ordered))
  return _told_apart(groups)


def _told_apart(groups: list[Group]) -> list[Group]:
  """Groups of one dataset and label, with the fields added that differ."""
  alike = collections.defaultdict(list)
  for g in groups:
    alike[g.label, g.config['dataset']].append(leaves(g.config))

  def renamed(g):
    peers, mine = alike[g.label, g.config['dataset']], leaves(g.config)
    own = [
      name for name in mine if any(p.get(name) != mine[name] for p in peers)
    ]
    words = ''.join(f', {name}={mine[name]}' for name in own)
    return g._replace(label=g.label + words, variant=g.variant + words)

  return [renamed(g) for g in groups]


def leaves(held: dict, prefix: str = '') -> dict[str, Any]:
  """Fields by their whole names, those of tables as TABLE.FIELD."""
  found = {}
  for name, value in held.items():
    inner = isinstance(value, dict)
    found |= (
      leaves(value, f'{prefix}{name}.') if inner else {prefix + name: value}
    )
  return found


def label(config: dict[str, Any], tuned: bool = True) -> str:
  """A method and its variant, in a few words.

  Args:
    config: of a run.
    tuned: whether the optimiser and the kept share are said too.
  """
  name, words = config['algorithm'], _words(config, tuned)
  return f'{name} ({", ".join(words)})' if words else name


def _words(config: dict[str, Any], tuned: bool = True) -> list[str]:
  name = config['algorithm']
  table = config.get(name, {})
  upload = table.get('upload')
  words = ['paper' if upload == 'signs' else upload] if upload else []
  words += ['{0, 1}'] if table.get('gate') == 'binary' else []
  words += ['adam'] if tuned and table.get('optimizer') == 'adam' else []
  words += [f'{b} bits up' for b in [table.get('upload_bits')] if b]
  words += [w for w in ('carry', 'feedback', 'pruned') if table.get(w)]
  words += [f'{b} down' for b in [table.get('download_bits')] if b]
  words += [f'keeps {t:g}' for t in [table.get('target')] if t and tuned]
  if name.startswith('hidenseek') or table.get('pruned'):
    words.append(f'density {config["density"]:g}')
    words += [p for p in [config.get('pruning')] if p not in (None, 'synflow')]
    words += ['single-shot'] * (config.get('pruning_steps') == 1)
  return words
