"""Secure aggregation: the server learns a sum, and the numbers are the same.

With Flower's own protocol, played in this process.
"""

import functools
import sys

import chex
import numpy as np
import pytest
from conftest import ROOT, build_once, slow_if, small_config
from test_remote import FIELDS, PROGRAMS, members, simulated

from hns import wire
from hns.engine import secure
from hns.errors import InputError
from hns.remote import client as remote_client
from hns.remote import secure as addends
from hns.remote import server as remote_server
from hns.remote.messages import Left
from hns.runs import experiment as experiments
from hns.runs import loop
from hns.wire import Codec, Message

app = pytest.importorskip('flwr.app')
SECURE = dict(secure_aggregation=True, min_answers=3)
TRAIN = 'collect_masked_vectors'  # the stage in which clients train


@pytest.fixture
def masked(monkeypatch):
  """The module that fits orders into Flower's protocol."""
  from flwr.supercore.task_identity import TaskIdentity

  monkeypatch.syspath_prepend(str(ROOT / 'launch' / 'flower'))
  for name in '_run_id', '_node_id', '_task_id':
    monkeypatch.setattr(TaskIdentity, name, 1)
  from hns_flower import masked

  yield masked
  for name in [name for name in sys.modules if name.startswith('hns_flower')]:
    del sys.modules[name]


def node(masked, member, sent, fails):
  """A client of Flower in this process; what it sends is noted in `sent`.

  `fails(number, stage)`: whether it vanishes in this round and stage.
  """
  context = app.Context(1, member.index + 1, {}, app.RecordDict(), {})

  def train(message, context):
    order, middle = masked.to_order(message.content)
    reply = remote_client.respond(member, order)
    return app.Message(masked.from_reply(reply, middle), reply_to=message)

  def answer(message):
    try:
      stage = message.content[masked.RECORD_KEY_CONFIGS]['stage']
      if fails(int(message.metadata.group_id), stage):
        raise RuntimeError('vanished')
      reply = masked.only_masked(message, context, train)
    except Exception as error:
      reply = app.Message(app.Error(0, repr(error)), reply_to=message)
    else:
      sent.append(reply.content)
    return reply

  return answer


def asking(nodes):
  """How nodes, by client id, are reached; every message is serialised."""
  from flwr.common import serde

  def through(message):
    return serde.message_from_proto(serde.message_to_proto(message))

  return lambda messages: [
    through(nodes[index](through(m))) for index, m in messages.items()
  ]


def federation(masked, config, folder, rounds, fails=lambda *place: False):
  """The progress after some rounds, and what the clients sent.

  `fails(client, round, stage)`: whether a client vanishes.
  """
  experiment, sent = build_once(config), []
  nodes = {
    m.index: node(masked, m, sent, functools.partial(fails, m.index))
    for m in members(config, folder)
  }
  context = app.Context(1, 0, {}, app.RecordDict(), {})
  ids = {index: index + 1 for index in nodes}
  exchange = functools.partial(masked.exchange, asking(nodes), context, ids)
  players = remote_server.players(None, exchange)
  run, progress = PROGRAMS(experiment), players.begin(experiment)
  for _ in range(rounds):
    progress = players.step(experiment, run, progress)
  return experiment, progress, sent


@pytest.mark.parametrize(
  'fields',
  [
    dict(upload='votes', hidenseek=dict(remember=True, download_bits=1)),
    slow_if(True, dict(algorithm='majority_vote', partition='dirichlet')),
    slow_if(True, dict(upload='signs', partition='dirichlet')),
    slow_if(True, dict(algorithm='hidenseek_personal')),
    slow_if(True, dict(algorithm='fedpm')),
    slow_if(True, dict(algorithm='pfed1bs')),
  ],
)
def test_the_server_ends_as_a_simulation_from_the_sum_alone(
  fields, masked, tmp_path, capsys
):
  """Client 2 vanishes in round 2, after it has shared its keys."""
  config = small_config(**FIELDS | SECURE | fields)
  vanishes = lambda *place: place == (2, 2, TRAIN)
  experiment, found, _ = federation(masked, config, tmp_path, 3, vanishes)
  everyone = [0, 1, 2, 3, 4]
  expected = simulated(config, [everyone, [0, 1, 3, 4], everyone])
  chex.assert_trees_all_equal(
    found.state.server_state, expected.state.server_state
  )
  assert "round 2: client 2 is left out: RuntimeError('vanished')" in (
    capsys.readouterr().err
  )
  tally, wanted = (loop.fetch_metrics(p).tally for p in (found, expected))
  assert tally.dropped == 1
  assert tally.uploaded_since == wanted.uploaded_since


