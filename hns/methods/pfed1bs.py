"""pFed1BS: personal models that share one-bit random sketches."""

import math
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hns import tree, wire
from hns.fields import Within
from hns.methods import uploads
from hns.methods.bases import dense
from hns.methods.contract import Initial, Method, Params, ServerState
from hns.methods.hadamard import transform
from hns.methods.parameters import (
  OPTIMIZERS,
  NetworkInfo,
  Optimizer,
  Pull,
  Rate,
)
from hns.networks.supermask import sign
from hns.wire import Message

_SHARPNESS = 1e4  # gamma: how fast the smooth size of a number becomes |z|


class Pulled(NamedTuple):
  """What a client of pFed1BS trains, and what its sketch is drawn to.

  Attributes:
    model: its own weights.
    signs: float32 [m], the download.
  """

  model: Params
  signs: jax.Array


def one_bit_sketches(
  optimizer: optax.GradientTransformation,
  share: float,
  pull: float,
  decay: float,
) -> Method:
  """Clients share the signs of random sketches of their own models, both ways.

  pFed1BS (Cheng et al. 2026, arXiv 2511.13144). A client's model w is its own;
  z = sqrt(n / m) S H D w is its sketch, with D random signs, H the Hadamard
  transform of n coordinates (w is padded to a power of two) and S a choice of m
  of them. It sends sign(z); the server sends back v, the signs of the weighted
  mean. A client minimises its loss + pull (sum h(z) - <v, z>) + decay / 2
  |w|^2, with h(z) = log cosh(gamma z) / gamma, a smooth |z|: signs other than
  v's cost. Ours, where its text was not to be had in full: gamma is 1e4; v is
  at first of the network as drawn, which all clients start from. There is no
  global model: what is evaluated as such is the network as drawn.

  Args:
    optimizer: of the weights.
    share: of m in the number of weights.
    pull: towards v.
    decay: of the weights.
  """
  base = dense(optimizer, uploads.full())

  def init(key, params):
    drawn = base.server.init(key, params).server_state.values
    values = {'sketch': sign(sketch(drawn, share))}
    return Initial((), ServerState(values), drawn)

  def objective(key, progress, forward, to_variables, initial_params, params):
    z, v = sketch(params.model, share), initial_params.signs
    # log cosh x = |x| + log((1 + exp(-2 |x|)) / 2), which does not overflow.
    x = abs(_SHARPNESS * z)
    size = (x + jnp.log1p(jnp.exp(-2 * x)) - np.log(2)) / _SHARPNESS
    weights = sum(jnp.sum(jnp.square(w)) for w in jax.tree.leaves(params.model))
    drawn = pull * jnp.sum(size - v * z) + decay / 2 * weights
    return forward(to_variables(params)) + drawn

  def update(key, frozen, message, client_state, initial_params, params):
    signs = sign(sketch(params.model, share)).astype(jnp.int8)
    return Message({'sketch': signs}, message.weight), params.model

  def server_update(key, frozen, server_state, mean, total):
    # A tie changes nothing.
    vote = lambda old, m: jnp.where(m == 0, old, sign(m))
    signs = jax.tree.map(vote, server_state.values, mean)
    return server_state._replace(
      values=uploads.keep_unvoted(server_state.values, signs, total)
    )

  return base.revise(
    client=dict(
      init=lambda key, frozen, message, client_state: Pulled(
        client_state, message.value['sketch']
      ),
      to_variables=lambda key, frozen, params: {'params': params.model},
      objective=objective,
      update=update,
    ),
    server=dict(init=init, broadcast=_broadcast, update=server_update),
    wire=dict(
      upload_codec=wire.levels(1, coded=True),
      download_codec=wire.levels(1, coded=True),
    ),
  )


def _broadcast(key, frozen, server_state) -> Message:
  return Message(server_state.values, {'sketch': jnp.ones((), bool)})


def sketch(model: Params, share: float) -> jax.Array:
  """A model's sketch, float32 [m], m = round(share x weights), at least 1."""
  vector = tree.flatten(model)
  size = 1 << (vector.size - 1).bit_length()
  count = max(1, round(share * vector.size))
  # The same for all clients and rounds: part of the method, not of a run.
  draw = np.random.default_rng(0)
  signs = draw.choice(np.array([-1, 1], np.float32), vector.size)
  rows = draw.choice(size, count, replace=False)
  padded = jnp.pad(vector * signs, (0, size - vector.size))
  return transform(padded)[rows] * np.sqrt(np.float32(size / count))


def pfed1bs(
  network: NetworkInfo,
  learning_rate: Rate = 0.05,
  optimizer: Optimizer = 'sgd',
  share: Annotated[float, Within(0, 1, '(]')] = 0.1,
  pull: Pull = 5e-4,
  decay: Annotated[float, Within(0, math.inf, '[)')] = 1e-5,
) -> Method:
  """pFed1BS: Cheng et al. 2026 (arXiv 2511.13144); one-bit sketches.

  Args:
    share: bits of a sketch a weight
    pull: how strongly a sketch is drawn to the server's signs
    decay: of the weights
  """
  del network
  moved = OPTIMIZERS[optimizer](learning_rate)
  return one_bit_sketches(moved, share, pull, decay)
