"""Clients that do not answer, lie or break, and the server's rules."""

import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import (
  clients,
  compiled,
  drawn,
  play,
  slow_if,
  small,
  small_config,
)

from hns.engine import attacks, client_store, metrics, rounds, rules
from hns.engine.failures import Failures, answers
from hns.engine.parallel import ABSENT
from hns.errors import InputError
from hns.methods.recipes import RECIPES
from hns.report import against, groups, hardship, labels
from hns.runs import experiment as experiments
from hns.runs import limits

IDS = np.array([3, 1, 7, 4, ABSENT], np.int32)
DRAWS = np.array([0.1, 0.6, 0.2, 0.9, 0.0], np.float32)
STEPS = np.array([5, 5, 2, 9, 0], np.int32)


@pytest.mark.parametrize(
  'failures,expected',
  [
    (Failures(), [1, 1, 1, 1, 0]),
    (Failures(drop_share=0.3), [0, 1, 0, 1, 0]),
    # As many as at random: the one of 9 steps, and of two of 5 the lower draw.
    (Failures(drop_share=0.3, slowest=True), [0, 1, 1, 0, 0]),
    (Failures(wanted=2), [1, 0, 1, 0, 0]),
    (Failures(drop_share=0.3, wanted=1), [0, 1, 0, 0, 0]),
  ],
)
def test_who_answers(failures, expected):
  found = answers(failures, DRAWS, IDS, STEPS)
  assert found.tolist() == [bool(x) for x in expected]
  order = np.array([4, 2, 0, 3, 1])
  moved = answers(failures, DRAWS[order], IDS[order], STEPS[order])
  np.testing.assert_array_equal(moved, found[order])


FAST = 'hidenseek', 'fedmask'


@pytest.mark.parametrize(
  'name', [slow_if(name not in FAST, name) for name in RECIPES]
)
def test_failing_clients_are_as_if_they_were_absent(name):
  """Half of them vanish, two are hostile and send what is no number."""
  experiment = small(algorithm=name, cohort=4)
  failing = dict(
    failures=Failures(drop_share=0.5),
    attack=attacks.Attack((0, 3), attacks.broken),
  )
  found, told = _play_rounds(experiment, failing)
  left_out = [
    np.where(metrics.counted(report), ids, ABSENT) for ids, report in told
  ]
  expected, wanted = _play_rounds(experiment, {}, left_out)
  chex.assert_trees_all_equal(found, expected)
  for (_, got), (_, want) in zip(told, wanted):
    counted = metrics.counted(got)
    for field in ('uplink', 'uploaded', 'score'):
      a, b = getattr(got, field), getattr(want, field)
      np.testing.assert_array_equal(a[counted], b[counted], field)
    assert not np.any(got.uplink[~counted]) and np.all(got.steps > 0)
    assert not np.any(got.dropped & got.rejected)
  reports = [report for _, report in told]
  assert any(np.any(x.dropped) for x in reports)
  assert any(np.any(x.rejected) for x in reports)


def _play_rounds(experiment, changes, chosen=None):
  """The states after three rounds, and of each its cohort and its report."""
  round_config = experiment.round_config._replace(**changes)
  step = compiled(rounds.run_round, round_config)
  store = client_store.create(experiment.initial.client_state)
  state, told = rounds.begin(experiment.initial), []
  for number in range(3):
    ids = np.array(
      drawn(experiment, number) if chosen is None else chosen[number]
    )
    kept = client_store.fetch(store, ids)
    state, kept, report = step(*experiment.constants, state, ids, kept)
    report = jax.device_get(report)
    client_store.keep(store, ids, kept)
    told.append((ids, report))
  everyone = client_store.fetch(store, np.arange(clients(experiment)))
  return (state, everyone), told


@pytest.mark.parametrize(
  'changes', [slow_if(True, dict(width=2)), dict(width=3)]
)
def test_who_fails_does_not_depend_on_the_width(changes):
  experiment = small(cohort=4)
  failing = dict(
    failures=Failures(drop_share=0.5, slowest=True, wanted=3),
    attack=attacks.Attack((1, 2), attacks.noise),
  )
  one = play(experiment, 2, **failing)
  other = play(experiment, 2, **failing, **changes)
  chex.assert_trees_all_equal(one.state, other.state)
  np.testing.assert_array_equal(one.report.dropped, other.report.dropped)


