"""The command line of a config: each field is an absl flag.

  --config=FILE --config.FIELD=VALUE ... --FLAG=VALUE ...

`ml_collections.config_flags` is not used because it does not explain fields,
accepts nan and 1_0 as numbers, and hides errors of config files.
"""

import os
import pathlib
import runpy
from typing import Any, NamedTuple

from absl import flags

from hns import command
from hns import config as configs
from hns.errors import InputError, invalid
from hns.runs import limits
from hns.values import ConfigDict, from_text

_HERE = pathlib.Path(__file__).parents[1]
# A wheel has the configs in the package, a checkout beside it.
_PACKED = _HERE / 'configs'
_CONFIGS = _PACKED if _PACKED.is_dir() else _HERE.parent / 'configs'
_NAMES = sorted(path.stem for path in _CONFIGS.glob('*.py'))
_CONFIG = (
  f'one of {", ".join(_NAMES)}, or a file; NAME:CASE or FILE:CASE of one that '
  'has cases; --config.FIELD=VALUE changes a field'
)


class ParsedConfig(NamedTuple):
  """The config that a command line describes.

  Attributes:
    file: the config file's path, with its case.
    config: the file's config with the fields of the command line changed.
    changed: these fields and values, in their order on the command line.
  """

  file: str
  config: ConfigDict
  changed: dict[str, Any]


class _Field(flags.ArgumentParser):
  """Collects the texts of fields in the order of their last occurrence.

  The texts are converted later: an error raised here would start with the flag,
  before the message that names the field.
  """

  def __init__(self, field: str, texts: dict[str, str]):
    self.field, self.texts = field, texts

  def parse(self, argument: str) -> str:
    self.texts.pop(self.field, None)  # else a dict keeps the first position
    self.texts[self.field] = argument
    return argument


def parse(
  words: list[str], values: flags.FlagValues, description: str | None
) -> ParsedConfig:
  """Reads a command line; if a flag is repeated, its last value counts.

  Args:
    words: the command line, starting with the program.
    values: the command's own flags, which are set.
    description: of the command, for --help.

  Raises:
    InputError: an unknown field, a wrong value, a word that is not a flag, or
      no config file.
    flags.Error: an unknown flag or a wrong value of one.
  """
  flags.DEFINE_string('config', 'digits', _CONFIG, values)
  values(words, known_only=True)  # the file determines the other flags
  file = locate(values.config)
  config = read(file)
  fields = configs.leaves(config.to_dict())
  texts = _define(fields, file, values)
  try:
    command.parse(words, values, description)
  except flags.UnrecognizedFlagError as error:
    config.algorithm = texts.get('algorithm', config.algorithm)
    raise _unknown_flag(error, config) from None
  changed = {
    field: from_text(f'config.{field}', text, fields[field])
    for field, text in texts.items()
  }
  for field, value in changed.items():
    config.update_from_flattened_dict({field: value})
  return ParsedConfig(file, config.lock(), changed)


def _define(
  fields: dict[str, Any], file: str, values: flags.FlagValues
) -> dict[str, str]:
  """Defines a flag for every field; returns the dict that gets their texts."""
  known, texts = configs.fields(), {}
  for field, value in fields.items():
    text = known[field].help() if field in known else ''
    text += f' (default: {value!a})'
    name, is_bool = f'config.{field}', isinstance(value, bool)
    parser = _Field(field, texts)
    flags.DEFINE(parser, name, None, text, values, None, file, boolean=is_bool)
  return texts


def _unknown_flag(
  error: flags.UnrecognizedFlagError, config: ConfigDict
) -> Exception:
  """The error for an unknown flag."""
  name = error.flagname
  _, is_field, field = name.partition('config.')
  fields = configs.leaves(config.to_dict())
  if is_field and field not in fields:
    return configs.unknown(field, config)
  if name in fields:
    return InputError(f'--{name}: no such flag; did you mean --config.{name}?')
  return error


def locate(path: str) -> str:
  """The path of a config file or of a name such as mnist or benchmark:CASE."""
  name, colon, case = path.partition(':')
  if name in _NAMES and not os.path.isfile(path):
    return f'{_CONFIGS / name}.py{colon}{case}'
  return path


def read(path: str) -> ConfigDict:
  """The ConfigDict that `get_config()` of a config file returns.

  For FILE.py:CASE that is `get_config('CASE')`. A file of configs/ may be named
  without its folder and suffix. Other errors of its code are not caught.

  Raises:
    InputError: no such file, no `get_config`, or a wrong field.
  """
  file, case = configs.case_of(locate(path))
  if not os.path.isfile(file):
    there = ', '.join(f'{name}.py' for name in _NAMES)
    remedy = f'no such file; write a path, or a name from {_CONFIGS}: {there}'
    raise invalid('config', path, remedy)
  try:
    get_config = runpy.run_path(file).get('get_config', lambda *_: None)
    config = get_config(case) if case else get_config()
    if type(config) is not ConfigDict:  # a frozen one cannot be changed
      raise InputError('needs a get_config() that returns hns.config.base(...)')
    limits.check_types(config)
  except InputError as error:
    raise invalid('config', path, str(error)) from error
  return config
