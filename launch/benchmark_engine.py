"""Times our rounds and other implementations of the same rounds.

  pip install -e '.[peers]'
  python launch/benchmark_engine.py --json=engine.json

Each side is a process of its own on the same cores, and they run in turn. All
start from the same weights and take the same batches. A side whose answer
differs from ours is reported as wrong and not timed, and one whose package is
missing is skipped. On a CPU `plain_vmap` and `vmap_steps` run 10 clients of the
round, and their time is scaled. Memory is the peak of a process, on a GPU of
one device.

Other sides: ours_packed is ours without counting the bytes of the entropy code;
ours_whole keeps whole kernels where ours keeps vectors of survivors, so its
answer has another length and is not compared;
ours_core is ours on one CPU core; ours_spare gives XLA one thread more than
there are cores (NPROC), which is slower but queues less work and so needs less
memory. Other tasks: lenet_1000:fedavg has ten times the clients,
lenet_long:fedavg ten times the pictures of each, lenet_split:fedavg ten times
the clients for the same pictures; lenet_pruned:hidenseek has density 0.03 and
mlp_pruned:hidenseek 0.2, which no peer has.

--against=DIR also times ours of another checkout of hns, whose answer is not
compared, since it may draw other numbers.

The share of the matmul peak counts convolutions as direct ones, so it may
exceed 1 with fewer products (`hns.networks.winograd`).

The bound is the longer of two times: the products at that peak, and reading and
writing once a step, at the memory's speed, what is trained. Fewer products and
what stays in a CPU's caches can beat it. On a GPU products are rounded to 10
bits unless JAX_DEFAULT_MATMUL_PRECISION is highest.
"""

import contextlib
import ctypes
import functools
import gc
import json
import math
import os
import pathlib
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from absl import flags
from engine import kernels, tables, workloads

from hns import command
from hns.networks import packed

PEERS = (
  'plain_vmap',
  'vmap_steps',
  'jit_loop',
  'fedjax',
  'torch_lean',
  'torch_pfllib',
)
TASKS = {
  'lenet': ('fedavg', 'hidenseek'),
  'mlp': ('fedavg', 'hidenseek'),
  'pfl_cifar10': ('fedavg',),
  'resnet_cifar100': ('fedavg', 'hidenseek'),
}
# Largest difference relative to the change of a round. Rounding causes up to
# 0.007 on a CPU and 0.026 on a GPU; a missing step of five info 0.2.
TOLERANCE = 0.05


class Times(NamedTuple):
  """How often a side is timed.

  Attributes:
    repeats: rounds a side.
    seconds: after so many a side stops after two rounds.
  """

  repeats: int
  seconds: float


def main(words):
  values = _flags()
  with command.one_line():
    command.parse(words, values, __doc__)
  if values.worker:
    return work(values.worker, pathlib.Path(values.folder))
  tasks = {}
  for task in values.tasks:
    sides = [*(f'ours@{width}' for width in values.widths), *values.sides]
    times = Times(values.repeats, values.seconds)
    tasks[task] = compare(task, sides, times, values.against)
    print(tables.table(task, tasks[task]), flush=True)
  summary = tables.summary(tasks, PEERS)
  if values.json:
    pathlib.Path(values.json).write_text(json.dumps(summary, indent=2))
  if values.picture:
    # Imported here, because the memory of the sides' processes is measured.
    from engine import chart

    from hns.report import axes

    axes.save(chart.draw(summary), pathlib.Path(values.picture))


def _flags():
  values = flags.FlagValues()
  text = functools.partial(flags.DEFINE_string, flag_values=values)
  several = functools.partial(flags.DEFINE_list, flag_values=values)
  tasks = [f'{w}:{m}' for w in TASKS for m in TASKS[w]]
  several('tasks', tasks, 'WORKLOAD:METHOD')
  several('sides', list(PEERS), 'peers to time')
  several('widths', [], 'also time ours at these widths')
  flags.DEFINE_integer('repeats', 5, 'rounds a side', flag_values=values)
  most = 'after so many seconds a side stops after 2 rounds'
  flags.DEFINE_float('seconds', 40, most, flag_values=values)
  text('against', '', 'another checkout of hns')
  text('json', '', 'where the ratios go')
  text('picture', '', 'where the picture goes')
  text('worker', '', 'internal: the side to be')
  text('folder', '', 'internal: where problems lie')
  return values


def work(name: str, folder: pathlib.Path) -> None:
  """A side's process: prepares, then runs a round for every line it reads."""
  side, task = name.split('/')
  start = time.perf_counter()
  play, info, device_bytes = prepare(side, task, folder)
  answer = play()
  info['first'] = time.perf_counter() - start
  if side == 'ours' and info['platform'] == 'gpu':
    info['kernels'] = kernels.traced(play)
  if answer is not None:
    np.save(folder / f'{side}.npy', answer)
  print(json.dumps(info), flush=True)
  reset_peak()
  for _ in sys.stdin:
    start = time.perf_counter()
    play()
    seconds = time.perf_counter() - start
    most = device_bytes() or peak_bytes()
    print(json.dumps({'seconds': seconds, 'bytes': most}), flush=True)


