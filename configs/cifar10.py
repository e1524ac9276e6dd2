"""cifar10."""

from hns.config import base


def get_config():
  config = base()
  config.dataset = 'cifar10'
  config.num_clients = 30
  config.examples_per_client = 100
  config.density = 1.0
  config.rounds = 40
  return config
