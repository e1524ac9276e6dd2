"""The command line: `python -m hns.main --config=FILE --workdir=DIR`."""

import pathlib
import signal
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from hns import devices, experiment, report
from hns.errors import InputError

_CONFIG = config_flags.DEFINE_config_file(
  'config',
  str(pathlib.Path(__file__).parents[1] / 'configs' / 'digits.py'),
  'A file of configs/; --config.FIELD=VALUE changes a field.',
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Where results go; default runs/DATASET-ALGORITHM-sSEED.'
)
_DISTRIBUTED = flags.DEFINE_string(
  'distributed',
  '',
  'Several processes as one run: auto (SLURM, TPU pods, Open MPI) or '
  'HOST:PORT,PROCESSES,INDEX.',
)


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    sys.exit(f'hns: {argv[1]!r} is not a flag: write --config.FIELD=VALUE')
  logging.set_verbosity(logging.WARNING)
  config = _CONFIG.value
  workdir = _WORKDIR.value or (
    f'runs/{config.dataset.replace("/", "-")}-{config.algorithm}-s{config.seed}'
  )
  try:
    devices.start(_DISTRIBUTED.value)
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
  app.run(main)
