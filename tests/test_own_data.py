"""What a user brings: arrays of each client, tokens, windows of sensors."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import build_here, slow_if, small_config

import hns
from hns import data, export
from hns.data.shares import Shares
from hns.errors import InputError
from hns.networks import models
from hns.runs import experiment, model_file

RNG = np.random.RandomState(0)


def pictures(*sizes, classes=3):
  """For each client so many grey pictures, whose mean tells the class."""
  clients = []
  for size in sizes:
    labels = RNG.randint(0, classes, size)
    noise = RNG.randint(0, 60, (size, 6, 6))
    clients.append((noise + 60 * labels[:, None, None], labels))
  return clients


def registered(monkeypatch, dataset, partition, model=None):
  monkeypatch.setitem(hns.DATASETS, 'mine', lambda: dataset)
  monkeypatch.setitem(hns.PARTITIONS, 'mine', partition)
  if model:
    monkeypatch.setitem(models.MODELS, 'mine', model)


def config(clients, **fields):
  fields = (
    dict(dataset='mine', partition='mine', cohort=2, model='mlp') | fields
  )
  return small_config(num_clients=clients, **fields)


def held_by(federation, split, client):
  """The inputs and labels that a client has, in the order given."""
  rows = getattr(federation, split)
  index = np.asarray(rows.index[client])[: int(rows.size[client])]
  examples = federation.examples
  return np.asarray(examples.inputs)[index], np.asarray(examples.labels)[index]


def test_every_client_has_what_was_given_to_it(monkeypatch):
  train, test = pictures(30, 5, 12), pictures(4, 4, 9)
  validation = pictures(3, 0, 2)
  given = data.from_clients(train, test, 3, validation)
  registered(monkeypatch, *given)
  federation = experiment.build(config(3)).federation
  splits = dict(train=train, test=test, validation=validation)
  for split, clients in splits.items():
    for client, (inputs, labels) in enumerate(clients):
      found = held_by(federation, split, client)
      np.testing.assert_array_equal(found[0][..., 0], inputs)
      np.testing.assert_array_equal(found[1], labels)


def test_a_run_on_arrays_of_each_client(monkeypatch, tmp_path):
  given = data.from_clients(pictures(60, 40, 50), pictures(20, 20, 20), 3)
  registered(monkeypatch, *given)
  fields = dict(rounds=6, eval_every=6, local_epochs=5, density=0.5)
  last = hns.run(config(3, **fields), tmp_path)[-1]
  assert last['held_accuracy'] > 0.9


@pytest.mark.parametrize(
  'change,said',
  [
    (lambda t, e: t.clear(), 'train: has no clients'),
    (lambda t, e: e.pop(), 'test: has 2 clients, but train has 3'),
    (
      lambda t, e: put(t, 1, np.zeros((0, 6, 6)), []),
      'train of client 1: has no',
    ),
    (
      lambda t, e: put(t, 2, np.ones((4, 6, 5)), [0] * 4),
      r'client 2: .*\[6, 5\]',
    ),
    (lambda t, e: put(e, 0, np.ones((4, 6, 6)), [0] * 3), r'labels \[3\]'),
    (
      lambda t, e: put(t, 0, [[[np.nan] * 6] * 6], [0]),
      'train of client 0: example 0 has NaN',
    ),
    (
      lambda t, e: put(e, 2, np.ones((3, 6, 6), int), [0, 7, 1]),
      r'test of client 2: labels\[1\]=7: must be in 0..2',
    ),
    (
      lambda t, e: put(t, 0, np.ones((2, 6, 6)), [0.5, 1.0]),
      r'train of client 0: labels\[0\]=0.5: must be a whole',
    ),
    (
      lambda t, e: put(t, 0, [[1, 2], [3]], [0, 1]),
      'train of client 0: must be',
    ),
  ],
)
def test_what_is_wrong_is_named_with_its_client(change, said):
  train, test = pictures(5, 5, 5), pictures(5, 5, 5)
  change(train, test)
  with pytest.raises(InputError, match=said):
    data.from_clients(train, test, 3)


@pytest.mark.parametrize(
  'changed,said',
  [
    (dict(classes='2'), "classes='2': must be a whole number"),
    (dict(standardise=None), 'standardise=None: must be True or False'),
    (
      dict(train={'a': 1}),
      'train: must be a list, one entry a client, not dict',
    ),
    (dict(test=None), 'test: must be a list'),
  ],
)
def test_arguments_of_another_type_are_named(changed, said):
  given = dict(train=pictures(5), test=pictures(5), classes=3) | changed
  with pytest.raises(InputError, match=said):
    data.from_clients(**given)


def test_labels_of_several_integer_dtypes_are_fine():
  train = pictures(5, 5)
  train[1] = train[1][0], train[1][1].astype(np.uint64)
  dataset, _ = data.from_clients(train, pictures(5, 5), 3, [None, train[0]])
  assert dataset.train_labels.dtype == np.int32


def put(clients, k, inputs, labels):
  clients[k] = (inputs, labels)


def test_another_number_of_clients_is_refused(monkeypatch):
  registered(monkeypatch, *data.from_clients(pictures(9, 9), pictures(9, 9), 3))
  said = "num_clients=3: partition 'mine' returned lists for 2 clients"
  with pytest.raises(InputError, match=said):
    experiment.build(config(3))


@pytest.mark.parametrize(
  'given,said',
  [
    (Shares([[0, 1], [2, 3]], [[1], []], [[0], [1]]), 'trains client 0'),
    (Shares([[0, 1], [2, 3]], [[4], [0]], [[0], [1]]), 'trains client 0'),
    ([list(range(40)), list(range(40))], 'trains client [01]'),
  ],
)
def test_no_client_trains_on_what_validates_another(monkeypatch, given, said):
  registered(monkeypatch, data.load('digits'), lambda *_: given)
  said = rf"'mine': example \d+, for validation of client [01], {said}: keep"
  with pytest.raises(InputError, match=said):
    experiment.build(config(2, validation_fraction=0.2))


def test_clients_may_share_what_they_train_on(monkeypatch):
  both = [list(range(40)), list(range(40))]
  registered(monkeypatch, data.load('digits'), lambda *_: both)
  built = experiment.build(config(2, validation_fraction=0.0))
  assert built.federation.train.size.tolist() == [40, 40]


class Words(nn.Module):
  """The mean of the tokens' vectors, and two dense layers."""

  classes: int

  @nn.compact
  def __call__(self, tokens):
    x = nn.Embed(50, 8)(tokens).mean(1)
    x = nn.relu(models.Norm()(models.Dense(32)(x)))
    return models.Dense(self.classes)(x)


