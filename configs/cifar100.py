"""CIFAR-100 with a residual network: 100 clients of uneven classes.

  python -m hns.main --config=cifar100 --workdir=runs/cifar100

Dirichlet 0.3 on 100 training examples a client, 10 of 90 clients a round; ten
clients, drawn by the seed, never take part. Two minutes and a half on one core;
round 40, seeds 0 to 2, mean and sd (launch/results/own.md):

              personalised      unseen clients    global    bytes both ways
  hidenseek   0.099 ± 0.011     0.106 ± 0.021     0.013     3.16 MB
  eden        0.147 ± 0.008     0.144 ± 0.014     0.028     16.2 MB
  fedavg      0.174 ± 0.009     0.168 ± 0.003     0.055     266 MB
  local       0.141 ± 0.004     0.106 ± 0.014     0.010     0
"""

from hns.config import base
from hns.runs.sweeps import cross, grid, trials


def get_config():
  return base(
    dataset='cifar100',
    partition='dirichlet',
    alpha=0.3,
    num_clients=100,
    unseen_clients=10,
    examples_per_client=100,
    cohort=10,
    model='resnet8',
    density=0.5,
    rounds=40,
    eval_every=20,
    local_epochs=2,
    batch_size=10,
    hidenseek=dict(learning_rate=0.03),
    fedavg=dict(optimizer='adam', learning_rate=0.003),
    local=dict(optimizer='adam', learning_rate=0.003),
    eden=dict(optimizer='adam', learning_rate=0.003),
  )


def sweep():
  names = ['hidenseek', 'fedavg', 'local', 'eden']
  return cross(grid({'seed': [0, 1, 2]}), grid({'algorithm': names}))


def tuning():
  """Four trials a method of half the rounds, on validation, seed 0."""
  rates = [0.0003, 0.001, 0.003, 0.01]
  tables = {
    'hidenseek': {
      'density': [0.2, 0.5],
      'hidenseek.learning_rate': [0.01, 0.03],
    },
    'fedavg': {'fedavg.learning_rate': rates},
    'local': {'local.learning_rate': rates},
    'eden': {
      'eden.pruned': [False, True],
      'eden.learning_rate': [0.001, 0.003],
    },
  }
  return trials(tables, eval_clients=10, rounds=20, eval_every=20)


SWEEPS = {'tuning': tuning}
