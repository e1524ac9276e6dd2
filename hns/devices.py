"""Starting JAX: every core a device, many hosts as one, programs kept.

Call `start` before anything else asks JAX for a device; `hns.main` does.
"""

import contextlib
import hashlib
import os
import pathlib
import platform
import re
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from hns import data
from hns.errors import invalid


def start(distributed: str = '') -> None:
  """Makes a device of every CPU core and keeps compiled programs on disk.

  What the user's environment already says (`XLA_FLAGS`,
  `JAX_COMPILATION_CACHE_DIR`) is left alone.

  Args:
    distributed: '' for one process; 'auto' where JAX finds its peers itself
      (SLURM, TPU pods, Open MPI); otherwise 'HOST:PORT,PROCESSES,INDEX'.

  Raises:
    InputError: no peers, or no device of the kind asked for.
  """
  peers = _peers(distributed)
  forced = 'xla_force_host_platform_device_count'
  if forced not in os.environ.get('XLA_FLAGS', ''):
    jax.config.update('jax_num_cpu_devices', cores())
  if not jax.config.jax_compilation_cache_dir:
    jax.config.update('jax_compilation_cache_dir', str(_programs()))
  try:
    if peers is not None:
      jax.distributed.initialize(**peers)
  except (ValueError, RuntimeError) as error:
    raise invalid(
      'distributed',
      distributed,
      'JAX finds no peers: write HOST:PORT,PROCESSES,INDEX, or leave it out '
      f'for one process ({_first_line(error)})',
    ) from error
  try:
    jax.devices()
  except (RuntimeError, AssertionError) as error:  # the latter without plugin
    raise invalid(
      'JAX_PLATFORMS',
      jax.config.jax_platforms,
      'JAX finds no such device: unset it to run on what there is, or '
      f"pip install 'jax[cuda12]' for NVIDIA's ({_first_line(error)})",
    ) from error


@contextlib.contextmanager
def enough_memory(field: str, value: Any, remedy: str) -> Iterator[None]:
  """Turns running out of a device's memory into an `InputError`.

  Args:
    field: of the config, that is to blame.
    value: the field's.
    remedy: what was too much, and what would be right.
  """
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    cause = _first_line(error)
    problem = f'a device has too little memory for {remedy} ({cause})'
    raise invalid(field, value, problem) from error


def _first_line(error: Exception) -> str:
  return str(error).split('\n')[0] or type(error).__name__


def cores() -> int:
  """CPU cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def choose(count: int, cohort: int) -> list[jax.Device]:
  """The devices of a run.

  Args:
    count: how many; 0 for as many as a cohort can use. Several processes use
      all devices of all of them.
    cohort: clients a round.

  Raises:
    InputError: there are fewer devices than `count`.
  """
  devices = jax.devices()
  if count > len(devices):
    raise invalid('devices', count, f'there are {len(devices)}; 0 takes them')
  if jax.process_count() > 1:
    if count:
      raise invalid('devices', count, 'several processes need 0: all devices')
    return devices
  return devices[: count or min(cohort, len(devices))]


def is_first() -> bool:
  """Whether this process writes files and prints."""
  return jax.process_index() == 0


def gather(value: int) -> list[int]:
  """That number in every process; all have to ask."""
  if jax.process_count() == 1:
    return [value]
  return multihost_utils.process_allgather(np.int32(value)).tolist()


def wait_for_all(name: str) -> None:
  """Returns once every process has come here."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def _programs() -> pathlib.Path:
  """A folder for programs compiled for this kind of processor.

  A program compiled for another one may stop at an instruction it lacks.
  """
  about = platform.machine()
  info = pathlib.Path('/proc/cpuinfo')
  if info.exists():
    about += ''.join(
      re.findall(r'(?m)^(?:model name|flags)\b.*', info.read_text())[:2]
    )
  name = hashlib.sha256(about.encode()).hexdigest()[:8]
  return data.cache_dir() / f'programs-{name}'


def _peers(distributed: str) -> dict | None:
  """Arguments of `jax.distributed.initialize`; None for one process."""
  if not distributed:
    return None
  if distributed == 'auto':
    return {}
  words = distributed.split(',')
  if len(words) != 3 or not all(word.isdigit() for word in words[1:]):
    raise invalid(
      'distributed', distributed, 'write auto or HOST:PORT,PROCESSES,INDEX'
    )
  return dict(
    coordinator_address=words[0],
    num_processes=int(words[1]),
    process_id=int(words[2]),
  )
