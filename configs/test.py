"""A run of seconds, for tests and for trying a change.

python -m hns.main --config=configs/test.py --workdir=/tmp/hns-test
"""

from hns.config import base


def get_config():
  config = base()
  config.model = 'mlp'
  config.num_clients = 6
  config.examples_per_client = 30
  config.test_examples_per_client = 20
  config.cohort = 3
  config.rounds = 2
  config.local_epochs = 2
  config.pruning_steps = 10
  config.eval_every = 1
  return config
