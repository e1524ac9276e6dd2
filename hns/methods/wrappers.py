"""What wraps a method: what stays at home, what is remembered, what pulls."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hns import tree, wire
from hns.errors import invalid
from hns.methods.contract import Initial, Method, Server, whole_download
from hns.wire import Message


def with_client_state(base: Method) -> Method:
  """`base`, whose clients keep (what it keeps, something more)."""
  download_for = lambda frozen, message, client_state: base.download_for(
    frozen, message, client_state[0]
  )

  def before_training(key, frozen, message, client_state, score):
    return base.before_training(
      key, frozen, message, client_state[0], score
    ), client_state[1]

  return base._replace(
    before_training=before_training,
    client_init=lambda key, frozen, message, client_state: base.client_init(
      key, frozen, message, client_state[0]
    ),
    download_for=_unless_whole(base, download_for),
    kept_mask=lambda client_state: base.kept_mask(client_state[0]),
    finalize=lambda client_state, params: base.finalize(
      client_state[0], params
    ),
  )


def _unless_whole(base: Method, download_for: Callable) -> Callable:
  """`download_for`, if not all clients of `base` are sent the same."""
  is_whole = base.download_for is whole_download
  return whole_download if is_whole else download_for


def with_frozen_part(function: Callable) -> Callable:
  """A base's `function` for `keep_local`: what never travels stays as drawn."""
  whole = lambda frozen, message: Message(
    *map(tree.combine, message, frozen[2])
  )
  return lambda key, frozen, message, *rest: function(
    key, frozen[0], whole(frozen, message), *rest
  )


