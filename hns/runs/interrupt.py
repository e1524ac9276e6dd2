"""Signals that stop a run after the round in progress."""

import contextlib
import signal
import threading
from collections.abc import Iterator

from hns import streams


class Interrupted(KeyboardInterrupt):
  """A run was stopped and saved; the message says how to continue it.

  Attributes:
    signal: the number of the signal.
  """

  def __init__(self, message: str, signal: int):
    super().__init__(message)
    self.signal = signal


@contextlib.contextmanager
def caught() -> Iterator[list[int]]:
  """Yields a list that receives the first ctrl-C, SIGTERM or SIGHUP.

  A second signal has its previous effect. SIGHUP stays ignored where it was,
  as under nohup. Outside the main thread, where Python handles no signals, the
  list stays empty.
  """
  received = []
  if threading.current_thread() is not threading.main_thread():
    yield received
    return
  numbers = [signal.SIGINT, signal.SIGTERM]
  if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
    numbers.append(signal.SIGHUP)
  # A handler not installed from Python reads as None and cannot be restored.
  before = {n: signal.getsignal(n) or signal.SIG_DFL for n in numbers}

  def restore():
    for number, handler in before.items():
      signal.signal(number, handler)

  def handle(number, frame):
    received.append(number)
    restore()
    streams.write_stderr(
      '\nhns: stopping after this round; again stops at once\n'
    )

  for number in numbers:
    signal.signal(number, handle)
  try:
    yield received
  finally:
    restore()
