"""Seeds as one program, beside one seed."""

import statistics
import time

from engine import workloads

import hns
from hns.runs import devices


def measure(name: str, method: str, count: int, repeats: int) -> dict:
  """Seconds of a round of one seed, and of one of `count` seeds together.

  Both networks are whole, as those of different seeds need one shape.

  Returns:
    {'seeds': count, 'one': seconds, 'together': seconds}, medians.
  """
  devices.start()
  config = workloads.configure(workloads.WORKLOADS[name], method, 0)
  seconds = {}
  for label, seeds in (('one', 1), ('together', count)):
    many = hns.together(config, range(seeds))
    progress = [hns.begin(one) for one in many.experiments]
    times = []
    for _ in range(repeats + 1):
      start = time.perf_counter()
      progress = hns.step_together(many, progress)
      times.append(time.perf_counter() - start)
    seconds[label] = statistics.median(times[1:])  # the first compiles
  return {'seeds': count, **seconds}
