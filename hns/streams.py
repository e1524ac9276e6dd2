"""Standard streams that may be closed, broken or full."""

import contextlib
import os
import select
import sys
from collections.abc import Iterator
from typing import TextIO

from hns.errors import InputError


class Lenient:
  """A text stream that loses what it cannot write."""

  def __init__(self, stream: TextIO):
    self.stream = stream

  def write(self, text: str) -> int:
    with contextlib.suppress(OSError, ValueError):
      self.stream.write(text)
    return len(text)

  def flush(self) -> None:
    with contextlib.suppress(OSError, ValueError):
      self.stream.flush()

  def __getattr__(self, name: str) -> object:
    return getattr(self.stream, name)


@contextlib.contextmanager
def lenient() -> Iterator[None]:
  """Nothing that is said on stderr ends what is inside."""
  stream = sys.stderr or open(os.devnull, 'w')
  with contextlib.redirect_stderr(Lenient(stream)):
    yield


def open_closed() -> None:
  """Opens the null device in place of standard streams that are closed.

  Else the next file that is opened, such as a run's metrics, takes the place
  of one, and what is said there is written into it.
  """
  for number in range(3):
    try:
      os.fstat(number)
    except OSError:
      os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
  for name, mode in (('stdin', 'r'), ('stdout', 'w'), ('stderr', 'w')):
    if getattr(sys, name) is None:
      setattr(sys, name, open(os.devnull, mode))


def say(text: str) -> None:
  """Writes a line to stderr, even in a signal's handler.

  Not print: the signal may have come in the middle of one. The line is lost
  where it cannot be written, or not at once.
  """
  with contextlib.suppress(OSError, ValueError):
    if select.select([], [2], [], 0)[1]:
      os.write(2, text.encode(errors='replace'))


def show(text: str) -> None:
  """Prints to stdout; raises `InputError` if it cannot be written."""
  if hasattr(sys.stdout, 'reconfigure'):
    sys.stdout.reconfigure(errors='backslashreplace')
  try:
    print(text, flush=True)
  except (OSError, ValueError) as error:
    # Python writes once more at its end, and would say so with a trace.
    with open(os.devnull, 'w') as nothing, contextlib.suppress(OSError):
      os.dup2(nothing.fileno(), 1)
    cause = getattr(error, 'strerror', None) or error
    raise InputError(
      f'stdout: cannot be written ({cause}); what a run found is in its folder'
    ) from error
