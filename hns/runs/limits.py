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
    remedy = (
      'partition=natural needs the feature, or the column, that says who made '
      'an example, such as writer'
    )
    raise invalid('group', '', remedy)
  _check_chosen_table(config)
  needed_by = needs_validation(config)
  if needed_by and not config.validation_fraction:
    raise invalid('validation_fraction', 0, f'{needed_by} needs some examples')


def _check_clients(config: ConfigDict) -> None:
  """Raises `InputError` for more clients than can take part."""
  whole = config.num_clients, f'num_clients={config.num_clients}'
  seen = _without('unseen_clients', config, *whole)
  asked = config.cohort + config.extra_clients
  _check_most('cohort', config.cohort, *seen)
  _check_most('cohort + extra_clients', asked, *seen)
  _check_most('eval_clients', config.eval_clients, *seen)
  honest = _without('hostile_clients', config, *seen)
  _check_most('eval_clients', config.eval_clients, *honest)
  _check_answers(config)


def _without(
  field: str, config: ConfigDict, left: int, most: str
) -> tuple[int, str]:
  """How many clients are left without those of a field, and that in words."""
  count = config[field]
  if count >= left:
    raise invalid(field, count, f'must be below {most}: some have to take part')
  left -= count
  return left, f'{left}, {most} without {field}={count}' if count else most


def _check_most(name: str, asked: int, left: int, most: str) -> None:
  """Raises `InputError` for more clients than are left."""
  if asked > left:
    raise invalid(name, asked, f'cannot be above {most}: lower it too')


def _check_answers(config: ConfigDict) -> None:
  """Raises `InputError` where no round could get enough answers."""
  asked = config.cohort + config.extra_clients
  if config.min_answers > config.cohort:
    remedy = f'cannot be above cohort={config.cohort}: lower it too'
    raise invalid('min_answers', config.min_answers, remedy)
  if asked >= 2**31:
    remedy = 'must be below 2**31 with cohort'
    raise invalid('extra_clients', config.extra_clients, remedy)


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
