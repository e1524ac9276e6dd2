"""A method whose clients train, keep or send floats beside what is inside."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hns import wire
from hns.methods.contract import (
  Center,
  Client,
  Initial,
  Method,
  Params,
  ServerState,
)
from hns.methods.lift import lift
from hns.methods.uploads import keep_unvoted
from hns.wire import Message


class WithFloats(NamedTuple):
  """What a client trains.

  Attributes:
    inner: of the method inside, such as scores.
    floats: parameters without a sign.
  """

  inner: Params
  floats: Params


def sent_beside(
  base: Method, first: Callable[[Params], Params], client: dict[str, Any]
) -> Method:
  """`base` whose messages also hold floats, of which the server keeps the mean.

  Args:
    base: the method inside.
    first: `params -> ` what the server has of them before round 1.
    client: how a client trains both, `WithFloats`.
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

  return inside.revise(
    client=dict(init=client_init, update=update) | client,
    server=_float_server(base, inside, first),
    wire=_float_wire(inside),
  )


def _float_server(
  base: Method, inside: Method, first: Callable[[Params], Params]
) -> dict[str, Callable | None]:
  """The server of `sent_beside`."""

  def init(key, params):
    floats = first(params)
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
  """The wire of `sent_beside`: what is inside, and floats."""
  upload_codec, download_codec, download_for, received, _ = inside.wire
  floats = 'floats', wire.FLOATS

  def whole_of(part):
    def whole(frozen, message, client_state):
      inner = part(frozen, message, client_state)
      return _joined(inner, message, message.value['floats'])

    return part and whole

  return dict(
    upload_codec=(('inner', upload_codec), floats),
    download_codec=(('inner', download_codec), floats),
    download_for=whole_of(download_for),
    received=whole_of(received),
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


def both_trained(
  base: Client, collection: str, optimizer: optax.GradientTransformation
) -> dict[str, Any]:
  """The answers of a client that know `WithFloats`.

  Args:
    base: the client inside.
    collection: where the network finds the floats.
    optimizer: of the floats.
  """

  def to_variables(key, frozen, params):
    variables = base.to_variables(key, frozen, params.inner)
    return {**variables, collection: params.floats}

  def objective(key, progress, forward, to_variables, initial_params, params):
    of_inner = lambda inner: to_variables(params._replace(inner=inner))
    return base.objective(
      key, progress, forward, of_inner, initial_params.inner, params.inner
    )

  def finalize(client_state, params):
    ended = base.finalize(client_state, params.inner)
    return params._replace(inner=ended)

  return dict(
    to_variables=to_variables,
    objective=objective,
    finalize=finalize,
    optimizer=_apart(base.optimizer, optimizer),
  )


def _apart(
  inner: optax.GradientTransformation, floats: optax.GradientTransformation
) -> optax.GradientTransformation:
  """Each moves its part of `WithFloats`, of which it sees nothing else.

  (`optax.multi_transform` shows each the whole tree, whose structure an inner
  one of the same kind would take for its own.)
  """
  parts = WithFloats(inner, floats)

  def init(params):
    return WithFloats(*(o.init(part) for o, part in zip(parts, params)))

  def update(grads, state, params):
    moved = [o.update(*given) for o, *given in zip(parts, grads, state, params)]
    return tuple(WithFloats(*part) for part in zip(*moved))

  return optax.GradientTransformation(init, update)
