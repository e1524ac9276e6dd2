"""The command line: `python -m hns.main --config=FILE --workdir=DIR`."""

import signal
import sys

from absl import logging

from hns import report
from hns.engine import metrics
from hns.errors import InputError, shown
from hns.runs import commandline, devices, experiment, limits, streams

_FLAGS = {
  'workdir': ('', 'where results go; default runs/DATASET-ALGORITHM-sSEED'),
  'distributed': (
    '',
    'several processes as one run: auto (SLURM, TPU pods, Open MPI) or '
    'HOST:PORT,PROCESSES,INDEX',
  ),
  'peers_seconds': (
    devices.PEERS_SECONDS,
    'how long to wait for the other processes',
  ),
}


def main(words: list[str]) -> None:
  """Runs what the words of a command line, the program's first, ask for."""
  streams.open_closed()
  logging.set_verbosity(logging.WARNING)
  with streams.lenient():
    try:
      _run(words)
    except InputError as error:
      sys.exit(f'hns: {error}')
    except KeyboardInterrupt as stop:
      said = stop or 'stopped; the same command goes on'
      print(f'hns: {said}', file=sys.stderr)
      sys.exit(128 + getattr(stop, 'signal', signal.SIGINT))


def _run(words: list[str]) -> None:
  given = commandline.parse(words, _FLAGS)
  if given.help:
    streams.show(commandline.help_of('python -m hns.main', given, _FLAGS))
    return
  config = given.config
  limits.validate(config)  # before JAX starts
  workdir = given.flags['workdir'] or (
    f'runs/{config.dataset.replace("/", "-")}-{config.algorithm}-s{config.seed}'
  )
  devices.start(given.flags['distributed'], given.flags['peers_seconds'])
  rows = experiment.run(config, workdir)
  if devices.is_first():
    streams.show(experiment.title(config))
    streams.show(report.table(rows))
    streams.show(f'{shown(workdir)}: metrics.jsonl, config.json, accuracy.png')
    if metrics.trouble(rows):
      streams.show(metrics.trouble(rows))


if __name__ == '__main__':
  main(sys.argv)
