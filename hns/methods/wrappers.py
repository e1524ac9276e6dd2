"""Wrappers of a method: local parts, a remembered download, a pull."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hns import tree, wire
from hns.errors import InputError, invalid
from hns.methods.contract import (
  Frozen,
  Initial,
  Method,
  Params,
  ServerState,
)
from hns.methods.lift import Beside, beside, lift
from hns.once import once
from hns.tree import Tree
from hns.wire import Codec, Message


class WithLocal(NamedTuple):
  """What never changes in a method with a local part.

  Attributes:
    inner: the `frozen` of the method inside.
    server_state, message: of the whole model, before round 1. The method inside
      sees whole messages and states: their local part comes from these.
  """

  inner: Frozen
  server_state: ServerState
  message: Message


def keep_local(base: Method, is_local: Callable[[str, Tree], bool]) -> Method:
  """`base`, of which the leaves chosen by `is_local` never leave the client.

  Arivazhagan et al. 2019 (arXiv 1912.00818) with the head chosen. At first
  every client holds what it would have downloaded.

  Args:
    base: a method whose messages and `params` are trees with the same paths.
    is_local: `(path, leaf) -> bool`, the path such as `Conv_0/kernel`.
  """
  local = lambda leaves: tree.split(leaves, is_local)[0]
  shared = lambda leaves: tree.split(leaves, is_local)[1]
  inside = lift(
    beside(base),
    frozen=lambda given: given['frozen'].inner,
    message=lambda given: _combine(given['message'], given['frozen'].message),
  )
  return inside.revise(
    client=_local_client(base, inside, local, shared),
    server=_local_server(base, inside, local, shared),
    wire=_local_wire(inside, shared),
  )


def _combine(part: NamedTuple, whole: NamedTuple) -> NamedTuple:
  """A message or state whose holes are filled, field by field."""
  return type(part)(*map(tree.combine, part, whole))


def _local_server(base, inside, local, shared) -> dict[str, Callable]:
  @once
  def first(key, frozen, server_state, client_state):
    message = base.server.broadcast(key, frozen, server_state)
    return message, base.client.init(key, frozen, message, client_state)

  def init(key, params):
    frozen, server_state, client_state = base.server.init(key, params)
    message, start = first(key, frozen, server_state, client_state)
    if not _same_paths(start, message.value):
      raise InputError(
        'a local part needs a method whose params have the paths of its '
        'messages'
      )
    return Initial(
      WithLocal(frozen, server_state, message),
      ServerState(*map(shared, server_state)),
      Beside(client_state, local(start)),
    )

  def broadcast(key, frozen, server_state):
    whole = _combine(server_state, frozen.server_state)
    return Message(*map(shared, inside.server.broadcast(key, frozen, whole)))

  def center(frozen, message):
    return shared(inside.server.center(frozen, message))

  return dict(
    init=init,
    broadcast=broadcast,
    center=inside.server.center and center,
  )


def _same_paths(*trees: Tree) -> bool:
  paths = [
    [tree.path_name(p) for p, _ in jax.tree_util.tree_leaves_with_path(t)]
    for t in trees
  ]
  return paths[0] == paths[1]


def _local_client(base, inside, local, shared) -> dict[str, Callable]:
  def init(key, frozen, message, client_state):
    start = inside.client.init(key, frozen, message, client_state)
    return tree.combine(client_state.extra, shared(start))

  def update(key, frozen, message, client_state, initial_params, params):
    upload, kept = inside.client.update(
      key, frozen, message, client_state, initial_params, params
    )
    ended = base.client.finalize(kept.inner, params)
    return Message(*map(shared, upload)), kept._replace(extra=local(ended))

  return dict(init=init, update=update)


def _local_wire(inside, shared) -> dict[str, Callable | None]:
  _, _, download_for, received, kept_mask = inside.wire

  def part_of_download(frozen, message, client_state):
    return Message(*map(shared, download_for(frozen, message, client_state)))

  def part_received(frozen, message, client_state):
    return Message(*map(shared, received(frozen, message, client_state)))

  def part_of_mask(client_state):
    return shared(kept_mask(client_state))

  return dict(
    download_for=download_for and part_of_download,
    received=received and part_received,
    kept_mask=kept_mask and part_of_mask,
  )


def remember_download(base: Method) -> Method:
  """`base`, whose clients keep the last download and are sent what changed.

  A client keeps the symbols of the download it took part with, at first those
  of round 1, which the seed gives it; it is sent, symbol by symbol, the
  difference to them modulo their number, which an entropy code shortens. One
  that missed rounds decodes as any other, because the server takes the
  difference to what this client holds: it has to know the round each client
  last took part in, and keep one download of each such round. With 32 bits,
  nothing changes.

  Raises `InputError` for a download whose leaves have a step of their own.
  """
  codec = base.wire.download_codec
  if codec.stepped:
    raise invalid('down', codec, 'differences need levels without a step')
  if not codec.symbols:
    return base
  inside = beside(base)

  @once
  def first(key, frozen, server_state):
    message = base.server.broadcast(key, frozen, server_state)
    return _symbols(codec, message)

  def init(key, params):
    frozen, server_state, client_state = base.server.init(key, params)
    remembered = Beside(client_state, first(key, frozen, server_state))
    return Initial(frozen, server_state, remembered)

  def download_for(frozen, message, client_state):
    value = jax.tree.map(
      lambda now, before: _modular_difference(codec.symbols, now, before),
      _symbols(codec, message),
      client_state.extra,
    )
    return Message(value, message.weight)

  def received(frozen, message, client_state):
    moved, before = _symbols(codec, message), client_state.extra
    now = functools.partial(_restored, codec.symbols)
    value = jax.tree.map(now, moved, before, message.weight)
    return message._replace(value=value)

  def update(key, frozen, message, client_state, initial_params, params):
    upload, kept = inside.client.update(
      key, frozen, message, client_state, initial_params, params
    )
    return upload, kept._replace(extra=_symbols(codec, message))

  return inside.revise(
    client=dict(update=update),
    server=dict(init=init),
    wire=dict(download_for=download_for, received=received),
  )


def _symbols(codec: Codec, message: Message) -> Tree:
  """The symbols of a message without steps, a tree like its values.

  Of two symbols, bool: a bit where clients' states are kept.
  """
  dtype = jnp.bool_ if codec.symbols == 2 else jnp.uint8
  return jax.tree.map(
    lambda v: wire.symbols_of(codec, v, 1).astype(dtype), message.value
  )


def _modular_difference(count: int, now, before) -> jax.Array:
  """Levels of the difference of two symbols, of which there are `count`."""
  moved = (now.astype(jnp.int16) - before.astype(jnp.int16)) % count
  return (2 * moved - (count - 1)).astype(jnp.int16)


def _restored(count: int, moved, before, weight) -> jax.Array:
  """The inverse of `_modular_difference`: levels, 0 where nothing is sent."""
  now = (moved.astype(jnp.int16) + before.astype(jnp.int16)) % count
  return (2 * now - (count - 1)) * (weight != 0)


def distance(a: Params, b: Params) -> jax.Array:
  """Half the squared Euclidean distance of two trees, float32 []."""
  gaps = jax.tree.map(lambda x, y: jnp.sum(jnp.square(x - y)), a, b)
  return sum(jax.tree.leaves(gaps), jnp.float32(0)) / 2


def proximal(base: Method, pull: float) -> Method:
  """`base` with pull / 2 |params - initial_params|^2 added to the loss.

  FedProx: Li et al. 2018 (arXiv 1812.06127), eq. 2.
  """

  def objective(key, progress, forward, to_variables, initial_params, params):
    loss = base.client.objective(
      key, progress, forward, to_variables, initial_params, params
    )
    return loss + pull * distance(params, initial_params)

  return base.revise(client=dict(objective=objective))


class Pair(NamedTuple):
  """What Ditto trains: the model to share and the client's own."""

  shared: Params
  personal: Params


