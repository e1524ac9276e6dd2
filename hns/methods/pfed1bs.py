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
from hns.methods.contract import (
  Initial,
  Method,
  Params,
  ServerState,
  Variables,
)
from hns.methods.hadamard import transform
from hns.methods.parameters import (
  OPTIMIZERS,
  NetworkInfo,
  Optimizer,
  Pull,
  Rate,
)
from hns.networks.supermask import sign
from hns.once import once
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
    values = {'sketch': once(lambda w: sign(sketch(w, share)))(drawn)}
    return Initial((), ServerState(values), drawn)

  def objective(key, progress, forward, to_variables, initial_params, params):
    apart = _disagreement(sketch(params.model, share), initial_params.signs)
    weights = sum(jnp.sum(jnp.square(w)) for w in jax.tree.leaves(params.model))
    added = pull * apart + decay / 2 * weights
    return forward(to_variables(params)) + added

  def update(key, frozen, message, client_state, initial_params, params):
    signs = sign(sketch(params.model, share)).astype(jnp.int8)
    return Message({'sketch': signs}, message.weight), params.model

  signs = wire.levels(1, coded=True)
  return base.revise(
    client=dict(
      init=_client_init,
      to_variables=_to_variables,
      objective=objective,
      update=update,
    ),
    server=dict(init=init, broadcast=_broadcast, update=_vote, center=None),
    wire=dict(upload_codec=signs, download_codec=signs),
  )


def _client_init(key, frozen, message, client_state) -> Pulled:
  return Pulled(client_state, message.value['sketch'])


def _to_variables(key, frozen, params: Pulled) -> Variables:
  return {'params': params.model}


def _broadcast(key, frozen, server_state) -> Message:
  return Message(server_state.values, {'sketch': jnp.ones((), bool)})


def _vote(key, frozen, server_state, mean, total) -> ServerState:
  """The `ServerUpdate` that keeps the signs of the mean; ties change none."""
  signs = lambda old, m: jnp.where(m == 0, old, sign(m))
  new = jax.tree.map(signs, server_state.values, mean)
  kept = uploads.keep_unvoted(server_state.values, new, total)
  return server_state._replace(values=kept)


def _disagreement(z: jax.Array, v: jax.Array) -> jax.Array:
  """sum h(z) - <v, z>, float32 []; near 0 where z has the signs v."""
  # log cosh x = |x| + log((1 + exp(-2 |x|)) / 2), which does not overflow.
  x = abs(_SHARPNESS * z)
  size = (x + jnp.log1p(jnp.exp(-2 * x)) - np.log(2)) / _SHARPNESS
  return jnp.sum(size - v * z)


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
