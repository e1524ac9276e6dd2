"""The command line of a config, whose fields are absl flags too.

  --config=FILE --config.FIELD=VALUE ... --FLAG=VALUE ...

Not `ml_collections.config_flags`: it explains no field, takes texts such as nan
and 1_0 for numbers, and turns an error of a config file into one of its flag.
"""

import os
import pathlib
import runpy
from typing import Any, NamedTuple

import ml_collections
from absl import flags

from hns import command
from hns import config as configs
from hns.errors import InputError, invalid
from hns.runs import limits
from hns.values import from_text

_HERE = pathlib.Path(__file__).parents[1]
# A wheel has them in the package; a checkout, beside it.
_PACKED = _HERE / 'configs'
_CONFIGS = _PACKED if _PACKED.is_dir() else _HERE.parent / 'configs'
_NAMES = sorted(path.stem for path in _CONFIGS.glob('*.py'))
_CONFIG = (
  f'one of {", ".join(_NAMES)}, or a file; NAME:CASE or FILE:CASE of one that '
  'has cases; --config.FIELD=VALUE changes a field'
)


class Given(NamedTuple):
  """What a command line says of a config.

  Attributes:
    file: the config file's path, with its case.
    config: its ConfigDict, with the fields changed that the words change.
    changed: these fields, in the order of the words.
  """

  file: str
  config: Any
  changed: dict[str, Any]


class _Field(flags.ArgumentParser):
  """Keeps the texts of fields in their order: of linked ones the last counts.

  They are read later: absl would put the flag before what is said of a value.
  """

  def __init__(self, field: str, texts: dict[str, str]):
    self.field, self.texts = field, texts

  def parse(self, argument: str) -> str:
    self.texts.pop(self.field, None)  # a dict keeps the place of the first
    self.texts[self.field] = argument
    return argument


def parse(
  words: list[str], values: flags.FlagValues, about: str | None
) -> Given:
  """What the words ask for, in any order; the last of two values counts.

  Args:
    words: a command line, the program's first.
    values: the command's own flags, which get their values.
    about: what --help says of the command.

  Raises:
    InputError: a field or a value that cannot be, a word that is no flag, or
      no config file.
    flags.Error: a flag or its value that cannot be.
  """
  flags.DEFINE_string('config', 'digits', _CONFIG, values)
  values(words, known_only=True)  # which fields there are, the file says
  file = locate(values.config)
  config = read(file)
  fields = configs.leaves(config.to_dict())
  texts = _define(fields, file, values)
  try:
    command.parse(words, values, about)
  except flags.UnrecognizedFlagError as error:
    raise _no_such(error, config) from None
  changed = {
    field: from_text(f'config.{field}', text, fields[field])
    for field, text in texts.items()
  }
  for field, value in changed.items():
    config.update_from_flattened_dict({field: value})
  return Given(file, config.lock(), changed)


def _define(
  fields: dict[str, Any], file: str, values: flags.FlagValues
) -> dict[str, str]:
  """Makes a flag of every field; returns where the texts given for them go."""
  known, given = configs.fields(), {}
  for field, value in fields.items():
    text = known[field].help() if field in known else ''
    text += f' (default: {value!a})'
    name, truth = f'config.{field}', isinstance(value, bool)
    parser = _Field(field, given)
    flags.DEFINE(parser, name, None, text, values, None, file, boolean=truth)
  return given


def _no_such(error: flags.UnrecognizedFlagError, config: Any) -> Exception:
  """The error for a flag that is not there."""
  name = error.flagname
  _, is_field, field = name.partition('config.')
  fields = configs.leaves(config.to_dict())
  if is_field and field not in fields:
    return configs.unknown(field, config)
  if name in fields:
    return InputError(f'--{name}: no such flag; did you mean --config.{name}?')
  return error


def locate(path: str) -> str:
  """The path of a config file that may be named: mnist, benchmark:CASE."""
  name, colon, case = path.partition(':')
  if name in _NAMES and not os.path.isfile(path):
    return f'{_CONFIGS / name}.py{colon}{case}'
  return path


def read(path: str) -> Any:
  """The ConfigDict that `get_config()` of a config file returns.

  FILE.py:CASE is what its `get_config('CASE')` returns; a file of configs/ may
  be named without its folder and ending. What else its code raises is the
  user's own.

  Raises:
    InputError: no such file, no `get_config`, or a field that cannot be.
  """
  file, case = configs.case_of(locate(path))
  if not os.path.isfile(file):
    there = ', '.join(f'{name}.py' for name in _NAMES)
    remedy = f'no such file; {_CONFIGS} holds {there}: their names will do'
    raise invalid('config', path, remedy)
  try:
    get_config = runpy.run_path(file).get('get_config', lambda *_: None)
    config = get_config(case) if case else get_config()
    if type(config) is not ml_collections.ConfigDict:  # nor a frozen one
      raise InputError('needs a get_config() that returns hns.config.base(...)')
    limits.check_types(config)
  except InputError as error:
    raise invalid('config', path, str(error)) from error
  return config
