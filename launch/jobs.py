"""Processes on one machine: a share each, a log, and what they died of."""

import contextlib
import fcntl
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple


class Job(NamedTuple):
  """A command, and the folder that it writes and that gets its log."""

  folder: pathlib.Path
  command: list[str]


class Slot(NamedTuple):
  """A share of the machine: CPU cores, and variables of the environment."""

  cores: tuple[int, ...]
  env: dict[str, str]


class Going(NamedTuple):
  """A job at work, its share, and where in its log it began."""

  job: Job
  process: subprocess.Popen
  slot: Slot
  begin: int


def cores() -> list[int]:
  """The CPU cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return sorted(os.sched_getaffinity(0))
  return list(range(os.cpu_count() or 1))


def gpus() -> list[str]:
  """Names of the NVIDIA GPUs that this process may use."""
  named = os.environ.get('CUDA_VISIBLE_DEVICES')
  if named is not None:
    return [name for name in named.split(',') if name]
  count = len(list(pathlib.Path('/dev').glob('nvidia[0-9]*')))
  return list(map(str, range(count)))


def share(
  count: int, most: int, cores: list[int], gpus: list[str]
) -> list[Slot]:
  """The machine in shares.

  Args:
    count: how many; 0 for one a GPU, or else one a core.
    most: there are no more than these.
    cores: numbers of the CPU cores.
    gpus: names of the GPUs.
  """
  count = max(1, min(count or len(gpus) or len(cores), most))
  # A power of two: sums over so many devices have the same bits.
  size = 1 << (max(1, len(cores) // count).bit_length() - 1)
  slots = []
  for i in range(count):
    mine = {cores[j % len(cores)] for j in range(i * size, (i + 1) * size)}
    env = {'CUDA_VISIBLE_DEVICES': gpus[i % len(gpus)]} if gpus else {}
    slots.append(Slot(tuple(sorted(mine)), env))
  return slots


def run_all(
  jobs: list[Job],
  complete: Callable[[Job], bool],
  slots: list[Slot],
  stopping: list,
) -> Iterator[list[tuple[Job, str]]]:
  """Runs all jobs, one in each slot; yields, now and then, those that ended.

  A job that another process is at work on is waited for.

  Args:
    jobs: what to run.
    complete: whether a job has done all it should.
    slots: shares of the machine.
    stopping: once there is something in it, jobs are told to end and waited
      for.

  Yields:
    Pairs of a job and what it died of, '' where it is complete.
  """
  waiting, free, going = list(jobs), list(slots), []
  try:
    while (waiting or going) and not stopping:
      ended = []
      for job in waiting if free else ():
        if complete(job):
          ended.append((job, ''))
        elif free:
          one, error = attempt(job, free[-1])
          if error:
            ended.append((job, error))
          if one:
            going.append(one)
            free.pop()
      begun = [job for job, _ in ended] + [one.job for one in going]
      waiting = [job for job in waiting if job not in begun]
      time.sleep(0.2)
      over = [one for one in going if one.process.poll() is not None]
      going = [one for one in going if one not in over]
      free += [one.slot for one in over]
      yield ended + [(one.job, failure(one, complete)) for one in over]
  finally:
    stop(going)


def attempt(job: Job, slot: Slot) -> tuple[Going | None, str]:
  """`start`, and what the system said if it could not, '' for nothing."""
  try:
    return start(job, slot), ''
  except OSError as error:
    return None, f'not begun: {error}'


def start(job: Job, slot: Slot) -> Going | None:
  """Begins a job; None if another process is at work on it.

  Its log stays locked for as long as the job's own process lives, even when
  the one that began it was killed.
  """
  job.folder.mkdir(parents=True, exist_ok=True)
  with open(job.folder / 'log.txt', 'ab') as log:
    try:
      fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      return None
    except OSError:
      pass  # a file system without locks
    # Jobs may share a GPU, so none takes its memory in advance.
    env = {'XLA_PYTHON_CLIENT_PREALLOCATE': 'false', **os.environ, **slot.env}
    with pinned(slot.cores):
      process = subprocess.Popen(
        job.command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=env,
        # Else ctrl-C would reach it too, and `stop` be its second signal.
        process_group=0,
      )
    return Going(job, process, slot, log.tell())


@contextlib.contextmanager
def pinned(cores: tuple[int, ...]) -> Iterator[None]:
  """Processes that begin here stay on these cores, where Linux allows it."""
  if not hasattr(os, 'sched_setaffinity'):
    yield
    return
  before = os.sched_getaffinity(0)
  os.sched_setaffinity(0, cores)
  try:
    yield
  finally:
    os.sched_setaffinity(0, before)


def failure(one: Going, complete: Callable[[Job], bool]) -> str:
  """What a job that ended died of: the last it said; '' if it is complete."""
  code = one.process.returncode
  if code == 0:
    return '' if complete(one.job) else 'it ended before its last round'
  try:
    said = (one.job.folder / 'log.txt').read_bytes()[one.begin :]
  except OSError as error:
    said = f'its log cannot be read: {error}'.encode()
  lines = said.decode(errors='replace').strip().splitlines()
  how = f'{signal.Signals(-code).name}: ' if code < 0 else ''
  return how + (lines[-1] if lines else f'exit code {code}')


def stop(going: list[Going]) -> None:
  """Tells jobs to end and waits until they have."""
  if going:
    print(f'hns: stopping {len(going)} runs', file=sys.stderr, flush=True)
  for one in going:
    one.process.terminate()
  for one in going:
    one.process.wait()
