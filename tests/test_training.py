import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import context_of, play, small

from hns import wire
from hns.engine import aggregate, parallel, scoring, training
from hns.engine.client import client_round
from hns.engine.training import ClientIndices, Plan
from hns.methods import uploads


def rows(size, width=23):
  return ClientIndices(jnp.arange(100, 100 + width), jnp.int32(size))


def test_an_epoch_sees_every_example_once():
  for size in (0, 1, 10, 23):
    order = training.shuffled(jax.random.key(size), rows(size), 10)
    assert order.shape == (30,)
    assert sorted(order[:size].tolist()) == list(range(100, 100 + size))


def test_epochs_are_shuffled_differently():
  a, b = (training.shuffled(jax.random.key(k), rows(23), 10) for k in (0, 1))
  assert np.any(a[:23] != b[:23])


def fit(experiment, size, plan, number=0):
  round_config = experiment.round_config
  key = experiment.key
  initial = experiment.initial
  federation = experiment.federation
  start = round_config.method.client.init(
    key,
    initial.frozen,
    round_config.method.server.broadcast(
      key, initial.frozen, initial.server_state
    ),
    (),
  )
  return training.fit(
    key,
    round_config.method,
    round_config.learner,
    plan,
    federation.examples,
    ClientIndices(federation.train.index[0], jnp.int32(size)),
    initial.frozen,
    start,
    number,
  )


def test_steps_follow_the_size_and_padding_is_inert():
  """The optimiser's rate grows with the step count, so steps can be read."""
  experiment = small(algorithm='fedavg')
  counted = moved_by(experiment, counting())
  start = experiment.initial.server_state.values['Dense_0']['kernel'][0, 0]
  run = jax.jit(functools.partial(fit, counted), static_argnums=1)
  for size, plan, steps in (
    (0, Plan(10, 3), 0),
    (1, Plan(10, 3), 3),
    (10, Plan(10, 3), 3),
    (11, Plan(10, 3), 6),
    (30, Plan(10, 3), 9),
    (30, Plan(10, 3, 7), 7),
    (5, Plan(10, 1, 4), 4),
    (0, Plan(10, 1, 4), 0),
  ):
    trained, loss = run(size, plan)
    moved = trained['Dense_0']['kernel'][0, 0] - start
    assert round(float(moved)) == steps
    assert (float(loss) > 0) == (steps > 0)


def test_a_rate_falls_from_round_to_round():
  """The steps of `counting` are as long as its rate; 30 examples take 9."""
  experiment = small(algorithm='fedavg')
  counted = moved_by(experiment, counting())
  start = experiment.initial.server_state.values['Dense_0']['kernel'][0, 0]
  plan = Plan(10, 3, rate_decay=0.5)
  run = jax.jit(functools.partial(fit, counted, 30, plan))
  for number, moved in ((0, 9.0), (1, 4.5), (3, 1.125)):
    trained, _ = run(number)
    kernel = trained['Dense_0']['kernel'][0, 0]
    np.testing.assert_allclose(kernel - start, moved, rtol=1e-5)


def test_the_rate_of_a_run_falls_after_its_first_round():
  """With one step of SGD a client, the second round goes half as far."""

  def after(rounds, decay):
    fields = dict(algorithm='fedavg', local_steps=1, rate_decay=decay)
    return play(small(**fields), rounds).state.server_state.values['Dense_0']

  start, usual, falls = after(1, 1.0), after(2, 1.0), after(2, 0.5)
  np.testing.assert_allclose(after(1, 0.5)['kernel'], start['kernel'], 1e-6)
  np.testing.assert_allclose(
    falls['kernel'] - start['kernel'],
    0.5 * (usual['kernel'] - start['kernel']),
    rtol=1e-3,
    atol=1e-6,
  )


def test_side_by_side_clients_wait_for_no_epoch():
  """Six steps are six turns of the loop, be they two epochs or six."""
  experiment, turns = small(algorithm='fedavg'), []

  def update(grads, state, params):
    jax.debug.callback(lambda: turns.append(1))
    return jax.tree.map(jnp.ones_like, grads), state

  seen = optax.GradientTransformation(lambda params: (), update)
  counted = moved_by(experiment, seen)
  run = jax.vmap(lambda size: fit(counted, size, Plan(10, 1, 6)))
  jax.block_until_ready(jax.jit(run)(jnp.array([10, 30])))
  jax.effects_barrier()
  assert len(turns) == 6


def moved_by(experiment, optimizer):
  """The experiment with another optimiser."""
  round_config = experiment.round_config
  method = round_config.method.revise(client=dict(optimizer=optimizer))
  return experiment._replace(round_config=round_config._replace(method=method))


def counting():
  """An optimiser that adds 1 to every weight."""
  return optax.GradientTransformation(
    lambda params: (),
    lambda grads, state, params: (jax.tree.map(jnp.ones_like, grads), state),
  )


