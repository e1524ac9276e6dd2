"""Questions about many clients at once, against one at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import compiled, context_of, small

from hns import tree
from hns.engine import client_store, evaluation, explore, rounds
from hns.engine.training import ClientIndices
from hns.networks import models, pruning, supermask
from hns.runs import loop


@pytest.fixture(scope='module')
def asked():
  """An experiment, its evaluation in two blocks, and everybody's models."""
  built = small(cohort=4, compact=False)
  state, store = (
    rounds.begin(built.initial),
    client_store.create(built.initial.client_state),
  )
  progress = loop.begin(built)._replace(state=state, store=store)
  found = loop.evaluate(built, loop.programs(built), progress)
  train = compiled(evaluation.personal_models, built.round_config)
  return built, found, train(context_of(built)[0], built.eval_client_ids)


def test_votes_are_the_sum_of_the_signs(asked):
  _, found, personal = asked
  each = jax.vmap(supermask.model_signs)(personal)
  np.testing.assert_array_equal(found.votes, each.sum(0))
  pruned = np.asarray(found.server) == 0
  assert pruned.any() and not found.votes[pruned].any()


def test_everybody_on_everybody_holds_everybody_on_their_own(asked):
  built, found, personal = asked
  rows = jax.tree.map(lambda x: x[built.eval_client_ids], built.rows)
  cross = explore.cross(
    built.round_config, personal, built.federation.examples, rows
  )
  assert cross.shape == (6, 6)
  each = found.score_personal / found.count
  np.testing.assert_allclose(np.diag(cross), each, atol=1e-6)
  assert np.diag(cross).mean() > np.mean(cross)


def test_agreements_are_of_pairs():
  signs = np.array([[1, 1, 0, -1, 1], [1, -1, 0, -1, -1], [1, 1, 0, -1, 1]])
  expected = [[1, 0.5, 1], [0.5, 1, 0.5], [1, 0.5, 1]]
  np.testing.assert_allclose(explore.agreements(signs), expected)


def test_a_pool_holds_everybodys_rows_and_no_padding():
  rows = ClientIndices(
    np.array([[5, 6, 0], [7, 0, 0], [1, 2, 3]]), np.array([2, 1, 3])
  )
  pooled = explore.pool(rows)
  assert pooled.index.tolist() == [5, 6, 7, 1, 2, 3] and pooled.size == 6


def test_networks_drawn_side_by_side_keep_what_they_should():
  net, inputs = models.Network(10, dense=(20,)), jnp.zeros((1, 4, 4, 1))
  keep = np.stack([pruning.schedule(520, density, 5) for density in (0.1, 0.5)])
  draw = lambda keep, key: explore.draw(key, net, inputs, keep)
  keys = jax.random.split(jax.random.key(0), 3)
  found = jax.vmap(jax.vmap(draw, (None, 0)), (0, None))(keep, keys)
  left = jax.vmap(jax.vmap(tree.count))(found['mask'])
  np.testing.assert_array_equal(left, [[52] * 3, [260] * 3])
  assert len(np.unique(found['weights']['Dense_1']['kernel'])) == 3 * 200
