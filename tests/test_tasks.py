"""Other tasks than classification, and networks that know they train."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import build_here, small_config

import hns
from hns import data, export
from hns.data import tasks
from hns.engine import scoring
from hns.engine.training import ClientIndices, Examples, Learner
from hns.errors import InputError
from hns.networks import modes
from hns.runs import experiment

RNG = np.random.RandomState(0)


def federation(monkeypatch, train, test, model, classes=1, **fields):
  """A config of three clients with these examples."""
  given = data.from_clients(train, test, classes, standardise=False, **fields)
  monkeypatch.setitem(hns.DATASETS, 'mine', lambda: given[0])
  monkeypatch.setitem(hns.PARTITIONS, 'mine', given[1])
  monkeypatch.setitem(hns.MODELS, 'mine', model)
  return dict(
    dataset='mine', partition='mine', model='mine', num_clients=3, cohort=3
  )


def line(count):
  """Features, and numbers around 50 that they tell."""
  x = RNG.randn(count, 4)
  return x, 50 + 7 * x[:, 0] - 3 * x[:, 1]


class Dense(nn.Module):
  """Two dense layers."""

  outputs: int
  width: int = 32

  @nn.compact
  def __call__(self, x):
    x = nn.relu(nn.Dense(self.width)(x))
    return nn.Dense(self.outputs)(x)


def test_a_regression_learns_and_predicts_in_the_users_units(
  monkeypatch, tmp_path
):
  train, test = ([line(n) for _ in range(3)] for n in (60, 30))
  task = data.regression(np.concatenate([labels for _, labels in train]))
  fields = federation(monkeypatch, train, test, Dense, task=task)
  fields |= dict(rounds=8, eval_every=8, local_epochs=5)
  config = small_config(algorithm='fedavg', **fields)
  last = hns.run(config, tmp_path)[-1]
  assert last['held_accuracy'] > 0.9 and last['diverged_clients'] == 0
  predict = hns.predictor(tmp_path).predict
  found = np.concatenate([predict(x)[:, 0] for x, _ in test])
  wanted = np.concatenate([y for _, y in test])
  variance = np.var(np.concatenate([y for _, y in train]))
  explained = 1 - np.mean((found - wanted) ** 2) / variance
  assert explained == pytest.approx(last['global_accuracy'], abs=1e-4)


@pytest.mark.slow
def test_signs_of_a_regression_are_not_written_without_its_units(
  monkeypatch, tmp_path
):
  train = [line(20) for _ in range(3)]
  task = data.regression(train[0][1])
  fields = federation(monkeypatch, train, train, Dense, task=task)
  config = small_config(rounds=1, eval_every=1, pruning='random', **fields)
  hns.run(config, tmp_path)
  with pytest.raises(InputError, match='in units that a file of signs does'):
    export.from_run(tmp_path, 1)
  assert hns.predictor(tmp_path, 1).predict(train[0][0]).shape == (20, 1)


@pytest.mark.parametrize(
  'change,said',
  [
    (dict(partition='shards'), "partition='shards': needs labels that are cl"),
    (dict(model='mlp'), r"model='mlp': must give outputs \[1, 1\]"),
  ],
)
def test_what_does_not_fit_a_regression_is_refused(monkeypatch, change, said):
  train = [line(20) for _ in range(3)]
  task = data.regression(train[0][1])
  fields = federation(monkeypatch, train, train, Dense, task=task)
  monkeypatch.setitem(hns.MODELS, 'mlp', lambda outputs: Dense(2))
  with pytest.raises(InputError, match=said):
    experiment.build(small_config(**fields | change))


def test_labels_unlike_those_of_the_regression_are_refused(monkeypatch):
  train = [(x, np.stack([y, y], 1)) for x, y in [line(20)] * 3]
  with pytest.raises(InputError, match=r'are \[2\] each, and \[\] those'):
    federation(
      monkeypatch, train, train, Dense, task=data.regression(train[0][1][:, 0])
    )


def test_scores_that_are_not_finite_are_not_reported_as_0(
  monkeypatch, tmp_path
):
  train = [line(20) for _ in range(3)]
  task = data.Task(lambda o, y: (jnp.square(o[:, 0] - y), jnp.nan * o[:, 0]))
  fields = federation(monkeypatch, train, train, Dense, task=task)
  config = small_config(rounds=1, eval_every=1, algorithm='fedavg', **fields)
  build_here(monkeypatch, config)
  last = hns.run(config, tmp_path)[-1]
  assert last['global_accuracy'] is None and last['held_accuracy'] is None


def test_labels_that_are_all_alike_are_no_regression():
  with pytest.raises(InputError, match='all are alike'):
    data.regression([3.0, 3.0, 3.0])
  with pytest.raises(InputError, match='in column 1 all are alike'):
    data.regression([[1.0, 3.0], [2.0, 3.0]])


def test_tokens_are_counted_and_padding_is_not():
  """Losses and scores are those of the tokens one by one."""
  logits = jnp.asarray(RNG.randn(2, 5, 7), jnp.float32)
  labels = jnp.array([[1, 2, 3, -1, -1], [6, 5, 4, 3, 2]])
  task = tasks.NEXT_TOKEN
  assert task.count(labels).tolist() == [3, 5]
  losses, scores = task.measure(logits, labels)
  for row in range(2):
    pairs = [(z, y) for z, y in zip(logits[row], labels[row]) if y >= 0]
    each = [-jax.nn.log_softmax(z)[y] for z, y in pairs]
    assert float(losses[row]) == pytest.approx(float(sum(each)), rel=1e-5)
    right = sum(int(jnp.argmax(z)) == int(y) for z, y in pairs)
    assert float(scores[row]) == right


@pytest.mark.parametrize(
  'labels,said',
  [
    (np.zeros(4, int), r'must be whole numbers \[4, places\]'),
    (np.full((4, 3), -1), r'labels\[0\]: has no place that counts'),
    (np.full((4, 3), 9), r'labels\[0, 0\]=9: must be in 0..6, or -1'),
    (np.zeros((3, 3), int), r'labels.shape=\[3, 3\]: must be \[4, ...\]'),
  ],
)
def test_labels_that_are_no_tokens_are_named(labels, said):
  with pytest.raises(InputError, match=said):
    tasks.NEXT_TOKEN.check('labels', labels, 4, 7)


class Tokens(nn.Module):
  """Logits of what follows every token, from that token alone."""

  classes: int

  @nn.compact
  def __call__(self, tokens):
    x = nn.relu(nn.Dense(64)(nn.Embed(self.classes, 32)(tokens)))
    return nn.Dense(self.classes)(x)


def counting(count):
  """After each token comes the next; texts differ in length."""
  tokens = (RNG.randint(0, 6, count)[:, None] + np.arange(6)) % 6
  labels = np.where(np.arange(6) < RNG.randint(1, 6, count)[:, None], 1, -1)
  return tokens, np.where(labels > 0, (tokens + 1) % 6, -1)


def test_the_next_token_is_learnt(monkeypatch, tmp_path):
  train, test = ([counting(n) for _ in range(3)] for n in (60, 20))
  fields = federation(monkeypatch, train, test, Tokens, 6, task=data.NEXT_TOKEN)
  fields |= dict(rounds=6, eval_every=6, local_epochs=10, density=1.0)
  config = small_config(pruning='random', **fields)
  built = build_here(monkeypatch, config)
  assert built.units.tolist() == [int(np.sum(y >= 0)) for _, y in test]
  assert hns.run(config, tmp_path)[-1]['held_accuracy'] > 0.9


def test_a_task_of_ones_own_is_one_function(monkeypatch, tmp_path):
  """The score is whether the class is among the best two."""

  def among_two(logits, labels):
    losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels, 1)[:, 0]
    best = jnp.argsort(-logits)[:, :2]
    return losses, jnp.any(best == labels, 1).astype(jnp.float32)

  def some(count):
    return RNG.randn(count, 4), RNG.randint(0, 2, (count, 1))

  def whole(field, labels, count, classes):
    return np.asarray(labels, np.int32)

  train = [some(9) for _ in range(3)]
  task = data.Task(among_two, check=whole)
  fields = federation(monkeypatch, train, train, Dense, 2, task=task)
  config = small_config(rounds=1, eval_every=1, algorithm='fedavg', **fields)
  build_here(monkeypatch, config)
  last = hns.run(config, tmp_path)[-1]
  assert last['global_accuracy'] == 1  # of two classes
  assert last['diverged_clients'] == 0  # no guess is known


@pytest.mark.parametrize(
  'measure,said',
  [
    (
      lambda o, y: (jnp.mean(o), jnp.ones(len(y))),
      r'of 2 it gives \[\[\], \[2\]',
    ),
    (lambda o, y: (o, jnp.ones(len(y))), r'of 2 it gives \[\[2, 1\], \[2\]'),
    (lambda o, y: jnp.square(o[:, 0] - y), r'must return \(losses, scores\)'),
    (lambda o, y: (o[:, 0], o[:, 0] > y), 'scores are bool, not floats'),
  ],
)
def test_a_task_measures_each_example(monkeypatch, measure, said):
  """A mean over the batch would count padding, without a word."""
  train = [line(20) for _ in range(3)]
  fields = federation(monkeypatch, train, train, Dense, task=data.Task(measure))
  with pytest.raises(InputError, match=said):
    experiment.build(small_config(**fields))


class Normed(nn.Module):
  """Batch norm of the inputs, and dropout behind it."""

  @nn.compact
  def __call__(self, x, train: bool):
    x = nn.BatchNorm(use_running_average=not train, use_scale=False)(x)
    return nn.Dropout(0.5, deterministic=not train)(x)


def normed(count):
  """A learner of `Normed`, and so many examples [count, 3]."""
  net, inputs = Normed(), jnp.asarray(5 + 3 * RNG.randn(count, 3), jnp.float32)
  blank = jnp.zeros((1, 3))
  learner = Learner(
    modes.apply_of(net),
    observe=modes.observe_of(net),
    statistics=modes.blank_statistics(net, blank),
  )
  variables = modes.init(net, jax.random.key(0), blank)
  examples = Examples(inputs, jnp.zeros(count, jnp.int32), ())
  return learner, {'params': variables['params']}, examples


@pytest.mark.parametrize('size', [1, 7, 100, 230])
def test_statistics_of_batch_norm_are_the_clients_own(size):
  """Mean and variance of a client's examples; padding is not among them."""
  learner, variables, examples = normed(250)
  rows = ClientIndices(jnp.arange(250)[::-1], jnp.int32(size))
  known = scoring.with_statistics(learner, variables, examples, rows)
  mine = np.asarray(examples.inputs)[::-1][:size]
  found = known[modes.STATISTICS]['BatchNorm_0']
  np.testing.assert_allclose(found['mean'], mine.mean(0), rtol=1e-5)
  parts = [mine[first : first + 100] for first in range(0, size, 100)]
  variance = sum(len(part) * part.var(0) for part in parts) / size
  np.testing.assert_allclose(found['var'], variance, rtol=1e-4, atol=1e-5)


def test_padding_of_a_batch_does_not_change_what_is_valid():
  learner, variables, examples = normed(10)
  key, valid = jax.random.key(1), jnp.arange(10) < 6
  whole = learner.apply(variables, examples.inputs, key, valid)
  changed = examples.inputs.at[6:].set(1e6)
  other = learner.apply(variables, changed, key, valid)
  np.testing.assert_array_equal(whole[:6], other[:6])


def test_dropout_drops_in_training_alone_and_follows_the_key():
  learner, variables, examples = normed(40)
  rows = ClientIndices(jnp.arange(40), jnp.int32(40))
  known = scoring.with_statistics(learner, variables, examples, rows)
  evaluated = learner.apply(known, examples.inputs)
  assert np.all(evaluated != 0)
  train = lambda seed: learner.apply(
    variables, examples.inputs, jax.random.key(seed), jnp.ones(40, bool)
  )
  assert 0.3 < np.mean(train(0) == 0) < 0.7
  np.testing.assert_array_equal(train(0), train(0))
  assert np.any(train(0) != train(1))
