"""What makes each method that method: facts of the papers, and identities."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import compiled, context_of, play, small, survivors

from hns import tree, wire
from hns.engine import flops
from hns.engine.client import client_round, train_client
from hns.errors import InputError
from hns.methods import client_pruning, hermes, uploads, wrappers
from hns.methods.bases import dense, spread_odds
from hns.methods.contract import ServerState
from hns.methods.recipes import RECIPES, Rate
from hns.networks.supermask import bernoulli, binary

KEY = jax.random.key(0)


def trained(experiment, number=1):
  """What the clients of round 1 train, their starts and what they keep."""
  context, ids, held = context_of(experiment)
  train = compiled(train_client, experiment.round_config)
  return [
    train(context, index, jax.tree.map(lambda x, k=k: x[k], held))
    for k, index in enumerate(ids[:number])
  ]


def test_lotteryfl_cuts_a_fifth_and_rewinds():
  """20, 16, 13 and 10 weights; never below the target of a half."""
  first = {'Dense_0': {'kernel': jnp.arange(1.0, 21).reshape(4, 5)}}
  method = client_pruning.lottery(
    optax.sgd(0.1), 0.2, threshold=0.5, target=0.5
  )
  frozen, shared, client_state = method.server.init(KEY, first)
  moved = ServerState(jax.tree.map(lambda w: -w, first))
  message, kept = method.server.broadcast(KEY, frozen, moved), []
  for _ in range(4):
    client_state = method.client.before_training(
      KEY, frozen, message, client_state, lambda variables: 0.6
    )
    mask = np.asarray(client_state.kept['Dense_0']['kernel'])
    start = method.client.init(KEY, frozen, message, client_state)['Dense_0'][
      'kernel'
    ]
    sign = 1 if client_state.cut else -1  # the first weights, or the server's
    expected = sign * mask * first['Dense_0']['kernel']
    np.testing.assert_array_equal(start, expected)
    kept.append((int(mask.sum()), bool(client_state.cut)))
  assert kept == [(16, True), (13, True), (10, True), (10, False)]
  np.testing.assert_array_equal(mask.ravel(), np.arange(20) >= 10)
  _, _, new = method.server.init(KEY, first)
  same = method.client.before_training(
    KEY, frozen, message, new, lambda variables: 0.5
  )
  assert np.all(same.kept['Dense_0']['kernel']) and not same.cut


def test_a_client_tells_the_places_it_pruned_once():
  """The bytes of round 1 are those of weights that stay, and of a mask."""
  experiment = small(algorithm='lotteryfl', lotteryfl=dict(threshold=-1.0))
  played = play(experiment)
  total = sum(x.size for x in jax.tree.leaves(experiment.initial.server_state))
  kept = int(played.report.uploaded[0])
  assert abs(kept - 0.8 * total) <= 2
  mask = jax.tree.map(lambda x: x[int(played.ids[0])], played.client_state.kept)
  levels = jax.tree.map(lambda m: (2 * m - 1).astype(np.int8), mask)
  ones = jax.tree.map(np.ones_like, mask)
  codec, envelope = wire.levels(1, coded=True), wire.Envelope(0, 0, 0, 1.0)
  places = wire.encode(codec, wire.Message(levels, ones), envelope)
  weights = wire.HEADER_BYTES + 4 * kept
  assert int(played.report.uplink[0]) == weights + len(places)
  assert len(places) < total / 8


def test_what_lotteryfl_pruned_stays_zero():
  experiment = small(algorithm='lotteryfl', lotteryfl=dict(threshold=-1.0))
  [(client_state, start, after, *_)] = trained(experiment)
  mask = np.asarray(tree.flatten(client_state.kept))
  assert not np.any(np.asarray(tree.flatten(after))[~mask])
  moved = np.asarray(tree.flatten(after)) != np.asarray(tree.flatten(start))
  assert np.mean(moved[mask]) > 0.5


def test_only_leaves_with_scores_are_cut():
  mask = {'a': jnp.array([True, True, False, True]), 'b': jnp.ones(2, bool)}
  scores = {'a': jnp.array([3.0, 1, 9, 1]), 'b': None}
  cut = client_pruning.largest(scores, mask, share=0.5, target=0.5)
  assert cut['a'].tolist() == [True, True, False, False]  # the first of a tie
  assert cut['b'].tolist() == [True, True]
  last = client_pruning.largest(
    scores, {**mask, 'a': scores['a'] > 5}, 0.9, 0.01
  )
  assert last['a'].tolist() == [False, False, True, False]
  nothing = client_pruning.largest({'a': None, 'b': None}, mask, 0.5, 0.5)
  chex.assert_trees_all_equal(nothing, mask)


def test_hermes_cuts_units_and_averages_what_all_keep():
  kernel = jnp.array([[1.0, -2, 0.5, 4, 3]] * 2)
  params = {'Dense_0': {'kernel': kernel}, 'Dense_1': {'kernel': kernel.T}}
  method = hermes.prune_units(
    optax.sgd(0.1), 0.4, 0.5, target=0.2, head='Dense_1'
  )
  frozen, shared, client_state = method.server.init(KEY, params)
  message = method.server.broadcast(KEY, frozen, shared)
  client_state = method.client.before_training(
    KEY, frozen, message, client_state, lambda variables: 0.6
  )
  kept = client_state.kept['Dense_0']['kernel']
  np.testing.assert_array_equal(kept, [False, True, False, True, True])
  assert np.all(client_state.kept['Dense_1']['kernel'])
  start = method.client.init(KEY, frozen, message, client_state)
  np.testing.assert_array_equal(start['Dense_0']['kernel'], kernel * kept)

  mean = jax.tree.map(jnp.zeros_like, params)
  votes = {
    'Dense_0': {'kernel': jnp.array([30, 30, 10, 0, 30])},
    'Dense_1': {'kernel': jnp.array([30, 30])},
  }
  after = method.server.update(KEY, frozen, shared, mean, votes)
  common = [True, True, False, False, True]
  np.testing.assert_array_equal(
    after.values['Dense_0']['kernel'], kernel * ~np.array(common)
  )
  sevens = jax.tree.map(lambda w: 7 + 0 * w, params)
  message = method.server.broadcast(KEY, frozen, after)
  for begun, expected, sent in (
    (True, [0, 0, 0, 7, 0], [0, 1, 0, 0, 1]),  # where cut, 0; else its own
    (False, [0, 0, 0, 4, 0], [0, 1, 0, 1, 1]),  # or, at first, the server's
  ):
    mine = client_state._replace(
      inner=wrappers.PersonalModel(sevens, jnp.bool_(begun))
    )
    joined = method.client.init(KEY, frozen, message, mine)
    np.testing.assert_array_equal(joined['Dense_0']['kernel'][0], expected)
    told = method.wire.download_for(frozen, message, mine).weight
    np.testing.assert_array_equal(told['Dense_0']['kernel'], sent)


def test_hermes_refuses_hidden_biases():
  bias = {'kernel': jnp.ones((2, 2)), 'bias': jnp.ones(2)}
  method = hermes.prune_units(
    optax.sgd(0.1), 0.4, 0.5, target=0.2, head='Dense_1'
  )
  method.server.init(
    KEY, {'Dense_0': {'kernel': bias['kernel']}, 'Dense_1': bias}
  )
  with pytest.raises(InputError, match="'hermes': .* Dense_0/bias is none"):
    method.server.init(KEY, {'Dense_0': bias, 'Dense_1': bias})


def test_fedmask_prunes_once_and_votes_where_it_keeps():
  """A fifth of each layer from its first round's end on; off stays off."""
  experiment = small(algorithm='fedmask', fedmask=dict(target=0.2))
  first, later = play(experiment), play(experiment, 5)
  size = sum(
    x.size for x in jax.tree.leaves(experiment.initial.server_state.values)
  )
  assert abs(int(first.report.uploaded[0]) - size / 5) < 2  # no head in it
  for client in map(int, first.ids):
    mine = lambda client_state, c=client: np.asarray(
      tree.flatten(jax.tree.map(lambda x: x[c], client_state[0].kept))
    )
    assert abs(mine(first.client_state).mean() - 0.2) < 1e-3
    np.testing.assert_array_equal(
      mine(first.client_state), mine(later.client_state)
    )
  part = compiled(client_round, experiment.round_config)
  context, ids, births = context_of(experiment)
  newborn = jax.tree.map(lambda x: x[0], births)
  again = jax.tree.map(lambda x: x[int(first.ids[0])], first.client_state)
  second = context_of(experiment, first.state)[0]
  for number, before in ((context, newborn), (second, again)):
    found = part(number, int(first.ids[0]), before)
    client_state, mask = (
      found.client_state,
      np.asarray(tree.flatten(found.model['mask'])),
    )
    assert not np.any(mask[~np.asarray(tree.flatten(client_state[0].kept))])
    assert 0 < np.sum(mask) <= 0.2 * mask.size + 2


