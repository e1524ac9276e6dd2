"""A run of seconds, for tests and for trying a change.

python -m hns.main --config=configs/test.py --workdir=/tmp/hns-test

12 s on two cores, most of it compilation; personalised 0.933 after two rounds.
"""

from hns.config import base
from hns.runs.sweeps import grid


def get_config():
  return base(
    model='mlp',
    num_clients=6,
    examples_per_client=30,
    test_examples_per_client=20,
    cohort=3,
    rounds=2,
    local_epochs=2,
    pruning_steps=10,
    eval_every=1,
  )


def sweep():
  return grid({'seed': [0, 1, 2], 'algorithm': ['hidenseek', 'local']})
