"""What would give wrong numbers without a word is refused."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import small_config

import hns
from hns.data import from_clients
from hns.errors import InputError
from hns.runs import experiment, predictor


def arrays(count, high, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, high, (count, 5)), rng.integers(0, 3, count)


def own(monkeypatch, model, train, partition_of=None, **fields):
  """A config of clients that hold these arrays, and a model."""
  dataset, partition = from_clients(train, train, 3, standardise=False)
  if partition_of is not None:
    given = partition_of, partition_of, 3
    partition = from_clients(*given, standardise=False)[1]
  monkeypatch.setitem(hns.DATASETS, 'own', lambda: dataset)
  monkeypatch.setitem(hns.PARTITIONS, 'own', partition)
  monkeypatch.setitem(hns.MODELS, 'own', model)
  return small_config(
    dataset='own',
    partition='own',
    model='own',
    num_clients=len(train),
    cohort=len(train),
    validation_fraction=0.0,
    density=1.0,
    **fields,
  )


class Embedded(nn.Module):
  """Tokens and their places, each with an embedding."""

  rows: int

  @nn.compact
  def __call__(self, tokens):
    places = nn.Embed(5, 4, name='places')(jnp.arange(tokens.shape[1]))
    x = nn.Embed(self.rows, 4, name='tokens')(tokens) + places
    return nn.Dense(3)(x.mean(1))


def test_tokens_beyond_an_embedding(monkeypatch):
  train = [arrays(9, 8), arrays(9, 8, 1)]
  experiment.build(own(monkeypatch, lambda classes: Embedded(8), train))
  config = own(monkeypatch, lambda classes: Embedded(7), train)
  with pytest.raises(
    InputError, match='tokens has 7 rows, but is asked for num'
  ):
    experiment.build(config)
  train[1][0][3, 2] = -1
  config = own(monkeypatch, lambda classes: Embedded(8), train)
  with pytest.raises(InputError, match='is asked for number -1'):
    experiment.build(config)


class Twice(nn.Module):
  """One embedding that is read twice: first too far."""

  @nn.compact
  def __call__(self, tokens):
    table = nn.Embed(8, 4, name='table')
    return nn.Dense(3)((table(tokens + 1) + table(tokens)).mean(1))


def test_every_reading_of_an_embedding_counts(monkeypatch):
  config = own(
    monkeypatch, lambda classes: Twice(), [arrays(9, 8), arrays(9, 8, 1)]
  )
  with pytest.raises(InputError, match='table has 8 rows, but is asked'):
    experiment.build(config)


class AlwaysRunning(nn.Module):
  """A batch norm that is never told of training."""

  @nn.compact
  def __call__(self, x):
    x = nn.BatchNorm(use_running_average=True)(nn.Dense(8)(x))
    return nn.Dense(3)(x)


def test_a_batch_norm_that_measures_nothing(monkeypatch):
  train = [arrays(9, 8), arrays(9, 8, 1)]
  train = [(inputs.astype(np.float32), labels) for inputs, labels in train]
  config = own(monkeypatch, lambda classes: AlwaysRunning(), train)
  with pytest.raises(InputError, match='BatchNorm_0 uses a running average'):
    experiment.build(config)


def test_a_partition_of_another_dataset(monkeypatch):
  train, other = ([arrays(9, 8, s), arrays(9, 8, s + 1)] for s in (0, 5))
  model = lambda classes: Embedded(8)
  config = own(monkeypatch, model, train, partition_of=other)
  with pytest.raises(InputError, match='partition: is of another dataset'):
    experiment.build(config)
  with pytest.raises(InputError, match='hns.PARTITIONS must hold functions'):
    config = own(monkeypatch, model, train)
    monkeypatch.setitem(hns.PARTITIONS, 'own', [[0], [1]])
    experiment.build(config)


@pytest.mark.parametrize('play', [experiment.build, experiment.run])
def test_a_dict_is_no_config(play, tmp_path):
  given = [dict(rounds=3), tmp_path][: 1 + (play is experiment.run)]
  with pytest.raises(
    InputError, match='config: must be a ConfigDict, not dict'
  ):
    play(*given)


@pytest.mark.parametrize(
  'inputs,message',
  [
    (np.zeros((4, 3)), r'inputs=\[4, 3\]: must have the shape \[n, 5\]'),
    (np.zeros(5), r'inputs=\[5\]: must have the shape \[n, 5\]'),
    ({'a': np.zeros((4, 5))}, 'must be an array'),
  ],
)
def test_inputs_of_another_shape(inputs, message):
  blank = np.zeros((1, 5), np.float32)
  model = predictor.Predictor(lambda v, x: x, {}, blank, (0.0, 1.0))
  assert model.predict(np.ones((2, 5))).shape == (2, 5)
  with pytest.raises(InputError, match=message):
    model.predict(inputs)
