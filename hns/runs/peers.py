"""Waits for all processes of a run before JAX connects them.

When a process is missing, JAX ends the others with a stack trace. So process 0
first listens on the address that JAX will use, waits for the others to connect,
and sends each of them '' or the reason why the run cannot start.
"""

import contextlib
import re
import socket
import time
from typing import NamedTuple

from hns.errors import InputError, invalid

_PAUSE = 0.1  # seconds between two tries to connect
_TIMEOUT = 5.0  # seconds to send or receive a few bytes
_GREETING = b'hns'
_MAX_BYTES = 64  # of a process's first message


class Peers(NamedTuple):
  """The parts of `--distributed=HOST:PORT,PROCESSES,INDEX`."""

  host: str
  port: int
  count: int
  index: int

  @property
  def address(self) -> str:
    """HOST:PORT as in the flag."""
    host = f'[{self.host}]' if ':' in self.host else self.host
    return f'{host}:{self.port}'


def parse(text: str) -> Peers:
  """The peers of a flag; raises `InputError` for a malformed one."""
  form = r'(\[[^\]]+\]|[^\s:,]+):([0-9]{1,9}),([0-9]{1,9}),([0-9]{1,9})'
  match = re.fullmatch(form, text, re.ASCII)
  if not match:
    remedy = 'write auto or HOST:PORT,PROCESSES,INDEX'
    raise invalid('distributed', text, remedy)
  port, count, index = map(int, match.groups()[1:])
  if not 0 < port < 2**16:
    raise invalid('distributed', text, 'the port must be 1 to 65535')
  if count < 1:
    raise invalid('distributed', text, 'there must be at least 1 process')
  if index >= count:
    last = f'the index of {count} processes is 0 to {count - 1}'
    raise invalid('distributed', text, last)
  return Peers(match[1].strip('[]'), port, count, index)


def meet(peers: Peers, seconds: float) -> None:
  """Returns once all processes have connected.

  Args:
    peers: all processes, and which one this is.
    seconds: the longest time to wait.

  Raises:
    InputError: some are missing or inconsistent; the same in all that connect.
  """
  if peers.count > 1:
    problem = (_serve if peers.index == 0 else _connect)(peers, seconds)
    if problem:
      raise InputError(f'distributed={peers.address!r}: {problem}')


def _serve(peers: Peers, seconds: float) -> str:
  """Process 0: waits for all others and sends each the result.

  Returns:
    Why the run cannot start; '' if it can.
  """
  until, connected, problem = time.monotonic() + seconds, {0}, ''
  with contextlib.ExitStack() as stack:
    server = stack.enter_context(_listen(peers))
    connections = []
    while len(connected) < peers.count and not problem:
      server.settimeout(max(until - time.monotonic(), _PAUSE))
      try:
        connection = stack.enter_context(server.accept()[0])
      except TimeoutError:
        break
      connection.settimeout(_TIMEOUT)
      index, count = _read_index(connection)
      if count:
        connections.append(connection)
        problem = _inconsistency(peers, connected, index, count)
        connected.add(index)
    missing = sorted(set(range(peers.count)) - connected)
    problem = problem or _missing(peers, missing, seconds)
    for connection in connections:
      _answer(connection, problem)
  return problem


def _inconsistency(
  peers: Peers, connected: set[int], index: int, count: int
) -> str:
  """Why a process cannot be one of these; '' if it can."""
  if count != peers.count:
    return (
      f'process {index} was started as one of {count} processes, process 0 as '
      f'one of {peers.count}: start all alike'
    )
  if index in connected:
    return f'two processes have the index {index}'
  return ''


def _missing(peers: Peers, indices: list[int], seconds: float) -> str:
  """Which processes are missing, as a sentence; '' for none."""
  if not indices:
    return ''
  names = ', '.join(map(str, indices[:10])) + ', ...' * (len(indices) > 10)
  return (
    f'of {peers.count} processes {len(indices)} did not connect within '
    f'{seconds:g} seconds, those with the index {names}: start them too, or '
    'wait longer with --peers_seconds'
  )


def _listen(peers: Peers) -> socket.socket:
  """Listens as JAX will: on all addresses of this host."""
  both = socket.has_dualstack_ipv6()
  family = socket.AF_INET6 if both else socket.AF_INET
  address = '', peers.port
  try:
    return socket.create_server(address, family=family, dualstack_ipv6=both)
  except OSError as error:
    cause = error.strerror or error
    remedy = f'the port cannot be opened ({cause}): give all another'
    raise invalid('distributed', peers.address, remedy) from error


def _read_index(connection: socket.socket) -> tuple[int, int]:
  """Index and count that a process sends; (0, 0) for another program."""
  with (
    contextlib.suppress(OSError, ValueError),
    connection.makefile('rb') as file,
  ):
    greeting, index, count = file.readline(_MAX_BYTES).split()
    if greeting == _GREETING:
      return int(index), int(count)
  return 0, 0


def _answer(connection: socket.socket, problem: str) -> None:
  with contextlib.suppress(OSError):
    connection.sendall(_GREETING + problem.encode())
    connection.shutdown(socket.SHUT_WR)
    # Wait for the peer to close first: the side that does keeps the port busy.
    connection.recv(1)


def _connect(peers: Peers, seconds: float) -> str:
  """Another process: sends its index and returns the answer of process 0."""
  until = time.monotonic() + seconds
  address = peers.host, peers.port
  while (left := until - time.monotonic()) > 0:
    with contextlib.suppress(OSError):
      with socket.create_connection(address, max(left, _PAUSE)) as connection:
        # Process 0 may have started to wait later than this one.
        connection.settimeout(seconds + 2 * _TIMEOUT)
        introduction = b'%s %d %d\n' % (_GREETING, peers.index, peers.count)
        connection.sendall(introduction)
        with connection.makefile('rb') as file:
          answer = file.read()
        if answer.startswith(_GREETING):
          return answer.removeprefix(_GREETING).decode()
    time.sleep(_PAUSE)
  return _missing(peers, [0], seconds)
