"""What all commands share: absl flags, and one line for a user's mistake."""

import contextlib
import sys
from collections.abc import Iterator

from absl import flags

from hns import streams
from hns.errors import InputError


def parse(
  words: list[str],
  values: flags.FlagValues,
  about: str | None,
  count: int | None = 0,
) -> list[str]:
  """Reads flags and returns the other words; --help explains all and ends.

  Args:
    words: a command line, the program's first.
    values: the flags of this call, which get their values: not absl's global
      ones, since a process may call a command again.
    about: what --help says of the command, nothing under `python -OO`.
    count: how many other words there must be; None for any number.

  Raises:
    flags.Error: a flag or a value that cannot be.
    InputError: too many or too few other words.
  """
  flags.DEFINE_boolean('help', False, 'explain this', values, short_name='h')
  try:
    rest = values(words)[1:]
  finally:  # also where a flag is missing or wrong
    if values['help'].value:
      explained = values.get_help(include_special_flags=False)
      streams.show('\n'.join(filter(None, [about, explained])))
      sys.exit()
  if count is not None and rest[count:]:
    raise InputError(f'{rest[count]!r} is not a flag: write --FLAG=VALUE')
  if len(rest) < (count or 0):
    raise InputError('a file or a folder is missing: --help says which')
  return rest


@contextlib.contextmanager
def one_line(*kinds: type[Exception]) -> Iterator[None]:
  """Ends the process with what a user's mistake, or an error of `kinds`, says.

  All else is somebody's bug, perhaps in the user's own code, and keeps its
  traceback.
  """
  try:
    yield
  except flags.Error as error:
    sys.exit(f'hns: {" ".join(str(error).splitlines())}')
  except (InputError, *kinds) as error:
    sys.exit(f'hns: {error}')
