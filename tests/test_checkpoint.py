"""Checkpoints: whole or absent, and read as they were written."""

import json
import resource

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hns import config as configs
from hns import durable, tree
from hns.engine import client_store
from hns.engine.context import State
from hns.engine.metrics import Tally
from hns.errors import InputError
from hns.runs import checkpoint, identity, record
from hns.runs.progress import Progress, snapshot

ABOUT = {'config': {'seed': 1}}


def progress(number):
  """One of a run of a vector, of which clients 7 and 2 keep something."""
  nobody = np.full(9, -1, np.int32)
  state = State(np.int32(0), {'w': np.zeros(999)})
  like = Progress(state, {}, Tally(), nobody)
  store = client_store.create(
    {'a': np.zeros(3, np.int8), 'b': np.zeros((), bool)}
  )
  held = {'a': np.full((2, 3), number, np.int8), 'b': np.array([True, False])}
  client_store.keep(store, np.array([7, 2]), held)
  state = State(np.int32(number), {'w': np.full(999, number / 7)})
  tally = Tally(rounds=1, uplink=2**40 + number, train_loss=1 / 3)
  return like._replace(store=client_store.create(store.initial)), Progress(
    state, store, tally, np.arange(9, dtype=np.int32) - number
  )


def test_the_newest_two_are_kept_and_read_back(tmp_path):
  for number in (1, 2, 10):
    like, given = progress(number)
    checkpoint.write(tmp_path, ABOUT, given)
  assert checkpoint.numbers(tmp_path) == [2, 10]
  got = checkpoint.restore(tmp_path, like)
  chex.assert_trees_all_equal(got, given)
  chex.assert_trees_all_equal_dtypes(got[:2], given[:2])
  assert type(got.tally.uplink) is int


@pytest.mark.parametrize('name', ['²', '05', 'x', '5.orbax', '٣', '-1', '7 '])
def test_what_is_not_a_checkpoint_is_let_be(tmp_path, name):
  checkpoint.write(tmp_path, ABOUT, progress(2)[1])
  (tmp_path / name).mkdir()
  (tmp_path / '9').write_text('')
  (tmp_path / '11.part').mkdir()
  (tmp_path / '12').mkdir()
  assert checkpoint.numbers(tmp_path) == [2, 12]
  checkpoint.clean(tmp_path, 2)
  left = {path.name for path in tmp_path.iterdir()}
  assert left == {'2', '9', name}
  (tmp_path / '2' / '.hidden').write_text('')
  like, given = progress(2)
  chex.assert_trees_all_equal(checkpoint.restore(tmp_path, like), given)
  for number in (3, 4):
    checkpoint.write(tmp_path, ABOUT, progress(number)[1])
  assert checkpoint.numbers(tmp_path) == [3, 4]


def test_leaves_of_every_kind_are_read_as_they_were(tmp_path):
  key, half = jax.random.key(3, impl='rbg'), jnp.bfloat16
  born = {'key': key, 'half': jnp.zeros(3, half), 'one': jnp.ones((), half)}
  born |= {'a/b': jnp.zeros(0), 'a': {'b': jnp.ones(1, jnp.int4)}, "'\n": key}
  drawn = {'key': jax.random.key(4, impl='rbg'), 'half': jnp.ones(3, half)}
  state = lambda number, more: State(jnp.int32(number), born | more)
  like, given = progress(6)
  like = like._replace(state=state(0, {}))
  given = given._replace(state=state(6, drawn))
  checkpoint.write(tmp_path, ABOUT, snapshot(given))
  got = checkpoint.restore(tmp_path, like).state
  assert jax.tree.structure(got) == jax.tree.structure(given.state)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(given.state)):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(tree.to_host(a), tree.to_host(b))


@pytest.mark.parametrize(
  'shared,said',
  [
    ({'w': np.zeros(998)}, r"\['w'\] is float64\[999\]"),
    ({'w': np.zeros(999, np.int8)}, r"\['w'\] is float64\[999\]"),
    ({'v': np.zeros(999)}, r"\.state\.server_state\['v'\] is not in both"),
    ({}, r"\.state\.server_state\['w'\] is not in both"),
  ],
)
def test_arrays_of_another_run_are_one_line(tmp_path, shared, said):
  like, given = progress(1)
  checkpoint.write(tmp_path, ABOUT, given)
  other = like._replace(state=like.state._replace(server_state=shared))
  with pytest.raises(InputError, match=f'holds other arrays .*{said}') as error:
    checkpoint.restore(tmp_path, other)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('name', ['state.npz', 'kept-0', 'about.json'])
