"""Every kind of module that users bring, in a federation of every kind."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import slow_if, small_config
from flax import nnx

import hns
from hns import data
from hns.networks import checks, modes, pruning, saliency
from hns.networks.supermask import Supermask, to_masked
from hns.runs import experiment, loop, programs

CLASSES, TOKENS, PLACES, WIDTH = 4, 16, 6, 8
RNG = np.random.RandomState(0)
Linear = functools.partial(nn.Dense, use_bias=False)
INPUTS = jnp.zeros((1, PLACES), jnp.int32)


def dropout(x, train):
  return nn.Dropout(0.3, deterministic=not train)(nn.relu(Linear(WIDTH)(x)))


def batch_norm(x, train):
  x = nn.BatchNorm(use_running_average=not train)(Linear(WIDTH)(x))
  return nn.relu(x)


def biases(x, train):
  return nn.relu(nn.LayerNorm()(nn.Dense(WIDTH)(x)))


def depthwise(x, train):
  return nn.relu(nn.Conv(WIDTH, (3,), feature_group_count=WIDTH)(x))


def grouped(x, train):
  return nn.relu(nn.Conv(2 * WIDTH, (3,), feature_group_count=2)(x))


def remat(x, train):
  return nn.relu(nn.remat(nn.Dense)(WIDTH, use_bias=False)(x))


def bfloat16(x, train):
  x = nn.relu(Linear(WIDTH, dtype=jnp.bfloat16)(x))
  return x.astype(jnp.float32)


def attention(x, train):
  return x + nn.MultiHeadDotProductAttention(2)(x, deterministic=not train)


def recurrence(x, train):
  return nn.RNN(nn.GRUCell(WIDTH))(x)


class Layer(nn.Module):
  """A layer that `nn.scan` repeats."""

  @nn.compact
  def __call__(self, x, _):
    return nn.relu(Linear(WIDTH)(x)), None


def scan(x, train):
  layers = nn.scan(
    Layer, variable_axes={'params': 0}, split_rngs={'params': True}, length=2
  )
  return layers()(x, None)[0]


class Net(nn.Module):
  """Tokens, a kind of module, the mean over places, and logits."""

  body: callable

  @nn.compact
  def __call__(self, tokens, train: bool):
    x = nn.Embed(TOKENS, WIDTH)(tokens)
    return Linear(CLASSES, name='head')(self.body(x, train).mean(1))


class Tied(nn.Module):
  """Its logits are products with the vectors of the first tokens."""

  def setup(self):
    self.vectors = nn.Embed(TOKENS, WIDTH)
    self.hidden = Linear(WIDTH)

  def __call__(self, tokens):
    x = nn.relu(self.hidden(self.vectors(tokens))).mean(1)
    return self.vectors.attend(x)[:, :CLASSES]


class Bridged(nnx.Module):
  """A module of Flax NNX."""

  def __init__(self, rngs):
    self.hidden = nnx.Linear(PLACES, WIDTH, rngs=rngs)
    self.head = nnx.Linear(WIDTH, CLASSES, rngs=rngs)

  def __call__(self, tokens):
    return self.head(nnx.relu(self.hidden(tokens / TOKENS)))


KINDS = {
  kind.__name__: Net(kind)
  for kind in (
    *(dropout, batch_norm, biases, depthwise, grouped, remat, bfloat16),
    *(attention, recurrence, scan),
  )
} | {'tied': Tied(), 'bridged': nnx.bridge.to_linen(Bridged)}
# A bridged module's layers cannot be seen, so no norm could be bypassed in it;
# a tied one has no layer of the classes that could stay at home.
PERSONAL = {'tied': 'Embed'}


@pytest.fixture(scope='module')
def clients():
  def some(count):
    labels = RNG.randint(0, CLASSES, count)
    spread = RNG.randint(0, TOKENS // CLASSES, (count, PLACES))
    return spread + TOKENS // CLASSES * labels[:, None], labels

  train, test = ([some(n) for _ in range(3)] for n in (13, 6))
  return data.from_clients(train, test, CLASSES, standardise=False)


@pytest.fixture
def registered(monkeypatch, clients):
  monkeypatch.setitem(hns.DATASETS, 'tokens', lambda: clients[0])
  monkeypatch.setitem(hns.PARTITIONS, 'tokens', clients[1])
  for name, net in KINDS.items():
    monkeypatch.setitem(hns.MODELS, name, lambda classes, net=net: net)


def drawn(net):
  return jax.jit(functools.partial(modes.init, net))(jax.random.key(0), INPUTS)


@pytest.mark.parametrize('name', KINDS)
def test_wrapped_it_computes_the_same(name):
  net = KINDS[name]
  variables = drawn(net)
  params = variables['params']
  masked = to_masked(params)
  if modes.STATISTICS in variables:
    kept = {modes.STATISTICS: variables[modes.STATISTICS]}
    variables, masked = {'params': params} | kept, masked | kept
  tokens = jnp.asarray(RNG.randint(0, TOKENS, (5, PLACES)))
  options = modes.options(net, False)
  run = lambda net, given: jax.jit(functools.partial(net.apply, **options))(
    given, tokens
  )
  plain, wrapped = run(net, variables), run(Supermask(net), masked)
  np.testing.assert_array_equal(plain, wrapped)


# Their saliency takes long, or is that of others in `test_saliency`.
SLOW_SALIENCY = (
  *('recurrence', 'bfloat16', 'scan', 'remat', 'biases', 'grouped'),
  'attention',
)


@pytest.mark.parametrize(
  'name', [slow_if(name in SLOW_SALIENCY, name) for name in KINDS]
)
def test_saliency_prunes_it_to_the_density(name):
  net = KINDS[name]
  checks.check(name, net, INPUTS, CLASSES)
  saliency.check(net, INPUTS)
  variables = to_masked(drawn(net)['params'])
  total = sum(w.size for w in jax.tree.leaves(variables['weights']))
  keep = pruning.schedule(total, 0.5, 2)
  score = pruning.synflow
  mask = pruning.prune(jax.random.key(1), score, net, variables, INPUTS, keep)
  assert sum(int(m.sum()) for m in jax.tree.leaves(mask)) == round(total / 2)


METHODS = 'hidenseek', 'fedavg', 'fedmask', 'fedper'
# These differ in how they are trained; a tied one has no layer that could stay
# at home, which is said at once.
FAST = {
  ('hidenseek', kind)
  for kind in ('batch_norm', 'recurrence', 'attention', 'tied')
} | {('fedavg', 'dropout'), ('fedmask', 'tied'), ('fedper', 'tied')}


@pytest.mark.parametrize(
  'name,method',
  [
    slow_if((method, kind) not in FAST, kind, method)
    for kind in KINDS
    for method in METHODS
  ],
)
def test_two_rounds_of_a_federation(registered, name, method):
  fields = dict(dataset='tokens', partition='tokens', num_clients=3, cohort=2)
  fields |= dict(model=name, pruning='random', density=0.6, algorithm=method)
  config = small_config(batch_size=5, local_epochs=1, **fields)
  if method in ('fedmask', 'fedper') and name == 'tied':
    with pytest.raises(hns.errors.InputError, match='exactly one layer'):
      experiment.build(config)
    return
  built = experiment.build(config)
  run = programs.programs(built)
  progress = loop.begin(built)
  before = np.asarray(jax.tree.leaves(progress.state.server_state.values)[0])
  for _ in range(2):
    progress = loop.step(built, run, progress)
  progress = loop.fetch_metrics(progress)
  after = progress.state.server_state.values
  assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(after))
  assert np.any(before != np.asarray(jax.tree.leaves(after)[0]))
  assert np.isfinite(progress.score).sum() >= 2
  assert progress.tally.rejected == 0 and progress.tally.uplink > 0
