"""What every field may be, checked before anything is built."""

import inspect
import math
from typing import Any

import numpy as np

from hns import wire
from hns.config import NAMES, base, unknown
from hns.errors import InputError, invalid
from hns.methods.recipes import RECIPES
from hns.values import fit

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
  'seed': 0,
}
# A device counts in 32 bits; a schedule of pruning is a list of its steps.
_BELOW = {'pruning_steps': 10**6, 'seed': 2**32}
# Of fields and of a method's own: (least, most), and which of them count.
_WITHIN = {
  'alpha': (0, math.inf, '()'),
  'checkpoint_seconds': (0, math.inf, '[)'),
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
  check_types(config)
  _check(config)
  for field, least in _AT_LEAST.items():
    if config[field] < least:
      raise invalid(field, config[field], f'must be at least {least}')
    most = _BELOW.get(field, 2**31)
    if config[field] >= most:
      raise invalid(field, config[field], f'must be below {most}')
  for field in ('cohort', 'eval_clients'):
    if config[field] > config.num_clients:
      remedy = f'cannot be above num_clients={config.num_clients}'
      raise invalid(field, config[field], remedy)
  _check_examples(config)
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
  asking = asks_validation(config)
  if asking and not config.validation_fraction:
    raise invalid('validation_fraction', 0, f'{asking} needs some examples')


def asks_validation(config: Any) -> str:
  """What of a config needs validation examples; '' if nothing does."""
  if config.eval_split == 'validation':
    return 'eval_split=validation'
  asks = config[config.algorithm].get('threshold', -1) >= 0
  return f'{config.algorithm}.threshold' if asks else ''


def check_types(config: Any) -> None:
  """Raises `InputError` for a field missing, unknown or of another type.

  What a table may hold, its recipe says.
  """
  known = base()
  for name in known:
    if name not in config and name not in RECIPES:
      raise InputError(f'config.{name}: is missing: see hns.config.base')
  for name, value in config.items():
    if name not in known and name not in RECIPES:
      raise unknown(name, known)
    like = known.get(name, {})
    fit(name, value, like)
    if name in RECIPES:
      _check_table(name, dict(value), dict(like))


def _check_table(name: str, table: Any, default: Any) -> None:
  """Checks the parameters of a method against those that its recipe takes."""
  recipe = inspect.signature(RECIPES[name])
  parameters = [*recipe.parameters.values()][1:]
  named = {p.name: p for p in parameters if p.kind is not p.VAR_KEYWORD}
  if len(named) < len(parameters):
    named |= default or table
  for field in default:
    if field in named and field not in table:
      raise InputError(f'config.{name}.{field}: is missing')
  for field, value in table.items():
    if field not in named:
      remedy = f'no such field; {name} takes {", ".join(named)}'
      raise invalid(name, {field: value}, remedy)
    fit(f'{name}.{field}', value, default.get(field))
  try:
    recipe.bind(None, **table)
  except TypeError as error:
    raise invalid(name, table, str(error)) from error


def _check_examples(config: Any) -> None:
  """Refuses more examples a client and round than 32 bits count."""
  sized = config.partition in ('iid', 'shards', 'dirichlet')
  each = max(1, config.examples_per_client * sized)
  field = 'local_steps' if config.local_steps else 'local_epochs'
  seen = config[field]
  seen *= min(each, config.batch_size) if config.local_steps else each
  if seen >= 2**31:
    remedy = f'a client would train on {seen} examples a round, 2**31 or more'
    raise invalid(field, config[field], remedy)


def _check(config: Any, prefix: str = '') -> None:
  """Checks what has a name of `NAMES` or `_WITHIN`, and widths."""
  for field, names in NAMES.items():
    if field not in config:
      continue
    if fit(prefix + field, config[field], '') not in names:
      remedy = f'choose one of {", ".join(names)}'
      raise invalid(prefix + field, config[field], remedy)
  for field in ('upload_bits', 'download_bits'):
    if field in config:
      bits = fit(prefix + field, config[field], 0)
      wire.check_bits(bits, prefix + field)
  for field in sorted(_WITHIN.keys() & config.keys()):
    least, most, ends = _WITHIN[field]
    remedy = f'must be in {ends[0]}{least}, {most}{ends[1]}'
    given = fit(prefix + field, config[field], 0.0)
    for value in given, _single(given):
      above = value > least or (ends[0] == '[' and value == least)
      if not above or not (value < most or (ends[1] == ']' and value == most)):
        raise invalid(prefix + field, config[field], remedy)
      remedy += ', also in 32 bits'


def _single(value: float) -> float:
  """What a device, which knows no subnormal numbers, makes of a number."""
  with np.errstate(over='ignore', under='ignore'):
    single = float(np.float32(value))
  return single if abs(single) >= np.finfo(np.float32).tiny else 0.0
