"""Clients that are never trained on: who they are, and what is told of them."""

import json

import jax
import numpy as np
import pytest
from conftest import clients, drawn, play, sharing, small, small_config

from hns import config as configs
from hns import report
from hns.engine import client_store, context, evaluation, parallel, rounds
from hns.errors import InputError
from hns.report import files, pictures, versus
from hns.report.groups import group, load
from hns.runs import conditions, experiment, identity, limits, loop

FIELDS = dict(num_clients=9, cohort=2, unseen_clients=3)
# Each client keeps a state; some models are wrong on some examples.
KEEPS = dict(algorithm='fedper', partition='dirichlet', **FIELDS)


def progress_of(built, number):
  """The progress after some rounds."""
  run, progress = loop.programs(built), loop.begin(built)
  for _ in range(number):
    progress = loop.step(built, run, progress)
  return run, progress


def test_they_are_drawn_by_the_seed_alone():
  """Not by size, and none more often than another."""
  sizes = np.arange(10)
  draws = [conditions._draw(sizes, [seed, 1], 3) for seed in range(1000)]
  assert all(len(set(ids)) == 3 for ids in draws)
  counts = np.bincount(np.concatenate(draws), minlength=10)
  assert np.all(abs(counts - 300) < 60)  # four standard deviations
  for seed in range(9):
    ids = conditions._draw(sizes, [seed, 1], 3)
    turned = conditions._draw(sizes[::-1], [seed, 1], 3)
    more = conditions._draw(sizes, [seed, 1], 5)
    np.testing.assert_array_equal(ids, turned[::-1])  # ordered by size
    assert set(ids) < set(more)


def test_the_stream_of_the_partition_does_not_draw_them():
  """Else who is unseen would tell of the classes of the clients."""
  seeds, sizes = range(400), np.zeros(40)
  ids = np.array([conditions._draw(sizes, [s, 1], 1)[0] for s in seeds])
  orders = [np.random.RandomState(seed).permutation(40) for seed in seeds]
  for place in np.stack(orders, 1):
    assert np.mean(ids == place) < 0.08  # by chance 1 / 40


def test_no_cohort_has_any_of_them():
  built = small(**FIELDS)
  unseen = set(built.round_config.unseen)
  cohorts = [drawn(built, number).tolist() for number in range(40)]
  assert all(len(set(ids)) == 2 for ids in cohorts)
  assert {i for ids in cohorts for i in ids} == set(range(9)) - unseen
  assert len(unseen) == 3


def test_without_any_cohorts_are_those_of_the_whole_federation():
  built = small(num_clients=9, cohort=5)
  assert built.round_config.unseen == ()
  sizes = np.asarray(built.federation.train.size)
  for number in range(10):
    key = context.round_keys(built.key, number).cohort
    ids = np.asarray(jax.random.permutation(key, 9)[:5])
    ids = ids[np.lexsort((ids, sizes[ids]))]
    np.testing.assert_array_equal(drawn(built, number), ids)


def test_they_are_evaluated_from_the_state_that_all_begin_with():
  """As by hand, on their own examples; nothing of it is kept."""
  built = small(**KEEPS)
  run, progress = progress_of(built, 3)
  unseen = np.array(built.round_config.unseen)
  before = dict(progress.store.states)
  found = loop.evaluate(built, run, progress)
  assert progress.store.states == before
  assert before and not set(before) & set(unseen.tolist())
  begun = rounds.begin_round(
    built.round_config, *built.constants, progress.state
  )
  fresh = client_store.fetch(
    client_store.create(built.initial.client_state), unseen
  )
  models = evaluation.personal_models(built.round_config, begun, unseen, fresh)
  apply, examples = built.round_config.learner.apply, built.federation.examples
  for place, index in enumerate(unseen):
    size = int(built.rows.size[index])
    chosen = built.rows.index[index][:size]
    images = examples.inputs[chosen].astype(np.float32)
    model = jax.tree.map(lambda x, k=place: x[k], models)
    logits = apply(model, (images - examples.scale[0]) / examples.scale[1])
    right = int(np.sum(np.argmax(logits, -1) == examples.labels[chosen]))
    assert int(found.score_unseen[place]) == right
    assert int(found.count_unseen[place]) == size
  assert len(set(found.score_unseen.tolist())) == 3


def test_no_other_number_counts_them():
  """Evaluated without them, the same rounds tell the same."""
  built = small(**FIELDS)
  run, progress = progress_of(built, 2)
  apart = loop.evaluate(built, run, progress)
  hidden = built._replace(round_config=built.round_config._replace(unseen=()))
  alone = loop.evaluate(hidden, run, progress)
  for name in ('score_personal', 'score_global', 'count', 'votes'):
    np.testing.assert_array_equal(getattr(apart, name), getattr(alone, name))
  assert len(apart.count) == 6 and len(apart.count_unseen) == 3
  assert len(alone.score_unseen) == len(alone.count_unseen) == 0
  progress = loop.fetch_metrics(progress)
  held = np.flatnonzero(progress.score >= 0)
  assert len(held) and not set(held) & set(built.round_config.unseen)


