"""Runs one experiment.

  python -m hns.main --config=FILE --config.FIELD=VALUE ... --workdir=DIR

The same command continues a run that was stopped.
"""

import signal
import sys

from absl import flags, logging

from hns import command, report, streams
from hns.data import names
from hns.engine import metrics
from hns.errors import shown
from hns.runs import commandline, devices, experiment, limits, unread


def main(words: list[str]) -> None:
  """Runs a command line, which starts with the program."""
  streams.open_closed()
  logging.set_verbosity(logging.WARNING)
  with streams.lenient(), command.one_line():
    try:
      _run(words)
    except KeyboardInterrupt as stop:
      message = stop or 'stopped; the same command goes on'
      print(f'hns: {message}', file=sys.stderr)
      sys.exit(128 + getattr(stop, 'signal', signal.SIGINT))


def _flags() -> flags.FlagValues:
  values = flags.FlagValues()
  where = 'where results go; default runs/DATASET-ALGORITHM-sSEED'
  flags.DEFINE_string('workdir', '', where, values)
  processes = (
    'several processes as one run: auto (SLURM, TPU pods, Open MPI) or '
    'HOST:PORT,PROCESSES,INDEX'
  )
  flags.DEFINE_string('distributed', '', processes, values)
  flags.DEFINE_integer(
    'peers_seconds',
    devices.PEERS_SECONDS,
    'how long to wait for the other processes',
    flag_values=values,
  )
  return values


def _run(words: list[str]) -> None:
  values = _flags()
  _, config, changed = commandline.parse(words, values, __doc__)
  limits.validate(config)  # before JAX starts
  name = names.short(config.dataset).replace('/', '-')
  default = f'runs/{name}-{config.algorithm}-s{config.seed}'
  workdir = values.workdir or default
  devices.start(values.distributed, values.peers_seconds)
  if devices.is_first():
    for note in unread.notes(config, changed):
      print(f'hns: {note}', file=sys.stderr)
  rows = experiment.run(config, workdir)
  if devices.is_first():
    streams.show(experiment.title(config))
    streams.show(report.table(rows))
    streams.show(f'{shown(workdir)}: metrics.jsonl, config.json, accuracy.png')
    if metrics.trouble(rows):
      streams.show(metrics.trouble(rows))


if __name__ == '__main__':
  main(sys.argv)
