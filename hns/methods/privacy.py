"""Local differential privacy of uploads of one bit: randomised response."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from hns import tree
from hns.errors import invalid
from hns.methods.contract import Frozen, Initial, Method
from hns.once import once
from hns.tree import Tree
from hns.wire import Codec, Message

_TOLERANCE = 1e-4


def flip_probability(epsilon: float) -> float:
  """With which a sign is turned, so that it is `epsilon`-private: below 1/2."""
  return 1 / (1 + math.exp(epsilon))


def randomise_signs(base: Method, epsilon: float) -> Method:
  """`base`, whose clients turn each sign of an upload with some probability.

  Randomised response (Warner 1965): whatever the sign was, what is sent is
  `epsilon`-locally private. The server divides by 1 - 2 p, so that it reads the
  true signs in the mean.

  Args:
    base: a method whose uploads are signs alone.
    epsilon: of one sign, above 0.

  Raises:
    InputError: uploads hold more than signs; or, before round 1, the server
      does not read them in proportion.
  """
  codec = base.wire.upload_codec
  if not isinstance(codec, Codec) or codec.symbols != 2 or codec.stepped:
    remedy = (
      'needs uploads that are signs alone: hidenseek with upload=signs or '
      'votes, fedpm or majority_vote'
    )
    raise invalid('sign_epsilon', epsilon, remedy)
  flip = flip_probability(epsilon)

  def init(key, params):
    initial = base.server.init(key, params)
    if not reads_in_proportion(base, (key, key), initial):
      remedy = 'the server reads more than signs in the uploads of this method'
      raise invalid('sign_epsilon', epsilon, remedy)
    return initial

  def update(key, frozen, message, client_state, initial_params, params):
    upload, kept = base.client.update(
      key, frozen, message, client_state, initial_params, params
    )
    draws = tree.uniform(jax.random.fold_in(key, 1), upload.value)
    turn = lambda value, draw: jnp.where(draw < flip, -value, value)
    value = jax.tree.map(turn, upload.value, draws)
    return upload._replace(value=value), kept

  def read_upload(key, frozen, message, upload):
    true = jax.tree.map(lambda v: v / (1 - 2 * flip), upload.value)
    return _read(base, key, frozen, message, upload._replace(value=true))

  return base.revise(
    client=dict(update=update), server=dict(init=init, read_upload=read_upload)
  )


def _read(
  base: Method,
  key: jax.Array,
  frozen: Frozen,
  message: Message,
  upload: Message,
) -> Message:
  if base.server.read_upload is None:
    return upload
  return base.server.read_upload(key, frozen, message, upload)


def reads_in_proportion(
  base: Method, keys: tuple[jax.Array, jax.Array], initial: Initial
) -> bool:
  """Whether twice an upload, read with another key, is read as twice it."""
  if base.server.read_upload is None:
    return True
  frozen, server_state, client_state = initial

  @once
  def read_once_and_twice(keys, frozen, server_state, client_state):
    message = base.server.broadcast(keys[0], frozen, server_state)
    params = base.client.init(keys[0], frozen, message, client_state)
    upload, _ = base.client.update(
      keys[0], frozen, message, client_state, params, params
    )
    return [
      _scaled(base, key, frozen, message, upload, factor)
      for key, factor in zip(keys, (1, 2))
    ]

  single, double = read_once_and_twice(keys, frozen, server_state, client_state)
  return all(
    np.allclose(2 * a, b, _TOLERANCE, _TOLERANCE)
    for a, b in zip(jax.tree.leaves(single), jax.tree.leaves(double))
  )


def _scaled(base, key, frozen, message, upload, factor) -> Tree:
  """What is read where an upload's values are `factor` times as large."""
  value = jax.tree.map(lambda v: factor * v.astype(jnp.float32), upload.value)
  scaled = upload._replace(value=value)
  return _read(base, key, frozen, message, scaled).value