def test_those_evaluated_are_of_those_that_take_part():
  some, every = (small(eval_clients=n, **FIELDS) for n in (4, 0))
  unseen = set(every.round_config.unseen)
  assert some.round_config.unseen == every.round_config.unseen
  assert len(set(some.eval_client_ids.tolist()) - unseen) == 4
  assert set(every.eval_client_ids.tolist()) == set(range(9)) - unseen
  without = small(num_clients=9, cohort=2)
  assert set(without.eval_client_ids.tolist()) == set(range(9))


@pytest.mark.parametrize(
  'fields,said',
  [
    (dict(unseen_clients=6), 'unseen_clients=6: must be below num_clients=6'),
    (dict(unseen_clients=9), 'unseen_clients=9: must be below num_clients=6'),
    (dict(unseen_clients=-1), 'unseen_clients=-1: must be at least 0'),
    (
      dict(unseen_clients=4),
      'cohort=3: cannot be above 2, num_clients=6 without unseen_clients=4: '
      'lower it too',
    ),
    (
      dict(unseen_clients=3, eval_clients=4),
      'eval_clients=4: cannot be above 3, num_clients=6 without unseen_clien',
    ),
  ],
)
def test_more_than_can_take_part_are_refused(fields, said):
  with pytest.raises(InputError, match=said):
    limits.validate(small_config(**fields))
  limits.validate(small_config(unseen_clients=3, eval_clients=3))


def test_devices_and_widths_tell_the_same():
  """Of one state: on two devices to the bit, side by side up to rounding."""
  fields = dict(algorithm='fedavg', **FIELDS)
  state, found = play(small(**fields), 2).state, []
  for devices, width in ((1, 1), (2, 1), (2, 2)):
    built = small(devices=devices, clients_per_step=width, **fields)
    mesh = built.round_config.mesh
    progress = loop.begin(built)._replace(state=parallel.replicate(state, mesh))
    evaluated = loop.evaluate(built, loop.programs(built), progress)
    assert clients(built) == 9
    found.append((built.round_config.unseen, evaluated))
  (ids, first), *others = found
  assert all(other == ids for other, _ in others)
  right = [other.score_unseen for _, other in others]
  np.testing.assert_array_equal(right[0], first.score_unseen)
  for other in right[1:]:
    np.testing.assert_allclose(other, first.score_unseen, atol=1)


@pytest.fixture(scope='module')
def told(tmp_path_factory):
  """A run with unseen clients, of a method whose clients keep a state."""
  folder = tmp_path_factory.mktemp('told')
  with sharing():
    experiment.run(small_config(rounds=2, **KEEPS), folder)
  return folder


def steady(rows):
  return [{k: v for k, v in row.items() if 'seconds' not in k} for row in rows]


def test_a_run_goes_on_with_the_same_ones(told, tmp_path):
  config = small_config(rounds=2, **KEEPS)
  config.update(rounds=1)
  with sharing():
    experiment.run(config, tmp_path)
  config.update(rounds=2)  # built anew
  again = steady(experiment.run(config, tmp_path))
  assert again == steady(files.read(told))
  assert 0 < again[-1]['unseen_accuracy'] <= 1


def test_a_folder_of_others_is_refused_and_an_older_one_is_read(told):
  here = json.loads(small_config(**KEEPS).to_json())
  older = {k: v for k, v in here.items() if k != 'unseen_clients'}
  said = identity.config_differences(older, here)
  assert said == ['unseen_clients is 0 there and 3 here']
  none = here | {'unseen_clients': 0}
  assert identity.config_differences(older, none) == []
  with pytest.raises(InputError, match='unseen_clients is 3 there and 0 here'):
    experiment.run(small_config(**KEEPS | {'unseen_clients': 0}), told)
  assert configs.base(**older).unseen_clients == 0


def test_reports_show_them_where_there_are_any(told):
  rows = files.read(told)
  shown = f'{rows[-1]["unseen_accuracy"]:.3f}'
  quiet = [{k: v for k, v in r.items() if 'unseen' not in k} for r in rows]
  lines = report.table(rows).splitlines()
  place = lines[0].replace('worst tenth', 'worst').split().index('unseen')
  assert lines[-1].split()[place] == shown
  assert 'unseen' not in report.table(quiet)
  groups = group(load([str(told)])[0])
  without = [g._replace(rows=(quiet,)) for g in groups]
  titles, _, line = report.compare(groups).splitlines()
  assert line.split(' | ')[titles.split(' | ').index('unseen')] == shown
  assert ' | unseen |' not in report.compare(without)
  assert report.records(groups)[0]['unseen_accuracy_best_ever'] <= 1
  (name,) = versus.settings(groups, 'unseen')
  assert name == 'digits, 9 clients (3 unseen)'
  assert versus.settings(without, 'unseen') == {}
  drawn = [len(pictures.one_run(r, '').axes[0].lines) for r in (rows, quiet)]
  assert drawn == [6, 5]
