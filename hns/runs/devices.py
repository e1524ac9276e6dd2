"""Starts JAX: devices, several processes as one run, the compilation cache.

Call `start` before anything else uses a device of JAX; `hns.main` does.
"""

import contextlib
import enum
import hashlib
import os
import pathlib
import platform
import re
import threading
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from hns import data
from hns.errors import InputError, invalid
from hns.runs import peers

PEERS_SECONDS = 300
_DAY = 86_400

# Settings of JAX and the environment that may change the numbers of a run.
_NUMERIC = (
  'jax_default_prng_impl',
  'jax_threefry_partitionable',
  'jax_random_seed_offset',
  'jax_high_dynamic_range_gumbel',
  'jax_softmax_custom_jvp',
  'jax_use_direct_linearize',
  'jax_allow_f16_reductions',
  'jax_disable_most_optimizations',
  'jax_optimization_level',
  'jax_exec_time_optimization_effort',
)
_VARIABLES = ('LIBTPU_INIT_ARGS', 'NVIDIA_TF32_OVERRIDE')
_HARMLESS = ('--xla_force_host_platform_device_count', '--xla_dump_')


def start(distributed: str = '', peers_seconds: int = PEERS_SECONDS) -> None:
  """Makes a device of every CPU core and caches compiled programs on disk.

  The environment's `XLA_FLAGS` and `JAX_COMPILATION_CACHE_DIR` take precedence.

  Args:
    distributed: '' for one process; 'auto' where JAX finds its peers itself
      (SLURM, TPU pods, Open MPI); otherwise 'HOST:PORT,PROCESSES,INDEX'.
    peers_seconds: how long to wait for the other processes.

  Raises:
    InputError: processes are missing, or JAX finds no device.
  """
  if not 1 <= peers_seconds <= _DAY:
    raise invalid('peers_seconds', peers_seconds, f'must be 1 to {_DAY}')
  options = _distributed_options(distributed, peers_seconds)
  forced = 'xla_force_host_platform_device_count'
  if forced not in os.environ.get('XLA_FLAGS', ''):
    jax.config.update('jax_num_cpu_devices', cores())
  if not jax.config.jax_compilation_cache_dir:
    jax.config.update('jax_compilation_cache_dir', str(_compilation_cache()))
  if 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS' not in os.environ:
    # A run has many small programs.
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)
  if options is not None:
    _start_distributed(distributed, peers_seconds, options)
  try:
    jax.devices()
  except (RuntimeError, AssertionError) as error:  # the latter without plugin
    raise invalid(
      'JAX_PLATFORMS',
      jax.config.jax_platforms,
      'JAX finds no such device: unset it to run on what there is, or '
      f"pip install 'jax[cuda12]' for NVIDIA's ({_first_line(error)})",
    ) from error


def _start_distributed(
  distributed: str, seconds: int, options: dict[str, Any]
) -> None:
  try:
    with _ended_after(seconds, distributed):
      jax.distributed.initialize(**options)
  except (ValueError, RuntimeError) as error:
    raise invalid(
      'distributed',
      distributed,
      'JAX finds no peers: write HOST:PORT,PROCESSES,INDEX, or leave it out '
      f'for one process ({_first_line(error)})',
    ) from error


@contextlib.contextmanager
def standard_settings() -> Iterator[None]:
  """Overrides the user's settings of JAX with those that runs need.

  Single precision, compilation, and standard type and rank promotion.
  """
  with (
    jax.enable_x64(False),
    jax.disable_jit(False),
    jax.numpy_dtype_promotion('standard'),
    jax.numpy_rank_promotion('allow'),
    jax.debug_key_reuse(False),
  ):
    yield


