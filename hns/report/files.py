"""Reads and checks `config.json` and `metrics.jsonl` of a run's folder.

The files may have been edited or damaged; errors name the file.
"""

import json
import math
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

from hns.errors import InputError

Row = dict[str, Any]  # a row of metrics.jsonl: numbers by name, None if NaN
RunInfo = dict[str, Any]  # the content of a config.json

# Fields that must be there, and their types.
_RUN_INFO = {'config': dict, 'versions': dict, 'weights_downloaded': int}
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

  A last line without a newline was cut short and is left out. A number that is
  not finite is None.

  Raises:
    InputError: the file cannot be read or is damaged; names file and line.
  """
  path = pathlib.Path(workdir) / 'metrics.jsonl'
  lines = (_content(path) or b'').split(b'\n')[:-1]
  while lines and not lines[-1].strip():
    lines.pop()
  where = lambda number: f'{path}, line {number}'
  return checked_rows(
    (parsed(line, where(n), finite) for n, line in enumerate(lines, 1)), where
  )


def read_run_info(workdir: str | pathlib.Path) -> RunInfo | None:
  """The content of a run's `config.json`; None where there is none.

  Its `config`, `versions`, `weights_downloaded` and `layers` are checked, and
  of the config those fields by which runs are compared.

  Raises:
    InputError: the file cannot be read or is damaged; names it.
  """
  path = pathlib.Path(workdir) / 'config.json'
  content = _content(path)
  if content is None:
    return None
  return checked_run_info(parsed(content, path, _strict), path)


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
    where: the place that an error names.
    number: converts the text of a float, which may be NaN or Infinity.
  """
  if not content.strip():
    raise _damaged(where, 'empty')
  try:
    text = content.decode('utf-8-sig')
    value = json.loads(
      text, parse_float=number, parse_constant=number, parse_int=_whole
    )
    # An escaped half of a surrogate pair could not be printed later.
    json.dumps(value, ensure_ascii=False).encode()
  except UnicodeError as error:
    raise _damaged(where, 'not UTF-8') from error
  except (ValueError, RecursionError) as error:
    raise _damaged(where, f'not JSON: {error}') from error
  return value


def checked_run_info(run_info: Any, where: object) -> RunInfo:
  """The content of a config.json; `InputError` if it is damaged."""
  _check(run_info, _RUN_INFO, where)
  config = run_info['config']
  _check(config, _CONFIG, where)
  for name in {config['algorithm'], 'hidenseek'} & config.keys():
    _check(config, {name: dict}, where)
    if config[name].get('target') is not None:
      _check(config[name], {'target': float}, where)
  layers = run_info.get('layers', {})
  _check({'layers': layers}, {'layers': dict}, where)
  for name, pair in layers.items():
    whole = type(pair) is list and [type(x) for x in pair] == [int, int]
    if not whole or pair[1] < 1:
      raise _damaged(where, f'layers.{name!r:.40} is not two whole numbers')
  return run_info


def checked_rows(rows: Iterable[Any], where: Callable[[int], str]) -> list[Row]:
  """The rows of a metrics.jsonl; `InputError` if one is damaged.

  Args:
    rows: what the lines hold.
    where: the place that an error names, for the number of a row, from 1.
  """
  checked, last = [], 0
  for number, row in enumerate(rows, 1):
    _check(row, _ROW, where(number))
    for name, value in row.items():
      is_list = name == 'client_accuracies' and type(value) is list
      numbers = value if is_list else [value]
      if any(type(x) not in (int, float, type(None)) for x in numbers):
        what = f'{name!r:.40} is {_brief(value)}, not a number'
        raise _damaged(where(number), what)
    if row['round'] <= last:
      raise _damaged(where(number), f'round {row["round"]} follows {last}')
    last = row['round']
    checked.append(row)
  return checked


def _check(table: Any, kinds: dict[str, type | None], where: object) -> None:
  """Raises `InputError` unless a table has these fields of these types.

  None stands for any type.
  """
  if type(table) is not dict:
    raise _damaged(where, f'{_brief(table)} is not a table')
  for name, kind in kinds.items():
    if name not in table:
      raise _damaged(where, f'{name} is missing')
    allowed = (int, float) if kind is float else (kind,)
    if kind and type(table[name]) not in allowed:
      what = f'{name} is {_brief(table[name])}, not {_KINDS[kind]}'
      raise _damaged(where, what)


def _brief(value: Any) -> str:
  text = json.dumps(value)
  return text if len(text) < 30 else f'{text[:30]}...'
