"""Statistics of batch norms that are sent, and averaged by the server."""

import chex
import flax.linen as nn
import jax
import numpy as np
import pytest
from conftest import slow_if, small_config

import hns
from hns import wire
from hns.engine.scoring import with_statistics
from hns.engine.training import client_rows
from hns.errors import InputError
from hns.methods.recipes import RECIPES
from hns.networks import models
from hns.networks.modes import STATISTICS

FAST = ('fedavg',)
# Hermes cuts units, and refuses a network with gains.
OTHERS = [name for name in RECIPES if name != 'hermes']


class Normed(nn.Module):
  """A hidden layer with a batch norm, which has gains."""

  classes: int

  @nn.compact
  def __call__(self, x, train: bool = False):
    x = nn.Dense(16, use_bias=False)(x.reshape(x.shape[0], -1))
    x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
    return nn.Dense(self.classes, use_bias=False)(x)


@pytest.fixture(autouse=True)
def normed(monkeypatch):
  monkeypatch.setitem(models.MODELS, 'normed', Normed)


def build(**fields):
  usual = dict(model='normed', cohort=3, density=0.8, pruning='random')
  return hns.build(small_config(**usual | fields))


def play(experiment, rounds=1, ids=None):
  programs, progress = hns.programs(experiment), hns.begin(experiment)
  for _ in range(rounds):
    progress = hns.step(experiment, programs, progress, ids)
  return programs, progress


@pytest.mark.parametrize(
  'fields',
  [
    *(slow_if(name not in FAST, dict(algorithm=name)) for name in OTHERS),
    dict(hidenseek=dict(floats='sent')),
  ],
)
def test_they_travel_and_training_is_the_same(fields):
  """Signs and weights do not depend on them; the payloads are longer."""
  local, averaged = (
    play(build(statistics=how, **fields))[1] for how in ('local', 'averaged')
  )
  inside = averaged.state.server_state.values['inner']
  chex.assert_trees_all_close(
    inside, local.state.server_state.values, rtol=1e-5, atol=1e-6
  )
  sent, before = (p.pending[0].metrics for p in (averaged, local))
  # Mean and variance of 16 units, a header, and two lengths.
  more = wire.HEADER_BYTES + 4 * 32 + 2 * wire.LENGTH_BYTES
  np.testing.assert_array_equal(sent.uplink - before.uplink, more)
  np.testing.assert_array_equal(sent.downlink - before.downlink, more)


def test_the_server_has_the_mean_of_what_clients_measure():
  """By examples; client 2 alone: what its own model has on its own data."""
  experiment = build(algorithm='fedavg', statistics='averaged')
  programs, progress = play(experiment, ids=[2])
  model = hns.global_model(experiment, progress)
  found = model[STATISTICS]
  federation, learner = experiment.federation, experiment.round_config.learner
  plain = {name: x for name, x in model.items() if name != STATISTICS}
  rows = client_rows(federation.train, 2)
  wanted = with_statistics(learner, plain, federation.examples, rows)
  chex.assert_trees_all_close(found, wanted[STATISTICS], rtol=1e-4, atol=1e-5)
  _, both = play(experiment, ids=[1, 2])
  alone = [
    hns.global_model(experiment, play(experiment, ids=[i])[1])[STATISTICS]
    for i in (1, 2)
  ]
  sizes = np.asarray(federation.train.size)[[1, 2]]
  mean = jax.tree.map(
    lambda a, b: (a * sizes[0] + b * sizes[1]) / sizes.sum(), *alone
  )
  chex.assert_trees_all_close(
    hns.global_model(experiment, both)[STATISTICS], mean, rtol=1e-4, atol=1e-5
  )
  evaluated = hns.evaluate(experiment, programs, progress)
  assert np.all(np.isfinite(evaluated.score_global))


def test_a_finished_run_predicts_with_them(shared, tmp_path):
  config = small_config(
    model='normed', algorithm='fedavg', statistics='averaged', rounds=2
  )
  hns.run(config, tmp_path / 'run')
  one = np.zeros((2, 8, 8, 1), np.uint8)
  for client in (None, 0):
    outputs = hns.predictor(tmp_path / 'run', client).predict(one)
    assert np.all(np.isfinite(outputs))


def test_a_network_without_batch_norm_is_refused():
  with pytest.raises(InputError, match="statistics='averaged': mlp has no"):
    build(model='mlp', statistics='averaged')
