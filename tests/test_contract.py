"""The contract of a method: every question is asked, and can be lifted."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import play, small, small_config

import hns
from hns import tree, wire
from hns.engine import rounds
from hns.errors import InputError
from hns.methods import contract, lift, uploads, wrappers
from hns.methods.bases import dense
from hns.methods.contract import ServerState
from hns.methods.lift import Beside, arguments_of
from hns.methods.recipes import RECIPES
from hns.runs import experiment, loop

PARTS = contract.Client, contract.Server, contract.Wire
QUESTIONS = [(p, name) for p in PARTS for name in arguments_of(p)]


def asked(log):
  """A method whose questions note what they are told, and answer 'inner'."""

  def answer(question):
    def noted(*told):
      log[question] = told
      return ('upload', 'inner') if question == 'update' else 'inner'

    return noted

  parts = []
  for part in PARTS:
    questions = {name: answer(name) for name in arguments_of(part)}
    others = dict.fromkeys(set(part._fields) - set(questions))
    parts.append(part(**questions, **others))
  return contract.Method(*parts)


def test_a_part_has_questions_and_one_optimizer_or_codecs():
  others = [set(p._fields) - set(arguments_of(p)) for p in PARTS]
  codecs = {'upload_codec', 'download_codec'}
  assert others == [{'optimizer'}, set(), codecs]
  assert arguments_of(contract.Client)['init'] == (
    *('key', 'frozen', 'message', 'client_state'),
  )


@pytest.mark.parametrize('part,question', QUESTIONS)
def test_every_question_is_lifted(part, question):
  """Also one that the contract gets later: they are listed by their types."""
  log = {}
  base = asked(log)
  lifted = lift.beside(base)
  place = PARTS.index(part)
  before, after = (getattr(m[place], question) for m in (base, lifted))
  names = arguments_of(part)[question]
  if 'client_state' not in names:
    assert after is before
    return
  told = [Beside('own', 'more') if n == 'client_state' else n for n in names]
  answer = after(*told)
  noted = dict(zip(names, log[question]))
  assert noted == {n: n for n in names} | {'client_state': 'own'}
  kept = answer[1] if question == 'update' else answer
  if question in ('update', 'before_training'):
    assert kept == Beside('inner', 'more')


def test_a_view_sees_all_arguments_and_leaves_other_questions_alone():
  log = {}
  base = asked(log)
  seen = lift.lift(base, message=lambda given: (given['frozen'], 'whole'))
  seen.client.init('key', 'frozen', 'part', 'state')
  assert log['init'] == ('key', 'frozen', ('frozen', 'whole'), 'state')
  assert seen.client.finalize is base.client.finalize


def noisy(read: bool):
  """FedAvg whose clients add noise that only their key tells."""
  base = dense(optax.sgd(0.05), uploads.full())

  def noise(key, value):
    draws = tree.uniform(key, value)
    return jax.tree.map(lambda x: 100 * x, draws)

  def update(key, frozen, message, client_state, initial_params, params):
    sent = jax.tree.map(jnp.add, params, noise(key, params))
    return wire.Message(sent, message.weight), client_state

  def read_upload(key, frozen, message, upload):
    back = jax.tree.map(jnp.subtract, upload.value, noise(key, upload.value))
    return upload._replace(value=back)

  return base.revise(
    client=dict(update=update),
    server=dict(read_upload=read_upload if read else None),
  )


@pytest.mark.parametrize('width', [1, 2])
def test_the_server_reads_an_upload_with_the_clients_key(width):
  experiment = small(algorithm='fedavg')
  plain = play(experiment, 2, width=width)
  read = play(experiment, 2, width=width, method=noisy(read=True))
  a, b = (tree.flatten(p.state.server_state) for p in (plain, read))
  np.testing.assert_allclose(a, b, atol=1e-3)
  unread = play(experiment, 1, width=width, method=noisy(read=False))
  c = tree.flatten(unread.state.server_state)
  assert np.mean(np.abs(c - b)) > 10
  # What is counted is the upload, not what the server reads in it.
  np.testing.assert_array_equal(plain.report.uplink, read.report.uplink)


def test_what_cannot_be_read_is_rejected():
  def read_upload(key, frozen, message, upload):
    lost = jax.tree.map(lambda x: x / 0, upload.value)
    return upload._replace(value=lost)

  experiment = small(algorithm='fedavg')
  method = experiment.round_config.method
  method = method.revise(server=dict(read_upload=read_upload))
  played = play(experiment, method=method)
  assert np.all(played.report.rejected)
  np.testing.assert_array_equal(
    tree.flatten(played.state.server_state),
    tree.flatten(experiment.initial.server_state),
  )


def drawing(network: Any):
  """FedAvg with a typed key in every state: the server draws in its update."""
  del network
  base = dense(optax.sgd(0.05), uploads.full())

  def init(key, drawn):
    frozen, server_state, _ = base.server.init(key, drawn)
    state = server_state._replace(memory=key)
    return contract.Initial({'key': key}, state, {'key': key})

  def update(key, frozen, server_state, mean, total):
    folded = jax.random.key_data(frozen['key'])[0]
    mixed = jax.random.fold_in(key, folded)
    moved = base.server.update(key, (), server_state, mean, total)
    noise = tree.uniform(server_state.memory, moved.values)
    values = jax.tree.map(lambda x, n: x + 0.001 * n, moved.values, noise)
    return ServerState(values, mixed)

  def client_update(key, frozen, message, client_state, initial, params):
    return wire.Message(params, message.weight), {'key': key}

  plain = lift.lift(base, frozen=lambda given: ())
  return plain.revise(
    client=dict(update=client_update),
    server=dict(init=init, update=update, broadcast=_broadcast(base)),
  )


def _broadcast(base):
  def broadcast(key, frozen, server_state):
    return base.server.broadcast(key, (), server_state._replace(memory=()))

  return broadcast


def test_the_server_draws_with_a_key_of_its_own_every_round(monkeypatch):
  monkeypatch.setitem(RECIPES, 'drawing', drawing)
  found = experiment.build(small_config(algorithm='drawing', drawing={}))
  first, second = (play(found, n).state.server_state for n in (1, 2))
  again = play(found, 2).state.server_state
  data = lambda state: jax.random.key_data(state.memory).tolist()
  assert data(first) != data(second) == data(again)
  keys = rounds.round_keys(found.key, 0)
  drawn = [tuple(jax.random.key_data(k).tolist()) for k in keys]
  assert len(set(drawn)) == len(drawn)


def test_any_state_may_hold_a_key(monkeypatch, tmp_path):
  """A run that is stopped and goes on draws what one at a stretch draws."""
  is_head = lambda path, leaf: path.startswith('Dense_1')
  recipe = lambda network: wrappers.keep_local(drawing(network), is_head)
  monkeypatch.setitem(RECIPES, 'drawing', recipe)
  fields = dict(algorithm='drawing', drawing={}, eval_every=3)
  whole = experiment.run(small_config(rounds=3, **fields), tmp_path / 'whole')
  experiment.run(small_config(rounds=2, **fields), tmp_path / 'parts')
  parts = experiment.run(small_config(rounds=3, **fields), tmp_path / 'parts')
  drop = lambda row: {k: v for k, v in row.items() if 'seconds' not in k}
  assert drop(whole[-1]) == drop(parts[-1])


def built(monkeypatch, **parts):
  """An experiment of FedAvg with other answers to some questions."""

  def recipe(network):
    return dense(optax.sgd(0.05), uploads.full()).revise(**parts)

  monkeypatch.setitem(RECIPES, 'mine', recipe)
  return experiment.build(small_config(algorithm='mine', mine={}))


def sends(value, weight):
  """A `ClientUpdate` of a value and a weight, each a function of a leaf."""

  def update(key, frozen, message, client_state, initial_params, params):
    change = jax.tree.map(jnp.subtract, params, initial_params)
    leaf = jax.tree.map
    return wire.Message(leaf(value, change), leaf(weight, change)), client_state

  return update


def test_an_upload_that_cannot_be_encoded_stops_a_run(monkeypatch):
  """Also one that only training takes out of its alphabet."""
  codec = wire.levels(4, coded=True)
  level = lambda x: (2 * jnp.floor(x * 1000) + 1).astype(jnp.int16)
  ones = lambda x: jnp.ones((), bool)
  client = dict(update=sends(level, ones))
  found = built(monkeypatch, client=client, wire=dict(upload_codec=codec))
  with pytest.raises(InputError, match='a value is no level of'):
    loop.check_payloads(found)


def test_places_do_not_travel_free(monkeypatch):
  """A client that sends a part must say which, in a mask of its own."""
  large = lambda x: abs(x) > 0.5
  found = built(monkeypatch, client=dict(update=sends(lambda x: x, large)))
  with pytest.raises(InputError, match='wire.kept_mask'):
    loop.check_payloads(found)


def keeps(client_state):
  return lambda key, frozen, message, before, start, params: (
    wire.Message(params, message.weight),
    client_state,
  )


BROKEN = [
  (
    dict(client=dict(update=keeps({'a': jnp.ones(3)}))),
    'client.update .* a is',
  ),
  (
    dict(client=dict(update=lambda *given: given[-1])),
    r'client.update must return \(Message, client_state\)',
  ),
  (
    dict(server=dict(update=lambda k, f, s, m, t: ServerState(m, {'b': m}))),
    'server.update must return a state like that of server.init: ',
  ),
  (
    dict(
      server=dict(
        update=lambda k, f, s, m, t: s._replace(
          values=jax.tree.map(lambda x: x.astype(jnp.bfloat16), m)
        )
      )
    ),
    r'server.update returns \S*kernel as bfloat16\[.*server.init gave float32',
  ),
]


@pytest.mark.parametrize('parts,said', BROKEN)
def test_a_state_that_changes_its_form_is_named(monkeypatch, parts, said):
  with pytest.raises(InputError, match=f"^algorithm='mine': {said}"):
    built(monkeypatch, **parts)


def test_a_recipe_returns_a_method(monkeypatch):
  monkeypatch.setitem(RECIPES, 'mine', lambda network: None)
  with pytest.raises(InputError, match='must return a Method, not NoneType'):
    experiment.build(small_config(algorithm='mine', mine={}))


def test_the_front_door_steps_through_the_rounds_of_a_run():
  found = small(algorithm='fedavg')
  rows = list(loop.train(found, 2, 1))
  programs, progress = hns.programs(found), hns.begin(found)
  for row in rows:
    progress = hns.step(found, programs, progress)
    evaluated = hns.evaluate(found, programs, progress)
    right = np.sum(evaluated.score_global)
    assert row['global_accuracy'] == right / np.sum(evaluated.count)
  assert {'build', 'run', 'step', 'METHODS'} <= set(dir(hns))