def test_a_round_with_too_few_answers_changes_nothing():
  experiment = small(algorithm='fedavg', cohort=4)
  few = Failures(drop_share=0.9, least=3)
  before, after = (play(experiment, n, failures=few) for n in (0, 1))
  assert after.report.skipped and np.sum(after.report.dropped) >= 2
  assert after.state.round == 1
  chex.assert_trees_all_equal(
    (after.state.server_state, after.client_state),
    (before.state.server_state, before.client_state),
  )
  assert not np.any(metrics.counted(jax.device_get(after.report)))
  row = dict(skipped_rounds=1, diverged_clients=0.0)
  assert metrics.trouble([row]) == (
    '1 round had too few answers and changed nothing'
  )


def test_the_first_answers_of_more_clients_count():
  experiment = small(algorithm='fedavg', cohort=2, extra_clients=2)
  assert experiment.round_config.cohort == 4
  report = play(experiment).report
  assert np.sum(report.took_part) == 4 and np.sum(report.dropped) == 2
  late = report.steps[report.dropped].min()
  assert late >= report.steps[~report.dropped].max()


START = {'w': jnp.array([1.0, -2.0, 0.0])}
ENDED = {'w': jnp.array([1.5, -2.0, 0.5])}


def lie(attack, seed=0):
  keys = jax.random.split(jax.random.key(seed))
  return np.asarray(attack(*keys, START, ENDED)['w'])


def test_attacks():
  np.testing.assert_allclose(lie(attacks.flip), [0.5, -2, -0.5])
  np.testing.assert_allclose(lie(attacks.scale), [-4, -2, -5])
  np.testing.assert_allclose(lie(attacks.free_ride), START['w'])
  assert np.all(np.isnan(lie(attacks.broken)))
  rms = np.sqrt(0.5 / 3)
  noise = np.concatenate(
    [lie(attacks.noise, s) - START['w'] for s in range(99)]
  )
  assert abs(noise.std() / rms - 1) < 0.15 and abs(noise.mean()) < 0.1
  inverse = lie(attacks.collude)
  np.testing.assert_allclose(inverse[:2], [-1 - rms, 2 + rms], rtol=1e-5)
  np.testing.assert_allclose(abs(inverse[2]), rms, rtol=1e-5)


def test_colluders_agree_and_others_do_not():
  keys = jax.random.split(jax.random.key(0), 3)
  zero = {'w': jnp.zeros(50)}
  one = {'w': jnp.ones(50)}
  say = lambda attack, own: attack(own, keys[2], zero, one)['w']
  chex.assert_trees_all_equal(*(say(attacks.collude, k) for k in keys[:2]))
  assert np.any(say(attacks.noise, keys[0]) != say(attacks.noise, keys[1]))


def test_a_larger_lie_is_no_larger_vote():
  """Ten times the inverse is the same bits; of floats it is not."""
  hostile = tuple(range(6))
  for name, same in ('majority_vote', True), ('fedavg', False):
    experiment = small(algorithm=name)
    flipped, scaled = (
      play(experiment, attack=attacks.Attack(hostile, lie))
      for lie in (attacks.flip, attacks.scale)
    )
    values = flipped.state.server_state, scaled.state.server_state
    if same:
      chex.assert_trees_all_equal(*values)
    else:
      with pytest.raises(AssertionError):
        chex.assert_trees_all_close(*values)


def test_honest_clients_are_as_if_nobody_attacked():
  """What a client uploads is its own affair: its key, its training."""
  experiment = small(algorithm='local')
  kept = [
    play(experiment, attack=attack).client_state
    for attack in (attacks.Attack(), attacks.Attack((2,), attacks.noise))
  ]
  honest = np.delete(np.arange(6), 2)
  chex.assert_trees_all_equal(
    *(jax.tree.map(lambda x: x[honest], state) for state in kept)
  )


def test_hostile_clients_are_drawn_and_never_evaluated():
  fields = dict(hostile_clients=2, unseen_clients=1, attack='broken')
  experiment = small(algorithm='fedavg', cohort=5, **fields)
  round_config = experiment.round_config
  apart = {*round_config.attack.ids, *round_config.unseen}
  assert len(round_config.attack.ids) == 2 and len(apart) == 3
  assert {*experiment.eval_client_ids} == {*range(6)} - apart
  report = play(experiment).report
  hostile = np.isin(np.array(drawn(experiment, 0)), round_config.attack.ids)
  assert np.all(np.isnan(report.score) == hostile)
  assert np.all(report.rejected == hostile) and not np.any(report.diverged)


