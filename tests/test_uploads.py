"""Uploads and rivals: what makes each the one it is named after."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import compiled, context_of, play, small, survivors

from hns import tree, wire
from hns.engine import explore, payloads
from hns.methods import uploads
from hns.methods.contract import ServerState
from hns.wire import Envelope, Message

KEY, ENVELOPE = jax.random.key(0), Envelope(1, 0, 0, 1.0)
COMPRESSIONS = {
  'one bit': uploads.one_bit(),
  'ternary': uploads.ternary(1.5),
  **{f'{b} bits': uploads.uniform(b) for b in (1, 2, 4, 8, 32)},
}


def values(seed=0):
  draw = np.random.RandomState(seed).randn
  made = {'a': draw(40, 30), 'b': draw(7), 'c': np.zeros(5)}
  return jax.tree.map(jnp.float32, made)


@pytest.mark.parametrize('name', COMPRESSIONS)
def test_what_is_sent_is_what_arrives(name):
  """Steps included: the receiver's floats are the sender's, bit for bit."""
  codec, function = COMPRESSIONS[name]
  mask = jax.tree.map(lambda x: jnp.arange(x.size) % 3 > 0, values())
  mask = jax.tree.map(lambda m, x: m.reshape(x.shape), mask, values())
  held = jax.tree.map(jnp.multiply, values(), mask)
  sent = Message(jax.jit(function)(KEY, held, mask), mask)
  payload = wire.encode(codec, sent, ENVELOPE)
  assert len(payload) == int(jax.jit(lambda m: wire.size(codec, m))(sent))
  got = wire.decode(codec, payload, sent, ENVELOPE)
  kept = jax.tree.map(lambda v, m: v * m, sent.value, mask)
  chex.assert_trees_all_equal(got.value, kept)


@pytest.mark.parametrize('bits', [1, 2, 4, 8])
def test_uniform_quantisation_is_unbiased(bits):
  x = {'a': jnp.linspace(-1, 0.7, 50)}
  keys = jax.random.split(KEY, 4000)
  one = lambda key: uploads.uniform(bits).function(key, x, {'a': True})['a']
  drawn = jax.jit(jax.vmap(one))(keys)
  error = drawn.mean(0) - x['a']
  # The scale is rounded to bfloat16; 5 standard errors of the mean.
  bound = 2**-8 + 5 * np.asarray(drawn).std(0) / np.sqrt(len(keys))
  assert np.all(abs(error) <= bound)
  assert len(np.unique(drawn)) <= 2**bits


def test_error_feedback_sends_in_time_all_that_was_trained():
  """The sum of what is sent stays within a residual of what was wanted."""
  up = uploads.delta(uploads.one_bit(), feedback=True)
  start, mask = {'a': jnp.zeros(50)}, {'a': jnp.ones(50, bool)}
  step = {'a': jnp.linspace(-1, 1, 50) ** 3}
  client_state, total = up.client_state(start), jnp.zeros(50)
  encode = jax.jit(up.encode)
  for number in range(200):
    key = jax.random.fold_in(KEY, number)
    sent, client_state = encode(key, mask, start, step, client_state)
    total += sent['a']
  np.testing.assert_allclose(total / 200, step['a'], atol=0.06)
  np.testing.assert_allclose(
    total + client_state['a'], 200 * step['a'], atol=1e-2
  )


def test_the_server_adds_with_momentum_within_bounds():
  up = uploads.delta(uploads.one_bit(), rate=2.0, momentum=0.5, bound=1.0)
  server = ServerState({'a': jnp.zeros(3)}, {'a': jnp.zeros(3)})
  mean, total = {'a': jnp.array([0.2, 0.9, 5.0])}, {'a': jnp.array([1, 1, 0])}
  once = up.aggregate(server, mean, total)
  np.testing.assert_allclose(once.values['a'], [0.2, 0.9, 0.0])
  twice = up.aggregate(once, mean, total)
  np.testing.assert_allclose(twice.values['a'], [0.5, 1.0, 0.0], rtol=1e-6)


def download_of(round_config, *given):
  return payloads.download_for(round_config.method, *given)


VARIANTS = [
  dict(upload='ternary', hidenseek={'remember': True, 'download_bits': 1}),
  dict(algorithm='fedavg_quantized', fedavg_quantized={'pruned': True}),
]


@pytest.mark.parametrize('fields', VARIANTS, ids=str)
def test_bytes_counted_in_a_round_are_those_of_its_payloads(fields):
  """Of every client, both ways, after the first round."""
  experiment = small(cohort=3, **fields)
  round_config, _, initial, *_, envelope = experiment
  before = play(experiment, 1)
  context, ids, _ = context_of(experiment, before.state)
  held = jax.tree.map(lambda x: x[np.asarray(ids)], before.client_state)
  report = play(experiment, 2).report
  ups = compiled(explore.uploads, round_config)(context, ids, held)
  pick = lambda tree_, k: jax.tree.map(lambda x: x[k], tree_)
  for k in range(3):
    client_state = pick(held, k)
    down = compiled(download_of, round_config)(
      initial.frozen, context.message, client_state
    )
    for codec, message, counted in (
      (round_config.method.wire.upload_codec, pick(ups, k), report.uplink[k]),
      (round_config.method.wire.download_codec, down, report.downlink[k]),
    ):
      payload = wire.encode(codec, message, envelope)
      assert len(payload) == int(counted)
      got = wire.decode(codec, payload, message, envelope)
      kept = jax.tree.map(lambda v, w: v * (w != 0), *message)
      chex.assert_trees_all_equal(got.value, kept)


def test_a_client_that_missed_rounds_decodes_the_download():
  """From what it held and the news alone; nothing else changes."""
  plain = small()
  experiment = small(hidenseek={'remember': True})
  played, same = play(experiment, 4), play(plain, 4)
  chex.assert_trees_all_equal(
    played.state.server_state, same.state.server_state
  )
  initial = experiment.initial
  context = context_of(experiment, played.state)[0]
  levels = tree.flatten(context.message.value)
  kept, known = survivors(initial), set()
  for client in range(6):
    client_state = jax.tree.map(lambda x, c=client: x[c], played.client_state)
    known.add(np.asarray(tree.flatten(client_state[1])).tobytes())
    down = compiled(download_of, experiment.round_config)(
      initial.frozen, context.message, client_state
    )
    moved = (np.asarray(tree.flatten(down.value)) + 15) // 2
    now = (np.asarray(tree.flatten(client_state[1])) + moved) % 16
    np.testing.assert_array_equal((2 * now - 15)[kept], levels[kept])
  assert len(known) > 2


def test_32_bits_are_fedavg():
  table = dict(learning_rate=0.05, optimizer='sgd')
  plain = play(small(algorithm='fedavg', fedavg=table), 2)
  table |= dict(upload_bits=32, pruned=False)
  other = small(
    algorithm='fedavg_quantized', fedavg_quantized=table, download_bits=32
  )
  chex.assert_trees_all_close(
    plain.state.server_state, play(other, 2).state.server_state, atol=1e-6
  )


def test_a_pruned_rival_sends_and_moves_survivors_alone():
  fields = dict(algorithm='signsgd', signsgd={'pruned': True})
  experiment = small(**fields, compact=False)
  played = play(experiment, 2)
  kept = survivors(experiment.initial)
  assert int(played.report.uploaded[0]) == kept.sum() < kept.size
  moved = np.asarray(tree.flatten(played.state.server_state.values))
  assert not np.any(moved[~kept]) and np.any(moved[kept])
