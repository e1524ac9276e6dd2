"""What wraps a method: what stays at home, what is remembered, what pulls."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hns import tree, wire
from hns.errors import invalid
from hns.methods.federated import Birth, Method, Server, everything
from hns.wire import Message


def beside(base: Method) -> Method:
  """`base`, whose clients keep (what it keeps, something more)."""
  news = lambda fixed, message, own: base.news(fixed, message, own[0])

  def prepare(key, fixed, message, own, score):
    return base.prepare(key, fixed, message, own[0], score), own[1]

  return base._replace(
    prepare=prepare,
    join=lambda key, fixed, message, own: base.join(
      key, fixed, message, own[0]
    ),
    news=everything if base.news is everything else news,
    places=lambda own: base.places(own[0]),
    settle=lambda own, trained: base.settle(own[0], trained),
  )


def inside(function: Callable) -> Callable:
  """A base's `function` for `personal`: what never travels is that of birth."""
  whole = lambda fixed, message: Message(*map(tree.combine, message, fixed[2]))
  return lambda key, fixed, message, *rest: function(
    key, fixed[0], whole(fixed, message), *rest
  )


def personal(base: Method, mine: Callable[[str, Any], bool]) -> Method:
  """`base`, of which the leaves chosen by `mine` never leave the client.

  Arivazhagan et al. 2019 (arXiv 1912.00818) with `mine` the head. At birth
  every client holds what it would have downloaded.

  Args:
    base: a method whose messages and `trained` are trees with the same paths.
    mine: told a leaf's path (`Conv_0/kernel`) and the leaf.
  """

  kept = beside(base)
  theirs = lambda held: tree.split(held, mine)[1]
  sent = lambda message: Message(*map(theirs, message))

  def init(key, params):
    fixed, shared, own = base.init(key, params)
    message = base.download(key, fixed, shared)
    home = tree.split(base.join(key, fixed, message, own), mine)[0]
    sent_state = Server(*map(theirs, shared))
    return Birth((fixed, shared, message), sent_state, (own, home))

  def download(key, fixed, shared):
    whole = Server(*map(tree.combine, shared, fixed[1]))
    return sent(base.download(key, fixed[0], whole))

  def join(*asked):
    own = asked[-1]
    return tree.combine(own[1], theirs(inside(kept.join)(*asked)))

  def split(key, fixed, message, own, start, trained):
    upload, inner = inside(base.split)(
      key, fixed, message, own[0], start, trained
    )
    home = tree.split(base.settle(inner, trained), mine)[0]
    return sent(upload), (inner, home)

  def news(fixed, message, own):
    told = inside(lambda key, *rest: kept.news(*rest))
    return sent(told(None, fixed, message, own))

  return base._replace(
    init=init,
    download=download,
    join=join,
    view=lambda key, fixed, trained: base.view(key, fixed[0], trained),
    split=split,
    prepare=inside(kept.prepare),
    merge=lambda fixed, *rest: base.merge(fixed[0], *rest),
    news=everything if base.news is everything else news,
    places=lambda own: theirs(kept.places(own)),
    settle=kept.settle,
  )


def remembering(base: Method) -> Method:
  """`base`, whose clients keep the last download and are sent what changed.

  A client keeps the symbols of the download it took part with, at first those
  of birth, which the seed gives it; it is sent, symbol by symbol, the
  difference to them modulo their number, which an entropy code shortens. One
  that missed rounds decodes as any other, because the server takes the
  difference to what this client holds: it has to know the round each client
  last took part in, and keep one download of each such round. With 32 bits,
  nothing changes.

  Raises `InputError` for a download whose leaves have a step of their own.
  """
  count = base.down.symbols
  if base.down.stepped:
    raise invalid('down', base.down, 'differences need levels without a step')
  if not count:
    return base

  def places(message):
    return jax.tree.map(
      lambda v: wire.symbols_of(base.down, v, 1), message.value
    )

  def init(key, params):
    fixed, shared, own = base.init(key, params)
    held = places(base.download(key, fixed, shared))
    return Birth(fixed, shared, (own, held))

  def news(fixed, message, own):
    def difference(now, held):
      moved = (now.astype(jnp.int16) - held) % count
      return (2 * moved - (count - 1)).astype(jnp.int16)

    value = jax.tree.map(difference, places(message), own[1])
    return Message(value, message.weight)

  def split(key, fixed, message, own, start, trained):
    upload, inner = base.split(key, fixed, message, own[0], start, trained)
    return upload, (inner, places(message))

  return beside(base)._replace(init=init, split=split, news=news)


def carrying(base: Method) -> Method:
  """`base`, whose clients go on from their own scores where the sign is kept.

  An ablation: elsewhere clients restart every round. Where the server's sign is
  no longer a client's, the server's start counts. A client keeps 32 bits a
  weight.
  """

  def init(key, params):
    fixed, shared, own = base.init(key, params)
    nothing = jax.tree.map(jnp.zeros_like, shared.values)
    return Birth(fixed, shared, (own, nothing))

  def join(key, fixed, message, own):
    start = base.join(key, fixed, message, own[0])
    return jax.tree.map(lambda s, k: jnp.where(s * k > 0, k, s), start, own[1])

  def split(key, fixed, message, own, start, trained):
    upload, inner = base.split(key, fixed, message, own[0], start, trained)
    return upload, (inner, trained)

  return beside(base)._replace(init=init, join=join, split=split)


def distance(a: Any, b: Any) -> jax.Array:
  """Half the squared Euclidean distance of two trees, float32 []."""
  gaps = jax.tree.map(lambda x, y: jnp.sum(jnp.square(x - y)), a, b)
  return sum(jax.tree.leaves(gaps), jnp.float32(0)) / 2


def proximal(base: Method, pull: float) -> Method:
  """`base` with pull / 2 |trained - start|^2 added to the loss.

  FedProx: Li et al. 2018 (arXiv 1812.06127), eq. 2.
  """

  def objective(forward, view, start, trained):
    loss = base.objective(forward, view, start, trained)
    return loss + pull * distance(trained, start)

  return base._replace(objective=objective)


class Pair(NamedTuple):
  """What Ditto trains: the model to share and the client's own."""

  shared: Any
  mine: Any


class Mine(NamedTuple):
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
    fixed, shared, own = base.init(key, params)
    nothing = Mine(shared.values, jnp.zeros((), bool))
    return Birth(fixed, shared, (own, nothing))

  def join(key, fixed, message, own):
    start, (model, begun) = base.join(key, fixed, message, own[0]), own[1]
    return Pair(
      start, jax.tree.map(lambda v, w: jnp.where(begun, v, w), model, start)
    )

  def objective(forward, view, start, trained):
    shared = view(trained._replace(mine=trained.shared))
    pulled = pull * distance(trained.mine, start.shared)
    return forward(shared) + forward(view(trained)) + pulled

  def split(key, fixed, message, own, start, trained):
    message, inner = base.split(
      key, fixed, message, own[0], start.shared, trained.shared
    )
    return message, (inner, Mine(trained.mine, jnp.ones((), bool)))

  return beside(base)._replace(
    init=init,
    join=join,
    view=lambda key, fixed, trained: base.view(key, fixed, trained.mine),
    objective=objective,
    split=split,
  )
