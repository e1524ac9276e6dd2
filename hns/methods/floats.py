"""Parameters without a sign, such as biases and gains, trained at home."""

import re
from typing import NamedTuple

import jax
import optax

from hns.errors import invalid
from hns.methods.bases import HasSign
from hns.methods.contract import Initial, Method, Params
from hns.methods.lift import Beside, beside
from hns.networks.supermask import has_sign, to_masked


class WithFloats(NamedTuple):
  """What a client trains.

  Attributes:
    inner: of the method inside, such as scores.
    floats: parameters without a sign.
  """

  inner: Params
  floats: Params


def signed_but(pattern: str) -> HasSign:
  """Kernels and embeddings, but those of whose paths `pattern` finds a part.

  Raises `InputError` for a pattern that is no regular expression.
  """
  try:
    found = re.compile(pattern).search
  except re.error as error:
    remedy = f'must be a regular expression ({error})'
    raise invalid('unsigned', pattern, remedy) from None
  none = not pattern
  return lambda path, leaf: has_sign(path, leaf) and (none or not found(path))


def train_floats(base: Method, rate: float, has_sign: HasSign) -> Method:
  """`base` whose clients also train what has no sign, and keep it.

  It never travels: a client goes on from its own, at first from what was drawn,
  as norms in FedBN (Li et al. 2021, arXiv 2102.07623).

  Args:
    base: a supermask.
    rate: learning rate of Adam for these parameters.
    has_sign: as in `base`.

  Raises `InputError` before round 1 where there are no such parameters.
  """
  inside = beside(base)

  def init(key, params):
    floats = to_masked(params, has_sign=has_sign)['params']
    if not jax.tree.leaves(floats):
      remedy = 'the network has no bias, gain or vector that could be trained'
      raise invalid('floats', 'local', remedy)
    frozen, server_state, client_state = base.server.init(key, params)
    return Initial(frozen, server_state, Beside(client_state, floats))

  def client_init(key, frozen, message, client_state):
    start = inside.client.init(key, frozen, message, client_state)
    return WithFloats(start, client_state.extra)

  def to_variables(key, frozen, params):
    variables = base.client.to_variables(key, frozen, params.inner)
    return {**variables, 'params': params.floats}

  def objective(key, progress, forward, to_variables, initial_params, params):
    of_inner = lambda inner: to_variables(params._replace(inner=inner))
    return base.client.objective(
      key, progress, forward, of_inner, initial_params.inner, params.inner
    )

  def update(key, frozen, message, client_state, initial_params, params):
    upload, kept = inside.client.update(
      key, frozen, message, client_state, initial_params.inner, params.inner
    )
    return upload, kept._replace(extra=params.floats)

  def finalize(client_state, params):
    ended = inside.client.finalize(client_state, params.inner)
    return params._replace(inner=ended)

  optimizers = {'inner': base.client.optimizer, 'floats': optax.adam(rate)}
  client = dict(
    init=client_init,
    to_variables=to_variables,
    objective=objective,
    update=update,
    finalize=finalize,
    optimizer=optax.multi_transform(optimizers, WithFloats(*optimizers)),
  )
  return inside.revise(client=client, server=dict(init=init))