def test_only_the_clients_rows_are_scored(monkeypatch):
  experiment = small(algorithm='fedavg')
  learner = experiment.round_config.learner
  initial = experiment.initial
  federation = experiment.federation
  variables = {'params': initial.server_state.values}
  for size, batch_size in ((0, 7), (1, 7), (20, 7), (20, 100)):
    chosen = ClientIndices(federation.test.index[0], jnp.int32(size))
    monkeypatch.setattr(scoring, '_BATCH', batch_size)
    got = scoring.score(learner, variables, federation.examples, chosen)
    images, labels = training.batch(federation.examples, chosen.index[:size])
    logits = learner.apply(variables, images) if size else jnp.zeros((0, 10))
    assert int(got) == int(jnp.sum(jnp.argmax(logits, -1) == labels))


def test_inputs_are_standardised():
  examples = small().federation.examples
  images, _ = training.batch(examples, jnp.arange(examples.inputs.shape[0]))
  assert abs(float(images.mean())) < 0.1 and abs(float(images.std()) - 1) < 0.1


def test_weigh_is_exact_in_integers_and_weighted_in_floats():
  signs = wire.Message(jnp.int8([1, -1, 1]), jnp.array([True, True, False]))
  anyone = jnp.ones((), bool)
  sums, weights = aggregate.weigh(signs, anyone, jnp.int32(2**20 + 1))
  assert sums.dtype == weights.dtype == jnp.int32
  assert sums.tolist() == [2**20 + 1, -(2**20 + 1), 0]
  floats = wire.Message(jnp.array([0.5, 2.0]), jnp.float32(1))
  sums, weights = aggregate.weigh(floats, anyone, jnp.int32(3))
  np.testing.assert_array_equal(aggregate.mean(sums, weights), [0.5, 2.0])
  assert sums.dtype == jnp.float32


@pytest.mark.parametrize(
  'value, weight',
  [(jnp.bfloat16(1), jnp.bfloat16(1)), (jnp.int8(1), jnp.float32(0.5))],
)
def test_the_mean_of_equal_values_is_that_value(value, weight):
  """Also in few bits, and with half a vote each."""
  message, examples = wire.Message(value, weight), jnp.int32(3)
  sums, chosen = aggregate.weigh(message, weight, examples)
  assert chosen is None
  sums = sum(sums for _ in range(1001))
  total = aggregate.total_weights(chosen, sums, weight, 1001 * examples)
  assert float(aggregate.mean(sums, total)) == 1


def test_a_weight_that_all_clients_share_is_known_without_a_sum():
  mask, client_state = jnp.array([True, False]), jnp.array([False, True])
  signs = {'a': jnp.int8([1, -1]), 'b': jnp.int8([1, 1]), 'home': None}
  common = {'a': mask, 'b': mask, 'home': None}
  message = wire.Message(signs, common | {'b': client_state})
  sums, chosen = aggregate.weigh(message, common, jnp.int32(3))
  assert chosen['a'] is None and chosen['b'].tolist() == [0, 3]
  twice = lambda sent: jax.tree.map(lambda x: 2 * x, sent)
  total = aggregate.total_weights(twice(chosen), sums, common, jnp.int32(6))
  assert total['a'].dtype == jnp.int32 and total['home'] is None
  assert [total[k].tolist() for k in 'ab'] == [[6, 0], [0, 6]]


@pytest.mark.parametrize('name', ['hidenseek', 'hidenseek_personal', 'fedavg'])
def test_no_weight_is_summed_where_clients_choose_none(name):
  experiment = small(algorithm=name)
  context, ids, client_state = context_of(experiment)
  round_config = experiment.round_config

  def summed(context, index, client_state):
    part, common = (
      client_round(round_config, context, index, client_state),
      context.message,
    )
    return aggregate.weigh(part.upload, common.weight, part.examples)[1], ()

  for width in (1, 2):
    shapes = jax.eval_shape(
      lambda *asked, width=width: parallel.each_client(
        summed, *asked, width, round_config.mesh
      ),
      *(context, ids, client_state),
    )
    assert not jax.tree.leaves(shapes)


def test_nobody_voted_keeps_the_old_value():
  kept = uploads.keep_unvoted(
    jnp.array([5.0, 5.0]), jnp.array([1.0, 0.0]), jnp.array([2, 0])
  )
  assert kept.tolist() == [1.0, 5.0]


def test_preparation_and_objective_are_asked():
  """A method that prepares zeros, with a score, and pulls them all up."""
  experiment = small(algorithm='local', cohort=6)
  method = experiment.round_config.method

  def prepare(key, frozen, message, client_state, score):
    assert score({'params': client_state[1]}).shape == ()
    return jax.tree.map(jnp.zeros_like, client_state)

  def objective(key, progress, forward, view, start, trained):
    gaps = jax.tree.map(lambda a, b: jnp.sum((a - b - 1) ** 2), trained, start)
    return 0.0 * forward(view(trained)) + sum(jax.tree.leaves(gaps))

  changed = method.revise(
    client=dict(before_training=prepare, objective=objective)
  )
  kept = play(experiment, method=changed).client_state
  values = np.concatenate([np.ravel(x) for x in jax.tree.leaves(kept)])
  assert np.ptp(values) < 1e-6 and values[0] > 0.1