def test_no_message_tells_what_a_client_adds(masked, tmp_path):
  """A masked vector fills the modulus, whatever is under the mask."""
  from flwr.common import bytes_to_ndarray

  config = small_config(**FIELDS | SECURE, upload='votes')
  _, _, sent = federation(masked, config, tmp_path, 1)
  records = [content[masked.RECORD_KEY_CONFIGS] for content in sent]
  vectors = [r['masked_params'] for r in records if 'masked_params' in r]
  assert len(vectors) == 5
  for _, numbers in (map(bytes_to_ndarray, both) for both in vectors):
    for places in numbers % 16, numbers >> 28:
      counts = np.bincount(places, minlength=16)
      expected = len(numbers) / 16
      assert len(counts) == 16
      assert np.all(abs(counts - expected) < 6 * np.sqrt(expected))
  for content in sent:
    arrays = [a for r in content.array_records.values() for a in r.values()]
    assert not arrays


def test_keys_and_shares_have_the_bytes_that_are_counted(masked, tmp_path):
  """As Flower sends them: 5 clients, of whom one vanishes in training."""
  config = small_config(**FIELDS | SECURE, upload='votes')
  fails = lambda index, number, stage: (index, stage) == (2, TRAIN)
  experiment, found, sent = federation(masked, config, tmp_path, 1, fails)
  records = [content[masked.RECORD_KEY_CONFIGS] for content in sent]
  keys = [r['pk1'] + r['pk2'] for r in records if 'pk1' in r]
  assert {len(k) for k in keys} == {secure.PUBLIC_KEYS} and len(keys) == 5
  shared = [r['ctxts'] for r in records if 'ctxts' in r]
  lengths = [len(c) for ciphertexts in shared for c in ciphertexts]
  assert set(lengths) == {secure.ENCRYPTED_SHARES} and len(lengths) == 5 * 4
  held = [r['shares'] for r in records if 'shares' in r]
  alive, lost = secure.SEED_SHARE, secure.KEY_SHARE
  assert [sorted(map(len, shares)) for shares in held] == [
    [alive] * 4 + [lost]
  ] * 4
  how = experiment.round_config.secure
  took_part = np.ones(5, bool)
  up, down = secure.protocol_bytes(how, took_part, np.arange(5) != 2)
  before = secure.PUBLIC_KEYS + 4 * secure.ENCRYPTED_SHARES
  after = 4 * alive + lost + 5 * secure.NODE_ID
  assert up.tolist() == [before + after * (i != 2) for i in range(5)]
  tally = loop.fetch_metrics(found).tally
  vector = secure.vector_bytes(how, tally.uploaded_since // 4)
  assert tally.uplink == int(sum(up)) + 4 * vector
  got = 5 * secure.PUBLIC_KEYS + 4 * secure.ENCRYPTED_SHARES
  assert down.tolist() == [
    got + 5 * secure.NODE_ID * (i != 2) for i in range(5)
  ]


def test_a_sum_that_cannot_be_unmasked_changes_nothing(
  masked, tmp_path, capsys
):
  """In round 1 three of five vanish; in round 2 nobody does."""
  config = small_config(**FIELDS | SECURE, upload='votes')
  fails = lambda index, number, stage: (
    index < 3 and (number, stage) == (1, TRAIN)
  )
  _, found, _ = federation(masked, config, tmp_path, 2, fails)
  told = capsys.readouterr().err
  assert 'round 1: nothing could be unmasked' in told
  assert 'round 1: 2 answers are too few: skipped' in told
  expected = simulated(config, [[0, 1], list(range(5))])
  chex.assert_trees_all_equal(
    found.state.server_state, expected.state.server_state
  )


def test_rubbish_under_a_mask_ends_no_run(
  masked, tmp_path, capsys, monkeypatch
):
  """A vector of another length: nobody can tell, but the round is skipped."""
  config = small_config(**FIELDS | SECURE, upload='votes')
  honest, seen = masked.from_reply, []

  def first_is_shorter(reply, middle):
    seen.append(reply)
    end = -8 if len(seen) == 1 else None
    return honest(reply._replace(payload=reply.payload[:end]), middle)

  monkeypatch.setattr(masked, 'from_reply', first_is_shorter)
  _, found, _ = federation(masked, config, tmp_path, 1)
  assert int(found.state.round) == 1
  assert 'the sum failed' in capsys.readouterr().err


@pytest.mark.parametrize('symbols', [2, 3, 16])
def test_a_sum_of_addends_is_the_sum_of_the_values(symbols):
  """With clients of 6, 4 and 10 examples, and one coordinate that is not sent.

  Modulo the power of two that is counted.
  """
  sizes = np.array([6, 4, 10])
  how = secure.secure_sums(symbols, sizes, asked=3, threshold=2)
  assert how.unit == 2 and how.most == 5 * (symbols - 1)
  assert 2 ** (how.bits - 1) <= 3 * how.most < 2**how.bits
  random = np.random.RandomState(0)
  sent = np.arange(7) != 3
  draw = lambda: 2 * random.randint(symbols, size=7) + 1 - symbols
  uploads = [Message({'a': draw() * sent}, {'a': sent}) for _ in sizes]
  each = [
    addends.addend(how, Codec(symbols), upload, int(size))
    for upload, size in zip(uploads, sizes)
  ]
  assert max(a.max() for a in each) <= how.most
  total = sum(each) % 2**how.bits
  found = addends.summed(how, uploads[0], total, int(sizes.sum()))
  wanted = sum(u.value['a'] * n for u, n in zip(uploads, sizes))
  np.testing.assert_array_equal(found['a'], wanted)
  for wrong in total[1:], total - 50, total + 10 * 2**how.bits:
    with pytest.raises(Left, match='sum'):
      addends.summed(how, uploads[0], wrong, int(sizes.sum()))


def test_only_the_bytes_of_a_simulated_run_change():
  plain = small_config(cohort=5, upload='votes', min_answers=3)
  masked = small_config(cohort=5, upload='votes', **SECURE)
  a, b = (simulated(config, [None, None]) for config in (plain, masked))
  chex.assert_trees_all_equal(a.state, b.state)
  few, many = (loop.fetch_metrics(p).tally for p in (a, b))
  count = few.uploaded_since // 10
  how = experiments.build(masked).round_config.secure
  everyone = np.ones(5, bool)
  up, down = secure.protocol_bytes(how, everyone, everyone)
  vector = secure.vector_bytes(how, count)
  assert vector == wire.HEADER_BYTES + -(-count * how.bits // 8)
  assert many.uplink == 2 * int(sum(up) + 5 * vector)
  assert many.downlink == few.downlink + 2 * int(sum(down))


@pytest.mark.parametrize(
  'fields,need',
  [
    (dict(upload='change'), 'whole numbers'),
    (dict(algorithm='fedavg'), 'whole numbers'),
    (dict(algorithm='fedmask'), 'whole numbers'),
    (dict(algorithm='fedmrn'), 'whole numbers'),
    (dict(algorithm='fedbif'), 'whole numbers'),
    (dict(min_answers=2), 'min_answers above 2, not 2'),
    (dict(extra_clients=5, num_clients=10), 'extra_clients below cohort'),
    (dict(server_rule='median'), 'server_rule=mean'),
    (dict(hostile_clients=1), 'hostile_clients=0'),
    (dict(sign_epsilon=1.0), 'sign_epsilon=0'),
  ],
)
def test_what_needs_more_than_a_sum_is_refused(fields, need):
  fields = dict(cohort=5, upload='votes') | SECURE | fields
  with pytest.raises(InputError, match=f'secure_aggregation=True: .*{need}'):
    experiments.build(small_config(**fields))


@pytest.mark.parametrize(
  'stage,lost', [('setup', 1), ('share_keys', 1), (TRAIN, 1), ('unmask', 0)]
)
def test_a_client_may_vanish_in_any_stage(stage, lost, masked, tmp_path):
  """In the last one its vote is in the sum already."""
  config = small_config(**FIELDS | SECURE, upload='votes')
  fails = lambda *place: place == (2, 1, stage)
  _, found, _ = federation(masked, config, tmp_path, 1, fails)
  expected = simulated(config, [[0, 1, 3, 4] if lost else None])
  chex.assert_trees_all_equal(
    found.state.server_state, expected.state.server_state
  )
  assert loop.fetch_metrics(found).tally.dropped == lost


def test_a_client_without_a_loss_is_not_in_the_mean_of_losses(
  masked, tmp_path, capsys, monkeypatch
):
  config = small_config(**FIELDS | SECURE, upload='votes')
  _, honest, _ = federation(masked, config, tmp_path / 'a', 1)
  whole, seen = masked.from_reply, []

  def from_reply(reply, middle):
    seen.append(reply.told['loss'])
    told = reply.told | {'loss': float('nan')} if len(seen) < 3 else reply.told
    return whole(reply._replace(told=told), middle)

  monkeypatch.setattr(masked, 'from_reply', from_reply)
  _, found, _ = federation(masked, config, tmp_path / 'b', 1)
  loss = found.pending[0].metrics.train_loss
  np.testing.assert_allclose(loss, np.mean(seen[2:]), rtol=1e-5)
  wanted = honest.pending[0].metrics.train_loss
  np.testing.assert_allclose(wanted, np.mean(seen), rtol=1e-5)
  assert 'is in the sum, but tells no numbers' in capsys.readouterr().err


def test_a_federation_without_masks_refuses_at_once():
  experiment = experiments.build(
    small_config(**FIELDS | SECURE, upload='votes')
  )
  with pytest.raises(InputError, match='secure_exchange'):
    remote_server.players(None).programs(experiment)
