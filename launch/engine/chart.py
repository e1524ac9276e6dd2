"""A bar chart of a benchmark."""

from matplotlib.figure import Figure

from hns.report import axes

_TIMES = 1, 3, 10, 30  # along the axis


def draw(summary: dict) -> Figure:
  """The time of a round of every side as a multiple of ours.

  Args:
    summary: from `tables.summary`.
  """
  tasks = {
    f'{workload}, {method}': ratios
    for workload in {**summary['ratio'], **summary['hidenseek']}
    for method, part in (('fedavg', 'ratio'), ('hidenseek', 'hidenseek'))
    if (ratios := summary[part].get(workload))
  }
  figure = Figure(figsize=(axes.WIDTH, 2.2), layout='constrained')
  shared = dict(sharex=True, sharey=True, squeeze=False)
  panels = figure.subplots(1, max(1, len(tasks)), **shared)[0]
  for panel, (task, ratios) in zip(panels, tasks.items()):
    bars = panel.barh([*ratios], [*ratios.values()], height=0.7, color='0.7')
    panel.bar_label(bars, fmt='{:.1f}', padding=2, fontsize=8)
    panel.set_title(task, fontsize=9)
    panel.axvline(1, color='black', linewidth=1)
    axes.plain(panel)
    panel.grid(axis='y', visible=False)
  most = max((x for each in tasks.values() for x in each.values()), default=1)
  panels[0].set(xscale='log', xlim=(0.8, 4 * most))  # with room for labels
  panels[0].set_xticks(_TIMES, _TIMES)
  panels[0].set_xticks([], minor=True)
  panels[0].invert_yaxis()
  figure.supxlabel('time of a round, ours = 1', fontsize=9)
  return figure
