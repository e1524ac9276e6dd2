"""Every method obeys the contract; identities between methods hold."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import play, small

from hns import tree, wrappers
from hns.algorithms import RECIPES


@pytest.mark.parametrize('name', RECIPES)
def test_contract(name):
  """Shapes last, it learns, and widths of the vmap change nothing."""
  experiment = small(algorithm=name, local_epochs=5)
  first = play(experiment, 0)
  # Two at a time: the third has padding at its side.
  alone, chunked = (play(experiment, held='test', width=w) for w in (1, 2))
  chex.assert_trees_all_equal_shapes_and_dtypes(alone[:2], first[:2])
  start, a, b = (
    tree.flatten((p.state.shared, p.own)) for p in (first, alone, chunked)
  )
  # Rounding flips a sign whose score is nearly 0, and changes a float.
  assert np.mean(~np.isclose(a, b, atol=1e-4)) < 2e-3
  assert np.any(a != start)
  told, other = alone.report, chunked.report
  np.testing.assert_allclose(told.uplink, other.uplink, atol=8)
  np.testing.assert_allclose(told.train_loss, other.train_loss, rtol=1e-3)
  played = play(experiment, 4, held='test')
  asked = experiment.federation.test.size[played.ids]
  assert np.sum(played.report.held) / np.sum(asked) > 0.75  # chance is 0.5


def test_nothing_personal_is_the_base():
  experiment = small(algorithm='fedavg')
  base = experiment.engine.method
  none = wrappers.personal(base, lambda path, leaf: False)
  birth = none.init(None, experiment.birth.shared.values)
  a = play(experiment, 2)
  b = play(experiment._replace(birth=birth), 2, method=none)
  chex.assert_trees_all_equal(a.state.shared, b.state.shared)
  np.testing.assert_array_equal(a.report.uplink, b.report.uplink)


def test_everything_personal_is_local():
  """No client learns of another: alone in a federation it ends the same."""
  experiment = small(algorithm='local', cohort=6)
  state, own, report, _ = play(experiment, 2)
  assert not jax.tree.leaves(state.shared)
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
    own,
    lonely.own,
  )
  assert np.any(tree.flatten(own) != tree.flatten(lonely.own))


@pytest.mark.parametrize('name', ['fedavg', 'hidenseek'])
def test_a_personal_head_stays_at_home(name):
  """FedPer, over float weights and over signs."""
  experiment = small(algorithm=name, density=1.0)
  base = experiment.engine.method
  head = wrappers.personal(base, lambda path, leaf: path.startswith('Dense_1'))
  params = jax.tree.map(
    jnp.array,
    experiment.birth.fixed['weights']
    if name == 'hidenseek'
    else experiment.birth.shared.values,
  )
  birth = head.init(jax.random.key(5), params)
  state, own, report, _ = play(experiment._replace(birth=birth), 2, method=head)
  whole = play(experiment).report
  assert 'Dense_1' not in str(jax.tree_util.tree_leaves_with_path(state.shared))
  assert report.uploaded[0] < whole.uploaded[0]
  heads = jax.tree.leaves(own[1])[0]
  trained = [np.any(heads[k] != heads[-1]) for k in range(5)]
  assert any(trained)


def test_fresh_dispersion_is_shared_by_clients_and_new_each_round():
  experiment = small()
  method, (_, key, birth, *_) = experiment.engine.method, experiment
  message = method.download(key, birth.fixed, birth.shared)
  starts = [
    tree.flatten(method.join(k, birth.fixed, message, ()))
    for k in (key, key, jax.random.key(9))
  ]
  np.testing.assert_array_equal(starts[0], starts[1])
  assert np.mean(starts[0] == starts[2]) < 0.9
  kept = np.asarray(tree.flatten(birth.fixed['mask']))
  assert not np.any(starts[0][~kept]) and np.all(starts[0][kept] != 0)
  votes = tree.flatten(message.value)
  np.testing.assert_array_equal(starts[0][kept] < 0, votes[kept] < 0)


def test_the_network_is_redrawn_from_seed_and_density():
  """What a header carries is enough: weights and mask are equal bit for bit."""
  a, b, c = (small(seed=s).birth.fixed for s in (3, 3, 4))
  chex.assert_trees_all_equal(a, b)
  assert np.any(tree.flatten(a['mask']) != tree.flatten(c['mask']))


def test_recipes_take_their_optimiser_from_the_table():
  method = RECIPES['fedavg'](None, learning_rate=0.5, optimizer='sgd')
  updates, _ = method.optimizer.update(
    jnp.float32(1), method.optimizer.init(jnp.float32(0)), jnp.float32(0)
  )
  assert float(optax.apply_updates(jnp.float32(0), updates)) == -0.5


def test_a_personal_method_prepares_as_its_base():
  experiment = small(algorithm='fedavg')
  seen = []

  def prepare(key, fixed, message, own, score):
    seen.append((fixed, set(message.value), own))
    return own

  base = experiment.engine.method._replace(prepare=prepare)
  head = wrappers.personal(base, lambda path, leaf: 'Dense_1' in path)
  birth = head.init(jax.random.key(0), experiment.birth.shared.values)
  play(experiment._replace(birth=birth), method=head)
  assert seen[0] == ((), {'Dense_0', 'Dense_1'}, ())
