"""Processes of one run find each other, before JAX connects them.

JAX itself ends a process with a trace when a peer does not come. Here process
0 listens where JAX will, hears from every other, and tells all of them who is
missing.
"""

import contextlib
import re
import socket
import time
from typing import NamedTuple

from hns.errors import InputError, invalid

_PAUSE = 0.1  # seconds between two tries to connect
_TALK = 5.0  # seconds that a few bytes may take
_WORD = b'hns'
_LENGTH = 64  # at most, bytes of what a process tells


class Peers(NamedTuple):
  """What `--distributed=HOST:PORT,PROCESSES,INDEX` says."""

  host: str
  port: int
  count: int
  index: int

  @property
  def address(self) -> str:
    """HOST:PORT as it was given."""
    host = f'[{self.host}]' if ':' in self.host else self.host
    return f'{host}:{self.port}'


def parse(text: str) -> Peers:
  """The peers of a flag; raises `InputError` unless they can be."""
  form = r'(\[[^\]]+\]|[^\s:,]+):([0-9]{1,9}),([0-9]{1,9}),([0-9]{1,9})'
  found = re.fullmatch(form, text, re.ASCII)
  if not found:
    remedy = 'write auto or HOST:PORT,PROCESSES,INDEX'
    raise invalid('distributed', text, remedy)
  port, count, index = map(int, found.groups()[1:])
  if not 0 < port < 2**16:
    raise invalid('distributed', text, 'the port must be 1 to 65535')
  if count < 1:
    raise invalid('distributed', text, 'there must be at least 1 process')
  if index >= count:
    last = f'the index of {count} processes is 0 to {count - 1}'
    raise invalid('distributed', text, last)
  return Peers(found[1].strip('[]'), port, count, index)


def meet(peers: Peers, seconds: float) -> None:
  """Returns once all processes are there.

  Args:
    peers: who they are.
    seconds: to wait for them.

  Raises:
    InputError: some did not come, or do not fit; the same in all that came.
  """
  if peers.count > 1:
    said = (_hear if peers.index == 0 else _tell)(peers, seconds)
    if said:
      raise InputError(f'distributed={peers.address!r}: {said}')


def _hear(peers: Peers, seconds: float) -> str:
  """Process 0: takes all others in, and answers each; '' if all fit."""
  until, came, wrong = time.monotonic() + seconds, {0: None}, ''
  with contextlib.ExitStack() as opened:
    server = opened.enter_context(_listen(peers))
    talks = []
    while len(came) < peers.count and not wrong:
      server.settimeout(max(until - time.monotonic(), _PAUSE))
      try:
        talk = opened.enter_context(server.accept()[0])
      except TimeoutError:
        break
      talk.settimeout(_TALK)
      index, count = _introduced(talk)
      if count:
        talks.append(talk)
        wrong = _unfit(peers, came, index, count)
        came[index] = talk
    missing = sorted(set(range(peers.count)) - came.keys())
    said = wrong or _missing(peers, missing, seconds)
    for talk in talks:
      _answer(talk, said)
  return said


def _unfit(peers: Peers, came: dict, index: int, count: int) -> str:
  """Why a process cannot be one of these; '' if it can."""
  if count != peers.count:
    return (
      f'process {index} was told of {count} processes, process 0 of '
      f'{peers.count}: start all alike'
    )
  return f'two processes have the index {index}' if index in came else ''


def _missing(peers: Peers, indices: list[int], seconds: float) -> str:
  names = ', '.join(map(str, indices[:10])) + ', ...' * (len(indices) > 10)
  if not indices:
    return ''
  return (
    f'of {peers.count} processes {len(indices)} did not come within '
    f'{seconds:g} seconds, those with the index {names}: start them too, or '
    'wait longer with --peers_seconds'
  )


def _listen(peers: Peers) -> socket.socket:
  """Listens where JAX will: on all addresses of this host."""
  both = socket.has_dualstack_ipv6()
  family = socket.AF_INET6 if both else socket.AF_INET
  where = '', peers.port
  try:
    return socket.create_server(where, family=family, dualstack_ipv6=both)
  except OSError as error:
    cause = error.strerror or error
    remedy = f'the port cannot be opened ({cause}): give all another'
    raise invalid('distributed', peers.address, remedy) from error


def _introduced(talk: socket.socket) -> tuple[int, int]:
  """Index and count that a process tells; (0, 0) for a stranger."""
  with contextlib.suppress(OSError, ValueError), talk.makefile('rb') as file:
    word, index, count = file.readline(_LENGTH).split()
    if word == _WORD:
      return int(index), int(count)
  return 0, 0


def _answer(talk: socket.socket, said: str) -> None:
  with contextlib.suppress(OSError):
    talk.sendall(_WORD + said.encode())
    talk.shutdown(socket.SHUT_WR)
    talk.recv(1)  # until it closes: who closes first keeps the port taken


def _tell(peers: Peers, seconds: float) -> str:
  """Another process: tells its index, and returns what process 0 answers."""
  until = time.monotonic() + seconds
  while (left := until - time.monotonic()) > 0:
    with contextlib.suppress(OSError):
      where = peers.host, peers.port
      with socket.create_connection(where, max(left, _PAUSE)) as talk:
        # Process 0 may have begun to wait just now.
        talk.settimeout(seconds + 2 * _TALK)
        talk.sendall(b'%s %d %d\n' % (_WORD, peers.index, peers.count))
        answer = b''.join(iter(lambda: talk.recv(4096), b''))  # noqa: B023
        if answer.startswith(_WORD):
          return answer.removeprefix(_WORD).decode()
    time.sleep(_PAUSE)
  return _missing(peers, [0], seconds)
