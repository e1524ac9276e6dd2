"""Runs processes on one machine, each on its share of it, with a log."""

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
  """A command and its output folder, which also gets its log."""

  folder: pathlib.Path
  command: list[str]


class Slot(NamedTuple):
  """A share of the machine: CPU cores and environment variables."""

  cores: tuple[int, ...]
  env: dict[str, str]


class Running(NamedTuple):
  """A running job, its slot, and the position in its log where it began."""

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
  """Divides the machine into slots.

  Args:
    count: number of slots; 0 for one per GPU, or else one per core.
    most: the largest number of slots.
    cores: numbers of the CPU cores.
    gpus: names of the GPUs.
  """
  count = max(1, min(count or len(gpus) or len(cores), most))
  # A power of two: sums over so many devices have the same bits.
  size = 1 << (max(1, len(cores) // count).bit_length() - 1)
  slots = []
  for i in range(count):
    chosen = {cores[j % len(cores)] for j in range(i * size, (i + 1) * size)}
    env = {'CUDA_VISIBLE_DEVICES': gpus[i % len(gpus)]} if gpus else {}
    slots.append(Slot(tuple(sorted(chosen)), env))
  return slots


def run_all(
  jobs: list[Job],
  complete: Callable[[Job], bool],
  slots: list[Slot],
  stopping: list[int],
) -> Iterator[list[tuple[Job, str]]]:
  """Runs all jobs, one in each slot; yields jobs that ended, at intervals.

  A job that another process runs is waited for.

  Args:
    jobs: what to run.
    complete: whether a job has done all its work.
    slots: shares of the machine.
    stopping: signals received; once there is one, all jobs are terminated.

  Yields:
    Pairs of a job and its error, '' if it is complete.
  """
  waiting, free, running = list(jobs), list(slots), []
  try:
    while (waiting or running) and not stopping:
      ended, started = start_waiting(waiting, complete, free)
      running += started
      begun = [job for job, _ in ended] + [one.job for one in running]
      waiting = [job for job in waiting if job not in begun]
      time.sleep(0.2)
      over = [one for one in running if one.process.poll() is not None]
      running = [one for one in running if one not in over]
      free += [one.slot for one in over]
      yield ended + [(one.job, failure(one, complete)) for one in over]
  finally:
    stop(running)


def start_waiting(
  waiting: list[Job], complete: Callable[[Job], bool], free: list[Slot]
) -> tuple[list[tuple[Job, str]], list[Running]]:
  """Starts jobs while slots are free, which are removed from `free`.

  Returns:
    Jobs that are complete or could not be started, with their error, and the
    jobs that were started.
  """
  ended, started = [], []
  for job in waiting if free else ():
    if complete(job):
      ended.append((job, ''))
    elif free:
      try:
        one = start(job, free[-1])
      except OSError as error:
        ended.append((job, f'not begun: {error}'))
        continue
      if one:
        started.append(one)
        free.pop()
  return ended, started


def start(job: Job, slot: Slot) -> Running | None:
  """Starts a job; None if another process runs it.

  Its log is locked while the job's own process runs, even if the process that
  started it was killed.
  """
  job.folder.mkdir(parents=True, exist_ok=True)
  with open(job.folder / 'log.txt', 'ab') as log:
    try:
      fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      return None
    except OSError:
      pass  # a file system without locks
    # Jobs may share a GPU, so none preallocates its memory.
    env = {'XLA_PYTHON_CLIENT_PREALLOCATE': 'false', **os.environ, **slot.env}
    with pinned(slot.cores):
      process = subprocess.Popen(
        job.command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=env,
        # Otherwise ctrl-C would reach it before the signal of `stop`.
        process_group=0,
      )
    return Running(job, process, slot, log.tell())


@contextlib.contextmanager
def pinned(cores: tuple[int, ...]) -> Iterator[None]:
  """Processes started in this context run on these cores (Linux)."""
  if not hasattr(os, 'sched_setaffinity'):
    yield
    return
  before = os.sched_getaffinity(0)
  os.sched_setaffinity(0, cores)
  try:
    yield
  finally:
    os.sched_setaffinity(0, before)


def failure(one: Running, complete: Callable[[Job], bool]) -> str:
  """The error of a job that ended: its last line; '' if it is complete."""
  code = one.process.returncode
  if code == 0:
    return '' if complete(one.job) else 'it ended before its last round'
  try:
    log = (one.job.folder / 'log.txt').read_bytes()[one.begin :]
  except OSError as error:
    log = f'its log cannot be read: {error}'.encode()
  lines = log.decode(errors='replace').strip().splitlines()
  how = f'{signal.Signals(-code).name}: ' if code < 0 else ''
  return how + (lines[-1] if lines else f'exit code {code}')


def stop(running: list[Running]) -> None:
  """Terminates jobs and waits until they have ended."""
  if running:
    print(f'hns: stopping {len(running)} runs', file=sys.stderr, flush=True)
  for one in running:
    one.process.terminate()
  for one in running:
    one.process.wait()
