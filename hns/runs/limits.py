"""Checks every field of a config before anything is built."""

from typing import Any

from hns.config import Run, base, unknown
from hns.data import has_features
from hns.errors import InputError, invalid
from hns.fields import REQUIRED, ValidationThreshold, fields_of, takes_any
from hns.methods.recipes import RECIPES
from hns.values import ConfigDict, fit


def validate(config: ConfigDict) -> None:
  """Raises `InputError` for a field that is wrong whatever the dataset."""
  check_types(config)
  for name, field in fields_of(Run).items():
    field.check(name, config[name])
  _check_clients(config)
  _check_examples(config)
  needs_group = config.partition == 'natural' and has_features(config.dataset)
  if needs_group and not config.group:
    raise invalid('group', '', 'partition=natural needs a feature: writer')
  _check_chosen_table(config)
  needed_by = needs_validation(config)
  if needed_by and not config.validation_fraction:
    raise invalid('validation_fraction', 0, f'{needed_by} needs some examples')


def _check_clients(config: ConfigDict) -> None:
  """Raises `InputError` for more clients than can take part."""
  total, unseen = config.num_clients, config.unseen_clients
  if unseen >= total:
    remedy = f'must be below num_clients={total}: some have to take part'
    raise invalid('unseen_clients', unseen, remedy)
  most = f'num_clients={total}'
  if unseen:
    most = f'{total - unseen}, {most} without unseen_clients={unseen}'
  for name in ('cohort', 'eval_clients'):
    if config[name] > total - unseen:
      remedy = f'cannot be above {most}: lower it too'
      raise invalid(name, config[name], remedy)


def _check_chosen_table(config: ConfigDict) -> None:
  """Checks the values of the table of the config's method."""
  algorithm = config.algorithm
  if algorithm not in config:
    remedy = f'the config needs a table config.{algorithm} of its parameters'
    raise invalid('algorithm', algorithm, remedy)
  for name, field in fields_of(RECIPES[algorithm]).items():
    field.check(f'{algorithm}.{name}', config[algorithm][name])


def needs_validation(config: ConfigDict) -> str:
  """The field that needs validation examples; '' if none does."""
  if config.eval_split == 'validation':
    return 'eval_split=validation'
  table = config[config.algorithm]
  for name, field in fields_of(RECIPES[config.algorithm]).items():
    validates = any(isinstance(x, ValidationThreshold) for x in field.limits)
    if validates and table[name] >= 0:
      return f'{config.algorithm}.{name}'
  return ''


def check_types(config: ConfigDict) -> None:
  """Raises `InputError` for a field missing, unknown or of another type.

  The fields of a method's table are the arguments of its recipe.
  """
  known = base()
  for name in known:
    if name not in config and name not in RECIPES:
      raise InputError(f'config.{name}: is missing: see hns.config.Run')
  for name, value in config.items():
    if name not in known:
      raise unknown(name, known)
    fit(name, value, known[name])
    if name in RECIPES:
      _check_table(name, dict(value), name == config.algorithm)


def _check_table(name: str, table: dict[str, Any], is_chosen: bool) -> None:
  """Checks the table of a method against the arguments of its recipe."""
  recipe = RECIPES[name]
  fields = fields_of(recipe)
  for field, value in table.items():
    if field in fields:
      fit(f'{name}.{field}', value, fields[field].like())
    elif not takes_any(recipe):
      remedy = f'no such field; {name} takes {", ".join(fields)}'
      raise invalid(name, {field: value}, remedy)
  for field in fields:
    if field not in table and (is_chosen or fields[field].default != REQUIRED):
      raise InputError(f'config.{name}.{field}: is missing')


def _check_examples(config: ConfigDict) -> None:
  """Raises `InputError` for 2^31 or more examples per client and round."""
  sized = config.partition in ('iid', 'shards', 'dirichlet')
  each = max(1, config.examples_per_client * sized)
  field = 'local_steps' if config.local_steps else 'local_epochs'
  count = config[field]
  count *= min(each, config.batch_size) if config.local_steps else each
  if count >= 2**31:
    remedy = f'a client would train on {count} examples a round, 2**31 or more'
    raise invalid(field, config[field], remedy)
