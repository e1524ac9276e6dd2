"""Standard streams that may be closed, broken or full."""

import contextlib
import os
import select
import sys
from collections.abc import Iterator
from typing import TextIO

from hns.errors import InputError


class Lenient:
  """A text stream that drops what it cannot write."""

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
  """Ignores errors of writing to stderr."""
  stream = sys.stderr or open(os.devnull, 'w')
  with contextlib.redirect_stderr(Lenient(stream)):
    yield


def open_closed() -> None:
  """Opens the null device in place of standard streams that are closed.

  Otherwise the next file opened, such as a run's metrics, would get the number
  of a standard stream, and messages would be written into it.
  """
  for number in range(3):
    try:
      os.fstat(number)
    except OSError:
      os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
  for name, mode in (('stdin', 'r'), ('stdout', 'w'), ('stderr', 'w')):
    if getattr(sys, name) is None:
      setattr(sys, name, open(os.devnull, mode))


def write_stderr(text: str) -> None:
  """Writes to stderr, also from a signal handler.

  `print` cannot be used there, as the signal may have interrupted a `print`.
  The text is dropped if it cannot be written at once.
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
    # Python flushes stdout when it exits, and would print a stack trace.
    with open(os.devnull, 'w') as nothing, contextlib.suppress(OSError):
      os.dup2(nothing.fileno(), 1)
    cause = getattr(error, 'strerror', None) or error
    raise InputError(
      f'stdout: cannot be written ({cause}); results of a run are in its folder'
    ) from error
