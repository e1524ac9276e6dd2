"""Parameters without a sign, such as biases and gains, trained as floats."""

import re
from typing import Any

import jax
import optax

from hns.errors import invalid
from hns.methods.bases import HasSign
from hns.methods.contract import (
  Client,
  Initial,
  Method,
  Params,
)
from hns.methods.lift import Beside, beside
from hns.methods.with_floats import WithFloats, both_trained, sent_beside
from hns.networks.modes import STATISTICS
from hns.networks.supermask import has_sign, to_masked


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


def keep_floats(base: Method, rate: float, has_sign: HasSign) -> Method:
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
    floats = _drawn(params, has_sign, 'local')
    frozen, server_state, client_state = base.server.init(key, params)
    return Initial(frozen, server_state, Beside(client_state, floats))

  def client_init(key, frozen, message, client_state):
    start = inside.client.init(key, frozen, message, client_state)
    return WithFloats(start, client_state.extra)

  def update(key, frozen, message, client_state, initial_params, params):
    upload, kept = inside.client.update(
      key, frozen, message, client_state, initial_params.inner, params.inner
    )
    return upload, kept._replace(extra=params.floats)

  trained = _trained(inside.client, rate)
  return inside.revise(
    client=dict(init=client_init, update=update, **trained),
    server=dict(init=init),
  )


def send_floats(base: Method, rate: float, has_sign: HasSign) -> Method:
  """`base` whose clients also train what has no sign, and send it as floats.

  The server keeps the mean (FedAvg). Both directions are two payloads.

  Args as in `keep_floats`; raises `InputError` as that does.
  """
  return sent_beside(
    base,
    lambda params: _drawn(params, has_sign, 'sent'),
    _trained(base.client, rate),
  )


def send_statistics(base: Method, first: Params) -> Method:
  """`base` whose clients also send the statistics of their batch norms.

  Each measures them on its training examples, under the model that it trained;
  the server keeps the mean, which the model has that all start from. Without
  this wrapper every client measures its own (`hns.networks.modes`), and they
  never travel. Both directions are two payloads.

  Args:
    base: any method.
    first: the statistics before round 1.
  """
  client = base.client

  def after_training(key, frozen, client_state, params, observe):
    inner = params.inner
    if client.after_training is not None:
      inner = client.after_training(key, frozen, client_state, inner, observe)
    ended = client.finalize(client_state, inner)
    variables = client.to_variables(key, frozen, ended)
    return WithFloats(inner, observe(variables))

  trained = both_trained(client, STATISTICS, optax.set_to_zero())
  answers = trained | dict(after_training=after_training)
  return sent_beside(base, lambda params: first, answers)


def _drawn(params: Params, has_sign: HasSign, choice: str) -> Params:
  """The parameters without a sign; raises `InputError` if there are none."""
  floats = to_masked(params, has_sign=has_sign)['params']
  if not jax.tree.leaves(floats):
    remedy = 'the network has no bias, gain or vector that could be trained'
    raise invalid('floats', choice, remedy)
  return floats


def _trained(base: Client, rate: float) -> dict[str, Any]:
  """How a client trains what is inside and floats, by Adam."""
  return both_trained(base, 'params', optax.adam(rate))
