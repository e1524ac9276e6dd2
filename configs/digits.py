"""The main job."""

from hns.config import base


def get_config():
  config = base()
  config.examples_per_client = 50
  return config
