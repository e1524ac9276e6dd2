"""The engine against a plain Python loop, against itself, and by identities."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import compiled, context_of, play, small, survivors

from hns import tree, wire
from hns.engine import (
  client,
  client_store,
  evaluation,
  explore,
  parallel,
  rounds,
)
from hns.networks import models
from hns.networks.supermask import sign
from hns.runs import loop

SIZES = dict(partition='dirichlet', alpha=1.0, examples_per_client=24)


def in_double(experiment):
  """The same experiment with float64 weights."""
  double = lambda t: jax.tree.map(
    lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, t
  )
  return experiment._replace(initial=double(experiment.initial))


def loop_round(experiment, state):
  """HideNseek's round written out: one client, one batch, one step at a time.

  Only the draws are the engine's. Adam, the gate's gradient and the vote are
  written by hand.
  """
  round_config = experiment.round_config
  initial = experiment.initial
  federation = experiment.federation
  context, ids, _ = context_of(experiment, state)
  frozen, plan = initial.frozen, round_config.plan
  net = round_config.learner.apply.args[1].args[0]  # the plain module
  gradient = jax.jit(
    functools.partial(plain_gradient, net, round_config.learner.unpack)
  )
  begun = jax.jit(round_config.method.client.init)(
    context.keys.shared, frozen, context.message, ()
  )
  votes, total = 0, 0
  for index in map(int, ids):
    size = int(federation.train.size[index])
    row = federation.train.index[index]
    client_key = jax.random.fold_in(context.keys.clients, index)
    fit_key = jax.random.fold_in(client_key, 1)
    scores = begun
    first = second = jax.tree.map(jnp.zeros_like, scores)
    steps = 0
    for epoch in range(plan.epochs):
      draw = np.array(
        jax.random.uniform(
          jax.random.fold_in(fit_key, epoch), row.shape, jnp.float32
        )
      )
      order = np.asarray(row)[:size][np.argsort(draw[:size], kind='stable')]
      for start in range(0, size, plan.batch_size):
        chosen = order[start : start + plan.batch_size]
        grads = gradient(frozen, scores, federation, chosen)
        steps += 1
        scores, first, second = adam(scores, first, second, grads, steps)
    signs = np.where(np.asarray(tree.flatten(scores)) < 0, -1, 1)
    votes, total = votes + size * signs, total + size
  return np.where(survivors(initial), votes / total, 0)


@jax.jit
def adam(scores, first, second, grads, steps):
  """Kingma and Ba 2015, algorithm 1, with rate 0.03."""
  first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, grads)
  second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, grads)

  def move(score, m, v):
    m, v = m / (1 - 0.9**steps), v / (1 - 0.999**steps)
    return score - 0.03 * m / (jnp.sqrt(v) + 1e-8)

  return jax.tree.map(move, scores, first, second), first, second


def plain_gradient(plain, unpack, frozen, scores, federation, chosen):
  """d loss / d sign, by differentiating the plain network's weights."""
  images = federation.examples.inputs[chosen].astype(jnp.float32)
  center, spread = federation.examples.scale
  labels = federation.examples.labels[chosen]
  masked = jax.tree.map(lambda w, m: w * m, frozen['weights'], frozen['mask'])
  signs = jax.tree.map(lambda s: jnp.where(s < 0, -1.0, 1.0), scores)

  def loss(params):
    whole = unpack({'params': params})
    logits = plain.apply(whole, (images - center) / spread)
    return jnp.mean(
      optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    )

  grads = jax.grad(loss)(jax.tree.map(jnp.multiply, masked, signs))
  return jax.tree.map(jnp.multiply, grads, masked)


def test_engine_equals_a_plain_loop(x64):
  """In float64 all signs are equal, with clients of different sizes.

  One client at a time, and in chunks of three, of which one place is padding.
  """
  experiment = in_double(small(cohort=5, local_epochs=3, **SIZES))
  sizes = np.asarray(experiment.federation.train.size)
  assert len(np.unique(sizes % experiment.round_config.plan.batch_size)) > 2
  state, moved = rounds.begin(experiment.initial), 0
  steps = [
    compiled(rounds.run_round, experiment.round_config._replace(width=width))
    for width in (1, 3)
  ]
  for _ in range(2):
    expected = loop_round(experiment, state)
    before = np.asarray(tree.flatten(state.server_state))
    ids = context_of(experiment, state)[1]
    for step in steps:
      after, *_ = step(
        experiment.key, *experiment.constants[1:], state, ids, ()
      )
      got = np.asarray(tree.flatten(after.server_state))
      np.testing.assert_allclose(got, expected, rtol=1e-6)
    moved += np.sum((got < 0) != (before < 0))
    state = after
  assert moved > 100


def test_the_loop_test_can_fail(x64):
  """Another learning rate, in the engine alone, changes many signs."""
  fields = dict(cohort=5, local_epochs=3, **SIZES)
  experiment = in_double(small(**fields))
  state = rounds.begin(experiment.initial)
  expected = loop_round(experiment, state)
  table = dict(learning_rate=0.033)
  other = in_double(small(hidenseek=table, **fields))
  got = tree.flatten(play(other).state.server_state)
  assert np.sum(np.asarray(got) != expected) > 50


