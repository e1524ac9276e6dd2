"""What surrounds a program changes none of its numbers."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import (
  DISTINCT,
  play,
  sharing,
  slow_if,
  small,
  small_config,
  small_file,
)

from hns import tree
from hns.engine import metrics
from hns.methods.recipes import RECIPES
from hns.runs import experiment

SHORT = dict(model='tiny', rounds=2, eval_every=1)


def command(words, folder, **environment):
  """A finished command in a process of its own, and the rows of its run."""
  call = [sys.executable, '-m', 'hns.main', f'--workdir={folder}', *words]
  done = subprocess.run(
    call, capture_output=True, text=True, env=os.environ | environment
  )
  path = folder / 'metrics.jsonl'
  lines = path.read_text().splitlines() if path.exists() else []
  return done, [json.loads(line) for line in lines]


def steady(rows):
  """Rows without what the clock says."""
  return [{k: v for k, v in r.items() if 'seconds' not in k} for r in rows]


@pytest.fixture
def double():
  """As under JAX_ENABLE_X64=1."""
  jax.config.update('jax_enable_x64', True)
  yield
  jax.config.update('jax_enable_x64', False)


@pytest.mark.parametrize(
  'name', [slow_if(n not in DISTINCT, n) for n in sorted(RECIPES)]
)
def test_every_method_begins_alike_under_double_precision(name, double):
  config = small_config(algorithm=name, **SHORT)
  found = experiment.build(config)
  jax.config.update('jax_enable_x64', False)
  expected = experiment.build(config)
  told = [
    (tree.checksum((e.initial, e.federation)), e.layers, e.head)
    for e in (found, expected)
  ]
  assert told[0] == told[1]


@pytest.mark.slow  # `test_experiment` has a command that does so
@pytest.mark.parametrize('name', ['signsgd', 'fedmask'])
def test_runs_are_the_same_under_double_precision(name, tmp_path):
  """Both take the same programs."""
  config = small_config(algorithm=name, **SHORT)
  expected = experiment.run(config, tmp_path / 'single')
  jax.config.update('jax_enable_x64', True)
  try:
    found = experiment.run(config, tmp_path / 'double')
  finally:
    jax.config.update('jax_enable_x64', False)
  assert steady(found) == steady(expected)
  about = [
    json.loads((tmp_path / folder / 'config.json').read_text())
    for folder in ('single', 'double')
  ]
  assert about[0] == about[1]


@pytest.mark.parametrize('name', [slow_if(True, 'signsgd'), 'fedmask'])
def test_a_round_by_hand_runs_in_double_precision(x64, name):
  """With the draws, and so the sizes of things, of single precision."""
  played = play(small(algorithm=name))
  assert np.isfinite(played.report.train_loss)
  assert not np.any(played.report.rejected)


def test_a_run_that_diverges_says_so(tmp_path):
  """And counts no bytes of updates that cannot be sent; exit 0."""
  words = [
    f'--config={small_file(tmp_path)}',
    '--config.algorithm=fedprox',
    '--config.fedprox.learning_rate=1e30',
  ]
  done, rows = command(words, tmp_path / 'run')
  assert done.returncode == 0
  once = 'hns: up to round 1 3 updates of clients were not finite and were'
  assert done.stderr.count(once) == 1
  assert done.stderr.strip().split('\n')[-1] == (
    'hns: TRAINING DIVERGED: of the clients of the last round 100% had an '
    'objective that was not finite, or no better than that of a guess; 6 '
    'updates were not finite and left out; lower the learning rate; 2 '
    'rounds had too few answers and changed nothing'
  )
  assert done.stdout.strip().split('\n')[-1].startswith('TRAINING DIVERGED')
  assert [row['rejected_clients'] for row in rows] == [3, 6]
  assert [row['diverged_clients'] for row in rows] == [1, 1]
  assert [row['train_loss'] for row in rows] == [None, None]
  assert [row['uplink_bytes'] for row in rows] == [0, 0]
  table = done.stdout.split('\n')[1:3]
  assert 'objective  diverged' in table[0] and ' -     1.000' in table[1]


def test_what_is_said_of_trouble():
  healthy = dict(rejected_clients=0, diverged_clients=0.4, train_loss=0.3)
  assert metrics.trouble([healthy]) == metrics.trouble([{}]) == ''
  assert metrics.trouble([]) == ''
  one = metrics.trouble([healthy | dict(rejected_clients=1)])
  assert one.startswith('1 update was not finite') and 'DIVERGED' not in one
  lost = metrics.trouble([healthy, healthy | dict(diverged_clients=0.5)])
  assert lost.startswith('TRAINING DIVERGED: ') and '50%' in lost


@pytest.mark.parametrize(
  'name,value',
  [
    ('jax_numpy_dtype_promotion', 'strict'),
    ('jax_disable_jit', True),
  ],
)
def test_settings_of_jax_that_a_run_does_not_need_are_harmless(
  name, value, tmp_path
):
  config = small_config(**SHORT)
  with sharing():
    expected = experiment.run(config, tmp_path / 'plain')
  before = getattr(jax.config, name)
  jax.config.update(name, value)
  try:
    found = experiment.run(config, tmp_path / 'set')
  finally:
    jax.config.update(name, before)
  assert steady(found) == steady(expected)


def test_what_is_infinite_is_seen_in_any_dtype():
  for dtype in (np.float32, np.float16, np.complex64, jnp.bfloat16):
    fine = jnp.ones(3, dtype)
    assert tree.is_finite(
      {'a': fine, 'n': jnp.arange(3), 'k': jax.random.key(0)}
    )
    for wrong in (np.nan, np.inf, -np.inf):
      assert not tree.is_finite([fine, fine.at[1].set(wrong)])


def test_draws_do_not_depend_on_the_precision():
  like = {'a': np.zeros((3, 2)), 'b': np.zeros(4)}
  single = tree.uniform(jax.random.key(1), like, -1.0)
  with jax.enable_x64(True):
    double = tree.uniform(jax.random.key(1), like, -1.0)
  for a, b in zip(jax.tree.leaves(single), jax.tree.leaves(double)):
    np.testing.assert_array_equal(a, b)
    assert b.dtype == np.float32
