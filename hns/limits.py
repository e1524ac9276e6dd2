"""What every field may be, checked before anything is built."""

import math
from typing import Any

from hns import wire
from hns.config import NAMES
from hns.errors import invalid

_AT_LEAST = {
  'num_clients': 1,
  'classes_per_client': 1,
  'examples_per_client': 0,
  'test_examples_per_client': 1,
  'pruning_steps': 1,
  'rounds': 1,
  'cohort': 1,
  'local_epochs': 1,
  'local_steps': 0,
  'batch_size': 1,
  'clients_per_step': 0,
  'devices': 0,
  'eval_every': 1,
  'eval_clients': 0,
  'checkpoint_seconds': 0,
  'seed': 0,
}
# Of fields and of a method's own: (least, most), and which of them count.
_WITHIN = {
  'alpha': (0, math.inf, '()'),
  'density': (0, 1, '(]'),
  'validation_fraction': (0, 1, '[)'),
  'learning_rate': (0, math.inf, '()'),
  'server_rate': (0, math.inf, '()'),
  'pull': (0, math.inf, '[)'),
  'share': (0, 1, '()'),
  'threshold': (-math.inf, 1, '()'),
  'target': (0, 1, '(]'),
}


def validate(config: Any) -> None:
  """Raises `InputError` for a field that no data could make right."""
  _check(config)
  for field, least in _AT_LEAST.items():
    if config[field] < least:
      raise invalid(field, config[field], f'must be at least {least}')
  if config.seed >= 2**32:
    raise invalid('seed', config.seed, 'must be below 2**32')
  if config.cohort > config.num_clients:
    raise invalid(
      'cohort',
      config.cohort,
      f'a round cannot take more than num_clients={config.num_clients}',
    )
  if config.partition == 'natural' and not config.group:
    raise invalid('group', '', 'partition=natural needs a feature: writer')
  if config.algorithm not in config:
    raise invalid(
      'algorithm',
      config.algorithm,
      f'the config needs a table config.{config.algorithm} of its parameters',
    )
  table = config[config.algorithm]
  _check(table, f'{config.algorithm}.')
  asking = {
    'eval_split=validation': config.eval_split == 'validation',
    f'{config.algorithm}.threshold': table.get('threshold', -1) >= 0,
  }
  for name, asks in asking.items():
    if asks and not config.validation_fraction:
      raise invalid('validation_fraction', 0, f'{name} needs some examples')


def _check(config: Any, prefix: str = '') -> None:
  """Checks what has a name of `NAMES` or `_WITHIN`, and widths."""
  for field, names in NAMES.items():
    if field in config and config[field] not in names:
      remedy = f'choose one of {", ".join(names)}'
      raise invalid(prefix + field, config[field], remedy)
  for field in ('upload_bits', 'download_bits'):
    if field in config:
      wire.check_bits(config[field], prefix + field)
  for field in sorted(_WITHIN.keys() & config.keys()):
    (least, most, (left, right)), value = _WITHIN[field], config[field]
    above = value > least or (left == '[' and value == least)
    if not above or not (value < most or (right == ']' and value == most)):
      remedy = f'must be in {left}{least}, {most}{right}'
      raise invalid(prefix + field, value, remedy)
