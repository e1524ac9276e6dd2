"""What makes each method of one bit that method: facts of the papers."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import play, slow_if, small

from hns import tree, wire
from hns.errors import InputError
from hns.methods import eden, fedbat, fedbif, fedmrn, pfed1bs, ssfl, votes
from hns.methods.wrappers import keep_local
from hns.wire import Message

KEY = jax.random.key(7)
WEIGHTS = {'Dense_0': {'kernel': jax.random.normal(KEY, (30, 20))}}
CHANGE = {'Dense_0': {'kernel': jax.random.normal(jax.random.key(8), (30, 20))}}
SGD = optax.sgd(0.1)


def first_round(method, client_key=KEY):
  """A client in round 1: frozen, message, its state, its params."""
  frozen, server_state, state = method.server.init(KEY, WEIGHTS)
  message = method.server.broadcast(KEY, frozen, server_state)
  if method.client.before_training is not None:
    score = lambda variables: jnp.float32(0)
    state = method.client.before_training(
      client_key, frozen, message, state, score
    )
  params = method.client.init(KEY, frozen, message, state)
  return frozen, message, state, params


def seen(method, progress, initial_params, params, key=KEY):
  """The weights that a training step computes with, [30, 20]."""
  told = []

  def forward(variables):
    told.append(variables['params'])
    return jnp.float32(0)

  to_variables = lambda p: method.client.to_variables(key, (), p)
  method.client.objective(
    key, jnp.float32(progress), forward, to_variables, initial_params, params
  )
  return told[0]['Dense_0']['kernel']


def flat(values):
  return np.asarray(tree.flatten(values))


def test_eden_has_the_length_of_the_change_and_is_unbiased():
  """<estimate, x> = |x|^2 in every draw, and the mean over draws is x."""
  method = eden.one_bit_rotated(SGD, 32)
  frozen, message, state, start = first_round(method)
  after = jax.tree.map(jnp.add, start, CHANGE)
  x, mean = flat(CHANGE), 0

  @jax.jit
  def draw(key):
    sent, _ = method.client.update(key, frozen, message, state, start, after)
    read = method.server.read_upload(key, frozen, message, sent).value
    return sent.value['rotated'], sent.weight['rotated'], read

  for key in jax.random.split(KEY, 200):
    bits, used, read = draw(key)
    assert len(np.unique(np.abs(np.asarray(bits)[np.asarray(used)]))) == 1
    read = flat(read)
    np.testing.assert_allclose(read @ x, x @ x, rtol=0.01)
    mean += read / 200
  # One draw is off by sqrt(pi / 2 - 1) |x|, the mean of 200 by 1 / 14 of it.
  assert np.linalg.norm(mean - x) < 0.08 * np.linalg.norm(x)


@pytest.mark.parametrize('mask,least', fedmrn.MASKS.items())
def test_fedmrn_sends_a_mask_of_noise_that_the_server_draws_again(mask, least):
  method = fedmrn.masked_noise(SGD, least, 0.5, 32)
  frozen, message, state, params = first_round(method)
  noise = params.noise['Dense_0']['kernel']
  most = 0.5 * np.sqrt(np.mean(flat(WEIGHTS) ** 2))
  assert 0.9 * most < np.max(np.abs(noise)) <= most
  moved = params._replace(update=jax.tree.map(lambda c: c / 10, CHANGE))
  sent, _ = method.client.update(KEY, frozen, message, state, params, moved)
  assert set(flat(sent.value)) == {-1.0, 1.0}
  read = flat(method.server.read_upload(KEY, frozen, message, sent).value)
  assert set(np.rint(read / np.ravel(noise))) == {least, 1.0}
  np.testing.assert_allclose(
    np.abs(read[read != 0]), np.abs(np.ravel(noise))[read != 0], rtol=1e-6
  )
  # Another client has other noise.
  other = first_round(method, jax.random.key(9))[3].noise['Dense_0']['kernel']
  assert abs(np.corrcoef(np.ravel(noise), np.ravel(other))[0, 1]) < 0.2


@pytest.mark.parametrize('least', [-1.0, 0.0])
def test_fedmrn_masks_more_weights_step_by_step(least):
  method = fedmrn.masked_noise(SGD, least, 0.5, 32)
  _, message, _, start = first_round(method)
  update = jax.tree.map(lambda c: c / 5, CHANGE)
  params = start._replace(update=update)
  noise = start.noise['Dense_0']['kernel']
  moved = lambda progress: (
    (seen(method, progress, start, params) - WEIGHTS['Dense_0']['kernel'])
    / noise
  )
  mean = np.clip(update['Dense_0']['kernel'] / noise, least, 1)
  np.testing.assert_allclose(moved(0.0), mean, atol=1e-4)
  own = method.client.to_variables(KEY, (), params)['params']
  np.testing.assert_allclose(
    own['Dense_0']['kernel'],
    WEIGHTS['Dense_0']['kernel'] + mean * noise,
    atol=1e-5,
  )
  late = np.asarray(moved(1.0))
  assert np.all(np.isclose(late, least, atol=1e-3) | np.isclose(late, 1, 1e-3))
  inside = (mean > least) & (mean < 1)
  masked = np.mean(~np.isclose(np.asarray(moved(0.3)), mean, atol=1e-3)[inside])
  assert 0.15 < masked < 0.45
  # Where a draw is wanted, its mean is the update.
  draws = jax.vmap(lambda k: seen(method, 1.0, start, params, k))(
    jax.random.split(KEY, 400)
  )
  expected = WEIGHTS['Dense_0']['kernel'] + mean * noise
  np.testing.assert_allclose(jnp.mean(draws, 0), expected, atol=0.12)


def test_fedmrn_trains_through_its_masks():
  """The gradient of an update is that of the weight it moves."""
  method = fedmrn.masked_noise(SGD, -1.0, 0.5, 32)
  _, _, _, start = first_round(method)

  def loss(params):
    forward = lambda v: jnp.sum(
      v['params']['Dense_0']['kernel'] * CHANGE_KERNEL
    )
    to_variables = lambda p: method.client.to_variables(KEY, (), p)
    return method.client.objective(
      KEY, jnp.float32(0.5), forward, to_variables, start, params
    )

  grads = jax.grad(loss)(start)
  np.testing.assert_allclose(grads.update['Dense_0']['kernel'], CHANGE_KERNEL)
  assert not np.any(flat((grads.start, grads.noise)))


CHANGE_KERNEL = CHANGE['Dense_0']['kernel']


def test_fedbat_binarises_without_bias_and_with_the_papers_gradients():
  update = jnp.array([-3.0, -0.5, 0.2, 0.9, 2.0])
  size = jnp.float32(1.0)
  draws = jax.random.uniform(KEY, (4000, 5))
  values = jax.vmap(lambda d: fedbat.binary(update, size, d))(draws)
  assert set(np.unique(values)) == {-1.0, 1.0}
  np.testing.assert_allclose(
    jnp.mean(values, 0), jnp.clip(update, -1, 1), atol=0.06
  )
  draw = jnp.array([0.5, 0.1, 0.9, 0.1, 0.5])  # bits -1, 1, -1, 1, 1
  grad = jnp.array([1.0, 2.0, 3.0, 4.0, 5.0])
  _, pull = jax.vjp(lambda u, a: fedbat.binary(u, a, draw), update, size)
  of_update, of_size = pull(grad)
  np.testing.assert_allclose(of_update, [0, 2, 3, 4, 0])
  # sign outside; bit - u / a inside.
  expected = -1 * 1 + 1.5 * 2 - 1.2 * 3 + 0.1 * 4 + 1 * 5
  np.testing.assert_allclose(of_size, expected, rtol=1e-5)


def test_fedbat_trains_as_fedavg_before_it_binarises():
  method = fedbat.binarized(SGD, 0.5, 6.0, 32)
  frozen, message, state, start = first_round(method)
  moved = start._replace(update=CHANGE)
  before, after = (seen(method, p, start, moved) for p in (0.49, 0.5))
  np.testing.assert_allclose(
    before, WEIGHTS['Dense_0']['kernel'] + CHANGE_KERNEL, atol=1e-6
  )
  size = np.mean(np.abs(CHANGE_KERNEL))
  steps = np.abs(after - WEIGHTS['Dense_0']['kernel'])
  np.testing.assert_allclose(steps, size, rtol=1e-3)
  sent, _ = method.client.update(KEY, frozen, message, state, start, moved)
  np.testing.assert_allclose(np.abs(flat(sent.value)), size, rtol=0.01)
  # A larger trained number is a larger bit: exp(6 x 0.1).
  log_size = {'Dense_0': {'kernel': jnp.float32(0.1)}}
  larger = seen(method, 0.9, start, moved._replace(log_size=log_size))
  steps = np.abs(larger - WEIGHTS['Dense_0']['kernel'])
  np.testing.assert_allclose(steps, size * np.exp(0.6), rtol=1e-3)


def test_fedbif_clients_change_one_bit_and_bits_take_turns():
  method = fedbif.frozen_bits(SGD, 3)
  frozen, server_state, state = method.server.init(KEY, WEIGHTS)
  turns = []
  for _ in range(4):
    message = method.server.broadcast(KEY, frozen, server_state)
    down = np.ravel(message.value['weights']['Dense_0']['kernel'])
    assert len(np.unique(down)) == 8
    start = method.client.init(KEY, frozen, message, state)
    own = method.client.to_variables(KEY, frozen, start)['params']
    np.testing.assert_allclose(flat(own), down, atol=1e-6)
    turned = start._replace(virtual=jax.tree.map(jnp.negative, start.virtual))
    sent, _ = method.client.update(KEY, frozen, message, state, start, turned)
    read = method.server.read_upload(KEY, frozen, message, sent)
    step = np.max(np.abs(down)) / 7
    moved = np.abs(flat(read.value['weights']) - down) / step
    turns.append(float(np.unique(np.rint(moved)).item()))
    np.testing.assert_allclose(moved, turns[-1], atol=1e-3)
    total = jax.tree.map(jnp.ones_like, read.value)
    server_state = method.server.update(
      KEY, frozen, server_state, read.value, total
    )
  # Twice the bit's worth of 4, 2 and 1 steps, then the largest again.
  assert turns == [8, 4, 2, 8]


def test_pfed1bs_pulls_a_sketch_to_the_signs_of_the_others():
  """Its gradient is pull x the sketch's transpose of tanh(gamma z) - v."""
  method = pfed1bs.one_bit_sketches(SGD, 0.5, 0.3, 0.02)
  _, _, _, start = first_round(method)
  signs = jnp.where(jax.random.uniform(KEY, start.signs.shape) < 0.5, -1.0, 1.0)
  start = start._replace(signs=signs)

  def loss(params):
    forward = lambda variables: jnp.float32(0)
    to_variables = lambda p: method.client.to_variables(KEY, (), p)
    return method.client.objective(
      KEY, jnp.float32(0), forward, to_variables, start, params
    )

  grad = flat(jax.grad(loss)(start).model)
  z, transpose = jax.vjp(lambda m: pfed1bs.sketch(m, 0.5), WEIGHTS)
  (expected,) = transpose(0.3 * (jnp.tanh(1e4 * z) - signs))
  expected = flat(expected) + 0.02 * flat(WEIGHTS)
  np.testing.assert_allclose(grad, expected, rtol=1e-3, atol=1e-4)
  # A sketch is a random projection: it keeps lengths on average.
  assert len(z) == 300
  np.testing.assert_allclose(
    z @ z, 2 * np.sum(flat(WEIGHTS) ** 2) / 2, rtol=0.3
  )