def test_every_width_gives_the_same_result(monkeypatch):
  """One client at a time, padded chunks, all at once."""
  convs = ((32, 3, 2, False), (64, 3, 2, False))
  net = lambda classes: models.Network(classes, convs)
  monkeypatch.setitem(models.MODELS, 'strided', net)
  experiment = small(model='strided', cohort=5, **SIZES)
  alone, start = play(experiment), play(experiment, 0)
  first = tree.flatten((start.state.server_state, start.client_state))
  a = tree.flatten((alone.state.server_state, alone.client_state))
  assert np.any(a != first)
  for width in (2, 5):
    chunked = play(experiment, width=width)
    b = tree.flatten((chunked.state.server_state, chunked.client_state))
    # Rounding flips a sign whose score is nearly 0, and changes a float.
    assert np.mean(~np.isclose(a, b, atol=1e-4)) < 2e-3
    told, other = alone.report, chunked.report
    np.testing.assert_allclose(told.uplink, other.uplink, atol=4)
    np.testing.assert_allclose(told.train_loss, other.train_loss, rtol=1e-3)


@pytest.mark.slow
def test_widths_give_equal_evaluations():
  experiment = small(num_clients=7, cohort=3)
  state, found = play(experiment).state, []
  for width in (1, 3):
    round_config = experiment.round_config._replace(width=width)
    built = experiment._replace(round_config=round_config)
    run, store = (
      loop.programs(built),
      client_store.create(built.initial.client_state),
    )
    progress = loop.begin(built)._replace(state=state, store=store)
    found.append(loop.evaluate(built, run, progress))
  for other in found[1:]:
    np.testing.assert_array_equal(found[0].count, other.count)
    np.testing.assert_array_equal(found[0].score_global, other.score_global)
    np.testing.assert_allclose(
      found[0].score_personal, other.score_personal, atol=1
    )


def test_an_absent_client_is_inert():
  experiment = small()
  round_config = experiment.round_config
  initial = experiment.initial
  context = context_of(experiment)[0]
  client_round = compiled(client.client_round, round_config)
  part = client_round(context, parallel.ABSENT, ())
  start = round_config.method.client.init(
    context.keys.shared, initial.frozen, context.message, initial.client_state
  )
  assert int(part.examples) == 0 and float(part.loss) == 0
  jax.tree.map(
    lambda a, b: np.testing.assert_array_equal(a, np.ones_like(b)),
    part.upload.value,
    start,
  )


def test_frozen_means_frozen():
  """Weights and prune mask, bit for bit, after training."""
  experiment = small()
  before = jax.tree.map(np.array, experiment.initial.frozen)
  round_config = experiment.round_config
  initial = experiment.initial
  context = context_of(experiment, play(experiment, 3).state)[0]
  held = compiled(evaluation.personal_models, round_config)(
    context, jnp.arange(2)
  )
  for name in ('weights', 'mask'):
    chex.assert_trees_all_equal(before[name], initial.frozen[name])
    jax.tree.map(
      lambda a, b: np.testing.assert_array_equal(np.stack([a, a]), b),
      before[name],
      held[name],
    )
  signs = np.asarray(tree.flatten(held['signs']))
  assert set(np.unique(signs)) == {-1, 1}


def test_one_client_fedavg_is_plain_sgd():
  experiment = small(
    algorithm='fedavg', num_clients=1, cohort=1, partition='iid', seed=4
  )
  round_config = experiment.round_config
  initial = experiment.initial
  federation = experiment.federation
  params, net = initial.server_state.values, models.MODELS['tiny'](10)
  context = context_of(experiment)[0]
  fit_key = jax.random.fold_in(jax.random.fold_in(context.keys.clients, 0), 1)
  row, size = federation.train.index[0], int(federation.train.size[0])
  images = federation.examples.inputs.astype(jnp.float32)
  images = (images - federation.examples.scale[0]) / federation.examples.scale[
    1
  ]

  @jax.jit
  def gradient(params, x, y):
    loss = lambda p: jnp.mean(
      optax.softmax_cross_entropy_with_integer_labels(
        net.apply({'params': p}, x), y
      )
    )
    return jax.grad(loss)(params)

  for epoch in range(round_config.plan.epochs):
    draw = jax.random.uniform(jax.random.fold_in(fit_key, epoch), row.shape)
    order = row[jnp.argsort(draw)]
    for start in range(0, size, round_config.plan.batch_size):
      chosen = order[start : start + round_config.plan.batch_size]
      grads = gradient(
        params, images[chosen], federation.examples.labels[chosen]
      )
      params = jax.tree.map(lambda p, g: p - 0.05 * g, params, grads)
  got = play(experiment).state.server_state.values
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5),
    got,
    params,
  )


