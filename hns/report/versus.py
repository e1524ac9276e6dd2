"""Compares HideNseek with other methods: accuracy and costs.

The accuracy is by default that of the model as held, which a client ended its
last round with. Two methods are compared at the first evaluated round in which
each one's mean over seeds reaches the common target: the lower of their final
accuracies. Seconds are not compared, because simulations may have shared a
machine. Only runs of the same dataset, clients and model are compared.
"""

import collections

import numpy as np

from hns.engine.metrics import mean_sd, size
from hns.report.files import Row
from hns.report.groups import Group

ACCURACIES = 'held', 'personal'
COSTS = {
  'uplink_bytes': 'up',
  'downlink_bytes': 'down',
  'client_flops': 'client FLOPs',
  'client_steps': 'client steps',
  'round': 'rounds',
}


def with_accuracy(group: Group, accuracy: str = 'held') -> Group:
  """A group with one accuracy, and its p10, also as `accuracy` and `p10`."""
  field = f'{accuracy}_accuracy'
  aliases = {field: 'accuracy', f'{field}_p10': 'p10'}
  extend = lambda row: (
    row | {alias: row[name] for name, alias in aliases.items() if name in row}
  )
  return group._replace(
    rows=tuple([extend(row) for row in rows] for rows in group.rows)
  )


def settings(
  groups: list[Group], accuracy: str = 'held'
) -> dict[str, list[Group]]:
  """Groups by setting: dataset, clients and model, `with_accuracy`.

  Groups without the accuracy, or where it is not finite, are left out.
  """
  by_setting = collections.defaultdict(list)
  for group in groups:
    rows = [row for rows in group.rows for row in rows]
    if all(row.get(f'{accuracy}_accuracy') is not None for row in rows):
      config = group.config
      name = f'{config["dataset"]}, {config["num_clients"]} clients'
      by_setting[f'{name}, {config["model"]}'].append(
        with_accuracy(group, accuracy)
      )
  return dict(by_setting)


def is_ours(group: Group) -> bool:
  """Whether it is HideNseek with signs."""
  config = group.config
  table = config.get('hidenseek', {})
  return config['algorithm'] == 'hidenseek' and table.get('gate') == 'sign'


def overview(groups: list[Group], accuracy: str = 'held') -> str:
  """A Markdown table of methods by settings; '' for fewer than two settings.

  A cell has the accuracy, the best of a setting in bold, and the bytes up /
  down; in brackets the tuned fields where they differ between settings. Methods
  are ordered as by `ranked`.
  """
  by_setting = settings(groups, accuracy)
  if len(by_setting) < 2:
    return ''
  best = _best(by_setting)

  def cell(row, label, name):
    if name not in row:
      return ['', '']
    result = results(row[name])
    bold = '**' if final(row[name]) == best[name] else ''
    tuned = row[name].chosen if label != row[name].label else ()
    words = [f'{bold}{result[0]}{bold}', *(f'({word})' for word in tuned)]
    return [' '.join(words), f'{result[-2]} / {result[-1]}']

  titles = [title for name in by_setting for title in (name, 'up / down')]
  cells = [
    [label, *(x for name in by_setting for x in cell(row, label, name))]
    for label, row in ranked(by_setting)
  ]
  return markdown(['method', *titles], cells)


def ranked(
  by_setting: dict[str, list[Group]],
) -> list[tuple[str, dict[str, Group]]]:
  """Names of methods, and their groups by setting, ordered by accuracy.

  The first method is on average closest to the best, over the settings it has.
  """
  name_of, best = names(by_setting), _best(by_setting)
  rows = collections.defaultdict(dict)
  for setting, groups in by_setting.items():
    for group in groups:
      rows[name_of[group.label]][setting] = group
  behind = lambda row: np.mean([best[s] - final(g) for s, g in row.items()])
  return sorted(rows.items(), key=lambda item: behind(item[1]))


def _best(by_setting: dict[str, list[Group]]) -> dict[str, float]:
  """By setting the highest final accuracy."""
  return {name: max(map(final, groups)) for name, groups in by_setting.items()}


def names(by_setting: dict[str, list[Group]]) -> dict[str, str]:
  """By label the name of a method: its variant if that is unique, else itself.

  A variant is unique if no setting has two groups of it.
  """
  by_variant, name_of = collections.defaultdict(list), {}
  for setting, groups in by_setting.items():
    for group in groups:
      by_variant[group.variant].append((setting, group.label))
  for variant, pairs in by_variant.items():
    labels = {label for _, label in pairs}
    is_unique = len(labels) > 1 and len(dict(pairs)) == len(pairs)
    name_of |= {label: variant if is_unique else label for label in labels}
  return name_of