def test_pfed1bs_server_votes_and_models_stay_at_home():
  method = pfed1bs.one_bit_sketches(SGD, 0.5, 0.3, 0.0)
  frozen, message, state, start = first_round(method)
  other = start._replace(model=CHANGE)
  sent, kept = method.client.update(KEY, frozen, message, state, start, other)
  np.testing.assert_array_equal(flat(kept), flat(CHANGE))
  np.testing.assert_array_equal(
    flat(sent.value), np.where(pfed1bs.sketch(CHANGE, 0.5) < 0, -1, 1)
  )
  again = method.client.init(KEY, frozen, message, kept)
  np.testing.assert_array_equal(flat(again.model), flat(CHANGE))
  mean = {'sketch': jnp.linspace(-1, 1, 300)}
  total = {'sketch': jnp.ones(300)}
  _, server_state, _ = method.server.init(KEY, WEIGHTS)
  server_state = method.server.update(KEY, frozen, server_state, mean, total)
  assert flat(server_state.values).tolist() == [-1.0] * 150 + [1.0] * 150


def vote(feedback, rate=0.1, bits=6):
  return votes.moved_in_steps(SGD, feedback, rate, bits, None)


def after_votes(method, means):
  """The server's state and the clients' weights after rounds of these means."""
  frozen, server_state, state = method.server.init(KEY, WEIGHTS)
  total = jax.tree.map(jnp.ones_like, WEIGHTS)
  for mean in means:
    server_state = method.server.update(KEY, frozen, server_state, mean, total)
  message = method.server.broadcast(KEY, frozen, server_state)
  return message, flat(method.client.init(KEY, frozen, message, state))


