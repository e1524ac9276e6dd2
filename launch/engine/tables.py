"""What a benchmark found: tables, ratios."""

import os
import statistics

from engine import workloads


def per_step(task: str, side: str, found: dict) -> list[float]:
  """Seconds a client-step."""
  workload = workloads.WORKLOADS[task.split(':')[0]]
  clients = found['ours']['few'] if 'vmap' in side else workload.cohort
  return [t / clients / found['ours']['steps'] for t in found[side]['times']]


def ratio(task: str, side: str, found: dict) -> float:
  """A side's median time over ours."""
  median = lambda s: statistics.median(per_step(task, s, found))
  return median(side) / median('ours')


def table(task: str, found: dict) -> str:
  """What was measured of one task."""
  ours, peak = found['ours'], found['peak']
  best = peak['flops'] / statistics.median(peak['times']) / 1e9
  lines = [
    f'{task}, {ours["devices"]} devices, width {ours["width"]}, matmul peak '
    f'{best:.0f} GFLOP/s, {os.cpu_count()} cores',
    f'{"side":14}{"ms a client-step":>33}{"steps/s":>9}{"of peak":>9}'
    f'{"memory":>9}{"first":>8}{"off":>8}{"time/ours":>11}',
  ]
  for side, about in found.items():
    if 'skipped' in about:
      lines.append(f'{side:14}{about["skipped"]}')
    elif side != 'peak':
      lines.append(row(task, side, found, best))
  count, busy, products = ours.get('kernels', (0, 0, 0))
  if count:
    share = busy / statistics.median(ours['times'])
    lines.append(
      f'{count} kernels run in {share:.0%} of our round, '
      f'{products / busy:.0%} of that in matrix products'
    )
  return '\n'.join(lines) + '\n'


def row(task, side, found, best) -> str:
  about, each = found[side], per_step(task, side, found)
  median = statistics.median(each)
  share = found['ours']['step_flops'] / median / 1e9 / best
  spread = f'({1e3 * min(each):.4f} to {1e3 * max(each):.4f})'
  return (
    f'{side:14}{1e3 * median:9.4f} {spread:>23}{1 / median:9.0f}{share:9.1%}'
    f'{about["bytes"] / 1e6:6.0f} MB{about["first"]:6.1f} s{about["off"]:8.3f}'
    f'{ratio(task, side, found):11.2f}'
  )


def summary(found: dict, peers: tuple[str, ...]) -> dict:
  """{'ratio': {workload: {peer: its time / ours}}, ...}, FedAvg's rounds.

  `hidenseek` has the ratios of HideNseek's rounds, `of_peak` the share of the
  matmul peak that our rounds reach.
  """
  told = {'ratio': {}, 'hidenseek': {}, 'of_peak': {}}
  for task, sides in found.items():
    workload, method = task.split(':')
    part = told['ratio' if method == 'fedavg' else 'hidenseek']
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
    told['of_peak'][task] = flops / best
  return told
