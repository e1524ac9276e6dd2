"""Server and clients as different machines, without a network between them."""

import functools
import json

import chex
import jax
import numpy as np
import pytest
from conftest import LENGTHS, ONCE, build_once, once, slow_if, small_config

import hns
from hns import config as configs
from hns import wire
from hns.data import from_clients
from hns.errors import InputError
from hns.networks import models
from hns.remote import client as remote_client
from hns.remote import server as remote_server
from hns.remote import trust
from hns.runs import experiment as experiments
from hns.runs import loop

FIELDS = dict(num_clients=5, cohort=5, rounds=3, eval_every=3, partition='iid')
KEEPS = dict(hidenseek=dict(remember=True, download_bits=1))
PROGRAMS = once(remote_server.programs)


@pytest.fixture(autouse=True)
def programs_once(monkeypatch):
  """A server's programs are compiled once for all tests."""
  monkeypatch.setattr(remote_server, 'programs', PROGRAMS)


@functools.cache
def joined(fields):
  """Clients of a config; one program serves all of them."""
  config = configs.base(**json.loads(fields))
  first = remote_client.join(config, 0, '')
  return [first._replace(index=i) for i in range(config.num_clients)]


def members(config, folder):
  """All clients, each with a folder of its own."""
  fields = json.loads(config.to_json()) | LENGTHS
  team = joined(json.dumps(fields, sort_keys=True))
  return [m._replace(folder=folder / f'{m.index}') for m in team]


def exchange_with(members, spoil=lambda order, index, reply: reply):
  """Orders are answered in this process; `spoil` may change a reply."""

  def exchange(orders):
    replies = {}
    for index, order in orders.items():
      reply = remote_client.respond(members[index], order)
      reply = spoil(order, index, reply)
      if reply is not None:
        replies[index] = reply
    return replies

  return exchange


def played(config, exchange, number):
  """A federation's progress after some rounds, and its experiment."""
  experiment = build_once(config)
  players = remote_server.players(exchange)
  run, progress = players.programs(experiment), players.begin(experiment)
  for _ in range(number):
    progress = players.step(experiment, run, progress)
  return experiment, progress


def simulated(config, chosen):
  """The progress after rounds with these clients."""
  experiment = build_once(config)
  run, progress = ONCE[loop, 'programs'](experiment), loop.begin(experiment)
  for ids in chosen:
    progress = loop.step(experiment, run, progress, ids)
  return progress


@pytest.mark.parametrize(
  'fields,exact',
  [
    (KEEPS | dict(rate_decay=0.5), True),
    (dict(algorithm='fedavg'), False),
    slow_if(True, dict(upload='change'), True),
    slow_if(True, dict(algorithm='hidenseek_personal'), True),
    slow_if(True, dict(algorithm='eden'), False),
    slow_if(True, dict(algorithm='ditto'), False),
    slow_if(True, dict(algorithm='majority_vote'), True),
    slow_if(True, dict(algorithm='fedmrn'), False),
    slow_if(True, dict(algorithm='fedbif'), True),
  ],
)
def test_a_federation_ends_as_its_simulation(fields, exact, tmp_path):
  """Client 2 answers in rounds 1 and 3; client 4's uploads are damaged."""
  config = small_config(**FIELDS | fields)
  payloads = []

  def spoil(order, index, reply):
    if index == 2 and order.number == 2:
      return None
    if index == 4:
      return reply._replace(payload=reply.payload[:-1] + b'x')
    payloads.append(len(reply.payload))
    return reply

  exchange = exchange_with(members(config, tmp_path), spoil)
  _, found = played(config, exchange, 3)
  everyone = [0, 1, 2, 3]
  expected = simulated(config, [everyone, [0, 1, 3], everyone])
  states = found.state.server_state, expected.state.server_state
  if exact:
    chex.assert_trees_all_equal(*states)
  else:
    chex.assert_trees_all_close(*states, rtol=1e-5, atol=1e-6)
  tally, wanted = (loop.fetch_metrics(p).tally for p in (found, expected))
  assert tally.uplink == sum(payloads)
  if exact:
    assert tally.uplink == wanted.uplink
    assert tally.uploaded_since == wanted.uploaded_since
  assert tally.dropped == 4 and tally.downlink > wanted.downlink


