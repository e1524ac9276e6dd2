"""The loop in a user's hands: rounds, cohorts, rules, metrics."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import build_once, small_config

import hns
from hns.engine import scoring, training
from hns.engine.parallel import ABSENT
from hns.errors import InputError
from hns.runs import loop


@pytest.fixture(scope='module')
def built():
  run = build_once(small_config(cohort=4))
  return run, hns.programs(run)


def values(progress):
  return progress.state.server_state.values


def same(a, b):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_array_equal(x, y)


def test_a_chosen_cohort_is_the_drawn_one_in_any_order(built):
  run, programs = built
  drawn = hns.step(run, programs, hns.begin(run))
  ids = np.asarray(drawn.pending[0].ids)
  chosen = hns.step(run, programs, hns.begin(run), ids[::-1])
  same(values(drawn), values(chosen))


def test_an_absent_client_costs_and_changes_nothing(built):
  """Fewer ids and an id of nobody are the same."""
  run, programs = built
  played = [
    loop.fetch_metrics(hns.step(run, programs, hns.begin(run), ids))
    for ids in ([3, 1], [1, ABSENT, 3], [3, 1, 10**6])
  ]
  for progress in played[1:]:
    same(values(played[0]), values(progress))
    assert progress.tally == played[0].tally._replace(
      seconds_since=progress.tally.seconds_since
    )
  assert np.isfinite(played[0].score).nonzero()[0].tolist() == [1, 3]
  whole = loop.fetch_metrics(hns.step(run, programs, hns.begin(run)))
  assert played[0].tally.uplink < whole.tally.uplink


@pytest.mark.parametrize(
  'ids,said',
  [
    ([1, 2, 1], r'ids=\[1, 2, 1\]: a client can be there once'),
    ([0, 1, 2, 3, 4], 'ids=5: a cohort has at most 4 clients'),
    ([0.5], 'must be a list of whole numbers'),
    ([-1], 'must be 0 or more'),
  ],
)
def test_a_cohort_that_cannot_be_is_refused(built, ids, said):
  run, programs = built
  with pytest.raises(InputError, match=said):
    hns.step(run, programs, hns.begin(run), ids)


def test_scores_of_the_server_can_be_changed(built):
  """All scores above 0 are a global model of signs that are +1, or pruned."""
  run, programs = built
  progress = hns.begin(run)
  state = progress.state.server_state
  up = state._replace(values=jax.tree.map(jnp.ones_like, state.values))
  changed = progress._replace(state=progress.state._replace(server_state=up))
  model = hns.global_model(run, changed)
  for signs, mask in zip(
    *(jax.tree.leaves(model[k]) for k in ('signs', 'mask'))
  ):
    assert np.all(np.asarray(signs)[np.asarray(mask)] == 1)


def test_a_server_rule_is_one_function(built):
  """A server that ignores its clients keeps its scores."""
  run, _ = built
  keep = lambda key, frozen, server_state, mean, total: server_state
  method = run.round_config.method.revise(server=dict(update=keep))
  other = run._replace(round_config=run.round_config._replace(method=method))
  progress = hns.step(other, hns.programs(other), hns.begin(other))
  same(values(hns.begin(other)), values(progress))


def test_a_rule_of_another_shape_is_not_broadcast(built):
  run, _ = built
  first = lambda values: jax.tree.map(lambda x: x[:1], values)
  update = lambda key, frozen, server_state, mean, total: server_state._replace(
    values=first(server_state.values)
  )
  method = run.round_config.method.revise(server=dict(update=update))
  other = run._replace(round_config=run.round_config._replace(method=method))
  with pytest.raises(InputError, match='server.update returns'):
    hns.programs(other)


def test_personal_models_are_those_that_are_evaluated(built):
  run, programs = built
  progress = hns.step(run, programs, hns.begin(run))
  ids = run.eval_client_ids[:3]
  models = hns.personal_models(run, progress, ids)
  found = hns.evaluate(run, programs, progress)
  learner, federation = run.round_config.learner, run.federation
  for place, client in enumerate(ids):
    model = jax.tree.map(lambda x, place=place: x[place], models)
    rows = training.client_rows(run.rows, client)
    right = scoring.score(learner, model, federation.examples, rows)
    # Rounding of the batch of clients may flip a sign or two.
    assert abs(float(right) - found.score_personal[place]) <= 2


def test_a_row_gets_the_users_metrics(shared, tmp_path):
  """They are in the file, and JSON; a moment is enough to make them."""
  seen = []

  def on_row(row, moment):
    seen.append(row['round'])
    held = moment.progress.score
    return {'clients_so_far': int(np.isfinite(held).sum())}

  config = small_config(rounds=2, eval_every=1)
  rows = hns.run(config, tmp_path, on_row=on_row)
  assert seen == [1, 2] and rows[0]['clients_so_far'] == config.cohort
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  assert [json.loads(x)['clients_so_far'] for x in lines] == [
    row['clients_so_far'] for row in rows
  ]


@pytest.mark.parametrize(
  'more,said',
  [
    ({'round': 3}, "'round' is a metric already"),
    ({'mine': [1.0, 2.0]}, r"'mine' is \[1.0, 2.0\]: give one real number"),
    ({'mine': 'good'}, "'mine' is 'good': give one real number"),
    (3.0, 'must return a dict of metrics or None, not float'),
  ],
)
def test_metrics_that_cannot_be_written_are_refused(
  tmp_path, shared, more, said
):
  config = small_config(rounds=1, eval_every=1)
  with pytest.raises(InputError, match=said):
    hns.run(config, tmp_path, on_row=lambda row, moment: more)
