"""Every field of a run, its default, its meaning and what it may be."""

import difflib
import math
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import ml_collections

from hns.data.partition import PARTITIONS
from hns.engine.attacks import ATTACKS
from hns.engine.rules import RULES
from hns.errors import InputError, shown
from hns.fields import (
  OF_RUN,
  REQUIRED,
  AtLeast,
  Field,
  NoneOr,
  OneOf,
  Within,
  fields_of,
)
from hns.methods.recipes import RECIPES, Bits, UploadName
from hns.networks.models import MODELS
from hns.networks.pruning import SCORES
from hns.values import TABLE, fit, leaves

Count = Annotated[int, AtLeast(1)]
CountOrNone = Annotated[int, AtLeast(0)]


class Run(NamedTuple):
  """The fields of a run, whatever its method; a method adds a table of its own.

  Attributes:
    algorithm: the method
    seed: of the partition, the weights and every round
    dataset: digits, a name in hns.DATASETS, a TFDS dataset, folder:PATH of
      pictures or of a file a client, or hf:PATH of Hugging Face's save_to_disk
    group: the feature of partition=natural, such as writer
    inputs: the feature to learn from; '' is image, or the only one it can be
    labels: the feature of classes; '' is label
    partition: how examples are shared out
    num_clients: clients in all
    unseen_clients: clients, drawn by the seed, that never take part in a round
      and are evaluated apart; 0: none
    classes_per_client: classes, for partition=shards
    examples_per_client: training examples; 0: all; for dirichlet the mean, for
      natural the most
    alpha: concentration, for dirichlet; smaller is more uneven
    validation_fraction: share of a client's examples, on top of those for
      training
    test_examples_per_client: test examples, at most
    model: the network
    head: the layer that personal methods keep local; '' is the
      only layer with an output a class
    statistics: of batch norms: local, each client measures its own, or
      averaged, they are sent as floats and the server keeps their mean
    density: share of the weights that survives pruning, (0, 1]
    pruning: the score of a weight
    pruning_steps: steps of pruning; 1 is single-shot
    compact: leave out what pruning removed, weights and disconnected units: the
      same network in less time; without it those of all seeds have one shape
    rounds: rounds that a run lasts
    cohort: clients that train in a round
    extra_clients: so many more are asked in a round, to make up for those that
      do not answer; the first `cohort` answers count
    drop_share: share of a round's clients, drawn each time, that vanish after
      their training, in [0, 1)
    drop_slowest: not random ones vanish but those with the most steps
    min_answers: a round with fewer answers changes nothing
    hostile_clients: clients, drawn by the seed, that attack; no accuracy counts
      them
    attack: what hostile clients upload
    server_rule: how the server makes one of the uploads; all but mean hold the
      uploads of a round in memory
    trim_share: share of the uploads that trimmed_mean cuts off on each side
    clip_norm: how far from what a client got private_mean lets it move
    noise_multiplier: noise of private_mean, in clip norms
    sign_epsilon: clients turn each uploaded sign at random, so that it alone is
      locally private with this epsilon; 0: none
    delta: of the epsilons that rows of metrics state
    secure_aggregation: uploads travel under masks that cancel in their sum, the
      only thing that the server learns of them; its bytes are counted
    local_epochs: passes over a client's examples a round
    local_steps: steps a round, instead; 0: as local_epochs says
    batch_size: examples a step
    rate_decay: factor of clients' learning rates from each round to the next;
      1: they stay
    clients_per_step: clients side by side on a device, the width of the vmap:
      memory grows with it; 0: 1 on a CPU, else estimated
    devices: devices that clients are spread over; 0: all there are
    eval_every: rounds between evaluations
    eval_clients: so many of those that can take part, always the same, are
      evaluated; 0: all
    eval_held: also evaluate, in every round, the model that a client ends it
      with: accuracy as held
    eval_split: examples evaluated; validation is for tuning
    checkpoint_seconds: seconds between checkpoints, at least
    upload: what a client of hidenseek sends
    download_bits: bits a weight, if quantised; 1 to 8, or 32; hidenseek has its
      own
  """

  algorithm: Annotated[str, OneOf(RECIPES)] = 'hidenseek'
  seed: Annotated[int, AtLeast(0, 2**32)] = 0

  dataset: str = 'digits'
  group: str = ''
  inputs: str = ''
  labels: str = ''
  partition: Annotated[str, OneOf(PARTITIONS)] = 'shards'
  num_clients: Count = 20
  unseen_clients: CountOrNone = 0
  classes_per_client: Count = 2
  examples_per_client: CountOrNone = 50
  alpha: Annotated[float, Within(0, math.inf)] = 0.5
  validation_fraction: Annotated[float, Within(0, 1, '[)')] = 0.2
  test_examples_per_client: Count = 200

  model: Annotated[str, OneOf(MODELS)] = 'cnn'
  head: str = ''
  statistics: Annotated[str, OneOf(('local', 'averaged'))] = 'local'
  density: Annotated[float, Within(0, 1, '(]')] = 0.2
  pruning: Annotated[str, OneOf(SCORES)] = 'synflow'
  # A schedule of pruning is a list of its steps.
  pruning_steps: Annotated[int, AtLeast(1, 10**6)] = 100
  compact: bool = True

  rounds: Count = 30
  cohort: Count = 10
  extra_clients: CountOrNone = 0
  drop_share: Annotated[float, Within(0, 1, '[)')] = 0.0
  drop_slowest: bool = False
  min_answers: Count = 1
  hostile_clients: CountOrNone = 0
  attack: Annotated[str, OneOf(ATTACKS)] = 'sign_flip'
  server_rule: Annotated[str, OneOf(RULES)] = 'mean'
  trim_share: Annotated[float, Within(0, 0.5, '[)')] = 0.2
  clip_norm: Annotated[float, Within(0, math.inf)] = 1.0
  noise_multiplier: Annotated[float, NoneOr(1e-3, 1e6)] = 1.0
  sign_epsilon: Annotated[float, NoneOr(1e-3, 50)] = 0.0
  delta: Annotated[float, Within(0, 1)] = 1e-5
  secure_aggregation: bool = False
  local_epochs: Count = 5
  local_steps: CountOrNone = 0
  batch_size: Count = 10
  rate_decay: Annotated[float, Within(0, 1, '(]')] = 1.0
  clients_per_step: CountOrNone = 0
  devices: CountOrNone = 0
  eval_every: Count = 5
  eval_clients: CountOrNone = 0
  eval_held: bool = True
  eval_split: Annotated[str, OneOf(('test', 'validation'))] = 'test'
  checkpoint_seconds: Annotated[float, Within(0, math.inf, '[)')] = 60.0

  upload: UploadName = 'change'
  download_bits: Bits = 4


