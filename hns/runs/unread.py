"""Fields that a command line sets although the run does not read them."""

from collections.abc import Callable, Iterable
from typing import Any

from hns.fields import OF_RUN, fields_of
from hns.methods.recipes import RECIPES, NetworkInfo
from hns.values import ConfigDict, leaves

# Names that a user added may read what they like.
_PARTITIONS = {'iid', 'shards', 'dirichlet', 'natural'}
_RULES = {'mean', 'median', 'trimmed_mean', 'clipped_mean', 'private_mean'}


def _among(names: set[str]) -> Callable[[Any], bool]:
  return lambda value: value in names


# By field, another, and whether a value of that one leaves it unread.
_UNREAD = {
  'alpha': ('partition', _among(_PARTITIONS - {'dirichlet'})),
  'classes_per_client': ('partition', _among(_PARTITIONS - {'shards'})),
  'group': ('partition', _among(_PARTITIONS - {'natural'})),
  'trim_share': ('server_rule', _among(_RULES - {'trimmed_mean'})),
  'clip_norm': ('server_rule', _among(_RULES - {'private_mean'})),
  'noise_multiplier': ('server_rule', _among(_RULES - {'private_mean'})),
  'attack': ('hostile_clients', lambda count: not count),
  'drop_slowest': ('drop_share', lambda share: not share),
  'local_epochs': ('local_steps', bool),
}
# The same of fields of a method's table.
_UNREAD_OF_METHOD = {
  'server_rate': ('upload', _among({'signs'})),
  'momentum': ('upload', _among({'signs'})),
  'floats_rate': ('floats', _among({'frozen'})),
}
_OF_PRUNING = 'density', 'pruning', 'pruning_steps'


def notes(config: ConfigDict, changed: Iterable[str]) -> list[str]:
  """A line for each field that was set, but is not read.

  Args:
    config: a valid config.
    changed: the names of the fields that were set, TABLE.FIELD of a table's.
  """
  said = {field: _why(config, field) for field in changed}
  return [
    f'config.{field} is set, but not read with {why}'
    for field, why in said.items()
    if why
  ]


def _why(config: ConfigDict, field: str) -> str:
  """With which other field's value a field is not read; '' if it may be."""
  method = f'algorithm={config.algorithm}'
  table, dot, last = field.partition('.')
  if dot and table in RECIPES and table != config.algorithm:
    return method
  if field in ('upload', 'download_bits'):
    return _why_of_run(config, field)
  if field in _OF_PRUNING:
    reads = _prunes(config, field)
    return '' if reads else f'{method}, whose server does not prune'
  rules = _UNREAD_OF_METHOD if dot else _UNREAD
  other, leaves_unread = rules.get(last if dot else field, ('', None))
  other = f'{table}.{other}' if dot and other else other
  value = leaves(config.to_dict()).get(other)
  return (
    f'{other}={value}' if value is not None and leaves_unread(value) else ''
  )


def _why_of_run(config: ConfigDict, field: str) -> str:
  """As `_why`, of a field that methods may read through one of their own."""
  method = config.algorithm
  own = fields_of(RECIPES[method])
  if field not in own or own[field].default is not OF_RUN:
    return f'algorithm={method}'
  value = config[method][field]
  return '' if value == config[field] else f'{method}.{field}={value}'


class _Asked(NetworkInfo):
  """A `NetworkInfo` that remembers what it was asked about pruning."""

  asked = ()

  @property
  def prune(self):
    self.asked += _OF_PRUNING

  @property
  def density(self):
    self.asked += ('density',)
    return 1.0


def _prunes(config: ConfigDict, field: str) -> bool:
  """Whether the method has the server prune by a field; a user's may."""
  recipe, network = RECIPES[config.algorithm], _Asked(None, str, 1.0)
  if recipe.__module__.partition('.')[0] != 'hns':
    return True
  recipe(network, **config[config.algorithm])
  return field in network.asked
