"""Starting JAX: every core a device, many hosts as one, programs kept.

Call `initial_params` before anything else asks JAX for a device; `hns.main`
does.
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

# What a user may have set in JAX or around it that changes a run's numbers.
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
  """Makes a device of every CPU core and keeps compiled programs on disk.

  What the user's environment already says (`XLA_FLAGS`,
  `JAX_COMPILATION_CACHE_DIR`) is left alone.

  Args:
    distributed: '' for one process; 'auto' where JAX finds its peers itself
      (SLURM, TPU pods, Open MPI); otherwise 'HOST:PORT,PROCESSES,INDEX'.
    peers_seconds: how long to wait for the other processes.

  Raises:
    InputError: no peers, or no device of the kind asked for.
  """
  if not 1 <= peers_seconds <= _DAY:
    raise invalid('peers_seconds', peers_seconds, f'must be 1 to {_DAY}')
  given = _peers(distributed, peers_seconds)
  forced = 'xla_force_host_platform_device_count'
  if forced not in os.environ.get('XLA_FLAGS', ''):
    jax.config.update('jax_num_cpu_devices', cores())
  if not jax.config.jax_compilation_cache_dir:
    jax.config.update('jax_compilation_cache_dir', str(_programs()))
  try:
    if given is not None:
      with _ended_after(peers_seconds, distributed):
        jax.distributed.initialize(**given)
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
def as_ever() -> Iterator[None]:
  """JAX as runs need it, whatever the user's environment says.

  In single precision, compiled, and with NumPy's rules of promotion.
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


def gather_texts(text: str) -> list[str]:
  """That text in every process; all have to ask."""
  if jax.process_count() == 1:
    return [text]
  content = np.frombuffer(text.encode(), np.uint8)
  lengths = gather(len(content))
  padded = np.pad(content, (0, max(lengths) - len(content)))
  # Nothing cannot be gathered.
  rows = multihost_utils.process_allgather(np.append(padded, np.uint8(0)))
  return [bytes(row[:n]).decode() for row, n in zip(rows, lengths)]


@contextlib.contextmanager
def together() -> Iterator[None]:
  """An `InputError` that ends one process ends all, so that none waits."""
  if jax.process_count() == 1:
    yield
    return
  said = ''
  try:
    yield
  except InputError as error:
    said = str(error)
  for index, text in enumerate(gather_texts(said)):
    if text:
      raise InputError(f'process {index}: {text}')


def numerics() -> dict[str, Any]:
  """Settings of JAX and XLA beside its precision that change numbers."""
  # Those that a context can change are attributes, the others are not.
  values = jax.config.values
  settings = {
    name: getattr(jax.config, name, values.get(name)) for name in _NUMERIC
  }
  found = {
    name: value.value if isinstance(value, enum.Enum) else value
    for name, value in settings.items()
  }
  found |= {name: os.environ.get(name, '') for name in _VARIABLES}
  return {**found, 'XLA_FLAGS': ' '.join(_xla_flags())}


def _xla_flags() -> list[str]:
  """Flags of `XLA_FLAGS`, or of a file it names, that may change numbers."""
  words = os.environ.get('XLA_FLAGS', '').split()
  if len(words) == 1 and not words[0].startswith('-'):
    with contextlib.suppress(OSError):
      words = pathlib.Path(words[0]).read_text().split()
  # Of two with one name, the last one counts.
  found = {word.split('=')[0]: word for word in words}
  return sorted(w for w in found.values() if not w.startswith(_HARMLESS))


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


def _peers(distributed: str, seconds: int) -> dict[str, Any] | None:
  """Arguments of `jax.distributed.initialize`; None for one process.

  Where it is known who the peers are, all of them are there when it returns.
  """
  if not distributed:
    return None
  # JAX ends the process with a trace: it is to be ended before.
  waits = {'initialization_timeout': 2 * seconds + 60}
  if distributed == 'auto':
    return waits
  found = peers.parse(distributed)
  peers.meet(found, seconds)
  return waits | dict(
    coordinator_address=found.address,
    num_processes=found.count,
    process_id=found.index,
  )


@contextlib.contextmanager
def _ended_after(seconds: int, distributed: str) -> Iterator[None]:
  """Ends the process with one line if its peers are not there in time."""

  def end():
    cause = f'not all processes came within {seconds} seconds: start them all, '
    cause += 'or wait longer with --peers_seconds'
    with contextlib.suppress(OSError):
      line = f'hns: {invalid("distributed", distributed, cause)}\n'
      os.write(2, line.encode())
    os._exit(1)  # what waits cannot be interrupted

  timer = threading.Timer(seconds, end)
  timer.daemon = True
  timer.start()
  try:
    yield
  finally:
    timer.cancel()
