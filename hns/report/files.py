"""What a run's folder tells, read and checked.

Its `config.json` and `metrics.jsonl` may have been edited or damaged: what
cannot be used is one `InputError` that names the file.
"""

import json
import math
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

from hns.errors import InputError

Row = dict[str, Any]

# What those who read runs rely on.
_ABOUT = {'config': dict, 'versions': dict, 'weights_downloaded': int}
_CONFIG = {
  **dict.fromkeys(('algorithm', 'dataset', 'model', 'pruning'), str),
  **dict.fromkeys(('seed', 'num_clients', 'rounds', 'pruning_steps'), int),
  **dict.fromkeys(('density', 'checkpoint_seconds'), float),
}
_ROW = dict.fromkeys(('round', 'uplink_bytes', 'downlink_bytes'), int)
_ROW |= dict.fromkeys(('personal_accuracy', 'global_accuracy'), None)
_KINDS = {
  dict: 'a table',
  str: 'a text',
  int: 'a whole number',
  float: 'a number',
}


def read(workdir: str | pathlib.Path) -> list[Row]:
  """The rows of a run's `metrics.jsonl`; [] where there is none.

  A last line without its end, cut short, is left out. A number that is not
  finite is None.

  Raises:
    InputError: the file cannot be read or is damaged; names file and line.
  """
  path = pathlib.Path(workdir) / 'metrics.jsonl'
  lines = (_content(path) or b'').split(b'\n')[:-1]
  while lines and not lines[-1].strip():
    lines.pop()
  told = lambda number: f'{path}, line {number}'
  return checked_rows(
    (parsed(line, told(n), finite) for n, line in enumerate(lines, 1)), told
  )


def about(workdir: str | pathlib.Path) -> dict[str, Any] | None:
  """What a run's `config.json` says; None where there is none.

  Checked are `config`, `versions`, `weights_downloaded`, `layers`, and those
  fields of the config by which runs are compared.

  Raises:
    InputError: the file cannot be read or is damaged; names it.
  """
  path = pathlib.Path(workdir) / 'config.json'
  content = _content(path)
  if content is None:
    return None
  return checked_about(parsed(content, path, _strict), path)


def _content(path: pathlib.Path) -> bytes | None:
  """A file's bytes; None where there is none."""
  try:
    if path.exists() and not path.is_file():
      raise _damaged(path, 'not a file')
    return path.read_bytes()
  except (FileNotFoundError, NotADirectoryError):
    return None
  except OSError as error:
    raise _damaged(path, error.strerror or str(error)) from error


def _damaged(where: object, what: str) -> InputError:
  remedy = 'put a whole copy back, or start over in another folder'
  return InputError(f'{where}: cannot be read ({what}): {remedy}')


def finite(text: str) -> float | None:
  """The number of a text, NaN and Infinity included; None if not finite."""
  value = float(text)
  return value if math.isfinite(value) else None


def _strict(text: str) -> float:
  if finite(text) is None:
    raise ValueError(f'{text} is not finite')
  return float(text)


def _whole(text: str) -> int:
  if abs(int(text)) >= 2**63:
    raise ValueError(f'{text:.20} is too large')
  return int(text)


def parsed(
  content: bytes, where: object, number: Callable[[str], float | None]
) -> Any:
  """JSON in UTF-8, with or without a byte order mark.

  Args:
    content: its bytes.
    where: what an error names.
    number: what a float is, by its text, NaN and Infinity included.
  """
  if not content.strip():
    raise _damaged(where, 'empty')
  try:
    text = content.decode('utf-8-sig')
    found = json.loads(
      text, parse_float=number, parse_constant=number, parse_int=_whole
    )
    # An escaped half of a character could not be printed later.
    json.dumps(found, ensure_ascii=False).encode()
  except UnicodeError as error:
    raise _damaged(where, 'not UTF-8') from error
  except (ValueError, RecursionError) as error:
    raise _damaged(where, f'not JSON: {error}') from error
  return found


def checked_about(found: Any, where: object) -> dict[str, Any]:
  """What a config.json holds, checked."""
  _check(found, _ABOUT, where)
  config = found['config']
  _check(config, _CONFIG, where)
  for name in {config['algorithm'], 'hidenseek'} & config.keys():
    _check(config, {name: dict}, where)
    if config[name].get('target') is not None:
      _check(config[name], {'target': float}, where)
  layers = found.get('layers', {})
  _check({'layers': layers}, {'layers': dict}, where)
  for name, pair in layers.items():
    whole = type(pair) is list and [type(x) for x in pair] == [int, int]
    if not whole or pair[1] < 1:
      raise _damaged(where, f'layers.{name!r:.40} is not two whole numbers')
  return found


def checked_rows(rows: Iterable[Any], told: Callable[[int], str]) -> list[Row]:
  """What a metrics.jsonl holds, checked; `told`: the place of a row, from 1."""
  found, last = [], 0
  for number, row in enumerate(rows, 1):
    _check(row, _ROW, told(number))
    for name, value in row.items():
      listed = name == 'client_accuracies' and type(value) is list
      numbers = value if listed else [value]
      if any(type(x) not in (int, float, type(None)) for x in numbers):
        what = f'{name!r:.40} is {_brief(value)}, not a number'
        raise _damaged(told(number), what)
    if row['round'] <= last:
      raise _damaged(told(number), f'round {row["round"]} follows {last}')
    last = row['round']
    found.append(row)
  return found


def _check(found: Any, kinds: dict[str, type], where: object) -> None:
  """Raises `InputError` unless a table has these fields of these types.

  None stands for any type.
  """
  if type(found) is not dict:
    raise _damaged(where, f'{_brief(found)} is not a table')
  for name, kind in kinds.items():
    if name not in found:
      raise _damaged(where, f'{name} is missing')
    allowed = (int, float) if kind is float else (kind,)
    if kind and type(found[name]) not in allowed:
      what = f'{name} is {_brief(found[name])}, not {_KINDS[kind]}'
      raise _damaged(where, what)


def _brief(value: Any) -> str:
  text = json.dumps(value)
  return text if len(text) < 30 else f'{text[:30]}...'
