"""Seconds from starting Python to the first round, without and with a cache.

  python launch/benchmark_compile.py

Every method on the `cnn`, and HideNseek on every network that takes pictures.
`import` is that of hns and JAX, `build` draws and prunes the network and
divides the data, `compile` makes the programs of a run. Each case is a process
with an empty cache of programs, and one more with what the first has cached.
The data are noise.
"""

import functools
import json
import os
import subprocess
import sys
import tempfile
import time

import numpy as np
from absl import flags

PARTS = ('import', 'build', 'compile')
# The densities of the results.
NETWORKS = dict(mlp=0.05, cnn=0.2, lenet=0.03, conv4=0.03, resnet8=0.2)

_WORKER = 'worker'


def main(words):
  from hns import command
  from hns.methods.recipes import RECIPES

  values = flags.FlagValues()
  several = functools.partial(flags.DEFINE_list, flag_values=values)
  several('methods', list(RECIPES), 'methods, on the cnn')
  several('networks', list(NETWORKS), 'networks, for HideNseek')
  with command.one_line():
    command.parse(words, values, __doc__)
  cases = [f'{method}:cnn' for method in values.methods]
  cases += [f'hidenseek:{network}' for network in values.networks]
  parts = ' | '.join(PARTS)
  print(f'| method, network | {parts} | again: {parts} |')
  print(f'| --- |{" --- |" * 2 * len(PARTS)}')
  for case in cases:
    with tempfile.TemporaryDirectory() as folder:
      seconds = launch(case, folder) + launch(case, folder)
    cells = ' | '.join(f'{x:.2f}' for x in seconds)
    print(f'| {case.replace(":", ", ")} | {cells} |', flush=True)


def launch(case: str, folder: str) -> list[float]:
  """The seconds of `PARTS` in a process whose cache is this folder."""
  done = subprocess.run(
    [sys.executable, __file__, _WORKER, *case.split(':')],
    env={**os.environ, 'JAX_COMPILATION_CACHE_DIR': folder},
    stdout=subprocess.PIPE,
    check=True,
  )
  return json.loads(done.stdout)


def work(method: str, network: str) -> list[float]:
  """A case's process: the seconds of `PARTS`."""
  start = time.perf_counter()
  import hns
  from hns.runs import devices

  hns.METHODS  # noqa: B018, imports all that a run needs
  devices.start()
  imported = time.perf_counter()
  experiment = hns.build(configure(method, network))
  built = time.perf_counter()
  hns.programs(experiment)
  ended = time.perf_counter()
  return [imported - start, built - imported, ended - built]


def configure(method: str, network: str):
  """A hundred clients of noise, 28 x 28; registers it."""
  import hns

  draw = np.random.RandomState(0)
  images = draw.randint(0, 256, (8000, 28, 28, 1)).astype(np.uint8)
  labels = np.arange(8000, dtype=np.int32) % 10
  none = np.zeros(0, np.int32)
  hns.DATASETS['noise'] = lambda: hns.data.Dataset(
    *(images, labels, none), *(images, labels, none), 10
  )
  return hns.base_config(
    algorithm=method,
    dataset='noise',
    num_clients=100,
    examples_per_client=40,
    model=network,
    density=NETWORKS[network],
  )


if __name__ == '__main__':
  if sys.argv[1:2] == [_WORKER]:
    print(json.dumps(work(*sys.argv[2:])))
  else:
    main(sys.argv)