class Windows(nn.Module):
  """A convolution over time."""

  classes: int

  @nn.compact
  def __call__(self, x):
    x = nn.relu(models.Norm()(nn.Conv(16, (5,), use_bias=False)(x)))
    return models.Dense(self.classes)(x.mean(1))


def sentences(*sizes):
  """A text is of class 1 if its tokens are mostly above 25."""
  clients = []
  for size in sizes:
    labels = RNG.randint(0, 2, size)
    tokens = RNG.randint(0, 28, (size, 12)) + 22 * labels[:, None]
    clients.append((tokens, labels))
  return clients


def waves(*sizes):
  """Three sensors over 20 moments; the class is the frequency."""
  clients = []
  for size in sizes:
    labels = RNG.randint(0, 2, size)
    speed = (1 + labels)[:, None, None] * np.linspace(0, 6, 20)[:, None]
    phase = RNG.uniform(0, 6, (size, 1, 3))
    clients.append((np.sin(speed + phase), labels))
  return clients


@pytest.mark.parametrize(
  'make,model,dtype,name',
  [
    (sentences, Words, jnp.int32, 'hidenseek'),
    slow_if(True, waves, Windows, jnp.float32, 'hidenseek'),
  ],
)
def test_other_inputs_than_pictures_train(
  monkeypatch, tmp_path, make, model, dtype, name
):
  given = data.from_clients(
    make(60, 60, 60), make(40, 40, 40), 2, standardise=False
  )
  registered(monkeypatch, *given, model)
  fields = dict(rounds=4, eval_every=4, local_epochs=10, density=0.6)
  made = config(3, model='mine', algorithm=name, **fields)
  built = build_here(monkeypatch, made)
  assert built.federation.examples.inputs.dtype == dtype
  last = hns.run(made, tmp_path)[-1]
  assert last['held_accuracy'] > 0.8


