"""Our rounds against other ways to run the same rounds, side by side.

  pip install -e '.[peers]'
  python launch/benchmark_engine.py --json=engine.json

Each side is a process of its own with the same cores, one at work at a time, in
turn. All start from the same weights and take the same batches; a side whose
answer differs from ours is reported as wrong and not timed. A side whose
package is missing is named and skipped. On a CPU `plain_vmap` and `vmap_steps`
play 10 clients of the round and are charged in proportion. --sides=ours_packed
is ours without the entropy code: what it costs to count a code's bytes;
--sides=ours_core is ours on one CPU core; --sides=ours_spare gives XLA one
thread more than there are cores (NPROC): slower, but queued work, and the
memory that it holds, does not pile up. A share of the matmul peak counts
convolutions as plain sums, so that fewer products (`hns.networks.winograd`) may
pass 1. --tasks=lenet_1000:fedavg has ten times the clients, lenet_long:fedavg
ten times the pictures of each, lenet_split:fedavg ten times the clients for the
same pictures: memory grows with pictures, not with clients. On a GPU products
are rounded to 10 bits unless JAX_DEFAULT_MATMUL_PRECISION is highest; memory is
that of one GPU, the most since a side began, and so is the peak of matrix
products.
"""

import contextlib
import ctypes
import functools
import gc
import json
import os
import pathlib
import re
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
from absl import flags
from engine import kernels, tables, workloads

from hns import command

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
}
# Of what a round changes. Rounding grows in training: on a CPU up to 0.007 was
# seen, on a GPU 0.026; a step left out of five is about 0.2.
TOLERANCE = 0.05


def main(words):
  values = _flags()
  with command.one_line():
    command.parse(words, values, __doc__)
  if values.worker:
    return work(values.worker, pathlib.Path(values.folder))
  found = {}
  for task in values.tasks:
    found[task] = compare(task, values)
    print(tables.table(task, found[task]), flush=True)
  told = tables.summary(found, PEERS)
  if values.json:
    pathlib.Path(values.json).write_text(json.dumps(told, indent=2))
  if values.picture:
    # Not in the sides' processes, whose memory counts.
    from engine import drawing

    from hns.report import axes

    axes.save(drawing.draw(told), pathlib.Path(values.picture))


def _flags():
  values = flags.FlagValues()
  text = functools.partial(flags.DEFINE_string, flag_values=values)
  several = functools.partial(flags.DEFINE_list, flag_values=values)
  tasks = [f'{w}:{m}' for w in TASKS for m in TASKS[w]]
  several('tasks', tasks, 'WORKLOAD:METHOD')
  several('sides', list(PEERS), 'peers to time')
  several('widths', [], 'also time ours at these widths')
  flags.DEFINE_integer('repeats', 5, 'rounds a side', flag_values=values)
  most = 'after so many a side stops at 2'
  flags.DEFINE_float('seconds', 40, most, flag_values=values)
  text('json', '', 'where the ratios go')
  text('picture', '', 'where the picture goes')
  text('worker', '', 'internal: the side to be')
  text('folder', '', 'internal: where problems lie')
  return values


def work(name: str, folder: pathlib.Path) -> None:
  """A side's process: prepares, then plays a round for every line it reads."""
  side, task = name.split('/')
  start = time.perf_counter()
  play, about, device_bytes = prepare(side, task, folder)
  answer = play()
  about['first'] = time.perf_counter() - start
  if side == 'ours' and about['platform'] == 'gpu':
    about['kernels'] = kernels.traced(play)
  if answer is not None:
    np.save(folder / f'{side}.npy', answer)
  print(json.dumps(about), flush=True)
  forget_peak()
  for _ in sys.stdin:
    start = time.perf_counter()
    play()
    seconds = time.perf_counter() - start
    most = device_bytes() or peak_bytes()
    print(json.dumps({'seconds': seconds, 'bytes': most}), flush=True)


def forget_peak() -> None:
  """Lets memory count from now, without what set-up has freed (Linux)."""
  gc.collect()
  with contextlib.suppress(OSError, AttributeError):
    ctypes.CDLL(None).malloc_trim(0)
    pathlib.Path('/proc/self/clear_refs').write_text('5')


def peak_bytes() -> int:
  """The most memory this process had since `forget_peak`."""
  status = pathlib.Path('/proc/self/status')
  if not status.exists():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
  line = re.search(r'VmHWM:\s+(\d+) kB', status.read_text())
  return int(line.group(1)) * 1024