def reset_peak() -> None:
  """Resets the peak memory of this process (Linux)."""
  gc.collect()
  with contextlib.suppress(OSError, AttributeError):
    ctypes.CDLL(None).malloc_trim(0)
    pathlib.Path('/proc/self/clear_refs').write_text('5')


def peak_bytes() -> int:
  """The peak memory of this process since `reset_peak`."""
  status = pathlib.Path('/proc/self/status')
  if not status.exists():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
  line = re.search(r'VmHWM:\s+(\d+) kB', status.read_text())
  return int(line.group(1)) * 1024


def prepare(side: str, task: str, folder: pathlib.Path):
  """A function that runs a round, info on it, one that returns its memory."""
  workload, method = task.split(':')
  workload = workloads.WORKLOADS[workload]
  if side.startswith('torch'):
    from engine import torch_sides as sides
  else:
    from engine import jax_sides as sides
  if side == 'peak':
    play, info = sides.peak()
  elif side.startswith('ours'):
    play, info = prepare_ours(side, workload, method, folder)
  else:
    problem = dict(np.load(folder / 'problem.npz'))
    play, info = sides.SIDES[side](problem, workload, method), {}
  return play, info, sides.device_bytes


def prepare_ours(side, workload, method, folder):
  """Our side; `ours` itself writes the problem and the answer of a few."""
  from engine import jax_sides

  if side == 'ours_whole':
    packed.MOST = 0
  if side == 'ours_core':
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
  if side == 'ours_spare':
    os.environ['NPROC'] = str(len(os.sched_getaffinity(0)) + 1)
  width = int(side.partition('@')[2] or 0)
  coded = side != 'ours_packed'
  problem, play, info = jax_sides.ours(workload, method, width, coded)
  if side == 'ours':
    np.savez(folder / 'problem.npz', **problem)
    np.save(folder / 'few.npy', play(some=True))
    info |= {
      'steps': problem['batches'].shape[1],
      'step_flops': workloads.step_flops(workload),
      'step_bytes': workloads.step_bytes(workload, method),
    }
  return play, info


def compare(
  task: str, sides: Sequence[str], times: Times, against: str = ''
) -> dict:
  """Times all sides of one task in turn: {side: info}.

  Args:
    task: WORKLOAD:METHOD.
    sides: besides `ours` and `peak`.
    times: how often.
    against: another checkout of hns, which is a side as well.
  """
  with tempfile.TemporaryDirectory() as folder:
    running, infos = {}, {}
    try:
      for side in ('ours', 'peak', *sides):
        running[side], infos[side] = launch(side, task, folder)
      if against:
        running['against'], infos['against'] = launch(
          'ours_against', task, folder, against
        )
      check(task, pathlib.Path(folder), infos)
      for _ in range(times.repeats):
        for side, info in infos.items():
          if wanted(info, times.seconds):
            running[side].stdin.write('\n')
            running[side].stdin.flush()
            result = json.loads(running[side].stdout.readline())
            info['times'].append(result['seconds'])
            info['bytes'] = result['bytes']
    finally:
      for process in running.values():
        process.kill()
        process.wait()
  return infos


def launch(side: str, task: str, folder: str, hns: str = ''):
  """Starts a side and waits until it has run its first round.

  With the package `hns` of another checkout, if one is given.
  """
  log_path = pathlib.Path(folder) / f'{side}.log'
  with open(log_path, 'w') as log:
    process = subprocess.Popen(
      [
        *(sys.executable, __file__),
        *(f'--worker={side}/{task}', f'--folder={folder}'),
      ],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=log,
      text=True,
      # On a GPU all sides hold memory at the same time.
      env={
        **os.environ,
        'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',
        **({'PYTHONPATH': hns} if hns else {}),
      },
    )
  line = process.stdout.readline()
  if not line:
    last = log_path.read_text().strip().split('\n')[-1]
    if side in ('ours', 'peak'):
      raise RuntimeError(f'{side}: {last}')
    return process, {'skipped': last, 'times': []}
  return process, {**json.loads(line), 'times': []}


def check(task: str, folder: pathlib.Path, infos: dict) -> None:
  """Marks the sides whose answer is not ours."""
  problem = dict(np.load(folder / 'problem.npz'))
  names = sorted(k for k in problem if k.startswith('start/'))
  start = np.concatenate([problem[k].ravel() for k in names])
  method = task.split(':')[1]
  if method == 'hidenseek':
    start = np.where(start < 0, -1.0, 1.0)
  for side, info in infos.items():
    info['off'] = math.nan
    if 'skipped' in info or side in ('peak', 'against', 'ours_whole'):
      continue
    name = 'few' if 'vmap' in side else 'ours'
    truth = np.load(folder / f'{name}.npy')
    got = np.load(folder / f'{side}.npy')
    off = np.linalg.norm(got - truth) / np.linalg.norm(truth - start)
    info['off'] = float(off)
    if not off < TOLERANCE:
      info['skipped'] = f'wrong: its answer is {off:.3f} of a round away'


def wanted(info: dict, seconds: float) -> bool:
  """Whether a side is timed again."""
  times = info['times']
  return 'skipped' not in info and (len(times) < 2 or sum(times) < seconds)


if __name__ == '__main__':
  main(sys.argv)
