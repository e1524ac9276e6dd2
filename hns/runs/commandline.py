"""Command lines of a config file, fields of it to change, and flags.

  --config=FILE --config.FIELD=VALUE ... --FLAG=VALUE ...

Every mistake ends in one line that says what would be right.
"""

import difflib
import os
import pathlib
import re
import runpy
import textwrap
import traceback
from collections.abc import Iterator
from typing import Any, NamedTuple

import ml_collections

from hns import config as configs
from hns.errors import InputError, invalid, shown
from hns.runs import limits
from hns.values import from_text, takes

_HERE = pathlib.Path(__file__).parents[1]
# A wheel has them in the package; a checkout, beside it.
_PACKED = _HERE / 'configs'
_CONFIGS = _PACKED if _PACKED.is_dir() else _HERE.parent / 'configs'
_NAMES = sorted(path.stem for path in _CONFIGS.glob('*.py'))
_CONFIG = (
  f'one of {", ".join(_NAMES)}, default digits, or a file; NAME:CASE or '
  'FILE:CASE of one that has cases; --config.FIELD=VALUE changes a field'
)

Flags = dict[str, tuple[Any, str]]


class Given(NamedTuple):
  """What a command line asks for.

  Attributes:
    file: the config file's path, with its case.
    config: its ConfigDict, with the fields changed that the words change.
    changed: these fields.
    flags: the value of every flag.
    help: whether to explain and do nothing.
  """

  file: str
  config: Any
  changed: dict[str, Any]
  flags: dict[str, Any]
  help: bool


def parse(words: list[str], known: Flags) -> Given:
  """What the words ask for, in any order; the last of two values counts.

  Args:
    words: a command line, the program's first.
    known: by flag, its default, which gives its type, and what it is.

  Raises:
    InputError: a flag, a field or a value that cannot be, or a broken file.
  """
  file = _file(words[1:])
  config = read(file)
  flags = {name: default for name, (default, _) in known.items()}
  fields = configs.leaves(config.to_dict())
  now = {'config': file, 'help': False, **flags}
  now |= {f'config.{field}': value for field, value in fields.items()}
  given = {}
  for name, text in _pairs(words[1:], now):
    if name not in now:
      raise _no_such(name, now, config)
    given.pop(name, None)  # a dict keeps the place of the first
    given[name] = from_text(name, text, now[name])
  changed = {
    name.removeprefix('config.'): value
    for name, value in given.items()
    if name.startswith('config.')
  }
  for field, value in changed.items():  # in their order: some are linked
    config.update_from_flattened_dict({field: value})
  return Given(
    file,
    config.lock(),
    changed,
    {name: given.get(name, default) for name, default in flags.items()},
    given.get('help', False),
  )


def _file(words: list[str]) -> str:
  """The config file that the words name."""
  found = []
  for word, following in zip(words, [*words[1:], '']):
    name, is_value, value = word.partition('=')
    if name in ('--config', '-config'):
      found.append(value if is_value else following)
  if len(found) > 1:
    raise invalid('config', found[1], f'{found[0]!r} is given too: leave one')
  return locate(found[0]) if found else str(_CONFIGS / 'digits.py')


def _pairs(words: list[str], now: dict[str, Any]) -> Iterator[tuple[str, str]]:
  """The name and the text of every flag, known or not.

  Args:
    words: --NAME=TEXT or --NAME TEXT; for a truth also --NAME and --noNAME.
    now: the values of flags and fields where nothing is given.
  """
  rest = iter(words)
  for word in rest:
    parts = re.fullmatch('--?([^-=][^=]*)(=.*)?', word, re.DOTALL)
    if not parts:
      raise InputError(f'{word!r} is not a flag: write --config.FIELD=VALUE')
    name, text = parts.groups()
    name = {'h': 'help'}.get(name, name)
    if text is not None:
      yield name, text[1:]
    elif isinstance(now.get(name), bool):
      yield name, 'True'
    elif isinstance(now.get(name[2:]), bool) and name.startswith('no'):
      yield name[2:], 'False'
    else:
      yield name, _following(name, rest, now)


def _following(name: str, rest: Iterator[str], now: dict[str, Any]) -> str:
  """The word behind a flag, its value; '' behind one that is not known."""
  text = next(rest, '--') if name in now else ''
  if text.startswith('--'):
    raise InputError(f'Missing value for flag --{name}: {takes(now[name])}')
  return text


def _no_such(name: str, now: dict[str, Any], config: Any) -> InputError:
  """The error for a flag that is not there."""
  field = re.match(r'(?:no)?config\.(.*)', name, re.DOTALL)
  if field and f'config.{field[1]}' not in now:
    return configs.unknown(field[1], config)
  near = difflib.get_close_matches(name, now, 1)
  remedy = f'did you mean --{near[0]}?' if near else '--help lists all'
  return InputError(f'--{shown(name)}: no such flag; {remedy}')


def locate(path: str) -> str:
  """The path of a config file that may be named: mnist, benchmark:CASE."""
  name, colon, case = path.partition(':')
  if name in _NAMES and not os.path.isfile(path):
    return f'{_CONFIGS / name}.py{colon}{case}'
  return path


def read(path: str) -> Any:
  """The ConfigDict that `get_config()` of a config file returns.

  FILE.py:CASE is what its `get_config('CASE')` returns; a file of configs/ may
  be named without its folder and ending.

  Raises:
    InputError: no such file, no `get_config`, or what went wrong in it, where.
  """
  file, case = configs.case_of(locate(path))
  if not os.path.isfile(file):
    there = ', '.join(f'{name}.py' for name in _NAMES)
    remedy = f'no such file; {_CONFIGS} holds {there}: their names will do'
    raise invalid('config', path, remedy)
  try:
    names = runpy.run_path(file)
    given = [case] if case else []
    config = names['get_config'](*given) if 'get_config' in names else None
    if isinstance(config, ml_collections.ConfigDict):
      limits.check_types(config)
  except InputError as error:
    raise invalid('config', path, str(error)) from error
  except Exception as error:
    frames = traceback.extract_tb(error.__traceback__)
    line = [f'line {f.lineno}: ' for f in frames if f.filename == file][-1:]
    what = f'{type(error).__name__}: {error}'.split('\n')[0]
    raise invalid('config', path, ''.join(line) + what) from error
  if type(config) is not ml_collections.ConfigDict:  # nor a frozen one
    remedy = 'needs a get_config() that returns hns.config.base(...)'
    raise invalid('config', path, remedy)
  return config


def help_of(command: str, given: Given, known: Flags) -> str:
  """The flags, and every field: its value in this config, and what it is."""
  texts = {name: field.help() for name, field in configs.fields().items()}
  fields = configs.leaves(given.config.to_dict())
  order = {name: i for i, name in enumerate(texts)}
  named = sorted(fields, key=lambda name: order.get(name, len(order)))
  return '\n'.join(
    [
      f'{command} [--config=FILE] [--config.FIELD=VALUE ...] [FLAG]',
      _line('--config', _CONFIG),
      *(_line(f'--{name}', text) for name, (_, text) in known.items()),
      f'fields, with their values in {given.file}:',
      *(
        _line(f'{name}={shown(fields[name])}', texts.get(name, ''))
        for name in named
      ),
    ]
  )


def _line(name: str, text: str) -> str:
  return textwrap.fill(
    text, 80, initial_indent=f'  {name:36} ', subsequent_indent=' ' * 39
  )
