"""Tables and ratios of a benchmark."""

import os
import statistics

from engine import workloads


def per_step(task: str, side: str, sides: dict) -> list[float]:
  """Seconds per client-step of each repeat."""
  workload = workloads.WORKLOADS[task.split(':')[0]]
  clients = sides['ours']['few'] if 'vmap' in side else workload.cohort
  return [t / clients / sides['ours']['steps'] for t in sides[side]['times']]


def ratio(task: str, side: str, sides: dict) -> float:
  """A side's median time over ours."""
  median = lambda s: statistics.median(per_step(task, s, sides))
  return median(side) / median('ours')


def table(task: str, sides: dict) -> str:
  """A text table of the sides of one task."""
  ours, peak = sides['ours'], sides['peak']
  best = peak['flops'] / statistics.median(peak['times']) / 1e9
  lines = [
    f'{task}, {ours["devices"]} devices, width {ours["width"]}, matmul peak '
    f'{best:.0f} GFLOP/s, memory {peak["bytes_a_second"] / 1e9:.0f} GB/s, '
    f'{os.cpu_count()} cores',
    f'{"side":14}{"ms a client-step":>33}{"steps/s":>9}{"of peak":>9}'
    f'{"of bound":>9}{"memory":>9}{"first":>8}{"off":>8}{"time/ours":>11}',
  ]
  for side, info in sides.items():
    if 'skipped' in info:
      lines.append(f'{side:14}{info["skipped"]}')
    elif side != 'peak':
      lines.append(row(task, side, sides, best))
  count, busy, products = ours.get('kernels', (0, 0, 0))
  if count:
    share = busy / statistics.median(ours['times'])
    lines.append(
      f'{count} kernels run in {share:.0%} of our round, '
      f'{products / busy:.0%} of that in matrix products'
    )
  return '\n'.join(lines) + '\n'


def row(task: str, side: str, sides: dict, best: float) -> str:
  """The line of a side."""
  info, each = sides[side], per_step(task, side, sides)
  median = statistics.median(each)
  products = sides['ours']['step_flops'] / 1e9 / best
  moved = sides['ours']['step_bytes'] / sides['peak']['bytes_a_second']
  share, of_bound = products / median, max(products, moved) / median
  spread = f'({1e3 * min(each):.4f} to {1e3 * max(each):.4f})'
  return (
    f'{side:14}{1e3 * median:9.4f} {spread:>23}{1 / median:9.0f}{share:9.1%}'
    f'{of_bound:9.1%}{info["bytes"] / 1e6:6.0f} MB{info["first"]:6.1f} s'
    f'{info["off"]:8.3f}{ratio(task, side, sides):11.2f}'
  )


def summary(tasks: dict, peers: tuple[str, ...]) -> dict:
  """{'ratio': {workload: {peer: its time / ours}}, ...}, FedAvg's rounds.

  `hidenseek` has the ratios of HideNseek's rounds, `of_peak` the share of the
  matmul peak that our rounds reach.
  """
  result = {'ratio': {}, 'hidenseek': {}, 'of_peak': {}}
  for task, sides in tasks.items():
    workload, method = task.split(':')
    part = result['ratio' if method == 'fedavg' else 'hidenseek']
    part[workload] = {
      side: ratio(task, side, sides)
      for side in peers
      if sides.get(side, {}).get('times')
    }
    peak = sides['peak']
    flops = sides['ours']['step_flops'] / statistics.median(
      per_step(task, 'ours', sides)
    )
    best = peak['flops'] / statistics.median(peak['times'])
    result['of_peak'][task] = flops / best
  return result