@pytest.mark.parametrize(
  'inputs,said',
  [
    (np.array([[1.0, np.inf]]), r'train_inputs\[0, 1\]=inf: must be a finite'),
    (np.array([[1, 2**40]]), r'train_inputs\[0, 1\]=.* fits int32'),
    (np.array([1, 2]), r'train_inputs.shape=\[2\]: must be \[n, ...\]'),
    (np.array([['a', 'b']]), 'train_inputs.* real numbers'),
  ],
)
def test_inputs_that_no_network_can_take_are_named(inputs, said):
  labels = np.zeros(len(inputs), int)
  given = data.Dataset(inputs, labels, [], inputs, labels, [], 2, False)
  with pytest.raises(InputError, match=said):
    data.dataset.checked('mine', given)


def test_convolutions_on_no_pictures_are_one_line(monkeypatch):
  given = data.from_clients(
    sentences(9, 9), sentences(9, 9), 2, standardise=False
  )
  registered(monkeypatch, *given)
  with pytest.raises(InputError, match="model='cnn': .*need pictures"):
    experiment.build(config(2, model='cnn'))


@pytest.mark.slow
def test_a_model_file_predicts_from_tokens(monkeypatch, tmp_path):
  train, test = sentences(60, 40), sentences(20, 20)
  given = data.from_clients(train, test, 2, standardise=False)
  registered(monkeypatch, *given, Words)
  fields = dict(model='mine', rounds=2, eval_every=2, density=0.5)
  hns.run(config(2, **fields), tmp_path)
  content = export.from_run(tmp_path, 1)
  loaded = model_file.load(content)
  inputs, labels = test[1]
  right = np.mean(np.argmax(loaded.predict(inputs), -1) == labels)
  assert right == pytest.approx(export.evaluate(tmp_path, content, 1))
  with pytest.raises(InputError, match='fits int32'):
    loaded.predict(np.full(inputs.shape, 1.9))


class Both(nn.Module):
  """Tokens and how long a text is."""

  classes: int

  @nn.compact
  def __call__(self, inputs):
    x = nn.Embed(50, 8)(inputs['tokens']).mean(1)
    x = jnp.concatenate([x, inputs['length']], -1)
    x = nn.relu(models.Norm()(models.Dense(32)(x)))
    return models.Dense(self.classes)(x)


def measured(*sizes):
  """`sentences`, and a number that tells nothing."""
  return [
    (dict(tokens=x, length=RNG.rand(len(y), 1)), y)
    for x, y in sentences(*sizes)
  ]


def test_inputs_may_be_a_dict_of_arrays(monkeypatch, tmp_path):
  train, test = measured(60, 60, 60), measured(40, 40, 40)
  given = data.from_clients(train, test, 2, standardise=False)
  registered(monkeypatch, *given, Both)
  fields = dict(rounds=4, eval_every=4, local_epochs=10, density=0.6)
  made = config(3, model='mine', **fields)
  inputs = build_here(monkeypatch, made).federation.examples.inputs
  dtypes = {name: x.dtype for name, x in inputs.items()}
  assert dtypes == dict(tokens=jnp.int32, length=jnp.float32)
  last = hns.run(made, tmp_path)[-1]
  assert last['held_accuracy'] > 0.8
  with pytest.raises(InputError, match='has one array of inputs'):
    export.from_run(tmp_path, 0)
  logits = hns.predictor(tmp_path, 0).predict(test[0][0])
  assert np.mean(np.argmax(logits, -1) == test[0][1]) > 0.8


@pytest.mark.parametrize(
  'change,said',
  [
    (lambda x: x.pop('length'), 'train of client 1: inputs are .*tokens'),
    (
      lambda x: x.update(length=np.full((5, 1), np.nan)),
      'train of client 1: length: example 0 has NaN',
    ),
    (lambda x: x.update(length=np.ones((4, 1))), r'length\[4, 1\] and labels'),
  ],
)
def test_a_dict_unlike_the_others_is_named(change, said):
  train = measured(5, 5)
  change(train[1][0])
  with pytest.raises(InputError, match=said):
    data.from_clients(train, measured(5, 5), 2, standardise=False)


def test_a_dict_is_not_standardised():
  with pytest.raises(InputError, match='give standardise=False'):
    data.from_clients(measured(5), measured(5), 2)
