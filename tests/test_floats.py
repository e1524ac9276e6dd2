"""Parameters without a sign: frozen, or trained by clients that keep them."""

import functools
import json

import flax.linen as nn
import jax
import numpy as np
import pytest
from conftest import ONCE, build_once, compiled, slow_if, small_config

import hns
from hns import config as configs
from hns import export, wire
from hns.engine import client_store, rounds
from hns.errors import InputError
from hns.remote import client, server
from hns.runs import experiment, loop


class Biased(nn.Module):
  """Two dense layers, with biases, and a norm with a gain."""

  classes: int

  @nn.compact
  def __call__(self, x):
    x = nn.Dense(32, name='body')(x.reshape(len(x), -1))
    return nn.Dense(self.classes, name='head')(nn.relu(nn.RMSNorm()(x)))


@pytest.fixture
def config_of(monkeypatch):
  monkeypatch.setitem(hns.MODELS, 'biased', Biased)

  def make(algorithm='hidenseek', table=None, **fields):
    fields = dict(model='biased', pruning='random', cohort=3) | fields
    config = small_config(algorithm=algorithm, **fields)
    config[algorithm].update(table or {})
    return config

  return make


def play(config, rounds=1):
  """An experiment, and its progress after some rounds."""
  built = build_once(config)
  run, progress = ONCE[loop, 'programs'](built), hns.begin(built)
  for _ in range(rounds):
    progress = hns.step(built, run, progress, [0, 1, 2])
  return built, loop.fetch_metrics(progress)


def played(config):
  """As `play`, once for all tests: none of them goes on from there."""
  return _played(config.to_json())


@functools.cache
def _played(fields):
  return play(configs.base(**json.loads(fields)))


def params_of(built, progress, client):
  models = hns.personal_models(built, progress, [client])
  return jax.tree.map(lambda x: np.asarray(x[0]), models['params'])


@pytest.mark.parametrize(
  'algorithm',
  [
    'hidenseek',
    *(slow_if(True, n) for n in ('hidenseek_personal', 'fedmask', 'fedpm')),
  ],
)
def test_local_floats_are_trained_and_never_travel(config_of, algorithm):
  frozen, local = (
    played(config_of(algorithm, dict(floats=floats)))
    for floats in ('frozen', 'local')
  )
  drawn = hns.global_model(*frozen)['params']
  for place, built in enumerate((frozen, local)):
    found = params_of(*built, 0)
    changed = [
      np.any(a != b)
      for a, b in zip(jax.tree.leaves(drawn), jax.tree.leaves(found))
    ]
    assert all(changed) if place else not any(changed)
    shared = hns.global_model(*built)['params']
    assert jax.tree.all(jax.tree.map(np.array_equal, drawn, shared))
  uploaded = [progress.tally.uploaded_since for _, progress in (frozen, local)]
  assert uploaded[0] == uploaded[1] > 0


@pytest.mark.slow
def test_a_client_goes_on_from_its_own_floats(config_of):
  built, progress = play(config_of(table=dict(floats='local')))
  kept = [client_store.fetch(progress.store, [k]).extra for k in (0, 1, 5)]
  drawn = built.initial.client_state.extra
  apart = [
    max(
      float(np.max(np.abs(a - b[0]))) for a, b in zip(*map(jax.tree.leaves, x))
    )
    for x in ((drawn, own) for own in kept)
  ]
  assert apart[0] > 0 and apart[1] > 0 and apart[2] == 0  # 5 took no part
  config = config_of(table=dict(floats='local', floats_rate=1e-30))
  still = experiment.build(config)  # it trains no floats any more
  progress = hns.step(still, hns.programs(still), progress, [0, 1, 2])
  moved = client_store.fetch(progress.store, [0]).extra
  for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(kept[0])):
    np.testing.assert_allclose(a, b, atol=1e-7)


@pytest.mark.parametrize(
  'algorithm,table',
  [
    ('hidenseek', dict(remember=True)),
    slow_if(True, 'hidenseek', dict(remember=False)),
    slow_if(True, 'fedmask', {}),
    slow_if(True, 'fedpm', {}),
  ],
)
def test_sent_floats_are_the_mean_of_the_clients(config_of, algorithm, table):
  table = table | dict(floats='sent')
  built, progress = played(config_of(algorithm, table))
  server = progress.state.server_state.values
  drawn = built.initial.server_state.values['floats']
  sizes = np.asarray(built.federation.train.size)[:3]
  trained = hns.personal_models(built, hns.begin(built), [0, 1, 2])['params']
  for before, found, told in zip(
    *map(jax.tree.leaves, (drawn, server['floats'], trained)), strict=True
  ):
    assert np.any(before != found)
    np.testing.assert_allclose(
      found, np.average(told, axis=0, weights=sizes), rtol=1e-4, atol=1e-6
    )
  shared = hns.global_model(built, progress)['params']
  for a, b in zip(jax.tree.leaves(shared), jax.tree.leaves(server['floats'])):
    np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_gains_of_fedpm_stay_as_drawn(config_of):
  """Its constants are of weights with a sign alone."""
  built, progress = played(config_of('fedpm'))
  for params in params_of(built, progress, 0), built.initial.frozen['params']:
    np.testing.assert_array_equal(params['RMSNorm_0']['scale'], 1)
    np.testing.assert_array_equal(params['body']['bias'], 0)


