"""Compares HideNseek with other methods: accuracy and costs.

The accuracy is by default that of the model as held, which a client ended its
last round with. Two methods are compared at the first evaluated round in which
each one's mean over seeds reaches the common target: the lower of their final
accuracies. Seconds are not compared, because simulations may have shared a
machine. Only runs of the same setting are compared: dataset, clients and
partition. Bytes are those of both directions.
"""

import collections

import numpy as np

from hns.engine.metrics import mean_sd, size
from hns.report.files import Row
from hns.report.groups import Group
from hns.report.labels import Word, named

ACCURACIES = 'held', 'personal', 'unseen'
BYTES = 'bytes (up + down)'  # the title of a column of `sum_of_bytes`
COSTS = {
  'bytes': 'bytes',
  'client_flops': 'client FLOPs',
  'client_steps': 'client steps',
  'round': 'rounds',
}


def sum_of_bytes(rows: list[Row]) -> str:
  """Mean bytes of some rows: the sum, and in brackets up and down."""
  fields = 'uplink_bytes', 'downlink_bytes'
  up, down = (float(np.mean([row[name] for row in rows])) for name in fields)
  return f'{size(up + down)} ({size(up)} + {size(down)})'


def with_accuracy(group: Group, accuracy: str = 'held') -> Group:
  """A group with one accuracy as `accuracy`, its p10 as `p10`, and `bytes`."""
  field = f'{accuracy}_accuracy'
  aliases = {field: 'accuracy', f'{field}_p10': 'p10'}

  def extend(row):
    found = {alias: row[name] for name, alias in aliases.items() if name in row}
    return row | found | {'bytes': row['uplink_bytes'] + row['downlink_bytes']}

  return group._replace(
    rows=tuple([extend(row) for row in rows] for rows in group.rows)
  )


def settings(
  groups: list[Group], accuracy: str = 'held'
) -> dict[str, list[Group]]:
  """Groups by setting, `with_accuracy`.

  Groups without the accuracy, or where it is not finite, are left out.
  """
  by_setting = collections.defaultdict(list)
  for group in groups:
    rows = [row for rows in group.rows for row in rows]
    if all(row.get(f'{accuracy}_accuracy') is not None for row in rows):
      by_setting[group.setting].append(with_accuracy(group, accuracy))
  return dict(by_setting)


def is_ours(group: Group) -> bool:
  """Whether it is HideNseek with signs."""
  config = group.config
  table = config.get('hidenseek', {})
  return config['algorithm'] == 'hidenseek' and table.get('gate') == 'sign'


def overview(groups: list[Group], accuracy: str = 'held') -> str:
  """A Markdown table of methods by settings; '' for fewer than two settings.

  A setting has the accuracy, the best in bold, and the bytes; in brackets the
  tuned fields that `names` leaves out. Methods are ordered as by `ranked`.
  """
  by_setting = settings(groups, accuracy)
  if len(by_setting) < 2:
    return ''
  best, words = _best(by_setting), row_words(by_setting)

  def cell(row, name):
    if name not in row:
      return ['', '']
    group, (accuracy, *_, sent) = row[name], results(row[name])
    bold = '**' if final(group) == best[name] else ''
    left_out = [w for w in group.words if w not in words[group.label]]
    tuned = named('', left_out)
    return [f'{bold}{accuracy}{bold}{tuned}', sent]

  titles = [title for name in by_setting for title in (name, BYTES)]
  cells = [
    [label, *(x for name in by_setting for x in cell(row, name))]
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
  """By label the name of a method, without the words that `row_words` drops."""
  words = row_words(by_setting)
  return {
    group.label: named(group.config['algorithm'], words[group.label])
    for groups in by_setting.values()
    for group in groups
  }


def row_words(
  by_setting: dict[str, list[Group]],
) -> dict[str, tuple[Word, ...]]:
  """By label the words of a method's name.

  Those of a tuned field are left out if the field differs between the settings
  of a variant and never within one: there it tells no two methods apart.
  """
  variants = collections.defaultdict(list)
  for setting, groups in by_setting.items():
    for group in groups:
      fixed = tuple(word for word in group.words if not word.tuned)
      variants[group.config['algorithm'], fixed].append((setting, group))
  return {
    group.label: tuple(w for w in group.words if w.field not in left_out)
    for pairs in variants.values()
    for left_out in [_between_settings(pairs)]
    for _, group in pairs
  }


def _between_settings(pairs: list[tuple[str, Group]]) -> set[str]:
  """Tuned fields that differ between settings, but in none of them."""
  fields = {word.field for _, g in pairs for word in g.words if word.tuned}
  return {
    field
    for field in fields
    for said in [{(setting, _said(g, field)) for setting, g in pairs}]
    if len(said) == len(dict(said)) and len({text for _, text in said}) > 1
  }


def _said(group: Group, field: str) -> str:
  """The word of a field; '' without one."""
  return ''.join(word.text for word in group.words if word.field == field)


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
    titles = ['method', accuracy, 'its worst tenth', 'global', BYTES]
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
  return [*(over_seeds(last, name) for name in names), sum_of_bytes(last)]


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
  return float(np.mean([row['bytes'] for row in _last_rows(group)]))
