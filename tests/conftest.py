"""Small federations that every test can afford."""

import importlib.util
import os
import pathlib

import jax
import pytest

from hns import experiment

ROOT = pathlib.Path(__file__).parents[1]


def read_config(name: str):
  """The ConfigDict of a file in configs/."""
  path = ROOT / 'configs' / f'{name}.py'
  spec = importlib.util.spec_from_file_location(name, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config()


def small_config(**fields):
  """`configs/test.py` with fields changed."""
  config = read_config('test')
  config.update(fields)
  return config


def small(**fields) -> experiment.Experiment:
  """The experiment of `small_config`."""
  return experiment.build(small_config(**fields))


@pytest.fixture(scope='session', autouse=True)
def compile_once(tmp_path_factory):
  """Programs that several tests share are compiled once a session."""
  cache = str(tmp_path_factory.mktemp('compiled'))
  jax.config.update('jax_compilation_cache_dir', cache)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)
  # For the commands that tests start.
  os.environ['JAX_COMPILATION_CACHE_DIR'] = cache
  os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.1'


@pytest.fixture
def x64():
  """Double precision for one test."""
  jax.config.update('jax_enable_x64', True)
  yield
  jax.config.update('jax_enable_x64', False)