def test_sent_floats_are_counted(config_of):
  """Four bytes each, a header and a length a direction and client."""
  table = lambda floats: dict(floats=floats, remember=False)
  sent, frozen = (
    played(config_of(table=table(kind)))[1].tally for kind in ('sent', 'frozen')
  )
  built = build_once(config_of(table=table('sent')))
  floats = built.initial.server_state.values['floats']
  count = sum(x.size for x in jax.tree.leaves(floats))
  more = 3 * (4 * count + wire.HEADER_BYTES + 2 * wire.LENGTH_BYTES)
  assert sent.downlink - frozen.downlink == more
  assert sent.uploaded_since - frozen.uploaded_since == 3 * count


def test_several_payloads_are_read_or_refused(config_of):
  built = build_once(config_of(table=dict(floats='sent')))
  codec = built.round_config.method.wire.download_codec
  context = compiled(rounds.begin_round, built.round_config)
  message = context(*built.constants, rounds.begin(built.initial)).message
  envelope = wire.Envelope(1, 0, 0, 0.5)
  payload = wire.encode(codec, message, envelope)
  assert len(payload) == wire.size(codec, message)
  found = wire.decode(codec, payload, message, envelope)
  for a, b in zip(*map(jax.tree.leaves, (found.value, message.value))):
    np.testing.assert_array_equal(a, np.where(a == 0, 0, b))
  wrong = payload[:3], payload[:-1], payload + b'x', payload[4:], b''
  for bad in wrong:
    with pytest.raises(wire.WireError):
      wire.decode(codec, bad, message, envelope)


@pytest.mark.slow
def test_sent_floats_go_over_several_machines(config_of, tmp_path):
  config = config_of(table=dict(floats='sent'), num_clients=3, rounds=2)
  built = experiment.build(config)
  team = [client.join(config, i, tmp_path / f'{i}') for i in range(3)]
  players = server.players(
    lambda orders: {i: client.respond(team[i], o) for i, o in orders.items()}
  )
  run, found = players.programs(built), players.begin(built)
  for _ in range(2):
    found = players.step(built, run, found)
  expected = play(config, 2)[1]
  for a, b in zip(*map(jax.tree.leaves, (found.state, expected.state))):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_kernels_without_signs_are_chosen_by_path(config_of):
  table = dict(unsigned='head/', floats='local')
  built, progress = played(config_of(table=table))
  assert set(built.initial.frozen['weights']) == {'body'}
  assert list(built.layers) == ['body']
  own = params_of(built, progress, 1)['head']['kernel']
  drawn = hns.global_model(built, progress)['params']['head']['kernel']
  assert np.any(own != drawn)


@pytest.mark.parametrize(
  'table,said',
  [
    (dict(unsigned='('), r"unsigned='\(': must be a regular expression"),
    (dict(unsigned='kernel'), 'has no kernel that could be pruned'),
    (
      dict(floats='shared'),
      "floats='shared': choose one of frozen, local, sent",
    ),
  ],
)
def test_what_cannot_be_unsigned_is_named(config_of, table, said):
  with pytest.raises(InputError, match=said):
    experiment.build(config_of(table=table))


def test_a_network_without_floats_has_none_to_train(config_of):
  config = config_of(table=dict(floats='local'), model='tiny')
  with pytest.raises(InputError, match="floats='local': the network has no bi"):
    experiment.build(config)


def test_a_head_without_signs_cannot_stay_at_home_as_signs(config_of):
  config = config_of('hidenseek_personal', dict(unsigned='head/'))
  with pytest.raises(InputError, match='output layer has no sign'):
    experiment.build(config)


def test_a_chain_with_a_float_layer_stays_as_wide(config_of):
  config = config_of(table=dict(unsigned='Dense_1'), model='tiny', density=0.01)
  built = experiment.build(config)
  weights = hns.global_model(built, hns.begin(built))['weights']
  assert weights['Dense_0']['kernel'].shape[1] == 200


@pytest.mark.slow
def test_signs_are_not_written_without_their_floats(config_of, tmp_path):
  config = config_of(table=dict(floats='local'), rounds=1, eval_every=1)
  hns.run(config, tmp_path)
  with pytest.raises(InputError, match='clients train floats, or kernels have'):
    export.from_run(tmp_path, 0)
  assert 'body/bias' in export.arrays(tmp_path, 0)
