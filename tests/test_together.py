"""Several seeds as one program: the numbers of each seed alone."""

import chex
import jax
import numpy as np
import pytest
from conftest import build_once, slow_if, small_config

import hns
from hns import tree
from hns.errors import InputError
from hns.methods.recipes import RECIPES

SEEDS = 0, 1
FAST = ('hidenseek',)


def apart(experiment, rounds):
  """The progress of one seed."""
  run, progress = hns.programs(experiment), hns.begin(experiment)
  for _ in range(rounds):
    progress = hns.step(experiment, run, progress)
  return run, progress


def data_of(state):
  """A state whose PRNG keys are numbers."""
  is_key = lambda x: jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
  return jax.tree.map(
    lambda x: np.asarray(jax.random.key_data(x) if is_key(x) else x), state
  )


@pytest.mark.parametrize(
  'fields',
  [
    *(slow_if(name not in FAST, dict(algorithm=name)) for name in RECIPES),
    slow_if(True, dict(partition='dirichlet', drop_share=0.4, upload='votes')),
  ],
)
def test_every_seed_has_its_own_numbers(fields):
  """State, what clients keep, accuracies and bytes."""
  fields = dict(compact=False, pruning='random') | fields
  runs = [build_once(small_config(seed=seed, **fields)) for seed in SEEDS]
  many = hns.together(small_config(**fields), SEEDS)
  progress = [hns.begin(run) for run in many.experiments]
  for _ in range(2):
    progress = hns.step_together(many, progress)
  for run, padded, found in zip(runs, many.experiments, progress):
    programs, wanted = apart(run, 2)
    states = [data_of(p.state) for p in (found, wanted)]
    chex.assert_trees_all_close(*states, rtol=1e-5, atol=1e-6)
    assert found.store.states.keys() == wanted.store.states.keys()
    scores = [
      hns.evaluate(run, programs, wanted).score_personal,
      hns.evaluate(padded, many.programs, found).score_personal,
    ]
    np.testing.assert_allclose(*scores, atol=1)
    sent, alone = (
      [(p.metrics.uplink, p.metrics.dropped) for p in one.pending]
      for one in (found, wanted)
    )
    chex.assert_trees_all_close(sent, alone, rtol=0.02)


def test_what_cannot_be_one_program_is_refused():
  """Who is unseen follows from the seed, and is static in a program."""
  config, unseen = small_config(), small_config(unseen_clients=1)
  for given, seeds, said in (
    (config, [], 'at least one'),
    (unseen, SEEDS, 'seed 1 of the list: unseen is'),
  ):
    with pytest.raises(InputError, match=f'together: .*{said}'):
      hns.together(given, seeds)


@pytest.mark.slow
def test_a_network_that_is_not_compact_is_the_same(tmp_path):
  """As a file of signs, too: what is cut off is not in that."""
  fields = dict(density=0.03, rounds=1)
  small, whole = (
    hns.build(small_config(**fields, compact=value)) for value in (True, False)
  )
  sizes = [
    tree.flatten(hns.global_model(run, hns.begin(run))['weights']).size
    for run in (small, whole)
  ]
  assert sizes[0] < sizes[1] and small.layers == whole.layers
  config = small_config(**fields, compact=False)
  hns.run(config, tmp_path / 'run')
  one = np.random.RandomState(0).randint(0, 17, (3, 8, 8, 1)).astype(np.uint8)
  signs = hns.load_model(hns.export_model(tmp_path / 'run', 0)).predict(one)
  trained = hns.predictor(tmp_path / 'run', 0).predict(one)
  np.testing.assert_allclose(signs, trained, rtol=1e-4, atol=1e-5)
