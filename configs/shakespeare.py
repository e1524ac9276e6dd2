"""The next character of Shakespeare: a client is a role of a play.

  python -m hns.main --config=shakespeare --workdir=runs/shakespeare

LEAF's task (Caldas et al. 2018, arXiv 1812.01097): 80 characters in, the next
one out, each role cut in time order. Here 100 roles, drawn once, of those with
3,000 characters or more; of each at most the first 100 windows of 80 characters
train, and what comes after 80 % of the role's text tests. In training every
place of a window is predicted, in a test only what follows all 80. Four minutes
on one core; round 40, seeds 0 to 2 (launch/results/own.md):

              personalised      unseen roles      global    bytes both ways
  hidenseek   0.249 ± 0.003     0.229 ± 0.010     0.217     5.2 MB
  eden        0.275 ± 0.008     0.249 ± 0.015     0.202     13.1 MB
  fedavg      0.349 ± 0.017     0.337 ± 0.025     0.374     383 MB
  local       0.207 ± 0.005     0.178 ± 0.026     0.015     0

Needs a TFDS dataset `shakespeare_roles` prepared as array_record, whose
examples are roles with the features play, role and text.
"""

import functools

import numpy as np

import hns
from hns import data
from hns.config import base
from hns.data import prepared
from hns.runs.sweeps import cross, grid, trials

WINDOW = 80
CLIENTS = 100
LEAST = 3000  # characters of a role
MOST = 100  # windows of a role


def texts():
  """The texts of all roles that are long enough, as ASCII codes."""
  import tensorflow_datasets as tfds

  found = prepared.newest(data.data_dir(), 'shakespeare_roles')
  source = tfds.builder_from_directory(found.folder).as_data_source('train')
  plain = [example['text'].replace(b'\n\n', b'\n') for example in source]
  roles = [np.frombuffer(text, np.uint8) for text in plain]
  long = [role for role in roles if len(role) >= LEAST]
  order = np.random.RandomState(0).permutation(len(long))
  return [long[k] for k in np.sort(order[:CLIENTS])]


def windows(text, stride):
  """Windows and what follows each of their characters, int32 [n, 80] both."""
  starts = np.arange(0, len(text) - WINDOW, stride)[:, None]
  places = starts + np.arange(WINDOW)
  return text[places].astype(np.int32), text[places + 1].astype(np.int32)


def last(inputs, labels):
  """The same, of which only the last prediction counts."""
  labels = np.where(np.arange(WINDOW) < WINDOW - 1, -1, labels)
  return inputs, labels


def part(text, first, end, stride, most):
  """The first windows of a text between two shares of its length."""
  cut = slice(int(first * len(text)), int(end * len(text)))
  inputs, labels = windows(text[cut], stride)
  return inputs[:most], labels[:most]


@functools.cache
def roles():
  """A dataset and a partition: training, validation and test in time order."""
  chosen = texts()
  return data.from_clients(
    [part(text, 0, 0.7, WINDOW, MOST) for text in chosen],
    [last(*part(text, 0.8, 1, 10, 50)) for text in chosen],
    128,
    [last(*part(text, 0.7, 0.8, 10, 25)) for text in chosen],
    standardise=False,
    task=data.NEXT_TOKEN,
  )


hns.DATASETS['shakespeare'] = lambda: roles()[0]
hns.PARTITIONS['roles'] = lambda *given: roles()[1](*given)


def get_config():
  return base(
    dataset='shakespeare',
    partition='roles',
    num_clients=CLIENTS,
    unseen_clients=10,
    cohort=10,
    model='token_transformer',
    density=0.5,
    rounds=40,
    eval_every=20,
    local_epochs=2,
    batch_size=10,
    hidenseek=dict(learning_rate=0.03),
    fedavg=dict(optimizer='adam', learning_rate=0.01),
    local=dict(optimizer='adam', learning_rate=0.003),
    eden=dict(optimizer='adam', learning_rate=0.003, pruned=True),
  )


def sweep():
  names = ['hidenseek', 'fedavg', 'local', 'eden']
  return cross(grid({'seed': [0, 1, 2]}), grid({'algorithm': names}))


def tuning():
  """Two trials a method, on the validation examples of seed 0; 15 rounds."""
  rates = [0.003, 0.01]
  tables = {
    'hidenseek': {'density': [0.5, 1.0], 'hidenseek.learning_rate': [0.03]},
    'fedavg': {'fedavg.learning_rate': rates},
    'local': {'local.learning_rate': rates},
    'eden': {'eden.pruned': [False, True], 'eden.learning_rate': [0.003]},
  }
  return trials(tables, eval_clients=10, rounds=15, eval_every=15)


SWEEPS = {'tuning': tuning}