def base(**fields: Any) -> ml_collections.ConfigDict:
  """The defaults, with `fields` changed or, for a method's table, added.

  A table's field that is the run's (`OF_RUN`) follows that one until it is set;
  setting it changes no other field.

  `InputError` for a field that is not there, or a value of another type.
  """
  config = ml_collections.ConfigDict(Run()._asdict())
  config.update(
    {
      name: table_defaults(recipe, config.get_oneway_ref)
      for name, recipe in RECIPES.items()
    }
  )
  for name in fields:
    if name not in config:
      raise unknown(name, config)
  _change(config, fields)
  return config


def table_defaults(recipe: Any, of_run: Callable[[str], Any]) -> dict[str, Any]:
  """The defaults of a recipe's fields; `of_run(name)` of one of the run's."""
  return {
    name: of_run(name) if field.default is OF_RUN else field.default
    for name, field in fields_of(recipe).items()
    if field.default is not REQUIRED
  }


def fields() -> dict[str, Field]:
  """Every field by its whole name, those of tables as TABLE.FIELD."""
  found = fields_of(Run)
  for name, recipe in RECIPES.items():
    found |= {f'{name}.{k}': field for k, field in fields_of(recipe).items()}
  return found


def case_of(path: str) -> tuple[str, str]:
  """FILE.py and CASE of FILE.py:CASE; '' for a path without a case."""
  file, colon, case = path.partition('.py:')
  return file + '.py' * bool(colon), case


def _change(config: Any, fields: Any, prefix: str = '') -> None:
  """Sets fields, also of tables that are there already."""
  for name, value in fields.items():
    if name not in config and isinstance(value, TABLE):
      config[name] = {}
    here = config.get(name)
    if isinstance(value, TABLE) and isinstance(here, TABLE):
      _change(here, value, f'{prefix}{name}.')
    else:
      config[name] = fit(prefix + name, value, here)


def unknown(name: str, config: Any) -> InputError:
  """The error for a field, such as `hidenseek.rate`, that is not there."""
  if name in config:
    return InputError(f'config.{name}: is a table: change one of its fields')
  table, _, last = name.rpartition('.')
  parts = [field.rpartition('.') for field in leaves(config.to_dict())]
  close = difflib.get_close_matches(last, [part[2] for part in parts], 1)
  near = sorted(
    (part[0] != table, part[0] != config.algorithm, ''.join(part))
    for part in parts
    if part[2] in close
  )
  remedy = f'did you mean {near[0][2]}?' if near else '--help lists all'
  if not near and isinstance(config.get(table), TABLE):
    remedy = f'{table} takes {", ".join(config[table])}'
  return InputError(f'config.{shown(name)}: no such field; {remedy}')


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