def test_fedpm_keeps_the_mean_of_samples():
  """The mode of a Beta posterior with a flat prior, and its log odds back."""
  upload = uploads.bernoulli_samples()
  chance = jnp.array([0.2, 0.5, 0.9])
  scores = {'w': jnp.log(chance / (1 - chance))}
  keys = jax.random.split(KEY, 4000)
  sent = jax.vmap(lambda k: upload.encode(k, None, None, scores, ())[0])(keys)
  assert set(np.unique(sent['w'])) == {-1, 1}
  mean = jax.tree.map(lambda x: jnp.mean(x, 0), sent)
  server = upload.aggregate(ServerState(scores), mean, {'w': jnp.ones(3)})
  np.testing.assert_allclose((1 + server.values['w']) / 2, chance, atol=0.03)
  back = jax.nn.sigmoid(spread_odds(server.values['w'], None, 32))
  np.testing.assert_allclose(back, (1 + server.values['w']) / 2, atol=1e-5)
  sure = upload.aggregate(
    ServerState(scores), {'w': jnp.array([-1.0, 0, 1])}, {'w': jnp.ones(3)}
  )
  np.testing.assert_allclose(
    (1 + sure.values['w']) / 2, [0.01, 0.5, 0.99], atol=1e-6
  )


def test_gates_of_zero_and_one():
  scores = jnp.array([-1.0, -0.0, 0.0, 2.0])
  np.testing.assert_array_equal(binary(scores), [0, 1, 1, 1])
  np.testing.assert_array_equal(
    jax.grad(lambda s: jnp.sum(binary(s)))(scores), 1
  )
  draw = jnp.array([0.2, 0.49, 0.51, 0.9])
  np.testing.assert_array_equal(bernoulli(scores, draw), [1, 1, 0, 0])
  slope = jax.grad(lambda s: jnp.sum(3 * bernoulli(s, draw)))(scores)
  chance = 1 / (1 + np.exp(-scores))
  np.testing.assert_allclose(slope, 3 * chance * (1 - chance), rtol=1e-5)


