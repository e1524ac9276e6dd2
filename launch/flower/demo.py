"""A federation of processes on this machine, over the loopback interface.

  python launch/flower/demo.py --clients=5 --config=digits --config.rounds=10

It starts Flower's SuperLink and one SuperNode a client, plays the run, and
prints the table that a simulated run prints. With --certificates=FOLDER, of
certificates.sh, all traffic is encrypted and only clients with a key can join.
The page launch/flower/README.md says how to put it on several machines.
"""

import contextlib
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import NamedTuple

APP = pathlib.Path(__file__).parent
_ENDED = 'Finished task'
_OWN = '--clients=', '--certificates='


class Place(NamedTuple):
  """Where a federation runs.

  Attributes:
    folder: of its logs, its clients' states and Flower's own files.
    port: of the SuperLink; the SuperNodes take the next ones.
    flags: of `hns.main`, the same for all.
    workdir: of the server's run.
    seconds: how long the server waits for the answers of a round.
    certificates: from certificates.sh; None: nothing is encrypted, and any
      client may join.
  """

  folder: pathlib.Path
  port: int
  flags: list[str]
  workdir: pathlib.Path
  seconds: float
  certificates: pathlib.Path | None = None


def _start(place: Place, name: str, words: list[str]) -> subprocess.Popen:
  """A process in a group of its own, which logs to a file of that name."""
  scripts = pathlib.Path(sys.executable).parent
  environment = os.environ | {
    'FLWR_HOME': str(place.folder / 'flwr'),
    'FLWR_TELEMETRY_ENABLED': '0',
    'FLWR_SUPEREXEC_TASK_POLL_INTERVAL': '0.1',
    'PATH': f'{scripts}{os.pathsep}{os.environ["PATH"]}',
  }
  with (place.folder / f'{name}.log').open('a') as log:
    return subprocess.Popen(
      [scripts / words[0], *words[1:]],
      env=environment,
      stdout=log,
      stderr=log,
      start_new_session=True,
    )


def start_server(place: Place) -> subprocess.Popen:
  """The SuperLink, and in it a ServerApp for each run.

  Its database lets it know the SuperNodes again after it was killed.
  """
  words = ['flower-superlink', '--port', str(place.port)]
  words += ['--database', str(place.folder / 'superlink.db')]
  words += [
    '--disable-runtime-dependency-installation',
    *_secured(place, 'server'),
  ]
  if place.certificates:
    words += ['--enable-supernode-auth']
  return _start(place, 'server', words)


def _secured(place: Place, name: str) -> list[str]:
  """Flags of a process that others connect to, with a certificate's name."""
  folder = place.certificates
  if folder is None:
    return ['--insecure']
  return [
    *('--ssl-certfile', str(folder / f'{name}.crt')),
    *('--ssl-keyfile', str(folder / f'{name}.key')),
    *('--ssl-ca-certfile', str(folder / 'authority.crt')),
  ]


def start_client(place: Place, index: int) -> subprocess.Popen:
  """The SuperNode of one client."""
  own = f'client={index} folder="{place.folder / f"client-{index}"}"'
  words = ['--superlink', f'127.0.0.1:{place.port}', '--node-config', own]
  words += ['--port', str(place.port + 1 + index), *_secured(place, 'local')]
  if place.certificates:
    key = place.certificates / f'client-{index}'
    authority = place.certificates / 'authority.crt'
    words += ['--root-certificates', str(authority)]
    words += ['--auth-supernode-private-key', str(key)]
  return _start(place, f'client-{index}', ['flower-supernode', *words])


def _write_address(place: Place) -> None:
  """Tells Flower's command line where the SuperLink is."""
  home, trust = place.folder / 'flwr', 'insecure = true'
  if place.certificates:
    trust = f'root-certificates = "{place.certificates / "authority.crt"}"'
  home.mkdir(exist_ok=True)
  (home / 'config.toml').write_text(
    '[superlink]\ndefault = "here"\n\n'
    f'[superlink.here]\naddress = "127.0.0.1:{place.port}"\n{trust}\n'
  )


def _flwr(place: Place, words: list[str]) -> None:
  """A command for the SuperLink; tries until it is up."""
  for _ in range(60):
    if _start(place, 'submit', ['flwr', *words]).wait() == 0:
      return
    time.sleep(1)
  sys.exit(f'the SuperLink refuses: {log_of(place, "submit")[-2000:]}')


def submit(place: Place) -> None:
  """Tells the SuperLink to play the run."""
  settings = {
    'flags': f'"{shlex.join(place.flags)}"',
    'workdir': f'"{place.workdir}"',
    'seconds': str(float(place.seconds)),
  }
  words = ' '.join(f'{name}={value}' for name, value in settings.items())
  _flwr(place, ['run', str(APP), 'here', '-c', words])


def stop(process: subprocess.Popen) -> None:
  """Ends a process and all that it started, without asking."""
  with contextlib.suppress(ProcessLookupError):
    os.killpg(process.pid, signal.SIGKILL)
  process.wait()


def log_of(place: Place, name: str) -> str:
  """What a process has logged."""
  path = place.folder / f'{name}.log'
  return path.read_text(errors='replace') if path.exists() else ''


@contextlib.contextmanager
def federation(place: Place, clients: int) -> Iterator[dict]:
  """Yields the processes by name, 'server' or a client's id; ends them."""
  place.folder.mkdir(parents=True, exist_ok=True)
  _write_address(place)
  processes = {'server': start_server(place)}
  try:
    for index in range(clients):
      if place.certificates:
        key = str(place.certificates / f'client-{index}.pub')
        _flwr(place, ['supernode', 'register', key, 'here'])
      processes[index] = start_client(place, index)
    submit(place)
    yield processes
  finally:
    for process in processes.values():
      stop(process)


def main(words: list[str]) -> None:
  """Plays a federation and shows the server's log as it grows."""
  signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
  own = dict(w[2:].split('=', 1) for w in words if w.startswith(_OWN))
  count, certificates = int(own.get('clients', 5)), own.get('certificates')
  flags = [w for w in words if not w.startswith(_OWN)]
  flags += [f'--config.num_clients={count}', f'--config.cohort={count}']
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    workdir = pathlib.Path('runs/flower').resolve()
    trusted = pathlib.Path(certificates).resolve() if certificates else None
    place = Place(folder, 8000, flags, workdir, 60, trusted)
    with federation(place, count) as processes:
      _show(place, processes['server'])


def _show(place: Place, server: subprocess.Popen) -> None:
  """Prints the server's log as it grows, until the run has ended."""
  path = place.workdir.with_name(f'{place.workdir.name}.log')
  shown = path.stat().st_size if path.exists() else 0
  has_ended = False
  while not has_ended:
    has_ended = _ENDED in log_of(place, 'server')
    if server.poll() is not None:
      sys.exit(f'the SuperLink has ended: {log_of(place, "server")[-2000:]}')
    if path.exists():
      text = path.read_bytes()
      print(text[shown:].decode(errors='replace'), end='', flush=True)
      shown = len(text)
    time.sleep(0.5)


if __name__ == '__main__':
  main(sys.argv[1:])
