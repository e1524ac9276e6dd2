"""mnist."""

from hns.config import base


def get_config():
  config = base()
  config.dataset = 'mnist'
  config.num_clients = 30
  config.local_epochs = 10
  return config
