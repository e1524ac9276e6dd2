"""Signs that cost more than they are worth are sent as most of their unit's."""

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import play, small

from hns.methods import follow
from hns.methods.contract import Client, Method, Server, Wire
from hns.wire import Message

# Four inputs, three units: the last has one weight left, the second two.
MASK = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 0, 0]], bool)


def upload(change, price, mask=MASK):
  """What `follow_units` makes of the signs of changes, 0 where pruned."""

  def update(key, frozen, message, client_state, initial_params, params):
    signs = jnp.where(params['k'] < initial_params['k'], -1.0, 1.0)
    return Message({'k': signs}, message.weight), client_state

  init = lambda key, params: ({'mask': {'k': mask}}, (), ())
  base = Method(
    Client(None, None, update, None), Server(init, None, None), Wire(None, None)
  )
  method = follow.follow_units(base, price)
  frozen, _, client_state = method.server.init(None, None)
  message = Message(None, {'k': jnp.asarray(mask)})
  start = {'k': jnp.zeros(change.shape)}
  sent, _ = method.client.update(
    None, frozen, message, client_state, start, {'k': jnp.asarray(change)}
  )
  return np.asarray(sent.value['k']) * mask


def changes(unit, others=1.0):
  change = np.where(MASK, others, 0).astype(np.float32)
  change[:, 0] = unit
  return change


def test_a_small_change_against_its_unit_is_turned_and_a_large_one_is_not():
  # Three of four go up: log2(3.5 / 1.5) bits more for the other.
  mean = lambda small: (3 + small + 3) / 7
  for size, turned in ((0.3, True), (0.6, False)):
    got = upload(changes([1, 1, 1, -size]), price=0.3)
    assert (0.3 * np.log2(3.5 / 1.5) >= size / mean(size)) == turned
    np.testing.assert_array_equal(got[:, 0], [1, 1, 1, 1 if turned else -1])
    np.testing.assert_array_equal(got[:, 1:], MASK[:, 1:])


def test_what_did_not_change_follows_and_does_not_vote():
  got = upload(changes([0, 0, 0, -1]), price=1e-6)
  np.testing.assert_array_equal(got[:, 0], [-1, -1, -1, -1])


def test_units_without_a_majority_are_sent_as_they_are():
  for unit in ([1e-3, -1e-3, 1e-3, -1e-3], [0, 0, 0, 0]):
    got = upload(changes(unit), price=10.0)
    expected = np.where(np.array(unit) < 0, -1, 1)
    np.testing.assert_array_equal(got[:, 0], expected)


def test_a_vector_of_survivors_sends_what_its_kernel_does():
  """Also where fewer weights are left than the layer has units."""
  rng = np.random.RandomState(0)
  mask = (rng.rand(6, 40) < 0.7) & (np.arange(40) > 31)
  assert 0 < mask.sum() < 40
  change = (rng.randn(6, 40) * mask).astype(np.float32)
  whole = upload(change, 2.0, mask)
  unit = follow._units(mask)[mask]
  got = follow._followed(
    2.0, jnp.where(change[mask] < 0, -1.0, 1.0), abs(change[mask]), unit, True
  )
  np.testing.assert_array_equal(got, whole[mask])
  assert np.any(got != np.where(change[mask] < 0, -1, 1))


@pytest.mark.parametrize('compact', [True, False])
def test_a_round_uploads_fewer_bytes(compact):
  bytes_up = {}
  for price in (0.0, 0.2, 1.0):
    experiment = small(
      algorithm='hidenseek',
      model='tiny',
      compact=compact,
      hidenseek={'upload': 'change', 'bit_price': price},
    )
    bytes_up[price] = int(np.sum(play(experiment).report.uplink))
  assert bytes_up[1.0] < bytes_up[0.2] < bytes_up[0.0]
