"""Measures one GPU in six minutes: rounds beside peers, vectors, seeds.

  python launch/benchmark_gpu.py --folder=gpu

Tables go to FOLDER/engine.txt, ratios to FOLDER/engine.json, after every task;
a task that would not end in time is left out and named. A machine without a
network needs a folder of wheels, made elsewhere by the first line; the second
keeps its own JAX and PyTorch:

  pip wheel . fedjax==0.0.17 --wheel-dir=wheels
  pip install --no-index --find-links=wheels hns fedjax==0.0.17

On a CPU the script runs as well, in more time.
"""

import functools
import json
import pathlib
import subprocess
import sys
import time

import benchmark_engine
from absl import flags
from engine import tables

from hns import command

PEERS = ('torch_lean', 'fedjax', 'plain_vmap')
# The most telling first. Vectors and whole kernels are compared by ours alone.
TASKS = {
  'lenet_pruned:hidenseek': ('ours_whole',),
  'lenet:fedavg': PEERS,
  'mlp:hidenseek': PEERS,
  'seeds:cnn:hidenseek': (),
  'pfl_cifar10:fedavg': PEERS,
  'lenet:hidenseek': PEERS,
  'mlp:fedavg': PEERS,
}


def main(words):
  values = _flags()
  with command.one_line():
    command.parse(words, values, __doc__)
  if values.worker:
    from engine import seeds

    name, method = values.worker.split(':')[1:]
    measured = seeds.measure(name, method, values.seeds, values.repeats)
    return print(json.dumps(measured))
  play(values, time.monotonic() + values.seconds)


def _flags():
  values = flags.FlagValues()
  text = functools.partial(flags.DEFINE_string, flag_values=values)
  several = functools.partial(flags.DEFINE_list, flag_values=values)
  number = functools.partial(flags.DEFINE_integer, flag_values=values)
  text('folder', 'gpu', 'where tables and ratios go')
  several('tasks', list(TASKS), 'WORKLOAD:METHOD, or seeds:WORKLOAD:METHOD')
  several('sides', [], 'peers of every task instead of its own')
  number('seconds', 360, 'the whole may take')
  number('repeats', 10, 'rounds a side')
  number('seeds', 8, 'seeds as one program')
  text('worker', '', 'internal: seeds to time')
  return values


def play(values: flags.FlagValues, end: float) -> None:
  """Plays the tasks until `end`, on the clock of `time.monotonic`."""
  folder = pathlib.Path(values.folder)
  folder.mkdir(parents=True, exist_ok=True)
  compared, told, texts, longest = {}, {}, [], 0.0
  for task in values.tasks:
    start = time.monotonic()
    if start + longest > end:
      print(f'{task}: left out, no time', flush=True)
      continue
    if task.startswith('seeds:'):
      told[task] = together(task, values)
      text = f'{task}: {json.dumps(told[task])}\n'
    else:
      sides = values.sides or TASKS.get(task, PEERS)
      times = benchmark_engine.Times(values.repeats, seconds=4)
      compared[task] = benchmark_engine.compare(task, sides, times)
      text = tables.table(task, compared[task])
    print(text, flush=True)
    texts.append(text + '\n')
    (folder / 'engine.txt').write_text(''.join(texts))
    names = dict.fromkeys(s for sides in compared.values() for s in sides)
    peers = tuple(name for name in names if name not in ('ours', 'peak'))
    summary = tables.summary(compared, peers) | told
    (folder / 'engine.json').write_text(json.dumps(summary, indent=2))
    longest = max(longest, time.monotonic() - start)


def together(task: str, values: flags.FlagValues) -> dict:
  """Seeds as one program, timed in a process of its own."""
  words = f'--worker={task}', f'--seeds={values.seeds}'
  done = subprocess.run(
    [sys.executable, __file__, *words, f'--repeats={values.repeats}'],
    stdout=subprocess.PIPE,
    check=True,
    text=True,
  )
  return json.loads(done.stdout.splitlines()[-1])


if __name__ == '__main__':
  main(sys.argv)
