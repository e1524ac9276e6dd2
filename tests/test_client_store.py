"""What clients keep, on the host."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hns.engine import client_store, parallel

BIRTH = {'a': jnp.array([1.0, 2.0]), 'b': jnp.int8(3)}


def test_unseen_clients_are_as_born_and_seen_ones_as_left():
  store = client_store.create(BIRTH)
  ids = jnp.array([3, 1])
  new = {'a': jnp.array([[5.0, 6.0], [7.0, 8.0]]), 'b': jnp.int8([9, 10])}
  client_store.keep(store, ids, new)
  got = client_store.fetch(store, np.array([1, 2, 3, parallel.ABSENT]))
  np.testing.assert_array_equal(got['a'], [[7, 8], [1, 2], [5, 6], [1, 2]])
  np.testing.assert_array_equal(got['b'], [10, 3, 9, 3])
  assert got['b'].dtype == np.int8


def test_nothing_kept_costs_nothing():
  store = client_store.create(())
  assert client_store.fetch(store, None) == ()
  client_store.keep(store, None, ())
  assert client_store.bytes_each(()) == 0
  assert client_store.bytes_each(BIRTH) == 9


def test_bools_are_kept_as_bits(tmp_path):
  """Of any shape, and as written and read."""
  initial = {'m': jnp.zeros((3, 7), bool), 'x': jnp.float32(0)}
  assert client_store.bytes_each(initial) == 3 + 4
  store = client_store.create(initial)
  masks = jax.random.uniform(jax.random.key(0), (2, 3, 7)) < 0.5
  client_store.keep(store, [4, 2], {'m': masks, 'x': jnp.array([1.0, 2.0])})
  assert store.states[4]['m'].nbytes == 3
  client_store.write(store, lambda name: open(tmp_path / name, 'wb'))
  read = client_store.read(initial, [4, 2], tmp_path)
  for held in (store, read):
    got = client_store.fetch(held, [2, 9, 4])
    assert got['m'].dtype == bool and got['x'].tolist() == [2, 0, 1]
    np.testing.assert_array_equal(got['m'], [masks[1], initial['m'], masks[0]])


def test_only_clients_that_took_part_cost_memory():
  """And a state kept is a copy, not a view of its cohort's."""
  store = client_store.create({'w': jnp.ones(1000)})
  client_store.keep(store, np.array([7]), {'w': np.full((1, 1000), 2.0)})
  assert client_store.fetch(store, np.array([7, 10**9]))['w'][
    :, 0
  ].tolist() == [2, 1]
  assert set(store.states) == {7} and store.states[7]['w'].base is None


def test_what_is_written_is_read(tmp_path):
  initial = {**BIRTH, 'c': jnp.zeros((2, 3), bool), 'd': jnp.zeros((0, 2))}
  initial |= {'half': jnp.ones(3, jnp.bfloat16), 'key': jax.random.key(5)}
  store = client_store.create(initial)
  new = {'a': jnp.ones((2, 2)), 'b': jnp.int8([9, 10])}
  new |= {'c': jnp.arange(12).reshape(2, 2, 3) > 4, 'd': jnp.zeros((2, 0, 2))}
  new |= {'half': jnp.full((2, 3), 1.5, jnp.bfloat16)}
  new |= {'key': jax.random.split(jax.random.key(6), 2)}
  client_store.keep(store, np.array([3, 1]), new)
  client_store.write(store, lambda name: open(tmp_path / name, 'wb'))
  got = client_store.read(store.initial, list(store.states), tmp_path)
  assert list(got.states) == [3, 1]
  for i, state in store.states.items():
    for name, kept in state.items():
      np.testing.assert_array_equal(got.states[i][name], kept)
      assert got.states[i][name].dtype == kept.dtype
  with pytest.raises(ValueError, match='more bytes than the clients keep'):
    client_store.read(store.initial, [3], tmp_path)
  with pytest.raises(ValueError):
    client_store.read(store.initial, [3, 1, 2], tmp_path)


@pytest.mark.parametrize('impl', ['threefry2x32', 'rbg'])
def test_a_client_may_keep_a_key_for_random_numbers(impl):
  born = jax.random.key(0, impl=impl)
  store = client_store.create({'key': born})
  keys = jax.random.split(jax.random.key(1, impl=impl), 2)
  client_store.keep(store, np.array([4, 2]), {'key': keys})
  got = client_store.fetch(store, np.array([2, 9, 4]))['key']
  assert got.dtype == born.dtype
  expected = [jax.random.key_data(key) for key in (keys[1], born, keys[0])]
  np.testing.assert_array_equal(jax.random.key_data(got), np.stack(expected))