def keep_local(base: Method, mine: Callable[[str, Any], bool]) -> Method:
  """`base`, of which the leaves chosen by `mine` never leave the client.

  Arivazhagan et al. 2019 (arXiv 1912.00818) with `mine` the head. At first
  every client holds what it would have downloaded.

  Args:
    base: a method whose messages and `params` are trees with the same paths.
    mine: told a leaf's path (`Conv_0/kernel`) and the leaf.
  """

  kept = with_client_state(base)
  theirs = lambda held: tree.split(held, mine)[1]
  sent = lambda message: Message(*map(theirs, message))

  def init(key, params):
    frozen, server_state, client_state = base.init(key, params)
    message = base.download(key, frozen, server_state)
    home = tree.split(
      base.client_init(key, frozen, message, client_state), mine
    )[0]
    sent_state = Server(*map(theirs, server_state))
    return Initial(
      (frozen, server_state, message), sent_state, (client_state, home)
    )

  def download(key, frozen, server_state):
    whole = Server(*map(tree.combine, server_state, frozen[1]))
    return sent(base.download(key, frozen[0], whole))

  def client_init(*asked):
    client_state = asked[-1]
    return tree.combine(
      client_state[1], theirs(with_frozen_part(kept.client_init)(*asked))
    )

  def client_update(key, frozen, message, client_state, initial_params, params):
    upload, inner = with_frozen_part(base.client_update)(
      key, frozen, message, client_state[0], initial_params, params
    )
    home = tree.split(base.finalize(inner, params), mine)[0]
    return sent(upload), (inner, home)

  def download_for(frozen, message, client_state):
    told = with_frozen_part(lambda key, *rest: kept.download_for(*rest))
    return sent(told(None, frozen, message, client_state))

  return base._replace(
    init=init,
    download=download,
    client_init=client_init,
    to_variables=lambda key, frozen, params: base.to_variables(
      key, frozen[0], params
    ),
    client_update=client_update,
    before_training=with_frozen_part(kept.before_training),
    server_update=lambda frozen, *rest: base.server_update(frozen[0], *rest),
    download_for=_unless_whole(base, download_for),
    kept_mask=lambda client_state: theirs(kept.kept_mask(client_state)),
    finalize=kept.finalize,
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
  count = base.download_codec.symbols
  if base.download_codec.stepped:
    raise invalid(
      'down', base.download_codec, 'differences need levels without a step'
    )
  if not count:
    return base

  def symbols(message):
    return jax.tree.map(
      lambda v: wire.symbols_of(base.download_codec, v, 1), message.value
    )

  def init(key, params):
    frozen, server_state, client_state = base.init(key, params)
    held = symbols(base.download(key, frozen, server_state))
    return Initial(frozen, server_state, (client_state, held))

  def download_for(frozen, message, client_state):
    def difference(now, held):
      moved = (now.astype(jnp.int16) - held) % count
      return (2 * moved - (count - 1)).astype(jnp.int16)

    value = jax.tree.map(difference, symbols(message), client_state[1])
    return Message(value, message.weight)

  def client_update(key, frozen, message, client_state, initial_params, params):
    upload, inner = base.client_update(
      key, frozen, message, client_state[0], initial_params, params
    )
    return upload, (inner, symbols(message))

  return with_client_state(base)._replace(
    init=init, client_update=client_update, download_for=download_for
  )


def carry_scores(base: Method) -> Method:
  """`base`, whose clients go on from their own scores where the sign is kept.

  An ablation: elsewhere clients restart every round. Where the server's sign is
  no longer a client's, the server's start counts. A client keeps 32 bits a
  weight.
  """

  def init(key, params):
    frozen, server_state, client_state = base.init(key, params)
    nothing = jax.tree.map(jnp.zeros_like, server_state.values)
    return Initial(frozen, server_state, (client_state, nothing))

  def client_init(key, frozen, message, client_state):
    initial_params = base.client_init(key, frozen, message, client_state[0])
    return jax.tree.map(
      lambda s, k: jnp.where(s * k > 0, k, s), initial_params, client_state[1]
    )

  def client_update(key, frozen, message, client_state, initial_params, params):
    upload, inner = base.client_update(
      key, frozen, message, client_state[0], initial_params, params
    )
    return upload, (inner, params)

  return with_client_state(base)._replace(
    init=init, client_init=client_init, client_update=client_update
  )


def distance(a: Any, b: Any) -> jax.Array:
  """Half the squared Euclidean distance of two trees, float32 []."""
  gaps = jax.tree.map(lambda x, y: jnp.sum(jnp.square(x - y)), a, b)
  return sum(jax.tree.leaves(gaps), jnp.float32(0)) / 2


def proximal(base: Method, pull: float) -> Method:
  """`base` with pull / 2 |trained - start|^2 added to the loss.

  FedProx: Li et al. 2018 (arXiv 1812.06127), eq. 2.
  """

  def objective(forward, to_variables, initial_params, params):
    loss = base.objective(forward, to_variables, initial_params, params)
    return loss + pull * distance(params, initial_params)

  return base._replace(objective=objective)


class Pair(NamedTuple):
  """What Ditto trains: the model to share and the client's own."""

  shared: Any
  personal: Any


class PersonalModel(NamedTuple):
  """A model that a client goes on from, as Ditto's and Hermes' do.

  Attributes:
    model: its own model, once it has one.
    begun: bool [], whether it has.
  """

  model: Any
  begun: jax.Array


def ditto(base: Method, pull: float) -> Method:
  """`base` and beside it a model of the client's own, pulled to the download.

  Li et al. 2020 (arXiv 2012.04221), algorithm 1: the own model v follows
  grad f(v) + pull (v - w), w the download; here in the same steps, on the same
  batches, as the shared one, and it starts from the client's first download.
  """

  def init(key, params):
    frozen, server_state, client_state = base.init(key, params)
    nothing = PersonalModel(server_state.values, jnp.zeros((), bool))
    return Initial(frozen, server_state, (client_state, nothing))

  def client_init(key, frozen, message, client_state):
    initial_params, (model, begun) = (
      base.client_init(key, frozen, message, client_state[0]),
      client_state[1],
    )
    return Pair(
      initial_params,
      jax.tree.map(lambda v, w: jnp.where(begun, v, w), model, initial_params),
    )

  def objective(forward, to_variables, initial_params, params):
    server_state = to_variables(params._replace(personal=params.shared))
    pulled = pull * distance(params.personal, initial_params.shared)
    return forward(server_state) + forward(to_variables(params)) + pulled

  def client_update(key, frozen, message, client_state, initial_params, params):
    message, inner = base.client_update(
      key,
      frozen,
      message,
      client_state[0],
      initial_params.shared,
      params.shared,
    )
    return message, (inner, PersonalModel(params.personal, jnp.ones((), bool)))

  return with_client_state(base)._replace(
    init=init,
    client_init=client_init,
    to_variables=lambda key, frozen, params: base.to_variables(
      key, frozen, params.personal
    ),
    objective=objective,
    client_update=client_update,
  )
