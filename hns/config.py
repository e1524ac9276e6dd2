"""Every field of a run, its default, its meaning and what it may be."""

import difflib
import inspect
import re
from typing import Any

import ml_collections

from hns.data.partition import PARTITIONS
from hns.errors import InputError, shown
from hns.methods.recipes import GATES, OPTIMIZERS, RECIPES, UPLOADS
from hns.networks.models import MODELS
from hns.networks.pruning import SCORES
from hns.values import TABLE, fit, leaves


def base(**fields: Any) -> ml_collections.ConfigDict:
  """The defaults, with `fields` changed or, for a method's table, added.

  `InputError` for a field that is not there, or a value of another type.
  """
  config = _fields()
  config.update(_tables(config))
  for name in fields:
    if name not in config and name not in RECIPES:
      raise unknown(name, config)
  _change(config, fields)
  return config


def _fields() -> ml_collections.ConfigDict:
  """Every field but the tables.

  The comment behind a default is what `--help` says of the field: see `texts`.
  """
  config = ml_collections.ConfigDict()
  config.algorithm = 'hidenseek'  # the method
  config.seed = 0  # of the partition, the weights and every round

  config.dataset = 'digits'  # digits, or a TFDS image classification dataset
  config.group = ''  # the feature of partition=natural, such as writer
  config.partition = 'shards'  # how examples are shared out
  config.num_clients = 20  # clients in all
  config.classes_per_client = 2  # classes, for partition=shards
  config.examples_per_client = 50  # training examples; 0: all; for dirichlet
  # the mean, for natural the most
  config.alpha = 0.5  # concentration, for dirichlet; smaller is more uneven
  config.validation_fraction = 0.2  # share of a client's examples, on top of
  # those for training
  config.test_examples_per_client = 200  # test examples, at most

  config.model = 'cnn'  # the network
  config.head = ''  # the layer that stays at home in methods with a personal
  # one; '' is the only layer with an output a class
  config.density = 0.2  # share of the weights that survives pruning, (0, 1]
  config.pruning = 'synflow'  # the score of a weight
  config.pruning_steps = 100  # steps of pruning; 1 is single-shot

  config.rounds = 30  # rounds that a run lasts
  config.cohort = 10  # clients that train in a round
  config.local_epochs = 5  # passes over a client's examples a round
  config.local_steps = 0  # steps a round, instead; 0: as local_epochs says
  config.batch_size = 10  # examples a step
  config.clients_per_step = 0  # clients side by side on a device, the width of
  # the vmap: memory grows with it; 0: 1 on a CPU, else estimated
  config.devices = 0  # devices that clients are spread over; 0: all there are
  config.eval_every = 5  # rounds between evaluations
  config.eval_clients = 0  # so many, always the same, are evaluated; 0: all
  config.eval_held = True  # also try, in every round, the model that a client
  # ends it with: accuracy as held
  config.eval_split = 'test'  # examples evaluated; validation is for tuning
  config.checkpoint_seconds = 60.0  # seconds between checkpoints, at least

  config.upload = 'change'  # what a client of hidenseek sends
  config.download_bits = 4  # bits a weight, if quantised; 1 to 8, or 32
  return config


def _tables(config: Any) -> dict[str, dict[str, Any]]:
  """One table a method: the arguments of its recipe, commented likewise."""
  bits = config.get_ref('download_bits')
  return _mask_tables(config.get_ref('upload'), bits) | _weight_tables(bits)


def _mask_tables(upload: Any, bits: Any) -> dict[str, dict[str, Any]]:
  hidenseek = dict(
    learning_rate=0.03,  # of a client's optimiser
    upload=upload,
    download_bits=bits,
    gate='sign',  # what a score makes of a weight
    carry=False,  # clients go on from their own scores, where signs agree
    remember=False,  # clients keep the last download and are sent what changed
  )
  fedmask = dict(
    learning_rate=0.03,
    upload='signs',
    download_bits=bits,
    target=0.5,
  )
  return dict(
    hidenseek=hidenseek,
    hidenseek_personal=hidenseek,
    fedmask=fedmask,
    fedpm=dict(learning_rate=0.1),
  )


def _weight_tables(bits: Any) -> dict[str, dict[str, Any]]:
  plain = dict(learning_rate=0.05, optimizer='sgd')
  rival = dict(
    learning_rate=0.01,
    optimizer='adam',  # a client's, reset every round
    download_bits=bits,
    pruned=False,  # trains a share of the weights alone, as hidenseek
  )
  fedavg_quantized = dict(
    rival,
    upload_bits=4,  # bits a weight
  )
  signsgd = dict(
    rival,
    server_rate=1.0,  # the server's step, in mean changes of clients
    feedback=True,  # a client adds what a bit left out to its next
  )
  pulled = dict(
    plain,
    pull=0.1,  # how strongly a model is drawn to the download
  )
  pruning = dict(
    plain,
    share=0.2,  # of what is left, that a client prunes at once
    threshold=0.5,  # accuracy on its validation examples, above which it does;
    # below 0: always
    target=0.5,  # share of a layer (hermes: of its units) that a client keeps
  )
  return dict(
    fedavg=plain,
    fedavg_finetuned=plain,
    fedprox=pulled,
    fedper=plain,
    ditto=pulled,
    local=plain,
    lotteryfl=dict(pruning, threshold=0.2),
    hermes=pruning,
    fedavg_quantized=fedavg_quantized,
    signsgd=signsgd,
  )


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
  return InputError(f'config.{shown(name)}: no such field; {remedy}')


def texts() -> dict[str, str]:
  """What a field is, by the last part of its name: the comments of defaults.

  A comment stands behind `NAME = VALUE` and may go on in lines of its own.
  """
  found, name = {}, None
  sources = map(inspect.getsource, (_fields, _mask_tables, _weight_tables))
  source = ''.join(sources)
  for line in source.split('\n'):
    code, _, text = line.partition('# ')
    if code.strip() or not text:
      match = re.match(r'\s*(?:config\.)?(\w+) ?= ?\S', code)
      name = match and match[1]
    if name and text:
      found[name] = f'{found.get(name, "")} {text}'.strip()
  for name, names in NAMES.items():
    found[name] += f': {", ".join(names)}'
  return found


NAMES = {
  'algorithm': RECIPES,
  'partition': PARTITIONS,
  'model': MODELS,
  'pruning': SCORES,
  'eval_split': ('test', 'validation'),
  'upload': UPLOADS,
  'optimizer': OPTIMIZERS,
  'gate': GATES,
}


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
