"""Randomised response, noisy means, and the epsilons that rows state."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import context_of, play, slow_if, small, small_config

from hns.engine import privacy, rules
from hns.engine.privacy import Privacy
from hns.errors import InputError
from hns.methods.privacy import flip_probability, randomise_signs
from hns.runs import experiment as experiments
from hns.runs import limits


@pytest.mark.parametrize(
  'name,fields',
  [
    ('hidenseek', dict(upload='votes')),
    ('majority_vote', {}),
    slow_if(True, 'hidenseek', dict(upload='signs')),
    slow_if(True, 'fedpm', {}),
    slow_if(True, 'pfed1bs', {}),
  ],
)
def test_signs_are_turned_as_often_as_they_should_be(name, fields):
  """And what the server reads is right in the mean."""
  experiment = small(algorithm=name, **fields)
  base, frozen = experiment.round_config.method, experiment.initial.frozen
  noisy = randomise_signs(base, 1.0)
  context, ids, kept = context_of(experiment)
  kept = jax.tree.map(lambda x: x[0], kept)
  given = context.message, kept, context.initial_params, context.initial_params

  def sent(method, key):
    return method.client.update(key, frozen, *given)[0]

  key = jax.random.key(3)
  true, turned = (
    jax.jit(sent, static_argnums=0)(m, key) for m in (base, noisy)
  )
  both = [
    np.concatenate([np.ravel(v) for v in jax.tree.leaves(x.value)])
    for x in (true, turned)
  ]
  share = np.mean(both[0] != both[1])
  deviation = np.sqrt(0.25 / len(both[0]))
  assert abs(share - flip_probability(1.0)) < 4 * deviation
  assert {*np.unique(both[1])} <= {-1, 1}
  read = noisy.server.read_upload(key, frozen, context.message, turned)
  size = abs(np.concatenate([np.ravel(v) for v in jax.tree.leaves(read.value)]))
  np.testing.assert_allclose(size, 1 / (1 - 2 * flip_probability(1.0)), 1e-5)


def test_a_flip_probability_is_that_of_its_epsilon():
  for epsilon in 0.1, 1.0, 5.0:
    p = flip_probability(epsilon)
    np.testing.assert_allclose(np.log((1 - p) / p), epsilon)


@pytest.mark.parametrize(
  'fields',
  [
    dict(upload='change'),
    dict(algorithm='fedavg'),
    dict(algorithm='fedbif'),
    dict(algorithm='fedmrn'),
  ],
)
def test_uploads_that_tell_more_than_signs_are_refused(fields):
  with pytest.raises(InputError, match='sign_epsilon=1.0: '):
    experiments.build(small_config(**fields, sign_epsilon=1.0))


def test_local_epsilons():
  """Of few signs as they add up; of many by the theorem of composition."""
  spent = lambda signs, rounds, epsilon=0.1: privacy.spent(
    Privacy(sign_epsilon=epsilon, signs=signs, delta=1e-5), rounds
  )
  few = spent(1, 2, 1.0)
  assert few == {'epsilon_upload': 1.0, 'epsilon_local': 2.0}
  many = spent(1000, 1)['epsilon_upload']
  # Dwork, Rothblum and Vadhan 2010: an upper bound, not tight.
  bound = np.sqrt(2 * 1000 * np.log(1e5)) * 0.1 + 1000 * 0.1 * np.expm1(0.1)
  assert 0.3 * bound < many < bound < 100
  assert many < spent(1000, 2)['epsilon_local'] < 2 * many


def test_central_epsilons():
  """Without sampling they are those of a Gaussian of half the noise."""
  spent = lambda noise, clients, rounds: privacy.spent(
    Privacy(noise_multiplier=noise, clients=clients, cohort=10), rounds
  )['epsilon_central']
  # Mironov 2017: a / (2 s^2) + log(1 / d) / (a - 1), at its best a; the library
  # is a little tighter.
  sigma, log = 10.0, np.log(1e5)
  order = 1 + np.sqrt(2 * sigma**2 * log)
  bound = order / (2 * sigma**2) + log / (order - 1)
  assert 0.7 * bound < spent(20.0, 10, 1) < bound
  assert spent(20.0, 100, 1) < 0.5 * spent(20.0, 10, 1)
  assert spent(20.0, 100, 1) < spent(20.0, 100, 50) < spent(5.0, 100, 50)
  assert privacy.spent(Privacy(), 9) == {}


def test_a_noisy_mean_is_clipped_and_has_its_noise():
  center = {'w': jnp.full(4000, 2.0)}
  away = np.zeros((3, 4000), np.float32)
  away[0, 0], away[1, 1] = 100.0, 0.5  # the third sent nothing
  weights = {'w': np.array([[7.0], [1.0], [0.0]], np.float32)}
  values = {'w': center['w'] + away}

  def found(noise):
    settings = rules.Settings(clip_norm=2.0, noise_multiplier=noise, wanted=4)
    key = jax.random.key(0)
    return rules.private_mean(settings, key, values, weights, center)['w']

  expected = np.full(4000, 2.0)
  expected[:2] += [2 / 4, 0.5 / 4]
  np.testing.assert_allclose(found(0.0), expected, rtol=1e-6)
  noise = found(3.0) - expected
  np.testing.assert_allclose(noise.std(), 3 * 2 / 4, rtol=0.1)
  assert abs(noise.mean()) < 4 * 1.5 / np.sqrt(4000)


@pytest.mark.slow
def test_no_noise_is_given_where_nothing_is_sent():
  experiment = small(algorithm='hidenseek', compact=False)
  rule = rules.rule_of('private_mean', rules.Settings(wanted=3))
  played = play(experiment, rule=rule)
  for value, mask in zip(
    jax.tree.leaves(played.state.server_state.values),
    jax.tree.leaves(experiment.initial.frozen['mask']),
  ):
    assert not np.any(np.asarray(value)[~np.asarray(mask)])


def test_rows_of_private_runs_state_their_epsilons(shared, tmp_path):
  fields = dict(upload='votes', sign_epsilon=2.0, server_rule='private_mean')
  rows = experiments.run(small_config(**fields), tmp_path)
  first, last = (
    [row[f'epsilon_{name}'] for name in ('upload', 'local', 'central')]
    for row in (rows[0], rows[-1])
  )
  signs = json.loads((tmp_path / 'config.json').read_text())
  signs = signs['weights_downloaded']
  about = dict(sign_epsilon=2.0, signs=signs, noise_multiplier=1.0)
  known = Privacy(**about, clients=6, cohort=3)
  expected = [*privacy.spent(known, rows[-1]['round']).values()]
  np.testing.assert_allclose(last, expected)
  assert first[0] == last[0] and first[1] < last[1] and first[2] < last[2]


@pytest.mark.parametrize(
  'fields',
  [
    dict(algorithm='lotteryfl', server_rule='private_mean'),
    dict(algorithm='fedmask', sign_epsilon=1.0),
  ],
)
def test_a_mask_of_the_client_is_no_secret(fields):
  config = small_config(**fields)
  with pytest.raises(InputError, match='do not choose what they send'):
    experiments.build(config)


def test_an_epsilon_of_a_sample_is_never_above_that_of_all():
  of = lambda cohort: privacy.spent(
    Privacy(noise_multiplier=2.0, clients=10, cohort=cohort), 30
  )['epsilon_central']
  assert of(1) < of(5) <= of(9) <= of(10)


@pytest.mark.parametrize(
  'field,value', [('sign_epsilon', 1e-17), ('noise_multiplier', 1e-160)]
)
def test_numbers_that_round_to_nothing_are_refused(field, value):
  with pytest.raises(InputError, match=f'{field}=.*must be 0 or in'):
    limits.validate(small_config(**{field: value}))