def test_aggregation_is_an_exact_vote():
  """The server's state is the vote of the uploads, in integers."""
  experiment = small(cohort=5, num_clients=8, **SIZES)
  round_config = experiment.round_config
  initial = experiment.initial
  federation = experiment.federation
  context, ids, _ = context_of(experiment)
  uploads = compiled(explore.uploads, round_config)(context, ids, ())
  sizes = np.asarray(federation.train.size)[np.asarray(ids)]
  assert len(set(sizes)) > 1
  after = play(experiment).state
  for turned, old, mask, got in zip(
    jax.tree.leaves(uploads.value),
    jax.tree.leaves(initial.server_state.values),
    jax.tree.leaves(initial.frozen['mask']),
    jax.tree.leaves(after.server_state),
  ):
    votes = np.tensordot(sizes.astype(np.int64), np.int64(turned), 1)
    votes = votes * np.asarray(sign(old))
    expected = np.float32(votes) / np.float32(sizes.sum())
    np.testing.assert_array_equal(got, np.where(mask, expected, 0))


def test_the_vote_is_of_the_clients_that_keep_a_weight():
  fields = dict(algorithm='fedmask', cohort=5, num_clients=8)
  experiment = small(**fields, **SIZES)
  round_config = experiment.round_config
  initial = experiment.initial
  federation = experiment.federation
  context, ids, client_state = context_of(experiment)
  uploads = compiled(explore.uploads, round_config)(context, ids, client_state)
  sizes = np.asarray(federation.train.size)[np.asarray(ids)]
  after = play(experiment).state.server_state.values
  for turned, kept, old, got in zip(
    *map(jax.tree.leaves, (*uploads, initial.server_state.values, after))
  ):
    kept, turned = np.asarray(kept), np.asarray(turned)
    weight = np.tensordot(sizes, kept, 1)
    votes = np.tensordot(sizes, kept * turned, 1) * np.asarray(sign(old))
    mean = np.float32(votes) / np.float32(np.maximum(weight, 1))
    np.testing.assert_array_equal(got, np.where(weight > 0, mean, old))
    assert np.any(weight == 0) and np.any(kept.any(0) & ~kept.all(0))


def test_cohorts_are_drawn_anew_by_seed_and_round():
  def drawn(seed):
    experiment = small(seed=seed, num_clients=20, cohort=8)
    return [context_of(experiment, number=r)[1] for r in range(3)]

  ids = np.stack(drawn(0))
  assert all(len(set(row)) == 8 for row in ids)
  assert len({tuple(sorted(row)) for row in ids}) == 3
  np.testing.assert_array_equal(ids, np.stack(drawn(0)))
  assert np.any(ids != np.stack(drawn(1)))


def test_no_recompilation_after_the_first_round():
  experiment = small()
  round_config = experiment.round_config
  key = experiment.key
  initial = experiment.initial
  federation = experiment.federation
  step = jax.jit(
    functools.partial(rounds.run_round, round_config), donate_argnums=3
  )
  state = jax.device_put(
    rounds.begin(initial), parallel.everywhere(round_config.mesh)
  )
  old = state.server_state
  cohorts = []
  for _ in range(3):
    ids = rounds.cohort(round_config, key, federation, state.round)
    state, *_ = step(key, initial, federation, state, ids, ())
    cohorts.append(tuple(map(int, ids)))
  assert int(state.round) == 3 and len(set(cohorts)) > 1
  assert step._cache_size() == 1
  assert all(x.is_deleted() for x in jax.tree.leaves(old))
  assert not any(x.is_deleted() for x in jax.tree.leaves(initial))


def test_local_steps_replace_epochs():
  """Three steps of one batch each are three epochs, and not the two asked."""
  one_batch = small(local_steps=3, batch_size=100, **SIZES)
  same = small(local_epochs=3, batch_size=100, **SIZES)
  np.testing.assert_array_equal(
    tree.flatten(play(one_batch).state.server_state),
    tree.flatten(play(same).state.server_state),
  )


def test_counted_bytes_decode_to_what_was_sent():
  for algorithm in ('hidenseek', 'fedavg', 'local'):
    experiment = small(algorithm=algorithm)
    round_config, _, initial, *_, envelope = experiment
    context, ids, held = context_of(experiment)
    uploads = compiled(explore.uploads, round_config)(context, ids, held)
    report = play(experiment).report
    sent = [context.message] * round_config.cohort
    received = [
      wire.Message(
        jax.tree.map(lambda x, k=k: x[k], uploads.value),
        jax.tree.map(lambda x, k=k: x[k], uploads.weight),
      )
      for k in range(round_config.cohort)
    ]
    for codec, messages, counted in (
      (round_config.method.wire.download_codec, sent, report.downlink),
      (round_config.method.wire.upload_codec, received, report.uplink),
    ):
      for message, number in zip(messages, counted):
        payload = wire.encode(codec, message, envelope)
        assert len(payload) == int(number)
        blank = jax.tree.map(jnp.zeros_like, message.value)
        got = wire.decode(
          codec, payload, wire.Message(blank, message.weight), envelope
        )
        kept = jax.tree.map(lambda v, w: v * (w != 0), *message)
        chex.assert_trees_all_equal(got.value, kept)
    if algorithm == 'hidenseek':
      kept = survivors(initial).sum()
      assert int(report.uplink[0]) <= -(-kept // 8) + 64
    if algorithm == 'local':
      assert not np.any(report.uplink) and not np.any(report.downlink)
