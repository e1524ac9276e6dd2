"""Small federations that every test can afford.

`pytest` leaves out the tests marked slow, which repeat others for more methods
or networks: `pytest -m slow` runs these, `pytest -m "slow or not slow"` all.
"""

import contextlib
import functools
import gc
import importlib.util
import json
import os
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import pytest

from hns import config as configs
from hns import tree
from hns.data import SOURCES
from hns.data.partition import PARTITIONS
from hns.engine import client_store, context, flops, parallel, rounds
from hns.networks import models
from hns.runs import experiment, loop, workdir

# Tracing makes many objects that live: searching them for cycles takes time.
gc.set_threshold(100_000, 50, 100)
# Fake devices, for tests that spread clients; before anything asks for one.
jax.config.update('jax_num_cpu_devices', 8)
# Most of a test's time is compiling, and these programs run for a moment.
jax.config.update('jax_disable_most_optimizations', True)
os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] = 'true'  # commands of tests
# Lines of Python in programs help nobody here, and take time.
jax.config.update('jax_traceback_in_locations_limit', 0)
os.environ['JAX_TRACEBACK_IN_LOCATIONS_LIMIT'] = '0'
# Halves that time; XLA ends a process over a flag that it does not know, so
# only where it was tried.
if jaxlib.__version__.startswith('0.10.'):
  os.environ['XLA_FLAGS'] = (
    '--xla_cpu_use_fusion_emitters=false '
    '--xla_cpu_parallel_codegen_split_count=1 '
  ) + os.environ.get('XLA_FLAGS', '')

# Half the layers of `mlp`: programs of tests are smaller by a third.
models.MODELS['tiny'] = lambda classes: models.Network(classes, dense=(200,))

# What a round may ask of a method, these ask between them; `test_methods` and
# `test_rivals` say what makes each of the others that method.
DISTINCT = (
  *('hidenseek', 'fedavg', 'fedmask', 'hermes'),
  *('majority_vote', 'fedmrn', 'pfed1bs'),
)

ROOT = pathlib.Path(__file__).parents[1]


def slow_if(is_slow, *given):
  """The parameters of a test, which is slow if they repeat others'."""
  return pytest.param(*given, marks=[pytest.mark.slow] * bool(is_slow))


_REGISTERED = [(names, dict(names)) for names in (SOURCES, PARTITIONS)]


@pytest.fixture(autouse=True, scope='module')
def names_of_other_files():
  """A config file that a test reads registers names for its process."""
  for names, at_first in _REGISTERED:
    names.clear()
    names.update(at_first)


