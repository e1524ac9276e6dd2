"""The command line: `python -m hns.main --config=FILE --workdir=DIR`."""

import signal
import sys

from absl import logging

from hns import commandline, devices, experiment, report
from hns.errors import InputError

_FLAGS = {
  'workdir': ('', 'where results go; default runs/DATASET-ALGORITHM-sSEED'),
  'distributed': (
    '',
    'several processes as one run: auto (SLURM, TPU pods, Open MPI) or '
    'HOST:PORT,PROCESSES,INDEX',
  ),
}


def main(words: list[str]) -> None:
  """Runs what the words of a command line, the program's first, ask for."""
  logging.set_verbosity(logging.WARNING)
  try:
    given = commandline.parse(words, _FLAGS)
    if given.help:
      print(commandline.help_of('python -m hns.main', given, _FLAGS))
      return
    config = given.config
    workdir = given.flags['workdir'] or (
      f'runs/{config.dataset.replace("/", "-")}-'
      f'{config.algorithm}-s{config.seed}'
    )
    devices.start(given.flags['distributed'])
    rows = experiment.run(config, workdir)
  except InputError as error:
    sys.exit(f'hns: {error}')
  except KeyboardInterrupt as stop:
    print(
      f'hns: {stop or "stopped; the same command goes on"}', file=sys.stderr
    )
    sys.exit(128 + getattr(stop, 'signal', signal.SIGINT))
  if not devices.is_first():
    return
  print(experiment.title(config))
  print(report.table(rows))
  print(f'{workdir}: metrics.jsonl, config.json, accuracy.png')


if __name__ == '__main__':
  main(sys.argv)