def test_a_majority_vote_moves_every_weight_one_step():
  method = vote(feedback=False)
  start = flat(WEIGHTS)
  step = 0.1 * np.sqrt(np.mean(start**2))
  _, weights = after_votes(method, [CHANGE])
  signs = np.where(flat(CHANGE) < 0, -1, 1)
  np.testing.assert_allclose(weights, start + step * signs, atol=1e-6)
  # The size of the mean does not count.
  _, tiny = after_votes(method, [jax.tree.map(lambda c: c / 1e6, CHANGE)])
  np.testing.assert_array_equal(tiny, weights)
  # Nobody is more than 2^(bits - 1) steps away.
  _, far = after_votes(vote(feedback=False, bits=2), [CHANGE] * 9)
  assert set(np.rint((far - start) / step)) == {-2, 1}


def test_a_client_pays_for_the_votes_it_missed():
  """It is sent their sum; one bit a weight where it missed none."""
  method = vote(feedback=False)
  frozen, _, state = method.server.init(KEY, WEIGHTS)
  draws = jax.random.split(KEY, 12)
  means = [
    {'Dense_0': {'kernel': jax.random.normal(k, (30, 20))}} for k in draws
  ]
  codec, sizes = method.wire.download_codec, []
  for count in (0, 1, 4, 12):
    message, weights = after_votes(method, means[:count])
    sent = method.wire.download_for(frozen, message, state)
    sizes.append(int(wire.size(codec, sent)) - wire.HEADER_BYTES)
    # What it holds and what it is sent give the weights, whatever it missed.
    held = flat(state.extra)
    moved = (flat(wire_symbols(codec, sent)) + held) % 64
    levels = 2 * moved.astype(int) - 63
    step = 0.1 * np.sqrt(np.mean(flat(WEIGHTS) ** 2))
    np.testing.assert_allclose(
      flat(WEIGHTS) + step * (levels - 1) / 2, weights, atol=1e-5
    )
  least = 600 / 8  # a bit a weight
  assert sizes[0] < 80 and least <= sizes[1] < least + 80
  assert sizes[1] < sizes[2] < sizes[3] < 4 * least


