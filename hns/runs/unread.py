"""Fields that were set although the run does not read them."""

from collections.abc import Iterable

from hns.errors import InputError
from hns.fields import OF_RUN, fields_of
from hns.methods.recipes import RECIPES, NetworkInfo
from hns.values import ConfigDict

# By field, another, and the values with which that one leaves it unread. Names
# that a user added may read what they like.
_PARTITIONS = {'iid', 'shards', 'dirichlet', 'natural'}
_RULES = {'mean', 'median', 'trimmed_mean', 'clipped_mean', 'private_mean'}
_UNREAD = {
  'alpha': ('partition', _PARTITIONS - {'dirichlet'}),
  'classes_per_client': ('partition', _PARTITIONS - {'shards'}),
  'trim_share': ('server_rule', _RULES - {'trimmed_mean'}),
  'clip_norm': ('server_rule', _RULES - {'private_mean'}),
  'noise_multiplier': ('server_rule', _RULES - {'private_mean'}),
  'attack': ('hostile_clients', {0}),
  'drop_slowest': ('drop_share', {0}),
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
  table, dot, _ = field.partition('.')
  if dot:
    return method if table in RECIPES and table != config.algorithm else ''
  if field in ('upload', 'download_bits'):
    own = fields_of(RECIPES[config.algorithm])
    of_run = field in own and own[field].default is OF_RUN
    return '' if of_run else method
  if field in _OF_PRUNING:
    return '' if _prunes(config) else f'{method}, which prunes nothing'
  other, values = _UNREAD.get(field, ('', ()))
  return f'{other}={config[other]}' if other and config[other] in values else ''


class _Asked(NetworkInfo):
  """A `NetworkInfo` that remembers whether it was asked about pruning."""

  asked = False

  @property
  def prune(self):
    self.asked = True

  @property
  def density(self):
    self.asked = True
    return 1.0


def _prunes(config: ConfigDict) -> bool:
  """Whether the method has the server prune, or asks for the density."""
  network = _Asked(None, str, 1.0)
  try:
    RECIPES[config.algorithm](network, **config[config.algorithm])
  except InputError:  # which the run raises as well
    return True
  return network.asked