def test_flipped_labels():
  clean, poisoned = (
    experiments.build(small_config(**fields))
    for fields in ({}, dict(hostile_clients=2, attack='label_flip'))
  )
  ids = poisoned.round_config.attack.ids
  for client in range(6):
    labels, images = [], []
    for experiment in clean, poisoned:
      examples, train = experiment.federation[:2]
      rows = train.index[client, : train.size[client]]
      labels.append(np.asarray(examples.labels[rows]))
      images.append(np.asarray(examples.inputs[rows]))
    np.testing.assert_array_equal(*images)
    expected = 9 - labels[0] if client in ids else labels[0]
    np.testing.assert_array_equal(labels[1], expected)
  chex.assert_trees_all_equal(
    clean.federation.test.index, poisoned.federation.test.index
  )


VALUES = np.array([[1, 9], [2, 9], [4, 9], [-50, 9], [7, 3]], np.float32)
WEIGHTS = np.array([[1, 0], [1, 0], [3, 0], [2, 0], [0, 1]], np.float32)
NONE = np.zeros(2, np.float32)
KEY, SETTINGS = jax.random.key(0), rules.Settings()


def test_rules_take_each_coordinate_from_those_who_sent_it():
  found = rules.median(
    SETTINGS, KEY, {'w': VALUES}, {'w': WEIGHTS}, {'w': NONE}
  )['w']
  np.testing.assert_allclose(found, [1.5, 3])
  trimmed = rules.rule_of('trimmed_mean', rules.Settings(0.25))
  found = trimmed(KEY, {'w': VALUES}, {'w': WEIGHTS}, {'w': NONE})['w']
  np.testing.assert_allclose(found, [1.5, 3])
  untrimmed = rules.rule_of('trimmed_mean', SETTINGS)
  found = untrimmed(KEY, {'w': VALUES}, {'w': WEIGHTS}, {'w': NONE})['w']
  np.testing.assert_allclose(found, [-43 / 4, 3])
  nobody = rules.median(
    SETTINGS, KEY, {'w': VALUES}, {'w': 0 * WEIGHTS}, {'w': NONE}
  )['w']
  np.testing.assert_array_equal(nobody, NONE)


def test_the_median_of_votes_is_the_majority():
  votes = np.array([[1, 1, -1], [1, -1, -1], [-1, 1, -1], [1, -1, -1]], np.int8)
  ones = np.ones((4, 1), np.float32)
  found = rules.median(
    SETTINGS, KEY, {'w': votes}, {'w': ones}, {'w': np.zeros(3)}
  )['w']
  np.testing.assert_array_equal(found, [1, 0, -1])


def test_clipping_bounds_how_far_a_client_moves():
  center = np.array([1.0, 1.0], np.float32)
  away = np.array([[3, 4], [0, 5], [300, 400], [0, 0]], np.float32)
  weights = np.array([[1], [1], [2], [0]], np.float32)
  found = rules.clipped_mean(
    SETTINGS, KEY, {'w': center + away}, {'w': weights}, {'w': center}
  )['w']
  expected = center + (away[0] + away[1] + 2 * away[2] / 100) / 4
  np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
  'name,rule',
  [
    ('hidenseek', 'median'),
    ('fedavg', 'clipped_mean'),
    slow_if(True, 'hermes', 'trimmed_mean'),
    slow_if(True, 'fedper', 'clipped_mean'),
    slow_if(True, 'eden', 'clipped_mean'),
    slow_if(True, 'fedbif', 'clipped_mean'),
    slow_if(True, 'pfed1bs', 'clipped_mean'),
    slow_if(True, 'local', 'median'),
    slow_if(True, 'majority_vote', 'median'),
  ],
)
def test_one_upload_is_what_every_rule_makes_of_it(name, rule):
  """With one client a round, a rule is the mean."""
  experiment = small(algorithm=name, cohort=1)
  rule = rules.rule_of(rule, SETTINGS)
  by_mean, by_rule = play(experiment), play(experiment, rule=rule)
  chex.assert_trees_all_close(
    by_mean.state.server_state, by_rule.state.server_state, rtol=1e-5, atol=1e-6
  )


