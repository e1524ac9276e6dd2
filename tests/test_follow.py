"""Weights that did not change are sent as most of their unit."""

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import small

from hns.methods import follow
from hns.methods.contract import Client, Method, Server, Wire
from hns.wire import Message

# Four inputs, three units: the last has one weight left, the second two.
MASK = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 0, 0]], bool)


def upload(change, mask=MASK, select=lambda array: array):
  """The signs that are sent of a change, 0 where pruned; +1 for none.

  Of what `select` leaves of each array of the kernel's shape.
  """

  def update(key, frozen, message, client_state, initial_params, params):
    assert frozen.keys() == {'mask'}
    signs = jnp.where(params['k'] < initial_params['k'], -1.0, 1.0)
    return Message({'k': signs}, message.weight), client_state

  init = lambda key, params: ({'mask': {'k': mask}}, (), ())
  base = Method(
    Client(None, None, update, None), Server(init, None, None), Wire(None, None)
  )
  method = follow.follow_units(base)
  frozen, _, client_state = method.server.init(None, None)
  whole = lambda x: x['k'].shape == mask.shape
  frozen = {
    name: {'k': select(x['k']) if whole(x) else x['k']}
    for name, x in frozen.items()
  }
  change = select(np.float32(change))
  start, end = np.zeros(change.shape), jnp.asarray(change)
  sent, _ = method.client.update(
    None, frozen, Message(None, None), client_state, {'k': start}, {'k': end}
  )
  return np.asarray(sent.value['k']) * select(mask)


def test_what_did_not_change_follows_and_does_not_vote():
  change = MASK * np.array([-0.1, 0.3, 0.2])
  change[1:, 0] = 0
  got = upload(change)
  np.testing.assert_array_equal(got[:, 0], [-1, -1, -1, -1])
  np.testing.assert_array_equal(got[:, 1:], MASK[:, 1:])


def test_what_changed_is_sent_as_it_is():
  change = MASK * np.array([[1, -1, 1], [-1e-9, 1, 0], [2, 0, 0], [3, 0, 0]])
  np.testing.assert_array_equal(upload(change), np.sign(change))


def test_units_without_a_majority_keep_the_choice_of_the_coin():
  for unit in ([0.1, -0.3, 0, 0], [0, 0, 0, 0]):
    change = MASK * np.ones(3)
    change[:, 0] = unit
    expected = np.where(np.array(unit) < 0, -1, 1)
    np.testing.assert_array_equal(upload(change)[:, 0], expected)


@pytest.mark.parametrize('first', [0, 32])
def test_a_vector_of_survivors_sends_what_its_kernel_does(first):
  """Also where fewer weights are left than the layer has units."""
  rng = np.random.RandomState(0)
  mask = (rng.rand(6, 40) < 0.7) & (np.arange(40) >= first)
  change = np.where(rng.rand(6, 40) < 0.4, 0, rng.randn(6, 40)) * mask
  whole = upload(change, mask)
  got = upload(change, mask, lambda array: array[mask])
  np.testing.assert_array_equal(got, whole[mask])
  assert np.any(got != np.where(change[mask] < 0, -1, 1))


@pytest.mark.parametrize('upload', ['change', 'signs'])
def test_hidenseek_follows_where_changes_are_sent(upload):
  fields = dict(algorithm='hidenseek', model='tiny')
  experiment = small(**fields, hidenseek={'upload': upload})
  assert ('unit' in experiment.initial.frozen) == (upload == 'change')