def read_config(name: str):
  """The ConfigDict of a file in configs/."""
  path = ROOT / 'configs' / f'{name}.py'
  spec = importlib.util.spec_from_file_location(name, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config()


def small_file(folder):
  """A config file that gives a command in a process `small_config()`."""
  path = folder / 'small.py'
  path.write_text(f"""
import runpy
from hns.networks import models
models.MODELS['tiny'] = lambda classes: models.Network(classes, dense=(200,))

def get_config():
  config = runpy.run_path({str(ROOT / 'configs' / 'test.py')!r})['get_config']()
  config.update({{'model': 'tiny', 'devices': 1, 'upload': 'signs'}})
  config.hidenseek.update(remember=False, download_bits=4)
  return config
""")
  return path


def small_config(**fields):
  """`configs/test.py` on one device, with the paper's upload; fields changed.

  HideNseek's clients keep nothing, and are sent four bits.
  """
  config = read_config('test')
  config.hidenseek.update(remember=False, download_bits=4)
  config.update(
    {
      'model': 'tiny',
      'devices': 1,
      'upload': 'signs',
      **fields,
    }
  )
  return config


def small(**fields) -> experiment.Experiment:
  """The experiment of `small_config`, built once for all tests."""
  return build_once(small_config(**fields))


@functools.cache
def _built(fields: str, precision: bool) -> experiment.Experiment:
  del precision
  return BUILD(configs.base(**json.loads(fields)))


BUILD = experiment.build  # even while it is shared
# What no program and no array of an experiment depends on.
LENGTHS = {'rounds': 1, 'eval_every': 1, 'checkpoint_seconds': 0.0}


def build_once(config) -> experiment.Experiment:
  """The experiment of a config, built once for all tests."""
  fields = json.loads(config.to_json()) | LENGTHS
  precision = jax.config.jax_enable_x64
  return _built(json.dumps(fields, sort_keys=True), precision)


def once(function):
  """The function, called once for each experiment, or for parts of one."""
  told = {}

  def call(*given):
    # Kept with what is told, or another could have its id.
    key = tuple(map(id, given))
    if key not in told:
      told[key] = given, function(*given)
    return told[key][1]

  return call


ONCE = {
  (loop, 'programs'): once(loop.programs),
  (loop, 'check_payloads'): once(loop.check_payloads),
  (flops, 'of'): once(flops.of),
}
DRAW = workdir.draw  # which most runs here leave out


@contextlib.contextmanager
def sharing():
  """Runs of a config are built, checked and compiled once for all tests.

  And draw nothing.
  """
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(experiment, 'build', build_once)
    patch.setattr(workdir, 'draw', lambda *given: None)
    for place, function in ONCE.items():
      patch.setattr(*place, function)
    yield


@pytest.fixture
def shared():
  """As `sharing`, for one test."""
  with sharing():
    yield


def build_here(monkeypatch, config) -> experiment.Experiment:
  """The experiment of a config, built once for a test; its runs draw nothing.

  For names that tests register each as something else: `build_once` would take
  one for another.
  """
  built = experiment.build(config)

  def build(asked):
    assert asked.to_dict() == config.to_dict()
    return built

  monkeypatch.setattr(experiment, 'build', build)
  monkeypatch.setattr(workdir, 'draw', lambda *given: None)
  return built


def survivors(initial) -> np.ndarray:
  """Which of the server's values, in tree order, survived, bool [values]."""
  wide = lambda mask, value: np.broadcast_to(mask, value.shape)
  mask = initial.frozen['mask']
  return np.asarray(
    tree.flatten(jax.tree.map(wide, mask, initial.server_state.values))
  )


@functools.cache
def compiled(function, round_config):
  """A function of the engine as one program, once for all tests.

  Arrays of another sharding, as those that a round begins with, would compile
  it again.
  """
  program = jax.jit(functools.partial(function, round_config))
  everywhere = parallel.everywhere(round_config.mesh)
  return lambda *given: program(*jax.device_put(given, everywhere))


class Drawing(NamedTuple):
  """What a cohort depends on of a `RoundConfig`: many tests share it."""

  cohort: int
  mesh: Any
  unseen: tuple[int, ...]


def drawn(experiment, number):
  """The cohort of a round."""
  config, federation = experiment.round_config, experiment.federation
  drawing = Drawing(config.cohort, config.mesh, config.unseen)
  draw = compiled(rounds.cohort, drawing)
  return draw(experiment.key, federation, jnp.int32(number))


class Played(NamedTuple):
  """After some rounds: the state, what all clients keep, the last report."""

  state: context.State
  client_state: Any
  report: Any
  ids: Any


def clients(experiment):
  """How many there are."""
  return experiment.federation.train.size.shape[0]


def play(experiment, number=1, **changes) -> Played:
  """Plays rounds, with fields of the engine changed."""
  round_config = experiment.round_config._replace(**changes)
  step = compiled(rounds.run_round, round_config)
  store = client_store.create(experiment.initial.client_state)
  state, report, ids = rounds.begin(experiment.initial), None, None
  for _ in range(number):
    ids = drawn(experiment, state.round)
    kept = client_store.fetch(store, ids)
    state, kept, report = step(*experiment.constants, state, ids, kept)
    client_store.keep(store, ids, kept)
  everyone = client_store.fetch(store, np.arange(clients(experiment)))
  return Played(state, everyone, report, ids)


def context_of(experiment, state=None, number=None):
  """The context of a round, its cohort, and what these keep at first."""
  initial = experiment.initial
  state = rounds.begin(initial) if state is None else state
  if number is not None:
    state = state._replace(round=jnp.int32(number))
  begin_round = compiled(rounds.begin_round, experiment.round_config)
  context = begin_round(*experiment.constants, state)
  ids = drawn(experiment, state.round)
  return (
    context,
    ids,
    client_store.fetch(client_store.create(initial.client_state), ids),
  )


@pytest.fixture(scope='session', autouse=True)
def compile_once(tmp_path_factory):
  """Programs that several tests share are compiled once, for all workers."""
  base = tmp_path_factory.getbasetemp()
  base = base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base
  cache = str(base / 'compiled')
  jax.config.update('jax_compilation_cache_dir', cache)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  # For the commands that tests start.
  os.environ['JAX_COMPILATION_CACHE_DIR'] = cache
  os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'


@pytest.fixture
def optimised(monkeypatch):
  """Programs as users run them, where rounding depends on that."""
  compiled.cache_clear()
  monkeypatch.delenv('JAX_DISABLE_MOST_OPTIMIZATIONS')
  jax.config.update('jax_disable_most_optimizations', False)
  yield
  jax.config.update('jax_disable_most_optimizations', True)
  compiled.cache_clear()


@pytest.fixture
def x64():
  """Double precision for one test."""
  jax.config.update('jax_enable_x64', True)
  yield
  jax.config.update('jax_enable_x64', False)