def test_a_rule_holds_against_what_the_mean_does_not():
  experiment = small(algorithm='fedavg', cohort=6)
  attack = attacks.Attack(
    (1,), lambda a, b, x, y: jax.tree.map(lambda v: v + 1e6, x)
  )
  size = lambda played: max(
    float(jnp.max(abs(x)))
    for x in jax.tree.leaves(played.state.server_state.values)
  )
  assert size(play(experiment, attack=attack)) > 1e4
  for rule in 'median', 'trimmed_mean', 'clipped_mean':
    rule = rules.rule_of(rule, SETTINGS)
    assert size(play(experiment, attack=attack, rule=rule)) < 10


@pytest.mark.parametrize(
  'fields,message',
  [
    (dict(drop_share=1.0), r'drop_share=1.0: must be in \[0, 1\)'),
    (dict(attack='lie'), 'attack=.lie.: choose one of label_flip'),
    (dict(server_rule='sum'), 'server_rule=.sum.: choose one of mean'),
    (dict(trim_share=0.5), r'trim_share=0.5: must be in \[0, 0.5\)'),
    (dict(min_answers=4), 'min_answers=4: cannot be above cohort=3'),
    (dict(hostile_clients=6), 'hostile_clients=6: must be below num_clients=6'),
    (
      dict(unseen_clients=3, hostile_clients=3),
      'hostile_clients=3: must be below 3, num_clients=6 without',
    ),
    (
      dict(extra_clients=4),
      r'cohort \+ extra_clients=7: cannot be above num_clients=6',
    ),
    (
      dict(hostile_clients=3, eval_clients=4),
      'eval_clients=4: cannot be above 3, num_clients=6 without hostile',
    ),
  ],
)
def test_fields_that_cannot_be(fields, message):
  with pytest.raises(InputError, match=message):
    limits.validate(small_config(**fields))


def test_runs_with_failing_clients_are_compared_with_their_likes():
  plain = small_config().to_dict()
  fields = dict(hostile_clients=2, attack='collude', drop_share=0.25)
  failing = small_config(**fields, server_rule='median').to_dict()
  names = labels.settings_of([plain, failing])
  assert names == [
    'digits, 6 clients',
    'digits, 6 clients (2 hostile: collude, 25% drop)',
  ]
  assert labels.label(failing, {}).endswith('median)')


def saved(accuracy, seed=0, **fields):
  """A run as stored, of these fields."""
  config = small_config(seed=seed, **fields).to_dict()
  extra = fields.get('sign_epsilon')
  row = dict(
    round=1,
    global_accuracy=accuracy,
    personal_accuracy=accuracy,
    uplink_bytes=1,
    downlink_bytes=1,
    **({'epsilon_local': 10 * extra} if extra else {}),
  )
  about = {'config': config, 'weights_downloaded': 3, 'layers': {}}
  return groups.Saved(pathlib.Path(f'{fields}{seed}'), about, [row])


def test_pictures_of_what_goes_wrong():
  """Runs without hostile clients are the start of every attack's line."""
  runs = [
    saved(0.9, 0),
    saved(0.7, 1),
    saved(0.6, hostile_clients=3, attack='collude'),
    saved(0.5, hostile_clients=3, attack='scaled'),
    saved(0.4, hostile_clients=3, attack='scaled', server_rule='median'),
  ]
  chosen = groups.group(runs)
  figure = against.against(hardship.HARDSHIPS['hostile'], chosen)
  top = figure.axes[:2]
  assert [axes.get_title() for axes in top] == ['collude', 'scaled']
  for axes, end in zip(top, (0.6, 0.5)):
    line = axes.get_lines()[0]
    np.testing.assert_allclose(line.get_xdata(), [0, 0.5])
    np.testing.assert_allclose(line.get_ydata(), [0.8, end])
  assert len(top[1].get_lines()) == 2
  (table,) = hardship.tables(chosen)
  assert '| none | collude, 50% | scaled, 50% |' in table
  assert '| global | 0.800 ± 0.141 | 0.600 | 0.500 |' in table
  assert against.against(hardship.HARDSHIPS['dropping'], chosen) is None
  private = groups.group(
    [saved(0.5, sign_epsilon=1.0), saved(0.8, sign_epsilon=4.0)]
  )
  figure = against.against(hardship.HARDSHIPS['private'], private)
  (line,) = figure.axes[0].get_lines()
  np.testing.assert_allclose(line.get_xdata(), [10, 40])
  (table,) = hardship.tables(private)
  assert table.index('| 10 |') < table.index('| 40 |')
