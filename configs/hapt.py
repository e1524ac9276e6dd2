"""What 30 people do, from the phone at their waist: a client is a person.

  python -m hns.main --config=hapt --workdir=runs/hapt

Windows of 2.56 s of acceleration and turning (UCI's HAPT: Reyes-Ortiz et al.
2015), six activities. Each person did the experiment twice: the first time
trains and validates (its last fifth, in time), the second tests. Six people,
drawn by the seed, never take part. One minute on one core; round 40, seeds 0 to
2, mean and sd (launch/results/own.md):

              personalised      unseen people     global    bytes both ways
  hidenseek   0.884 ± 0.020     0.916 ± 0.092     0.847     0.77 MB
  eden        0.905 ± 0.031     0.934 ± 0.077     0.881     2.14 MB
  fedavg      0.910 ± 0.015     0.935 ± 0.066     0.883     321 MB
  local       0.822 ± 0.028     0.829 ± 0.032     0.166     0

Needs a TFDS dataset `hapt` prepared as array_record, with the features signal
[128, 6], label, subject, experiment and start.
"""

import functools

import numpy as np

import hns
from hns import data
from hns.config import base
from hns.data import prepared
from hns.runs.sweeps import cross, grid, trials

CLASSES = 6


def read():
  """All windows in the order of experiments and time."""
  import tensorflow_datasets as tfds

  found = prepared.newest(data.data_dir(), 'hapt')
  builder = tfds.builder_from_directory(found.folder)
  splits = [builder.as_data_source(split) for split in ('train', 'test')]
  columns = 'subject', 'experiment', 'start', 'label', 'signal'
  rows = [[x[c] for c in columns] for source in splits for x in source]
  rows.sort(key=lambda row: tuple(map(int, row[:3])))
  return [np.array(column) for column in zip(*rows)]


@functools.cache
def people():
  """A dataset and a partition of one client a person."""
  subject, experiment, _, label, signal = read()
  shares = [
    share(np.flatnonzero(subject == person), experiment, label)
    for person in np.unique(subject)
  ]
  trained = signal[np.concatenate([train for train, _, _ in shares])]
  signal = (signal - trained.mean((0, 1))) / trained.std((0, 1))
  train, validation, test = (
    [(signal[rows].astype(np.float32), label[rows]) for rows in split]
    for split in zip(*shares)
  )
  return data.from_clients(train, test, CLASSES, validation, standardise=False)


def share(mine, experiment, label):
  """A person's windows to train, to validate and to test with."""
  first = mine[experiment[mine] == experiment[mine].min()]
  train, validation = [], []
  for activity in range(CLASSES):
    rows = first[label[first] == activity]
    cut = len(rows) * 4 // 5
    train.append(rows[: cut - 1])  # the next overlaps with validation
    validation.append(rows[cut:])
  test = np.setdiff1d(mine, first)
  return np.concatenate(train), np.concatenate(validation), test


hns.DATASETS['people'] = lambda: people()[0]
hns.PARTITIONS['people'] = lambda *given: people()[1](*given)


def get_config():
  return base(
    dataset='people',
    partition='people',
    num_clients=30,
    unseen_clients=6,
    cohort=8,
    model='conv1d',
    density=0.1,
    rounds=40,
    eval_every=10,
    local_epochs=2,
    batch_size=10,
    hidenseek=dict(learning_rate=0.03),
    fedavg=dict(optimizer='adam', learning_rate=0.001),
    local=dict(optimizer='adam', learning_rate=0.001),
    eden=dict(optimizer='adam', learning_rate=0.003, pruned=True),
  )


def sweep():
  names = ['hidenseek', 'fedavg', 'local', 'eden']
  return cross(grid({'seed': [0, 1, 2]}), grid({'algorithm': names}))


def tuning():
  """Four trials a method, on the validation examples of seed 0."""
  rates = [0.0003, 0.001, 0.003, 0.01]
  tables = {
    'hidenseek': {
      'density': [0.03, 0.1],
      'hidenseek.learning_rate': [0.01, 0.03],
    },
    'fedavg': {'fedavg.learning_rate': rates},
    'local': {'local.learning_rate': rates},
    'eden': {
      'eden.pruned': [False, True],
      'eden.learning_rate': [0.001, 0.003],
    },
  }
  return trials(tables, eval_clients=10)


SWEEPS = {'tuning': tuning}
