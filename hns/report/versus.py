"""Our method against each rival: what accuracy, and at what cost.

Accuracy is that of the model as held, the one a client ended its last round
with, if not another of `ACCURACIES` is asked for; groups are `judged` by it
before they are compared. Costs are those of the first evaluated round in which
the mean over seeds reaches the common target, the lower of the two accuracies
at the end. Seconds are not compared: they are of simulations that may have
shared a machine. Runs are compared that share dataset, clients and model.
"""

import collections
from typing import Any

import numpy as np

from hns.engine.metrics import mean_sd, size

ACCURACIES = 'held', 'personal'
COSTS = {
  'uplink_bytes': 'up',
  'downlink_bytes': 'down',
  'client_flops': 'client FLOPs',
  'client_steps': 'client steps',
  'round': 'rounds',
}


def judged(group: Any, accuracy: str = 'held') -> Any:
  """A group whose rows call that accuracy `accuracy`, its worst tenth `p10`."""
  field = f'{accuracy}_accuracy'
  called = {field: 'accuracy', f'{field}_p10': 'p10'}
  more = lambda row: (
    row | {called[name]: value for name, value in row.items() if name in called}
  )
  return group._replace(
    rows=tuple([more(row) for row in rows] for rows in group.rows)
  )


def settings(groups: list[Any], accuracy: str = 'held') -> dict[str, list[Any]]:
  """Groups that tell an accuracy, `judged`, by dataset, clients and model.

  A group with a row that does not, or whose accuracy is not finite, is left
  out.
  """
  found = collections.defaultdict(list)
  for group in groups:
    rows = [row for rows in group.rows for row in rows]
    if all(row.get(f'{accuracy}_accuracy') is not None for row in rows):
      config = group.config
      name = f'{config["dataset"]}, {config["num_clients"]} clients'
      found[f'{name}, {config["model"]}'].append(judged(group, accuracy))
  return dict(found)


def is_ours(group: Any) -> bool:
  """HideNseek with signs and nothing at home."""
  config = group.config
  table = config.get('hidenseek', {})
  return config['algorithm'] == 'hidenseek' and table.get('gate') == 'sign'


def overview(groups: list[Any], accuracy: str = 'held') -> str:
  """Markdown: methods by settings, '' with fewer than two of these.

  In each the accuracy, the best one bold, and bytes up / down; in brackets what
  tuning chose, where it chose differently. The first method is that which on
  average is closest to the best, in the settings it has.
  """
  found = settings(groups, accuracy)
  if len(found) < 2:
    return ''
  best = _best(found)

  def cell(row, label, name):
    if name not in row:
      return ['', '']
    shown, *_, up, down = told(row[name])
    bold = f'**{shown}**' if final(row[name]) == best[name] else shown
    chosen = row[name].chosen if label != row[name].label else ()
    notes = [f'({word})' for word in chosen]
    return [' '.join([bold, *notes]), f'{up} / {down}']

  titles = [title for name in found for title in (name, 'up / down')]
  cells = [
    [label, *(x for name in found for x in cell(row, label, name))]
    for label, row in ranked(found)
  ]
  return markdown(['method', *titles], cells)


def ranked(found: dict[str, list[Any]]) -> list[tuple[str, dict[str, Any]]]:
  """Methods' names, and their groups by setting.

  The first is on average the closest to the best, in the settings it has.
  """
  called, best = names(found), _best(found)
  rows = collections.defaultdict(dict)
  for setting, chosen in found.items():
    for group in chosen:
      rows[called[group.label]][setting] = group
  behind = lambda row: np.mean([best[s] - final(g) for s, g in row.items()])
  return sorted(rows.items(), key=lambda item: behind(item[1]))


def _best(found: dict[str, list[Any]]) -> dict[str, float]:
  """By setting the highest accuracy in the end."""
  return {name: max(map(final, chosen)) for name, chosen in found.items()}


def names(found: dict[str, list[Any]]) -> dict[str, str]:
  """By label the name of a method: its variant, unless two of that meet.

  Args:
    found: groups, by what they share.
  """
  alike, called = collections.defaultdict(list), {}
  for setting, chosen in found.items():
    for group in chosen:
      alike[group.variant].append((setting, group.label))
  for variant, pairs in alike.items():
    labels = {label for _, label in pairs}
    apart = len(labels) > 1 and len(dict(pairs)) == len(pairs)
    called |= {label: variant if apart else label for label in labels}
  return called


