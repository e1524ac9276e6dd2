"""Every method obeys the contract; identities between methods hold."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import (
  BUILD,
  DISTINCT,
  clients,
  compiled,
  drawn,
  play,
  slow_if,
  small,
  small_config,
  survivors,
)

from hns import tree
from hns.engine import client_store, flops, metrics, parallel, rounds
from hns.methods import wrappers
from hns.methods.recipes import RECIPES
from hns.runs.progress import PendingRound, Progress, fetch_metrics

PER_CLIENT = 'uplink downlink uploaded steps scored score'.split()


def contracted(name, **fields):
  """An experiment whose pictures are floats, so that a test can break them."""
  experiment = small(algorithm=name, local_epochs=5, **fields)
  images = experiment.federation.examples.inputs.astype(jnp.float32)
  return with_images(experiment, images)


def with_images(experiment, images):
  federation = experiment.federation
  examples = federation.examples._replace(inputs=images)
  return experiment._replace(federation=federation._replace(examples=examples))


@pytest.mark.parametrize(
  'name', [slow_if(n not in DISTINCT, n) for n in RECIPES]
)
def test_contract(name):
  """Shapes last, and it learns."""
  experiment = contracted(name)
  first, second = (play(experiment, n, eval_split='test') for n in (0, 1))
  chex.assert_trees_all_equal_shapes_and_dtypes(second[:2], first[:2])
  assert np.any(numbers(second) != numbers(first))
  played = play(experiment, 4, eval_split='test')
  asked = experiment.federation.test.size[played.ids]
  assert np.sum(played.report.score) / np.sum(asked) > 0.75  # chance is 0.5


def numbers(played):
  """All that server and clients have, as one vector."""
  both = played.state.server_state, played.client_state
  return tree.flatten(jax.tree.map(tree.to_host, both))


@pytest.mark.parametrize(
  'name', [slow_if(n not in ('hidenseek', 'fedmask'), n) for n in RECIPES]
)
def test_widths_of_the_vmap_change_nothing(name):
  """Two at a time: the third client has padding at its side."""
  experiment = contracted(name)
  alone, chunked = (
    play(experiment, eval_split='test', width=w) for w in (1, 2)
  )
  # Rounding flips a sign whose score is nearly 0, and changes a float.
  same = np.isclose(numbers(alone), numbers(chunked), atol=1e-4)
  assert np.mean(~same) < 2e-3
  told, other = alone.report, chunked.report
  np.testing.assert_allclose(told.uplink, other.uplink, atol=8)
  np.testing.assert_allclose(told.train_loss, other.train_loss, rtol=1e-3)


def test_nothing_personal_is_the_base():
  experiment = small(algorithm='fedavg')
  base = experiment.round_config.method
  none = wrappers.keep_local(base, lambda path, leaf: False)
  initial = none.server.init(None, experiment.initial.server_state.values)
  a = play(experiment, 2)
  b = play(experiment._replace(initial=initial), 2, method=none)
  chex.assert_trees_all_equal(a.state.server_state, b.state.server_state)
  np.testing.assert_array_equal(a.report.uplink, b.report.uplink)


def test_everything_personal_is_local():
  """No client learns of another: alone in a federation it ends the same."""
  experiment = small(algorithm='local', cohort=6)
  state, client_state, report, _ = play(experiment, 2)
  assert not jax.tree.leaves(state.server_state)
  assert not np.any(report.uplink) and not np.any(report.downlink)
  sizes = experiment.federation.train.size
  alone = experiment._replace(
    federation=experiment.federation._replace(
      train=experiment.federation.train._replace(
        size=jnp.where(jnp.arange(6) == 2, sizes, 0)
      )
    )
  )
  lonely = play(alone, 2)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a[2], b[2], atol=1e-6),
    client_state,
    lonely.client_state,
  )
  assert np.any(tree.flatten(client_state) != tree.flatten(lonely.client_state))


@pytest.mark.parametrize('name', ['fedavg', 'hidenseek'])
def test_a_personal_head_stays_at_home(name):
  """FedPer, over float weights and over signs."""
  experiment = small(algorithm=name, density=1.0)
  base = experiment.round_config.method
  head = wrappers.keep_local(
    base, lambda path, leaf: path.startswith('Dense_1')
  )
  params = jax.tree.map(
    jnp.array,
    experiment.initial.frozen['weights']
    if name == 'hidenseek'
    else experiment.initial.server_state.values,
  )
  initial = head.server.init(jax.random.key(5), params)
  state, client_state, report, _ = play(
    experiment._replace(initial=initial), 2, method=head
  )
  whole = play(experiment).report
  assert 'Dense_1' not in str(
    jax.tree_util.tree_leaves_with_path(state.server_state)
  )
  assert report.uploaded[0] < whole.uploaded[0]
  heads = jax.tree.leaves(client_state[1])[0]
  trained = [np.any(heads[k] != heads[-1]) for k in range(5)]
  assert any(trained)


def test_fresh_dispersion_is_shared_by_clients_and_new_each_round():
  experiment = small()
  method, key = experiment.round_config.method, experiment.key
  initial = experiment.initial
  message = method.server.broadcast(key, initial.frozen, initial.server_state)
  starts = [
    tree.flatten(method.client.init(k, initial.frozen, message, ()))
    for k in (key, key, jax.random.key(9))
  ]
  np.testing.assert_array_equal(starts[0], starts[1])
  assert np.mean(starts[0] == starts[2]) < 0.9
  kept = survivors(initial)
  assert not np.any(starts[0][~kept]) and np.all(starts[0][kept] != 0)
  votes = tree.flatten(message.value)
  np.testing.assert_array_equal(starts[0][kept] < 0, votes[kept] < 0)


def test_the_network_is_redrawn_from_seed_and_density():
  """What a header carries is enough: weights and mask are equal bit for bit."""
  built = lambda seed: BUILD(small_config(seed=seed, compact=False))
  a, b, c = (built(seed).initial.frozen for seed in (3, 3, 4))
  chex.assert_trees_all_equal(a, b)
  assert np.any(tree.flatten(a['mask']) != tree.flatten(c['mask']))


def test_recipes_take_their_optimiser_from_the_table():
  method = RECIPES['fedavg'](None, learning_rate=0.5, optimizer='sgd')
  updates, _ = method.client.optimizer.update(
    jnp.float32(1), method.client.optimizer.init(jnp.float32(0)), jnp.float32(0)
  )
  assert float(optax.apply_updates(jnp.float32(0), updates)) == -0.5


def test_a_personal_method_prepares_as_its_base():
  experiment = small(algorithm='fedavg')
  seen = []

  def prepare(key, frozen, message, client_state, score):
    seen.append((frozen, set(message.value), client_state))
    return client_state

  base = experiment.round_config.method.revise(
    client=dict(before_training=prepare)
  )
  head = wrappers.keep_local(base, lambda path, leaf: 'Dense_1' in path)
  initial = head.server.init(
    jax.random.key(0), experiment.initial.server_state.values
  )
  play(experiment._replace(initial=initial), method=head)
  assert seen[0] == ((), {'Dense_0', 'Dense_1'}, ())


def broken(experiment, client):
  """The experiment with NaN in the training pictures of one client."""
  federation = experiment.federation
  size = int(federation.train.size[client])
  images = federation.examples.inputs
  rows = federation.train.index[client, :size]
  return with_images(experiment, images.at[rows].set(jnp.nan))


def play_changed(experiment, width, change):
  """Four rounds; `change(number, ids)` gives the ids and experiment of each.

  Returns what server and clients have at the end, and all reports.
  """
  round_config = experiment.round_config._replace(
    eval_split='test', width=width
  )
  step = compiled(rounds.run_round, round_config)
  state, store, told = (
    rounds.begin(experiment.initial),
    store_of(experiment),
    [],
  )
  for number in range(4):
    ids, seen = change(number, cohort(experiment, number))
    held = client_store.fetch(store, ids)
    key = seen.key
    initial = seen.initial
    federation = seen.federation
    state, held, report = step(key, initial, federation, state, ids, held)
    client_store.keep(store, ids, held)
    told.append(jax.device_get(report))
  everyone = np.arange(clients(experiment))
  return (state, client_store.fetch(store, everyone)), told


def store_of(experiment):
  return client_store.create(experiment.initial.client_state)


def cohort(experiment, number):
  return np.array(drawn(experiment, number))


@pytest.mark.parametrize(
  'name,width',
  [slow_if(name not in DISTINCT, name, 1) for name in RECIPES]
  + [('hidenseek', 2)],
)
def test_a_client_whose_update_is_nan_is_as_if_it_were_absent(name, width):
  """In round 2; the client took part in round 1 as well."""
  experiment = contracted(name)
  ids = cohort(experiment, 1)
  victim = np.intersect1d(cohort(experiment, 0), ids)[0]
  place = ids == victim

  def diverging(number, ids):
    return ids, broken(experiment, victim) if number == 1 else experiment

  def left_out(number, ids):
    gone = (number == 1) & (ids == victim)
    return np.where(gone, parallel.ABSENT, ids), experiment

  found, told = play_changed(experiment, width, diverging)
  expected, wanted = play_changed(experiment, width, left_out)
  chex.assert_trees_all_equal(found, expected)
  for number, (got, want) in enumerate(zip(told, wanted)):
    others = ~place | (number != 1)
    np.testing.assert_array_equal(got.rejected, ~others)
    assert not want.rejected.any() and got.took_part.all()
    for field in (
      'uplink',
      'downlink',
      'uploaded',
      'steps',
      'scored',
      'score',
    ):
      a, b = getattr(got, field), getattr(want, field)
      np.testing.assert_array_equal(a[others], b[others], field)
    for field in ('train_loss', 'flip_rate'):
      assert getattr(got, field) == getattr(want, field)
  # It had downloaded and trained before it knew; who is absent pays nothing.
  assert told[1].steps[place] > 0 and told[1].diverged[place]
  assert (told[1].downlink[place] > 0) == (name != 'local')
  assert not told[1].uplink[place] and not told[1].uploaded[place]
  assert not any(
    getattr(wanted[1], field)[place]
    for field in ('uplink', 'downlink', 'uploaded', 'steps', 'scored')
  )


@pytest.mark.parametrize(
  'name',
  ['hidenseek', 'hermes', slow_if(True, 'ditto'), slow_if(True, 'fedmask')],
)
def test_a_round_of_which_nothing_is_left_changes_nothing(name):
  experiment = contracted(name)
  images = experiment.federation.examples.inputs
  lost = with_images(experiment, jnp.full_like(images, jnp.nan))
  found, told = play_changed(
    experiment, 1, lambda number, ids: (ids, experiment if number < 2 else lost)
  )

  def nobody(number, ids):
    return ids if number < 2 else np.full(3, parallel.ABSENT), experiment

  expected, _ = play_changed(experiment, 1, nobody)
  chex.assert_trees_all_equal(found, expected)
  assert told[-1].rejected.all() and np.isnan(told[-1].train_loss)
  assert not told[1].rejected.any() and told[1].train_loss > 0


def test_finite_updates_whose_mean_is_not_are_rejected():
  """Each is below the largest float32, the sum over examples is above."""

  def update(grads, state, params):
    return jax.tree.map(lambda p: jnp.full_like(p, 1e37) - p, params), state

  experiment = small(algorithm='fedavg')
  huge = optax.GradientTransformation(lambda params: (), update)
  method = experiment.round_config.method.revise(client=dict(optimizer=huge))
  before, after = (play(experiment, n, method=method) for n in (0, 1))
  chex.assert_trees_all_equal(
    after.state.server_state, before.state.server_state
  )
  assert np.all(after.report.rejected)


@pytest.mark.parametrize('width', [1, 2])
@pytest.mark.parametrize('nobody', [6, -1, -(2**31)])
def test_ids_of_no_client_cost_and_change_nothing(width, nobody):
  """There are six clients."""
  experiment = contracted('fedper')
  ids = np.array([2, nobody, 4], np.int32)
  found, told = play_changed(experiment, width, lambda *_: (ids, experiment))
  absent = np.where(ids == nobody, parallel.ABSENT, ids)
  expected, _ = play_changed(experiment, width, lambda *_: (absent, experiment))
  chex.assert_trees_all_equal(found, expected)
  assert told[0].took_part.tolist() == [True, False, True]
  for field in ('uplink', 'downlink', 'uploaded', 'steps'):
    assert (getattr(told[0], field) > 0).tolist() == [True, False, True]


@pytest.mark.parametrize('rate,diverged', [(0.05, False), (1e30, True)])
def test_a_client_that_learns_nothing_has_diverged(rate, diverged):
  """A huge rate makes the norms' output 0, and the loss of a guess."""
  experiment = small(algorithm='fedavg', fedavg=dict(learning_rate=rate))
  report = play(experiment, 3).report
  assert np.isfinite(report.train_loss)
  assert np.all(np.asarray(report.diverged) == diverged)


def test_what_a_row_and_the_held_models_are_told_of_rejected_clients():
  zeros = np.zeros(4, np.int32)
  report = rounds.RoundMetrics(
    **dict.fromkeys(rounds.RoundMetrics._fields, zeros)
  )
  report = report._replace(
    train_loss=np.float32(1),
    flip_rate=np.float32(0),
    took_part=np.array([True, True, True, False]),
    rejected=np.array([False, True, False, False]),
    diverged=np.array([True, True, False, False]),
    score=np.array([5, 6, 7, 8]),
    dropped=np.zeros(4, bool),
    skipped=np.array(False),
  )
  ids = np.array([3, 0, 1, parallel.ABSENT])
  pending = PendingRound(ids, report, 1.0)
  progress = Progress(
    None, None, metrics.Tally(), np.full(5, np.nan), (pending, pending)
  )
  progress = fetch_metrics(progress)
  nan = np.nan  # client 0: as it was
  np.testing.assert_array_equal(progress.score, [nan, 7, nan, 5, nan])
  client_flops = flops.Flops(step=1.0, scored=0.0)
  row = metrics.traffic(progress.tally, client_flops)
  assert (row['rejected_clients'], row['diverged_clients']) == (2, 2 / 3)