def claims(groups: list[Group], accuracy: str = 'held') -> str:
  """A Markdown table for each setting, the best method first.

  The columns `ours` show HideNseek relative to the other method: its accuracy,
  and its costs to reach the lower of the two final accuracies, so that -40 % is
  cheaper; '' where the other's is 0. Of several variants of HideNseek those
  with the upload `change`, the default, are preferred, then the best.
  """
  parts = []
  for setting, chosen in settings(groups, accuracy).items():
    ours = max(filter(is_ours, chosen), key=_rank, default=None)
    if ours is None or len(chosen) < 2:
      continue
    lines = [
      [f'**{group.label}**', *results(group), *[''] * (1 + len(COSTS))]
      if group is ours
      else [group.label, *results(group), *compared(ours, group)]
      for group in sorted(chosen, key=final, reverse=True)
    ]
    titles = ['method', accuracy, 'its worst tenth', 'global', 'up', 'down']
    titles += [f'ours: {name}' for name in ['accuracy', *COSTS.values()]]
    parts += [f'**{setting}**', markdown(titles, lines)]
  return '\n\n'.join(parts)


def markdown(titles: list[str], lines: list[list[str]]) -> str:
  """A Markdown table."""
  rows = [titles, ['---'] * len(titles), *lines]
  # A name may contain characters that end a cell.
  escaped = lambda cell: ' '.join(cell.split('\n')).replace('|', '\\|')
  return '\n'.join(f'| {" | ".join(map(escaped, row))} |' for row in rows)


def _rank(group: Group) -> tuple[bool, float]:
  return group.config['hidenseek'].get('upload') == 'change', final(group)


def results(group: Group) -> list[str]:
  """Final accuracies and bytes of a method, over seeds, as text."""
  last = _last_rows(group)
  names = 'accuracy', 'p10', 'global_accuracy'
  sent = 'uplink_bytes', 'downlink_bytes'
  return [
    *(over_seeds(last, name) for name in names),
    *(size(np.mean([row[name] for row in last])) for name in sent),
  ]


def over_seeds(rows: list[Row], name: str) -> str:
  """Mean and standard deviation of a metric over the rows of all seeds.

  '' if no seed has it, `-` if not all have it or one is not finite.
  """
  values = [row.get(name) for row in rows]
  if not any(name in row for row in rows):
    return ''
  return '-' if None in values else mean_sd(values)


def compared(ours: Group, other: Group) -> list[str]:
  """Our accuracy and our costs to the common target, relative to another's.

  Over the seeds that both ran; '' without any.
  """
  seeds = set(ours.seeds) & set(other.seeds)
  if not seeds:
    return [''] * (1 + len(COSTS))
  groups = _with(ours, seeds), _with(other, seeds)
  accuracies = [final(group) for group in groups]
  cost, base = (at(group, min(accuracies)) for group in groups)
  return [percent(*accuracies), *(percent(cost[c], base[c]) for c in COSTS)]


def _with(group: Group, seeds: set[int]) -> Group:
  rows = [r for r, seed in zip(group.rows, group.seeds) if seed in seeds]
  return group._replace(rows=tuple(rows))


def percent(value: float, base: float) -> str:
  """A relative difference, such as +12.3 %; '' if it is not finite."""
  is_known = base and np.isfinite(value / base)
  return f'{100 * (value / base - 1):+.1f} %' if is_known else ''


def final(group: Group) -> float:
  """The final accuracy, mean over seeds."""
  return float(np.mean([row['accuracy'] for row in _last_rows(group)]))


def _last_rows(group: Group) -> list[Row]:
  """The last row that all seeds have, of each seed."""
  last = min(map(len, group.rows)) - 1
  return [rows[last] for rows in group.rows]


def at(group: Group, target: float) -> dict[str, float]:
  """Means over seeds of the first row whose mean accuracy reaches a target.

  A mean is NaN if a seed does not have the metric.

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


def sent(group: Group) -> float:
  """Bytes of both directions, mean over seeds."""
  last = _last_rows(group)
  return float(np.mean([r['uplink_bytes'] + r['downlink_bytes'] for r in last]))