def claims(groups: list[Any], accuracy: str = 'held') -> str:
  """Markdown: a table a setting, the best first.

  Behind each method stands ours relative to it: its accuracy, and its costs
  until both hold what the weaker of the two ends with, so that -40 % is less;
  '' where the rival's is 0. Ours is that with the upload `change`, the default,
  where it was run, and of several the best.
  """
  parts = []
  for setting, chosen in settings(groups, accuracy).items():
    ours = max(filter(is_ours, chosen), key=_rank, default=None)
    if ours is None or len(chosen) < 2:
      continue
    lines = [
      [f'**{group.label}**', *told(group), *[''] * (1 + len(COSTS))]
      if group is ours
      else [group.label, *told(group), *compared(ours, group)]
      for group in sorted(chosen, key=final, reverse=True)
    ]
    titles = ['method', accuracy, 'its worst tenth', 'global', 'up', 'down']
    titles += [f'ours: {name}' for name in ['accuracy', *COSTS.values()]]
    parts += [f'**{setting}**', markdown(titles, lines)]
  return '\n\n'.join(parts)


def markdown(titles: list[str], lines: list[list[str]]) -> str:
  """A table of cells."""
  rows = [titles, ['---'] * len(titles), *lines]
  # A name may hold what would end its cell.
  kept = lambda cell: ' '.join(cell.split('\n')).replace('|', '\\|')
  return '\n'.join(f'| {" | ".join(map(kept, row))} |' for row in rows)


def _rank(group: Any) -> tuple[bool, float]:
  return group.config['hidenseek'].get('upload') == 'change', final(group)


def told(group: Any) -> list[str]:
  """What a method ends with, over seeds."""
  last = _ends(group)
  names = 'accuracy', 'p10', 'global_accuracy'
  sent = 'uplink_bytes', 'downlink_bytes'
  return [
    *(over_seeds(last, name) for name in names),
    *(size(np.mean([row[name] for row in last])) for name in sent),
  ]


def over_seeds(rows: list[dict[str, Any]], name: str) -> str:
  """Mean and standard deviation of a metric, one row a seed.

  '' where no seed tells it, `-` where not all do or one is not finite.
  """
  values = [row.get(name) for row in rows]
  if not any(name in row for row in rows):
    return ''
  return '-' if None in values else mean_sd(values)


def compared(ours: Any, rival: Any) -> list[str]:
  """Our accuracy and our costs to the common target, relative to a rival's.

  Over the seeds that both ran; '' without any.
  """
  seeds = set(ours.seeds) & set(rival.seeds)
  if not seeds:
    return [''] * (1 + len(COSTS))
  ours, rival = _with(ours, seeds), _with(rival, seeds)
  mine, theirs = final(ours), final(rival)
  mine_at, theirs_at = (at(g, min(mine, theirs)) for g in (ours, rival))
  costs = [percent(mine_at[name], theirs_at[name]) for name in COSTS]
  return [percent(mine, theirs), *costs]


def _with(group: Any, seeds: set[int]) -> Any:
  rows = [r for r, seed in zip(group.rows, group.seeds) if seed in seeds]
  return group._replace(rows=tuple(rows))


def percent(value: float, base: float) -> str:
  """A relative difference, +12.3 %; '' if there is none."""
  told = base and np.isfinite(value / base)
  return f'{100 * (value / base - 1):+.1f} %' if told else ''


def final(group: Any) -> float:
  """Accuracy in the end, mean over seeds."""
  return float(np.mean([row['accuracy'] for row in _ends(group)]))


def _ends(group: Any) -> list[dict[str, Any]]:
  """One row a seed: the last that all seeds have."""
  last = min(map(len, group.rows)) - 1
  return [rows[last] for rows in group.rows]


def at(group: Any, target: float) -> dict[str, float]:
  """Means over seeds of the first row whose mean accuracy is the target's.

  A mean is NaN where a seed does not tell it.

  Args:
    group: runs evaluated in the same rounds.
    target: at most the highest mean of a row that all seeds have.
  """
  for rows in zip(*group.rows):
    mean = {
      name: float(np.mean([row.get(name, np.nan) for row in rows], dtype=float))
      for name in ('accuracy', *COSTS)
    }
    if mean['accuracy'] >= target - 1e-9:
      return mean
  raise ValueError(f'{group.label} never reaches {target}')


def sent(group: Any) -> float:
  """Bytes of both directions, mean over seeds."""
  last = _ends(group)
  return float(np.mean([r['uplink_bytes'] + r['downlink_bytes'] for r in last]))
