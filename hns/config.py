"""Every field of a run, its default, its meaning and what it may be."""

from typing import Any

import ml_collections

from hns.algorithms import RECIPES
from hns.errors import invalid
from hns.models import MODELS
from hns.partition import PARTITIONS
from hns.pruning import SCORES


def base(**fields: Any) -> ml_collections.ConfigDict:
  """The defaults, with `fields` changed or, for a method's table, added."""
  config = ml_collections.ConfigDict()
  config.algorithm = 'hidenseek'  # the method, see hns/algorithms.py
  config.seed = 0  # of the partition, the weights and every round

  config.dataset = 'digits'  # digits, or any TFDS image classification
  config.group = ''  # the feature of partition=natural, such as writer
  config.partition = 'shards'  # iid, shards, dirichlet, natural
  config.num_clients = 20
  config.classes_per_client = 2  # for shards
  config.examples_per_client = 50  # for training; 0 for all; for dirichlet the
  # mean, for natural the most
  config.alpha = 0.5  # for dirichlet; smaller is more uneven
  config.validation_fraction = 0.2  # of a client's examples, beside training
  config.test_examples_per_client = 200  # at most

  config.model = 'cnn'  # see hns/models.py
  config.density = 0.2  # share of the weights that survives pruning, (0, 1]
  config.pruning = 'synflow'  # the score, see hns/pruning.py
  config.pruning_steps = 100  # 1 is single-shot

  config.rounds = 30
  config.cohort = 10  # clients a round
  config.local_epochs = 5  # passes over a client's examples a round
  config.local_steps = 0  # if above 0, so many steps instead
  config.batch_size = 10
  config.clients_per_step = 0  # width of the vmap; 0: chosen for the backend
  config.devices = 0  # that clients are spread over; 0: all there are
  config.eval_every = 5  # rounds between evaluations
  config.eval_clients = 0  # so many, always the same, are evaluated; 0: all
  config.eval_split = 'test'  # or validation, to tune on
  config.checkpoint_seconds = 60.0  # between checkpoints, at least

  config.upload = 'change'  # of hidenseek: signs, dithered, change, ternary
  config.download_bits = 4  # a weight, for methods that quantise; 1 to 8 or 32

  # One table a method: the arguments of its recipe.
  bits = config.get_ref('download_bits')
  config.hidenseek = dict(
    learning_rate=0.03,
    upload=config.get_ref('upload'),
    download_bits=bits,
    remember=False,
  )
  config.fedavg = dict(learning_rate=0.05, optimizer='sgd')
  config.local = dict(learning_rate=0.05, optimizer='sgd')
  rival = dict(
    learning_rate=0.01, optimizer='adam', download_bits=bits, pruned=False
  )
  config.fedavg_quantized = dict(rival, upload_bits=4)
  config.signsgd = dict(rival, server_rate=1.0, feedback=True)

  for name, value in fields.items():
    if name not in config and name not in RECIPES:
      raise invalid(name, value, 'there is no such field in hns/config.py')
  config.update(fields)
  return config


_NAMES = {
  'algorithm': RECIPES,
  'partition': PARTITIONS,
  'model': MODELS,
  'pruning': SCORES,
  'eval_split': ('test', 'validation'),
}
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


def validate(config: Any) -> None:
  """Raises `InputError` for a field that no data could make right."""
  for field, names in _NAMES.items():
    if config[field] not in names:
      raise invalid(field, config[field], f'choose one of {", ".join(names)}')
  for field, least in _AT_LEAST.items():
    if config[field] < least:
      raise invalid(field, config[field], f'must be at least {least}')
  if config.seed >= 2**32:
    raise invalid('seed', config.seed, 'must be below 2**32')
  if not 0 < config.density <= 1:
    raise invalid('density', config.density, 'must be in (0, 1]')
  if not 0 <= config.validation_fraction < 1:
    raise invalid(
      'validation_fraction', config.validation_fraction, 'must be in [0, 1)'
    )
  if config.cohort > config.num_clients:
    raise invalid(
      'cohort',
      config.cohort,
      f'a round cannot take more than num_clients={config.num_clients}',
    )
  if config.partition == 'natural' and not config.group:
    raise invalid('group', '', 'partition=natural needs a feature: writer')
  if config.eval_split == 'validation' and not config.validation_fraction:
    raise invalid(
      'validation_fraction', 0, 'eval_split=validation needs some examples'
    )
  if config.algorithm not in config:
    raise invalid(
      'algorithm',
      config.algorithm,
      f'the config needs a table config.{config.algorithm} of its parameters',
    )
  rate = config[config.algorithm].get('learning_rate', 1.0)
  if not rate > 0:
    raise invalid(f'{config.algorithm}.learning_rate', rate, 'must be above 0')


def differences(there: dict, here: dict, prefix: str = '') -> list[str]:
  """What two configs disagree on, one string a field."""
  found = []
  for name in sorted(there.keys() | here.keys()):
    a, b = there.get(name), here.get(name)
    if isinstance(a, dict) and isinstance(b, dict):
      found += differences(a, b, f'{prefix}{name}.')
    elif a != b:
      found.append(f'{prefix}{name} is {a!r} there and {b!r} here')
  return found