def test_a_client_goes_on_from_what_the_server_used(tmp_path):
  """An upload that is lost is as if the client had not trained."""
  config = small_config(**FIELDS, **KEEPS)
  lost = lambda order, index, reply: (
    None if index == 1 and order.number in (2, 3) else reply
  )
  team = members(config, tmp_path)
  _, found = played(config, exchange_with(team, lost), 4)
  everyone, others = list(range(5)), [0, 2, 3, 4]
  expected = simulated(config, [everyone, others, others, everyone])
  chex.assert_trees_all_equal(
    found.state.server_state, expected.state.server_state
  )
  kept = sorted(path.name for path in (tmp_path / '1').iterdir())
  assert kept == ['round-1.npz', 'round-4.npz']


def test_a_run_has_the_folder_and_the_table_of_a_simulated_one(
  shared, tmp_path
):
  config = small_config(**FIELDS, eval_held=True)
  exchange = exchange_with(members(config, tmp_path / 'clients'))
  rows = [
    experiments.run(config, tmp_path / name, players=players)
    for name, players in (
      ('federation', remote_server.players(exchange)),
      ('simulation', None),
    )
  ]
  for name in 'seconds', 'eval_seconds', 'compile_seconds':
    for row in rows[0] + rows[1]:
      row.pop(name)
  for row in rows[1]:  # signs stay with the clients
    row.pop('agree_with_server'), row.pop('agree_with_clients')
  for a, b in zip(*rows, strict=True):
    assert a.keys() == b.keys()
    for name, value in a.items():
      np.testing.assert_allclose(value, b[name], 1e-5, err_msg=name)


def test_a_killed_server_goes_on(shared, tmp_path):
  config = small_config(**FIELDS, checkpoint_seconds=1e6)
  team = members(config, tmp_path / 'clients')

  class Killed(BaseException):
    pass

  def dies(order, index, reply):
    if order.number == 3 and order.trains:
      raise Killed
    return reply

  folder = tmp_path / 'run'
  with pytest.raises(Killed):
    players = remote_server.players(exchange_with(team, dies))
    experiments.run(config, folder, players=players)
  players = remote_server.players(exchange_with(team))
  experiments.run(config, folder, players=players)
  again = experiments.run(
    config,
    tmp_path / 'other',
    players=remote_server.players(
      exchange_with(members(config, tmp_path / 'others'))
    ),
  )
  rows = [json.loads(line) for line in (folder / 'metrics.jsonl').open()]
  assert rows[-1]['client_accuracies'] == again[-1]['client_accuracies']
  assert rows[-1]['uplink_bytes'] == again[-1]['uplink_bytes']


@pytest.mark.parametrize(
  'spoil,reason',
  [
    (lambda p: p[:11], '11 bytes are fewer than a header'),
    (lambda p: p[:20], 'checksum does not match'),
    (lambda p: p + b'x', 'checksum does not match'),
    (lambda p: b'GET / HTTP/1.1' + bytes(99), 'not an hns payload'),
    (lambda p: bytes(len(p)), 'not an hns payload'),
    (lambda p: b'', '0 bytes are fewer'),
  ],
)
def test_a_payload_that_cannot_be_used_is_left_out(
  spoil, reason, tmp_path, capsys
):
  config = small_config(**FIELDS)
  wrong = lambda order, index, reply: (
    reply._replace(payload=spoil(reply.payload)) if index == 3 else reply
  )
  exchange = exchange_with(members(config, tmp_path), wrong)
  played(config, exchange, 1)
  said = capsys.readouterr().err
  assert f'round 1: client 3 is left out: {reason}' in said
  assert said.count('left out') == 1


def test_a_stale_or_foreign_payload_is_refused(tmp_path, capsys):
  config = small_config(**FIELDS)
  old = {}

  def stale(order, index, reply):
    old.setdefault(index, reply)
    return old[index] if index == 0 else reply

  played(config, exchange_with(members(config, tmp_path / 'a'), stale), 2)
  assert (
    'client 0 is left out: round is 1, expected 2' in capsys.readouterr().err
  )
  other = small_config(**FIELDS, seed=1)
  foreign = members(other, tmp_path / 'b')
  played(config, exchange_with(foreign), 1)
  said = capsys.readouterr().err
  assert 'left out: checksum does not match' in said and 'not of' in said
  assert 'seed 1,' in said
  experiment = build_once(config)
  assert 'checksum of the network' in trust.known(
    experiment, remote_client.about(foreign[0])
  )


