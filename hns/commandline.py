"""Command lines of a config file, fields of it to change, and flags.

  --config=FILE --config.FIELD=VALUE ... --FLAG=VALUE ...

Every mistake ends in one line that says what would be right.
"""

import difflib
import pathlib
import re
import runpy
import textwrap
import traceback
from typing import Any, NamedTuple

from absl import flags as absl
from ml_collections import config_flags

from hns import config as configs
from hns.errors import InputError, invalid

_CONFIGS = pathlib.Path(__file__).parents[1] / 'configs'
_CONFIG = (
  'a file of configs/, default digits.py, or FILE:CASE of one that has cases; '
  '--config.FIELD=VALUE changes a field'
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


_DEFINE = {
  str: absl.DEFINE_string,
  int: absl.DEFINE_integer,
  bool: absl.DEFINE_bool,
}


def parse(words: list[str], known: Flags) -> Given:
  """What the words ask for, read by absl.

  Args:
    words: a command line, the program's first.
    known: by flag, its default, which gives its type, and what it is.

  Raises:
    InputError: a flag, a field or a value that cannot be, or a broken file.
  """
  file = _file(words)
  fields = configs.leaves(read(file).to_dict())
  for word in words:
    name = re.match(r'--?(?:no)?config\.([^=]+)', word)
    if name and name[1] not in fields:
      raise configs.unknown(name[1], read(file))
  values = absl.FlagValues()
  config = config_flags.DEFINE_config_file(
    'config', file, flag_values=values, sys_argv=words
  )
  for name, (default, text) in known.items():
    _DEFINE[type(default)](name, default, text, flag_values=values)
  asked = absl.DEFINE_bool('help', False, '', values, short_name='h')
  try:
    stray = values(words)[1:]
  except absl.Error as error:
    raise _refused(error, fields, known) from error
  if stray:
    raise InputError(f'{stray[0]!r} is not a flag: write --config.FIELD=VALUE')
  return Given(
    file,
    config.value,
    config_flags.get_override_values(values['config']),
    {name: values[name].value for name in known},
    asked.value,
  )


def _file(words: list[str]) -> str:
  """The config file that the words name."""
  for word, following in zip(words[1:], [*words[2:], '']):
    name, is_value, value = word.partition('=')
    if name in ('--config', '-config'):
      return value if is_value else following
  return str(_CONFIGS / 'digits.py')


def _refused(
  error: absl.Error, fields: dict[str, Any], known: Flags
) -> InputError:
  """What absl would not take, and what would be right."""
  if isinstance(error, absl.UnrecognizedFlagError):
    name = error.flagname
    near = difflib.get_close_matches(name, [*known, 'help'], 1)
    near += [f'config.{f}' for f in difflib.get_close_matches(name, fields, 1)]
    remedy = f'did you mean --{near[0]}?' if near else '--help lists all'
    return InputError(f'--{name}: no such flag; {remedy}')
  said = str(error).split('\n')[0]
  wrong = re.match(r'flag --config\.([^=]+)=(.*?): ', said)
  if not wrong:
    return InputError(said)
  name, value = wrong.groups()
  return invalid(f'config.{name}', value, configs.takes(fields[name]))


def read(path: str) -> Any:
  """The ConfigDict that `get_config()` of a config file returns.

  FILE.py:CASE is what its `get_config('CASE')` returns.

  Raises:
    InputError: no such file, no `get_config`, or what went wrong in it, where.
  """
  file, case = configs.case_of(path)
  if not pathlib.Path(file).is_file():
    there = ', '.join(sorted(p.name for p in _CONFIGS.glob('*.py')))
    raise invalid('config', path, f'no such file; {_CONFIGS} holds {there}')
  try:
    names = runpy.run_path(file)
    given = [case] if case else []
    config = names['get_config'](*given) if 'get_config' in names else None
  except InputError as error:
    raise invalid('config', path, str(error)) from error
  except Exception as error:
    frames = traceback.extract_tb(error.__traceback__)
    line = [f'line {f.lineno}: ' for f in frames if f.filename == file][-1:]
    what = f'{type(error).__name__}: {error}'.split('\n')[0]
    raise invalid('config', path, ''.join(line) + what) from error
  if not hasattr(config, 'to_dict'):
    raise invalid(
      'config',
      path,
      'needs a get_config() that returns hns.config.base(...)',
    )
  return config


def help_of(command: str, given: Given, known: Flags) -> str:
  """The flags, and every field: its value in this config, and what it is."""
  texts = configs.texts()
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
        _line(f'{name}={fields[name]}', texts.get(name.split('.')[-1], ''))
        for name in named
      ),
    ]
  )


def _line(name: str, text: str) -> str:
  return textwrap.fill(
    text, 80, initial_indent=f'  {name:36} ', subsequent_indent=' ' * 39
  )