def test_a_binary_gate_leaves_weights_out():
  experiment = small(hidenseek=dict(gate='binary'))
  method, initial = experiment.round_config.method, experiment.initial
  message = method.server.broadcast(KEY, initial.frozen, initial.server_state)
  start = method.client.init(KEY, initial.frozen, message, initial.client_state)
  view = method.client.to_variables(KEY, initial.frozen, start)
  expected = survivors(initial) & (np.asarray(tree.flatten(start)) >= 0)
  np.testing.assert_array_equal(tree.flatten(view['mask']) != 0, expected)


@pytest.mark.parametrize('name', ['fedprox', 'ditto'])
def test_without_pull_the_shared_model_is_fedavgs(name):
  none = play(small(algorithm=name, **{name: dict(pull=0.0)}), 2).state
  plain = play(small(algorithm='fedavg'), 2).state
  chex.assert_trees_all_close(none.server_state, plain.server_state, atol=1e-5)


def test_the_pull_of_fedprox_and_ditto():
  """A strong one holds a model at the download, within the step's reach."""
  fields = dict(learning_rate=0.05, pull=10.0)
  far, near = (
    trained(small(algorithm='fedprox', fedprox=fields | dict(pull=pull)))[0]
    for pull in (0.0, 10.0)
  )
  moved = lambda found: float(
    jnp.linalg.norm(tree.flatten(found[2]) - tree.flatten(found[1]))
  )
  assert moved(near) < 0.5 * moved(far)

  found = trained(small(algorithm='ditto', ditto=fields))[0]
  pair, start = found[2], found[1]
  apart = lambda x: float(
    jnp.linalg.norm(tree.flatten(x) - tree.flatten(start.shared))
  )
  assert apart(pair.personal) < 0.5 * apart(pair.shared)
  # The shared model feels no pull.
  free = trained(small(algorithm='fedavg'))[0]
  chex.assert_trees_all_close(pair.shared, free[2], atol=1e-5)