def test_who_can_take_part(tmp_path):
  config = small_config(**FIELDS)
  experiment = build_once(config)
  about = remote_client.about(remote_client.join(config, 3, tmp_path))
  assert trust.known(experiment, about) == ''
  assert 'client 9 is not one of 5' in trust.known(
    experiment, about | {'client': 9}
  )
  assert 'number of training examples is 7' in trust.known(
    experiment, about | {'examples': 7}
  )
  with pytest.raises(InputError, match=r'client=5: must be in \[0, 5\)'):
    remote_client.join(config, 5, tmp_path)
  with pytest.raises(InputError, match='can only be simulated'):
    remote_client.join(small_config(**FIELDS, algorithm='hermes'), 0, tmp_path)


@pytest.mark.parametrize(
  'fields',
  [
    dict(drop_share=0.2),
    dict(cohort=4, extra_clients=1),
    dict(hostile_clients=1),
    dict(cohort=4, unseen_clients=1),
    dict(upload='votes', sign_epsilon=1.0),
    dict(server_rule='private_mean'),
  ],
)
def test_what_is_only_simulated_is_refused(fields, tmp_path):
  config = small_config(**FIELDS | fields)
  with pytest.raises(InputError, match='can only be simulated: leave it out'):
    remote_client.join(config, 0, tmp_path)
  with pytest.raises(InputError, match='can only be simulated: leave it out'):
    remote_server.programs(build_once(config))


def test_a_client_that_lost_what_it_kept_starts_over(tmp_path, capsys):
  config = small_config(**FIELDS, **KEEPS)
  team, bases = members(config, tmp_path), []

  def loses(order, index, reply):
    if index == 2:
      bases.append(order.base)
      if order.number == 1:
        remote_client.forget(team[2])
    return reply

  played(config, exchange_with(team, loses), 4)
  assert bases == [0, 1, 0, 3]
  said = capsys.readouterr().err
  assert said.count('left out') == 1
  assert 'what client 2 kept in round 1 is missing' in said


def test_broken_updates_are_not_sent(tmp_path, capsys):
  """Pictures of one client are not numbers; the others go on."""
  config = small_config(**FIELDS, algorithm='fedavg')
  team, sent = members(config, tmp_path), {}
  team[1] = team[1]._replace(experiment=_with_nan(team[1].experiment))

  def spy(order, index, reply):
    sent[index] = reply.payload
    return reply

  _, progress = played(config, exchange_with(team, spy), 1)
  said = capsys.readouterr().err
  assert 'client 1 is left out: its update was not finite' in said
  assert said.count('left out') == 1
  assert [bool(sent[i]) for i in range(5)] == [True, False, True, True, True]
  tally = loop.fetch_metrics(progress).tally
  assert (tally.rejected, tally.dropped) == (1, 0) and tally.diverged >= 0.2


def _with_nan(experiment):
  """An experiment whose pictures are not numbers."""
  federation = experiment.federation
  blank = jax.tree.map(
    lambda x: np.full(x.shape, np.nan, np.float32), federation.examples.inputs
  )
  examples = federation.examples._replace(inputs=blank)
  return experiment._replace(federation=federation._replace(examples=examples))


def test_nobody_answers(tmp_path, capsys):
  config = small_config(**FIELDS)
  experiment, progress = played(config, lambda orders: {}, 2)
  assert int(progress.state.round) == 2
  chex.assert_trees_all_equal(
    progress.state.server_state,
    loop.begin(experiment).state.server_state,
  )
  said = capsys.readouterr().err
  assert said.count('did not answer') == 10 and '0 answers are too few' in said
  assert loop.fetch_metrics(progress).tally.skipped == 2
  players = remote_server.players(lambda orders: {})
  run = players.programs(experiment)
  evaluated = players.evaluate(experiment, run, progress)
  assert np.isnan(evaluated.score_personal).all()