@contextlib.contextmanager
def enough_memory(field: str, value: object, remedy: str) -> Iterator[None]:
  """Turns running out of a device's memory into an `InputError`.

  Args:
    field: the field of the config that caused it.
    value: the field's value.
    remedy: what did not fit, and what to change.
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
  """The number of CPU cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def choose(count: int, cohort: int) -> list[jax.Device]:
  """The devices of a run.

  Args:
    count: how many; 0 for as many as a cohort can use. A run of several
      processes uses all their devices.
    cohort: clients per round.

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
  """The value in every process; all processes must call this."""
  if jax.process_count() == 1:
    return [value]
  return multihost_utils.process_allgather(np.int32(value)).tolist()


def gather_texts(text: str) -> list[str]:
  """The text in every process; all processes must call this."""
  if jax.process_count() == 1:
    return [text]
  content = np.frombuffer(text.encode(), np.uint8)
  lengths = gather(len(content))
  padded = np.pad(content, (0, max(lengths) - len(content)))
  # One more byte, because an empty array cannot be gathered.
  rows = multihost_utils.process_allgather(np.append(padded, np.uint8(0)))
  return [bytes(row[:n]).decode() for row, n in zip(rows, lengths)]


@contextlib.contextmanager
def fail_together() -> Iterator[None]:
  """Raises the `InputError` of one process in all, so that none waits."""
  if jax.process_count() == 1:
    yield
    return
  message = ''
  try:
    yield
  except InputError as error:
    message = str(error)
  for index, text in enumerate(gather_texts(message)):
    if text:
      raise InputError(f'process {index}: {text}')


def numerics() -> dict[str, Any]:
  """Settings of JAX and XLA, other than precision, that may change numbers."""
  # Options that a context can change are attributes, others only values.
  values = jax.config.values
  settings = {
    name: getattr(jax.config, name, values.get(name)) for name in _NUMERIC
  }
  plain = {
    name: value.value if isinstance(value, enum.Enum) else value
    for name, value in settings.items()
  }
  plain |= {name: os.environ.get(name, '') for name in _VARIABLES}
  return {**plain, 'XLA_FLAGS': ' '.join(_xla_flags())}


def _xla_flags() -> list[str]:
  """The flags of `XLA_FLAGS`, or of its file, that may change numbers."""
  words = os.environ.get('XLA_FLAGS', '').split()
  if len(words) == 1 and not words[0].startswith('-'):
    with contextlib.suppress(OSError):
      words = pathlib.Path(words[0]).read_text().split()
  # The last flag of a name counts.
  last = {word.split('=')[0]: word for word in words}
  return sorted(w for w in last.values() if not w.startswith(_HARMLESS))


def wait_for_all(name: str) -> None:
  """Returns once every process has called this."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def _compilation_cache() -> pathlib.Path:
  """A folder for programs compiled for this kind of processor.

  A program compiled for another processor may use instructions it lacks.
  """
  processor = platform.machine()
  info = pathlib.Path('/proc/cpuinfo')
  if info.exists():
    processor += ''.join(
      re.findall(r'(?m)^(?:model name|flags)\b.*', info.read_text())[:2]
    )
  name = hashlib.sha256(processor.encode()).hexdigest()[:8]
  return data.cache_dir() / f'programs-{name}'


def _distributed_options(
  distributed: str, seconds: int
) -> dict[str, Any] | None:
  """Arguments of `jax.distributed.initialize`; None for one process.

  With an address, all processes have connected when this returns.
  """
  if not distributed:
    return None
  # After its own timeout JAX ends the process with a stack trace; the timeouts
  # here are shorter.
  options = {'initialization_timeout': 2 * seconds + 60}
  if distributed == 'auto':
    return options
  address = peers.parse(distributed)
  peers.meet(address, seconds)
  return options | dict(
    coordinator_address=address.address,
    num_processes=address.count,
    process_id=address.index,
  )


@contextlib.contextmanager
def _ended_after(seconds: int, distributed: str) -> Iterator[None]:
  """Ends the process with one line if its peers are not there in time."""

  def end():
    cause = (
      f'not all processes connected within {seconds} seconds: start them all, '
      'or wait longer with --peers_seconds'
    )
    with contextlib.suppress(OSError):
      line = f'hns: {invalid("distributed", distributed, cause)}\n'
      os.write(2, line.encode())
    os._exit(1)  # the call that waits cannot be interrupted

  timer = threading.Timer(seconds, end)
  timer.daemon = True
  timer.start()
  try:
    yield
  finally:
    timer.cancel()