def wire_symbols(codec, message):
  return jax.tree.map(
    lambda v: ((v + codec.symbols - 1) // 2).astype(jnp.int32), message.value
  )


def test_feedback_on_the_server_loses_nothing():
  """Steps of a fixed size follow what the server wants, to within a step."""
  means = [jax.tree.map(lambda c: c / 100, CHANGE)] * 40
  wanted = flat(WEIGHTS) + 0.4 * flat(CHANGE)
  step = 0.1 * np.sqrt(np.mean(flat(WEIGHTS) ** 2))
  _, weights = after_votes(vote(feedback=True), means)
  assert np.max(np.abs(weights - wanted)) < 1.5 * step
  _, forgetful = after_votes(vote(feedback=False), means)
  assert np.max(np.abs(forgetful - wanted)) > 20 * step


def test_a_weight_at_its_limit_turns_back_at_once():
  """What could not be followed is not made up for later."""
  method = vote(feedback=True, bits=2)
  there = jax.tree.map(jnp.ones_like, WEIGHTS)
  back = jax.tree.map(lambda x: -x, there)
  _, weights = after_votes(method, [there] * 9 + [back])
  np.testing.assert_allclose(weights - flat(WEIGHTS), 0, atol=1e-5)


PRUNED = 'majority_vote doublesqueeze eden fedmrn fedbat fedbif'.split()


# The last four are pruned by the same lines.
@pytest.mark.parametrize(
  'name', [slow_if(name in PRUNED[2:], name) for name in PRUNED]
)
def test_a_pruned_rival_has_the_mask_of_hidenseek(name):
  """Nothing else moves, on the server or at a client, nor travels up."""
  fields = dict(algorithm=name, density=0.3, **{name: dict(pruned=True)})
  experiment = small(**fields, compact=False)
  played = play(experiment, 2)
  kept = mask_of_hidenseek()
  before, after = (
    flat(server_values(state))
    for state in (experiment.initial.server_state, played.state.server_state)
  )
  moved = before != after
  assert np.any(moved) and not np.any(moved[~kept])
  sent = int(played.report.uploaded[0])
  assert kept.sum() <= sent < kept.sum() + 512


@functools.cache
def mask_of_hidenseek():
  initial = small(algorithm='hidenseek', density=0.3, compact=False).initial
  return flat(initial.frozen['mask']).astype(bool)


def server_values(state):
  values = state.values
  return values['weights'] if 'turn' in values else values


def test_ssfl_keeps_what_matters_to_the_clients_data_once():
  experiment = small(algorithm='ssfl', density=0.3)
  total = sum(
    x.size for x in jax.tree.leaves(experiment.initial.server_state.values)
  )
  masks, sent = [], []
  for rounds in (1, 2, 3):
    played = play(experiment, rounds)
    masks.append(flat(played.state.server_state.memory))
    sent.append(int(played.report.uploaded[0]))
  kept = round(0.3 * total)
  assert masks[0].sum() == kept and sent == [total, kept, kept]
  for a, b in itertools.pairwise(masks):
    np.testing.assert_array_equal(a, b)
  # Pruned weights are 0 and stay so; the others move.
  weights = flat(played.state.server_state.values)
  assert not np.any(weights[~masks[0].astype(bool)])
  other = small(algorithm='ssfl', density=0.3, classes_per_client=1)
  unlike = flat(play(other, 1).state.server_state.memory)
  assert 0.3 < np.mean(unlike[masks[0].astype(bool)]) < 0.99


def test_ssfl_scores_are_weight_times_change():
  method = ssfl.data_saliency(SGD, 0.5)
  frozen, message, state, start = first_round(method)
  after = jax.tree.map(jnp.add, start, CHANGE)
  sent, _ = method.client.update(KEY, frozen, message, state, start, after)
  expected = np.abs(flat(WEIGHTS) * (flat(after) - flat(WEIGHTS)))
  np.testing.assert_allclose(flat(sent.value), expected, rtol=1e-5)
  kept = jax.tree.map(lambda s: s > jnp.median(s), sent.value)
  later = Message(message.value, kept)
  sent, _ = method.client.update(KEY, frozen, later, state, start, after)
  np.testing.assert_array_equal(flat(sent.value), flat(after))


def test_fedbif_trains_the_bit_alone_and_turns_it_by_its_own_size():
  """The gradient of a number is that of its weight; the rest has none."""
  method = fedbif.frozen_bits(SGD, 3)
  frozen, _, _, start = first_round(method)

  def loss(params):
    variables = method.client.to_variables(KEY, frozen, params)
    return jnp.sum(variables['params']['Dense_0']['kernel'] * CHANGE_KERNEL)

  grads = jax.grad(loss)(start)
  np.testing.assert_allclose(grads.virtual['Dense_0']['kernel'], CHANGE_KERNEL)
  assert not np.any(flat((grads.rest, grads.size)))
  size = start.size['Dense_0']['kernel']
  number = start.virtual['Dense_0']['kernel']
  np.testing.assert_allclose(np.abs(number), size, rtol=1e-6)


def test_a_tie_goes_either_way():
  method = vote(feedback=False)
  nothing = jax.tree.map(jnp.zeros_like, WEIGHTS)
  frozen, server_state, _ = method.server.init(KEY, WEIGHTS)
  total = jax.tree.map(jnp.ones_like, WEIGHTS)
  moved = method.server.update(KEY, frozen, server_state, nothing, total)
  assert 0.4 < np.mean(flat(moved.values) > 1) < 0.6
  sketches = pfed1bs.one_bit_sketches(SGD, 0.5, 0.3, 0.0)
  _, state, _ = sketches.server.init(KEY, WEIGHTS)
  mean, total = {'sketch': jnp.zeros(300)}, {'sketch': jnp.ones(300)}
  same = sketches.server.update(KEY, (), state, mean, total)
  np.testing.assert_array_equal(flat(same.values), flat(state.values))


def test_a_layer_of_zeros_can_be_trained():
  """As a bias is drawn: its noise and its steps are of the others' size."""
  weights = WEIGHTS | {'Dense_1': {'bias': jnp.zeros(5)}}
  method = fedmrn.masked_noise(SGD, -1.0, 0.5, 32)
  frozen, server_state, state = method.server.init(KEY, weights)
  message = method.server.broadcast(KEY, frozen, server_state)
  params = method.client.init(KEY, frozen, message, state)
  seen_by_network = method.client.to_variables(KEY, frozen, params)
  assert np.all(np.isfinite(flat(seen_by_network)))
  assert np.max(np.abs(params.noise['Dense_1']['bias'])) > 0.1
  grid = vote(feedback=False).server.init(KEY, weights).frozen
  assert grid.step['Dense_1']['bias'] > 0


def test_ssfl_without_pruning_is_fedavg():
  experiment = small(algorithm='ssfl', density=1.0)
  other = small(algorithm='fedavg')
  a, b = (play(e, 2).state.server_state.values for e in (experiment, other))
  np.testing.assert_array_equal(flat(a), flat(b))


def test_a_client_of_ssfl_pays_once_for_the_places_it_keeps():
  experiment = small(algorithm='ssfl', density=0.3, cohort=6)
  uplink = [np.asarray(play(experiment, n).report.uplink) for n in (2, 3)]
  kept = np.asarray(play(experiment, 3).report.uploaded)
  floats = wire.HEADER_BYTES + 4 * kept
  np.testing.assert_array_equal(uplink[1], floats)
  assert np.all(uplink[0] > floats + wire.HEADER_BYTES)


def test_what_has_no_local_part_is_refused():
  method = fedbat.binarized(SGD, 0.5, 6.0, 32)
  local = keep_local(method, lambda path, leaf: True)
  with pytest.raises(InputError, match='params have the paths of its messages'):
    local.server.init(KEY, WEIGHTS)