def test_what_reads_otherwise_does_not_replace_what_was(
  tmp_path, monkeypatch, name
):
  for number in (1, 2):
    checkpoint.write(tmp_path, ABOUT, progress(number)[1])
  digest = durable.digest

  def damaged(path):
    if path.name == name:
      path.write_bytes(path.read_bytes()[:-1])
    return digest(path)

  monkeypatch.setattr(durable, 'digest', damaged)
  with pytest.raises(
    InputError, match='the files read differently from what was written'
  ):
    checkpoint.write(tmp_path, ABOUT, progress(3)[1])
  assert sorted(p.name for p in tmp_path.iterdir()) == ['1', '2']


def test_what_it_says_of_its_run_is_read_unless_damaged(tmp_path):
  for number in (1, 2):
    checkpoint.write(tmp_path, ABOUT | {'at': number}, progress(number)[1])
  (tmp_path / '1' / 'about.json').write_text('{}')
  assert checkpoint.run_infos(tmp_path) == {tmp_path / '2': ABOUT | {'at': 2}}


@pytest.mark.parametrize('read', [checkpoint.run_infos, checkpoint.restore])
def test_checkpoints_of_older_versions_are_refused(tmp_path, read):
  (tmp_path / '4').mkdir()
  (tmp_path / '4' / 'data').write_bytes(b'x')
  digests = {'data': durable.digest(tmp_path / '4' / 'data')}
  (tmp_path / '4' / 'digests.json').write_text(json.dumps(digests))
  given = (progress(4)[0],) if read is checkpoint.restore else ()
  with pytest.raises(InputError, match='4: was written by hns 0.3.0 or older'):
    read(tmp_path, *given)


@pytest.mark.parametrize('text', ['', '[]', '{}', '3', '{"state.npz": 3}', '"'])
def test_damaged_digests_are_a_damaged_checkpoint(tmp_path, text):
  checkpoint.write(tmp_path, ABOUT, progress(4)[1])
  (tmp_path / '4' / 'digests.json').write_text(text)
  with pytest.raises(InputError, match='all are damaged'):
    checkpoint.restore(tmp_path, progress(4)[0])
  assert checkpoint.run_infos(tmp_path) == {}


def test_checkpoints_are_as_seldom_as_asked_and_of_their_moment(tmp_path):
  with record.checkpoint_writer(tmp_path, ABOUT, 1e9) as save:
    save(progress(1)[1], False)
    assert checkpoint.numbers(tmp_path) == []
    save(progress(2)[1], True)
    assert checkpoint.numbers(tmp_path) == [2]
  like, given = progress(3)
  taken = snapshot(given)
  given.state.server_state['w'][:] = 0
  given.score[:] = 0
  client_store.keep(
    given.store, np.array([2]), {'a': np.ones((1, 3)), 'b': np.ones(1, bool)}
  )
  chex.assert_trees_all_equal(taken, progress(3)[1])


def test_a_full_disk_leaves_the_checkpoints_that_were(tmp_path, capfd):
  checkpoint.write(tmp_path, ABOUT, progress(5)[1])
  limit = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limit[1]))
  try:
    with pytest.raises(
      InputError, match='round 6 could not be saved .File too'
    ):
      checkpoint.write(tmp_path, ABOUT, progress(6)[1])
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
  assert capfd.readouterr().err == ''
  assert [path.name for path in tmp_path.iterdir()] == ['5']


def test_a_field_that_an_older_version_did_not_know_had_its_default():
  here = json.loads(configs.base().to_json())
  older = {name: value for name, value in here.items() if name != 'head'}
  assert identity.config_differences(older, here) == []
  # A newer version has more methods, and more fields of methods not run.
  fewer = {k: v for k, v in here.items() if k != 'eden'}
  fewer |= {'fedprox': {}, 'removed_method': {'rate': 1.0}}
  assert identity.config_differences(fewer, here) == []
  own = here | {here['algorithm']: here[here['algorithm']] | {'pull': 3.0}}
  assert len(identity.config_differences(own, here)) == 1
  assert identity.config_differences(older, here | {'head': 'x'}) == [
    "head is '' there and 'x' here"
  ]