@pytest.mark.slow
def test_every_machine_may_have_its_own_data_alone(tmp_path, monkeypatch):
  """The server has zeros: it reads only how many there are."""
  rng = np.random.default_rng(0)
  data = [
    [
      (rng.normal(size=(n, 6)).astype(np.float32), rng.integers(0, 3, n))
      for n in (10 + client, 4)
    ]
    for client in range(3)
  ]
  blank = [
    [(0 * inputs, 0 * labels) for inputs, labels in splits] for splits in data
  ]
  config = small_config(
    dataset='own',
    partition='own',
    model='own',
    num_clients=3,
    cohort=3,
    validation_fraction=0.0,
  )
  monkeypatch.setitem(
    hns.MODELS, 'own', lambda classes: models.Network(classes, dense=(16,))
  )

  def has(rows):
    train, test = zip(*rows)
    dataset, partition = from_clients(train, test, 3, standardise=False)
    monkeypatch.setitem(hns.DATASETS, 'own', lambda: dataset)
    monkeypatch.setitem(hns.PARTITIONS, 'own', partition)

  team = []
  for client in range(3):
    rows = list(blank)
    rows[client] = data[client]
    has(rows)
    team.append(remote_client.join(config, client, tmp_path / f'{client}'))
  has(blank)
  built = experiments.build(config)
  players = remote_server.players(exchange_with(team))
  run, found = players.programs(built), players.begin(built)
  for _ in range(2):
    found = players.step(built, run, found)
  has(data)
  built = experiments.build(config)
  run, expected = loop.programs(built), loop.begin(built)
  for _ in range(2):
    expected = loop.step(built, run, expected, [0, 1, 2])
  chex.assert_trees_all_equal(
    found.state.server_state, expected.state.server_state
  )


@pytest.mark.parametrize(
  'name,value', [('loss', np.nan), ('loss', 1e300), ('score', 1e30)]
)
def test_forged_numbers_are_refused(name, value, tmp_path, capsys):
  config = small_config(**FIELDS)
  forged = lambda order, index, reply: (
    reply._replace(told=reply.told | {name: value}) if index == 0 else reply
  )
  exchange = exchange_with(members(config, tmp_path), forged)
  experiment, progress = played(config, exchange, 1)
  assert f'client 0 is left out: it tells no {name}' in capsys.readouterr().err
  players = remote_server.players(exchange)
  found = players.evaluate(experiment, players.programs(experiment), progress)
  # Who tells a false loss may still tell a score.
  assert len(found.score_personal) == 4 + (name == 'loss')
  assert np.all(found.score_personal <= 20)


def test_a_huge_upload_is_said_and_left_out(tmp_path, capsys):
  """Every number of it is finite; the others count."""
  config = small_config(**FIELDS, algorithm='fedavg')
  experiment = build_once(config)
  run = remote_server.programs(experiment)
  huge = jax.tree.map(lambda x: np.full_like(x, 3e38), run.upload.value)

  def spoil(order, index, reply):
    if index != 3:
      return reply
    header = remote_client.envelope(experiment, order.number, 'upload')
    message = run.upload._replace(value=huge)
    return reply._replace(payload=wire.encode(wire.FLOATS, message, header))

  _, progress = played(
    config, exchange_with(members(config, tmp_path), spoil), 1
  )
  said = capsys.readouterr().err
  assert said.count('left out') == 1 and 'client 3 is left out: it is' in said
  tally = loop.fetch_metrics(progress).tally
  assert (tally.rejected, tally.dropped) == (1, 0)
  expected = simulated(config, [[0, 1, 2, 4]])
  chex.assert_trees_all_close(
    progress.state.server_state, expected.state.server_state, rtol=1e-5
  )


def test_other_files_in_a_clients_folder_stay(tmp_path):
  config = small_config(**FIELDS, **KEEPS)
  team = members(config, tmp_path)
  (tmp_path / '1').mkdir()
  for name in 'mine.npz', 'round-x.npz':
    (tmp_path / '1' / name).write_bytes(b'mine')
  played(config, exchange_with(team), 2)
  remote_client.forget(team[1])
  left = sorted(path.name for path in (tmp_path / '1').iterdir())
  assert left == ['mine.npz', 'round-x.npz']


@pytest.mark.parametrize('content', [b'', b'not an archive', None])
def test_a_damaged_state_is_a_lost_one(content, tmp_path):
  """Also one of other shapes."""
  config = small_config(**FIELDS, **KEEPS)
  team = members(config, tmp_path)
  bases = []

  def damages(order, index, reply):
    path = tmp_path / '0' / 'round-1.npz'
    if index == 0:
      bases.append(order.base)
      if order.number == 1 and content is None:
        with np.load(path) as arrays:
          np.savez(path, **{name: arrays[name][:1] for name in arrays.files})
      elif order.number == 1:
        path.write_bytes(content)
    return reply

  played(config, exchange_with(team, damages), 3)
  assert bases == [0, 1, 0]