def prepare(side: str, task: str, folder: pathlib.Path):
  """What plays a round, what is known, what tells an accelerator's memory."""
  workload, method = task.split(':')
  workload = workloads.WORKLOADS[workload]
  if side.startswith('torch'):
    from engine import torch_sides as sides
  else:
    from engine import jax_sides as sides
  if side == 'peak':
    play, about = sides.peak()
  elif side.startswith('ours'):
    play, about = prepare_ours(side, workload, method, folder)
  else:
    problem = dict(np.load(folder / 'problem.npz'))
    play, about = sides.SIDES[side](problem, workload, method), {}
  return play, about, sides.device_bytes


def prepare_ours(side, workload, method, folder):
  """Ours; the first of them writes the problem and the answer of a few."""
  from engine import jax_sides

  if side == 'ours_core':
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
  if side == 'ours_spare':
    os.environ['NPROC'] = str(len(os.sched_getaffinity(0)) + 1)
  width = int(side.partition('@')[2] or 0)
  coded = side != 'ours_packed'
  problem, play, about = jax_sides.ours(workload, method, width, coded)
  if side == 'ours':
    np.savez(folder / 'problem.npz', **problem)
    np.save(folder / 'few.npy', play(some=True))
    net, params = workloads.plain(workload), workloads.tree_of(problem, 'start')
    each = workloads.step_flops(net, params, workload.image, workload.batch)
    about |= {'steps': problem['batches'].shape[1], 'step_flops': each}
  return play, about


def compare(task: str, values: flags.FlagValues) -> dict:
  """Times all sides of one task in turn: {side: what is known about it}."""
  sides = ['ours', 'peak', *(f'ours@{w}' for w in values.widths)]
  with tempfile.TemporaryDirectory() as folder:
    running, found = {}, {}
    try:
      for side in (*sides, *values.sides):
        running[side], found[side] = launch(side, task, folder)
      check(task, pathlib.Path(folder), found)
      for _ in range(values.repeats):
        for side, about in found.items():
          if wanted(about, values.seconds):
            running[side].stdin.write('\n')
            running[side].stdin.flush()
            told = json.loads(running[side].stdout.readline())
            about['times'].append(told['seconds'])
            about['bytes'] = told['bytes']
    finally:
      for process in running.values():
        process.kill()
        process.wait()
  return found


def launch(side: str, task: str, folder: str):
  """Starts a side and waits until it has played its first round."""
  said = pathlib.Path(folder) / f'{side}.log'
  with open(said, 'w') as log:
    process = subprocess.Popen(
      [
        *(sys.executable, __file__),
        *(f'--worker={side}/{task}', f'--folder={folder}'),
      ],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=log,
      text=True,
      # On a GPU all sides have their memory at once.
      env={**os.environ, 'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'},
    )
  line = process.stdout.readline()
  if not line:
    last = said.read_text().strip().split('\n')[-1]
    if side in ('ours', 'peak'):
      raise RuntimeError(f'{side}: {last}')
    return process, {'skipped': last, 'times': []}
  return process, {**json.loads(line), 'times': []}


def check(task: str, folder: pathlib.Path, found: dict) -> None:
  """Marks the sides whose answer is not ours."""
  problem = dict(np.load(folder / 'problem.npz'))
  names = sorted(k for k in problem if k.startswith('start/'))
  start = np.concatenate([problem[k].ravel() for k in names])
  method = task.split(':')[1]
  if method == 'hidenseek':
    start = np.where(start < 0, -1.0, 1.0)
  for side, about in found.items():
    if 'skipped' in about or side == 'peak':
      continue
    name = 'few' if 'vmap' in side else 'ours'
    truth = np.load(folder / f'{name}.npy')
    got = np.load(folder / f'{side}.npy')
    off = np.linalg.norm(got - truth) / np.linalg.norm(truth - start)
    about['off'] = float(off)
    if not off < TOLERANCE:
      about['skipped'] = f'wrong: its answer is {off:.3f} of a round away'


def wanted(about: dict, seconds: float) -> bool:
  """Whether a side is timed once more."""
  times = about['times']
  return 'skipped' not in about and (len(times) < 2 or sum(times) < seconds)


if __name__ == '__main__':
  main(sys.argv)