class PersonalModel(NamedTuple):
  """A model that a client goes on from, as Ditto's and Hermes' do.

  Attributes:
    model: its own model, once it has one.
    begun: bool [], whether it has.
  """

  model: Params
  begun: jax.Array


def ditto(base: Method, pull: float) -> Method:
  """`base` and beside it a model of the client's own, pulled to the download.

  Li et al. 2020 (arXiv 2012.04221), algorithm 1: the own model v follows
  grad f(v) + pull (v - w), w the download; here in the same steps, on the same
  batches, as the shared one, and it starts from the client's first download.
  """
  inside = beside(base)

  def init(key, params):
    frozen, server_state, client_state = base.server.init(key, params)
    nothing = PersonalModel(server_state.values, jnp.zeros((), bool))
    return Initial(frozen, server_state, Beside(client_state, nothing))

  def client_init(key, frozen, message, client_state):
    start = inside.client.init(key, frozen, message, client_state)
    own = client_state.extra
    return Pair(start, tree.where(own.begun, own.model, start))

  def objective(key, progress, forward, to_variables, initial_params, params):
    of_shared = lambda shared: to_variables(Pair(shared, shared))
    loss = inside.client.objective(
      key, progress, forward, of_shared, initial_params.shared, params.shared
    )
    pulled = pull * distance(params.personal, initial_params.shared)
    return loss + forward(to_variables(params)) + pulled

  def update(key, frozen, message, client_state, initial_params, params):
    upload, kept = inside.client.update(
      key, frozen, message, client_state, initial_params.shared, params.shared
    )
    own = PersonalModel(params.personal, jnp.ones((), bool))
    return upload, kept._replace(extra=own)

  def to_variables(key, frozen, params):
    return inside.client.to_variables(key, frozen, params.personal)

  def finalize(client_state, params):
    ended = inside.client.finalize(client_state, params.personal)
    return params._replace(personal=ended)

  client = dict(
    init=client_init,
    to_variables=to_variables,
    objective=objective,
    update=update,
    finalize=finalize,
  )
  return inside.revise(client=client, server=dict(init=init))
