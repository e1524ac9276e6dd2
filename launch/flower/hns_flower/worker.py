"""A client's process that stays: Flower starts a new one for every message.

A ClientApp hands a message on to it, through a socket on this machine, and
starts it if it is not there. So a round does not wait for imports, pruning and
compilation. It ends when nothing was asked of it for a while.
"""

import contextlib
import hashlib
import os
import pathlib
import shlex
import socket
import stat
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from typing import NamedTuple

from absl import flags as absl_flags

from hns.remote.messages import Order, Reply

_IDLE = 1800.0  # seconds
_START = 600.0  # that a worker may take to build its client
_POLL = 0.05


class Who(NamedTuple):
  """Whose worker it is.

  Attributes:
    flags: of the run.
    client: its id.
    folder: where it keeps its state.
  """

  flags: str
  client: int
  folder: str


def ask(who: Who, order: Order | None) -> Reply | dict[str, int]:
  """What the worker answers to an order, or to None: who it is.

  Raises:
    RuntimeError: it cannot start; with what it said.
  """
  address, last, started = _address(who), time.monotonic() + _START, None
  while True:
    try:
      with _connected(address) as connection:
        connection.send(order)
        return connection.recv()
    except (OSError, EOFError):
      if started is None:
        started = _start(who)
      elif started.poll() not in (None, 0) or time.monotonic() > last:
        log = _log(who).read_text(errors='replace').strip()
        raise RuntimeError(f'the worker ended: {log[-2000:]}') from None
      time.sleep(_POLL)


def _connected(address: str) -> Connection:
  with socket.socket(socket.AF_UNIX) as there:
    there.connect(address)
    return Connection(there.detach())


def _start(who: Who) -> subprocess.Popen:
  pathlib.Path(who.folder).mkdir(parents=True, exist_ok=True)
  here = str(pathlib.Path(__file__).parents[1])
  paths = [here, os.environ.get('PYTHONPATH', '')]
  with _log(who).open('w') as log:
    return subprocess.Popen(
      [sys.executable, '-m', 'hns_flower.worker', *map(str, who)],
      env=os.environ | {'PYTHONPATH': os.pathsep.join(filter(None, paths))},
      stdin=subprocess.DEVNULL,
      stdout=log,
      stderr=log,
    )


def _log(who: Who) -> pathlib.Path:
  return pathlib.Path(who.folder) / 'worker.log'


def _address(who: Who) -> str:
  """Of the socket; the name is short, since the system bounds it."""
  folder = str(pathlib.Path(who.folder).resolve())
  name = hashlib.sha256(repr((*who, folder, os.getuid())).encode()).hexdigest()
  return str(_private_folder() / name[:16])


def _private_folder() -> pathlib.Path:
  """Of sockets, which nobody else may enter; raises `RuntimeError` if it can.

  What comes out of a socket there is trusted.
  """
  folder = pathlib.Path(tempfile.gettempdir()) / f'hns-{os.getuid()}'
  folder.mkdir(mode=0o700, exist_ok=True)
  found = folder.lstat()
  is_own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
  if not is_own or found.st_mode & 0o077:
    raise RuntimeError(f'{folder} is not of this user alone: remove it')
  return folder


def main(words: list[str]) -> None:
  """Answers what ClientApps ask; raises `TimeoutError` when idle."""
  who = Who(words[0], int(words[1]), words[2])

  from hns.remote import client
  from hns.runs import commandline, devices

  command_line = ['hns', *shlex.split(who.flags)]
  config = commandline.parse(command_line, absl_flags.FlagValues(), None).config
  devices.start()
  with devices.standard_settings():
    member = client.join(config, who.client, who.folder)
    about = client.about(member)
    with socket.socket(socket.AF_UNIX) as listener:
      _listen(listener, _address(who))
      while True:
        there, _ = listener.accept()
        with (
          contextlib.suppress(EOFError, ConnectionError),  # who asked is gone
          Connection(there.detach()) as connection,
        ):
          order = connection.recv()
          reply = client.respond(member, order) if order else about
          connection.send(reply)


def _listen(listener: socket.socket, address: str) -> None:
  """Makes the socket, which only this user can reach."""
  pathlib.Path(address).unlink(missing_ok=True)  # of a worker that was killed
  os.umask(0o077)
  listener.bind(address)
  listener.listen()
  listener.settimeout(_IDLE)


if __name__ == '__main__':
  with contextlib.suppress(TimeoutError):
    main(sys.argv[1:])
