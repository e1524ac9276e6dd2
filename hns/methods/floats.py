"""Parameters without a sign, such as biases and gains, trained as floats."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hns import wire
from hns.errors import invalid
from hns.methods.bases import HasSign
from hns.methods.contract import (
  Center,
  Client,
  Initial,
  Method,
  Params,
  ServerState,
)
from hns.methods.lift import Beside, beside, lift
from hns.methods.uploads import keep_unvoted
from hns.networks.supermask import has_sign, to_masked
from hns.wire import Message


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
  inside = lift(
    base,
    server_state=lambda given: _inner_state(given['server_state']),
    message=lambda given: _inner(given['message']),
    upload=lambda given: _inner(given['upload']),
    mean=lambda given: given['mean']['inner'],
    total=lambda given: given['total']['inner'],
  )

  def client_init(key, frozen, message, client_state):
    start = inside.client.init(key, frozen, message, client_state)
    return WithFloats(start, message.value['floats'])

  def update(key, frozen, message, client_state, initial_params, params):
    upload, kept = inside.client.update(
      key, frozen, message, client_state, initial_params.inner, params.inner
    )
    return _joined(upload, message, params.floats), kept

  client = dict(init=client_init, update=update)
  return inside.revise(
    client=client | _trained(base.client, rate),
    server=_float_server(base, inside, has_sign),
    wire=_float_wire(inside),
  )


def _float_server(
  base: Method, inside: Method, has_sign: HasSign
) -> dict[str, Callable | None]:
  """The server of `send_floats`."""

  def init(key, params):
    floats = _drawn(params, has_sign, 'sent')
    frozen, (values, memory), client_state = base.server.init(key, params)
    both = {'inner': values, 'floats': floats}
    return Initial(frozen, ServerState(both, memory), client_state)

  def broadcast(key, frozen, server_state):
    message = inside.server.broadcast(key, frozen, server_state)
    floats = server_state.values['floats']
    ones = jax.tree.map(lambda x: jnp.ones((), bool), floats)
    return Message(
      {'inner': message.value, 'floats': floats},
      {'inner': message.weight, 'floats': ones},
    )

  def read_upload(key, frozen, message, upload):
    read = inside.server.read_upload(key, frozen, message, upload)
    return _joined(read, upload, upload.value['floats'])

  def update(key, frozen, server_state, mean, total):
    after = inside.server.update(key, frozen, server_state, mean, total)
    values = {
      'inner': after.values,
      'floats': keep_unvoted(
        server_state.values['floats'], mean['floats'], total['floats']
      ),
    }
    return ServerState(values, after.memory)

  return dict(
    init=init,
    broadcast=broadcast,
    read_upload=inside.server.read_upload and read_upload,
    center=_float_center(inside),
    update=update,
  )


def _float_center(inside: Method) -> Center:
  """Floats are sent as they are: what was downloaded is their center."""

  def center(frozen, message):
    inner = jax.tree.map(jnp.zeros_like, message.value['inner'])
    if inside.server.center is not None:
      inner = inside.server.center(frozen, message)
    return {'inner': inner, 'floats': message.value['floats']}

  return center


def _float_wire(inside: Method) -> dict[str, Any]:
  """The wire of `send_floats`: what is inside, and floats."""
  upload_codec, download_codec, download_for, received, _ = inside.wire
  floats = 'floats', wire.FLOATS

  def both(part):
    def whole(frozen, message, client_state):
      inner = part(frozen, message, client_state)
      return _joined(inner, message, message.value['floats'])

    return part and whole

  return dict(
    upload_codec=(('inner', upload_codec), floats),
    download_codec=(('inner', download_codec), floats),
    download_for=both(download_for),
    received=both(received),
  )


def _inner(message: Message) -> Message:
  return Message(message.value['inner'], message.weight['inner'])


def _inner_state(server_state: ServerState) -> ServerState:
  return server_state._replace(values=server_state.values['inner'])


def _joined(inner: Message, like: Message, floats: Params) -> Message:
  """A message of both, whose floats weigh as those of `like`."""
  return Message(
    {'inner': inner.value, 'floats': floats},
    {'inner': inner.weight, 'floats': like.weight['floats']},
  )


def _drawn(params: Params, has_sign: HasSign, choice: str) -> Params:
  """The parameters without a sign; raises `InputError` if there are none."""
  floats = to_masked(params, has_sign=has_sign)['params']
  if not jax.tree.leaves(floats):
    remedy = 'the network has no bias, gain or vector that could be trained'
    raise invalid('floats', choice, remedy)
  return floats


def _trained(base: Client, rate: float) -> dict[str, Any]:
  """How a client trains both: the answers that know `WithFloats`."""

  def to_variables(key, frozen, params):
    variables = base.to_variables(key, frozen, params.inner)
    return {**variables, 'params': params.floats}

  def objective(key, progress, forward, to_variables, initial_params, params):
    of_inner = lambda inner: to_variables(params._replace(inner=inner))
    return base.objective(
      key, progress, forward, of_inner, initial_params.inner, params.inner
    )

  def finalize(client_state, params):
    ended = base.finalize(client_state, params.inner)
    return params._replace(inner=ended)

  optimizers = {'inner': base.optimizer, 'floats': optax.adam(rate)}
  return dict(
    to_variables=to_variables,
    objective=objective,
    finalize=finalize,
    optimizer=optax.multi_transform(optimizers, WithFloats(*optimizers)),
  )
