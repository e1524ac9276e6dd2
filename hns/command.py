"""Absl flags and one-line errors for all commands."""

import contextlib
import sys
from collections.abc import Iterator

from absl import flags

from hns import streams
from hns.errors import InputError


def parse(
  words: list[str],
  values: flags.FlagValues,
  description: str | None,
  count: int | None = 0,
) -> list[str]:
  """Reads flags and returns the other words; --help prints help and exits.

  Args:
    words: a command line, starting with the program.
    values: the flags of this call, which are set. They are not absl's global
      ones, because a process may call a command again.
    description: of the command, for --help; None under `python -OO`.
    count: required number of other words; None for any.

  Raises:
    flags.Error: an unknown flag or a wrong value.
    InputError: too many or too few other words.
  """
  flags.DEFINE_boolean('help', False, 'show this', values, short_name='h')
  try:
    rest = values(words)[1:]
  finally:  # also where a flag is missing or wrong
    if values['help'].value:
      help_text = values.get_help(include_special_flags=False)
      streams.show('\n'.join(filter(None, [description, help_text])))
      sys.exit()
  if count is not None and rest[count:]:
    raise InputError(f'{rest[count]!r} is not a flag: write --FLAG=VALUE')
  if len(rest) < (count or 0):
    raise InputError('an argument is missing, a file or a folder: see --help')
  return rest


@contextlib.contextmanager
def one_line(*kinds: type[Exception]) -> Iterator[None]:
  """Ends the process with one line for an `InputError` or an error of `kinds`.

  Other errors are bugs, perhaps in the user's own code, and keep their
  traceback.
  """
  try:
    yield
  except flags.Error as error:
    sys.exit(f'hns: {" ".join(str(error).splitlines())}')
  except (InputError, *kinds) as error:
    sys.exit(f'hns: {error}')
