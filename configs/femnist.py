"""femnist."""

from hns.config import base


def get_config():
  config = base()
  config.dataset = 'femnist'
  config.num_clients = 30
  config.partition = 'natural'
  config.group = 'writer'
  config.examples_per_client = 100
  config.density = 1.0
  config.rounds = 40
  return config