def test_ditto_shares_what_the_method_inside_trains(monkeypatch):
  """Beside FedProx the shared model is FedProx's, its pull included."""

  def pulled(network, learning_rate: Rate = 0.05):
    base = dense(optax.sgd(learning_rate), uploads.full())
    return wrappers.ditto(wrappers.proximal(base, 10.0), 0.0)

  monkeypatch.setitem(RECIPES, 'pulled', pulled)
  both = trained(small(algorithm='pulled'))[0][2]
  fields = dict(learning_rate=0.05, pull=10.0)
  alone = trained(small(algorithm='fedprox', fedprox=fields))[0][2]
  chex.assert_trees_all_close(both.shared, alone, atol=1e-6)
  free = trained(small(algorithm='fedavg'))[0][2]
  chex.assert_trees_all_close(both.personal, free, atol=1e-5)


def test_dittos_model_goes_on_from_itself():
  experiment = small(algorithm='ditto', ditto=dict(pull=0.0), cohort=6)
  played = play(experiment)
  client_state = jax.tree.map(lambda x: x[2], played.client_state)
  context = context_of(experiment, played.state)[0]
  start = experiment.round_config.method.client.init(
    context.keys.shared, (), context.message, client_state
  )
  chex.assert_trees_all_equal(start.personal, client_state[1].model)
  assert np.any(tree.flatten(start.personal) != tree.flatten(start.shared))


def test_held_is_the_model_that_the_round_ended_with():
  experiment = small(algorithm='fedavg')
  report = play(experiment, eval_split='test').report
  after = trained(experiment)[0][2]
  federation, index = experiment.federation, int(play(experiment).ids[0])
  rows = np.asarray(federation.test.index[index])[: federation.test.size[index]]
  center, spread = federation.examples.scale
  images = (federation.examples.inputs[rows] - center) / spread
  logits = experiment.round_config.learner.apply({'params': after}, images)
  right = np.argmax(logits, -1) == federation.examples.labels[rows]
  assert int(report.score[0]) == int(np.sum(right))


def test_flops_are_counted():
  """Three passes of a product each, two FLOPs a term; Ditto trains twice."""
  found = {
    name: flops.of(e.round_config, e.initial, e.federation)
    for name in ('fedavg', 'ditto', 'lotteryfl')
    for e in [small(algorithm=name)]
  }
  products = 64 * 200 + 200 * 10
  batch = small(algorithm='fedavg').round_config.plan.batch_size
  # The first layer's input needs no gradient.
  expected = 2 * batch * (3 * products - 64 * 200)
  assert 1 < found['fedavg'].step / expected < 1.4
  assert 1.9 < found['ditto'].step / found['fedavg'].step < 2.2
  assert found['fedavg'].scored == 0
  assert 1 < found['lotteryfl'].scored / (2 * products) < 1.4


@pytest.mark.parametrize(
  'fields',
  [
    {
      'algorithm': 'hidenseek_personal',
      'hidenseek_personal': {'remember': False},
    },
    {'algorithm': 'ditto'},
  ],
)
def test_a_download_that_all_share_is_counted_once(fields):
  assert small(**fields).round_config.method.wire.download_for is None


def test_remembering_needs_levels_without_a_step():
  base = dense(optax.sgd(0.1), uploads.full(), download_bits=4)
  with pytest.raises(InputError, match='^down=Codec.*without a step'):
    wrappers.remember_download(base)
