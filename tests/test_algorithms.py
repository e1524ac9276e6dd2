"""Every method obeys the contract; identities between methods hold."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import compiled, opened, play, small

from hns import algorithms, evaluation, rounds, tree
from hns.algorithms import RECIPES


@pytest.mark.parametrize('name', RECIPES)
def test_contract(name):
  """Shapes and dtypes survive a round; the model's output is differentiable."""
  experiment = small(algorithm=name)
  engine, key, birth, federation, *_ = experiment
  opening, ids, held = opened(experiment)
  run = functools.partial(rounds.run_round, engine)
  *after, report = jax.eval_shape(
    run, key, birth, federation, opening.state, ids, held
  )
  same = jax.tree.map(
    lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype),
    [opening.state, held],
    after,
  )
  assert all(jax.tree.leaves(same))
  assert report.uplink.shape == (engine.cohort,)
  join = jax.jit(engine.method.join)
  start = join(key, birth.fixed, opening.message, birth.own)

  @jax.jit
  @jax.grad
  def slope(trained):
    variables = engine.method.view(key, birth.fixed, trained)
    images = jnp.ones((2, 8, 8, 1))
    return jnp.sum(engine.apply(variables, images)[:, 0])

  grads = tree.flatten(slope(start))
  assert np.all(np.isfinite(grads)) and np.any(grads != 0)


@pytest.mark.parametrize('name', RECIPES)
def test_method_learns(name):
  experiment = small(algorithm=name, rounds=4)
  engine, key, birth, federation, asked, rows, *_ = experiment
  played = play(experiment, 4)
  held = jax.tree.map(lambda x: x[asked], played.own)
  evaluate = compiled(evaluation.evaluate, engine)
  found = evaluate(key, birth, federation, played.state, asked, held, rows)
  assert np.sum(found.personal) / np.sum(found.count) > 0.8


def test_nothing_personal_is_the_base():
  experiment = small(algorithm='fedavg')
  base = experiment.engine.method
  none = algorithms.personal(base, lambda path, leaf: False)
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
  head = algorithms.personal(
    base, lambda path, leaf: path.startswith('Dense_2')
  )
  params = jax.tree.map(
    jnp.array,
    experiment.birth.fixed['weights']
    if name == 'hidenseek'
    else experiment.birth.shared.values,
  )
  birth = head.init(jax.random.key(5), params)
  state, own, report, _ = play(experiment._replace(birth=birth), 2, method=head)
  whole = play(experiment).report
  assert 'Dense_2' not in str(jax.tree_util.tree_leaves_with_path(state.shared))
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
  method = RECIPES['fedavg'](None, learning_rate=0.5)
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
  head = algorithms.personal(base, lambda path, leaf: 'Dense_2' in path)
  birth = head.init(jax.random.key(0), experiment.birth.shared.values)
  play(experiment._replace(birth=birth), method=head)
  assert seen[0] == ((), {'Dense_0', 'Dense_1', 'Dense_2'}, ())
