"""Methods as recipes: two bases, wrappers, and a dict of names.

A new method is a function that returns a `Method`; put it in `RECIPES` and
its parameters, with their tuned values, into a table of the same name in
`configs/`. What `prune` is: `(key, variables) -> mask`, see `hns.experiment`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from hns import tree, wire
from hns.federated import Birth, Method
from hns.supermask import hide, sign, signs_of
from hns.wire import Message

Prune = Callable[[jax.Array, dict[str, Any]], Any]


def dense(optimizer: optax.GradientTransformation) -> Method:
  """Float weights, averaged.

  FedAvg: McMahan et al. 2017 (arXiv 1602.05629), algorithm 1. Each
  client's weights count by its number of examples.
  """

  def everything(params):
    return Message(
      params, jax.tree.map(lambda x: jnp.ones((), x.dtype), params)
    )

  return Method(
    init=lambda key, params: Birth((), params, ()),
    download=lambda key, fixed, shared: everything(shared),
    join=lambda key, fixed, message, own: message.value,
    view=lambda key, fixed, trained: {'params': trained},
    split=lambda key, fixed, message, own, trained: (everything(trained), own),
    up=wire.floats(),
    down=wire.floats(),
    optimizer=optimizer,
  )


def supermask(
  prune: Prune,
  optimizer: optax.GradientTransformation,
  download_bits: int,
) -> Method:
  """Frozen random weights, pruned once; a sign on each survivor is trained.

  HideNseek (arXiv 2206.04385). The server's state is the mean vote v in
  [-1, 1] of each survivor. A client starts from scores v x 2u, u ~ U(0, 1]
  drawn from the round's key ("fresh dispersion": without it all weights of
  one vote flip together), trains them through the sign, and uploads the
  signs. The abstract leaves the start, the server's state and its download
  open: these are our choices.

  Args:
    prune: gives the mask of the survivors.
    optimizer: of the scores; with Adam, 1 / learning rate is about how many
      steps flip a sign that all clients voted for.
    download_bits: bits a survivor in which the mean vote travels, 1 to 8.
  """

  def init(key, params):
    prune_key, vote_key = jax.random.split(key)
    fixed = hide(params)
    del fixed['signs']
    fixed['mask'] = prune(prune_key, hide(params))
    size = sum(x.size for x in jax.tree.leaves(fixed['weights']))
    votes = jax.random.uniform(vote_key, (size,), minval=-1.0)
    votes = tree.unflatten(votes, fixed['weights'])
    return Birth(fixed, jax.tree.map(jnp.multiply, votes, fixed['mask']), ())

  def download(key, fixed, shared):
    votes = jax.tree.map(lambda v: wire.quantise(v, download_bits), shared)
    return Message(
      jax.tree.map(jnp.multiply, votes, fixed['mask']), fixed['mask']
    )

  def join(key, fixed, message, own):
    votes = tree.flatten(message.value)
    spread = 2 * (1 - jax.random.uniform(key, votes.shape))
    scores = wire.dequantise(votes, download_bits) * spread
    return tree.unflatten(scores, message.value)

  def view(key, fixed, trained):
    return {**fixed, 'signs': signs_of(trained)}

  def split(key, fixed, message, own, trained):
    signs = jax.tree.map(lambda s: sign(s).astype(jnp.int8), trained)
    return Message(signs, fixed['mask']), own

  return Method(
    init=init,
    download=download,
    join=join,
    view=view,
    split=split,
    up=wire.levels(1),
    down=wire.levels(download_bits),
    optimizer=optimizer,
  )


def personal(base: Method, mine: Callable[[str, Any], bool]) -> Method:
  """`base`, of which the leaves chosen by `mine` never leave the client.

  Arivazhagan et al. 2019 (arXiv 1912.00818) with `mine` the head. At birth
  every client holds what it would have downloaded.

  Args:
    base: a method whose `shared`, messages and `trained` are trees with the
      same paths.
    mine: told a leaf's path (`Conv_0/kernel`) and the leaf.
  """

  def theirs(held):
    return tree.split(held, mine)[1]

  def init(key, params):
    fixed, shared, own = base.init(key, params)
    message = base.download(key, fixed, shared)
    start = base.join(key, fixed, message, own)
    home = tree.split(start, mine)[0]
    return Birth((fixed, shared, message), theirs(shared), (own, home))

  def download(key, fixed, shared):
    inner, birth, _ = fixed
    message = base.download(key, inner, tree.combine(shared, birth))
    return Message(theirs(message.value), theirs(message.weight))

  def whole(fixed, message):
    return Message(*(tree.combine(m, f) for m, f in zip(message, fixed[2])))

  def join(key, fixed, message, own):
    start = base.join(key, fixed[0], whole(fixed, message), own[0])
    return tree.combine(own[1], theirs(start))

  def prepare(key, fixed, message, own, score):
    inner = base.prepare(key, fixed[0], whole(fixed, message), own[0], score)
    return inner, own[1]

  def split(key, fixed, message, own, trained):
    message, inner = base.split(
      key, fixed[0], whole(fixed, message), own[0], trained
    )
    home = tree.split(trained, mine)[0]
    return Message(theirs(message.value), theirs(message.weight)), (inner, home)

  return base._replace(
    init=init,
    download=download,
    join=join,
    view=lambda key, fixed, trained: base.view(key, fixed[0], trained),
    split=split,
    prepare=prepare,
    merge=lambda fixed, *rest: base.merge(fixed[0], *rest),
  )


def hidenseek(prune: Prune, learning_rate: float, download_bits: int) -> Method:
  """HideNseek with the paper's upload: one sign a surviving weight."""
  return supermask(prune, optax.adam(learning_rate), download_bits)


def fedavg(prune: Prune, learning_rate: float) -> Method:
  """FedAvg with SGD; nothing is pruned."""
  del prune
  return dense(optax.sgd(learning_rate))


def local(prune: Prune, learning_rate: float) -> Method:
  """Every client alone: FedAvg of which nothing is shared."""
  return personal(fedavg(prune, learning_rate), lambda path, leaf: True)


RECIPES = {'hidenseek': hidenseek, 'fedavg': fedavg, 'local': local}
