"""Signals that let the round in progress end first."""

import contextlib
import signal
import threading
from collections.abc import Iterator

from hns import streams


class Interrupted(KeyboardInterrupt):
  """A run that ended early and was saved; the message says how to go on.

  Attributes:
    signal: the number of the signal.
  """

  def __init__(self, message: str, signal: int):
    super().__init__(message)
    self.signal = signal


@contextlib.contextmanager
def caught() -> Iterator[list[int]]:
  """Yields a list that gets the first ctrl-C, SIGTERM or SIGHUP.

  A second one acts as it did before. SIGHUP, of a terminal that is closed, is
  left ignored where it was, as under nohup. Outside the main thread, where
  Python catches no signal, the list stays empty.
  """
  got = []
  if threading.current_thread() is not threading.main_thread():
    yield got
    return
  numbers = [signal.SIGINT, signal.SIGTERM]
  if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
    numbers.append(signal.SIGHUP)
  # A handler that is not Python's reads as None and cannot be put back.
  before = {n: signal.getsignal(n) or signal.SIG_DFL for n in numbers}

  def restore():
    for number, handler in before.items():
      signal.signal(number, handler)

  def note(number, frame):
    got.append(number)
    restore()
    streams.say('\nhns: stopping after this round; again stops at once\n')

  for number in numbers:
    signal.signal(number, note)
  try:
    yield got
  finally:
    restore()
