"""Methods as recipes: bases (`hns.bases`), uploads, wrappers, a dict of names.

A new method is a function that returns a `Method`; put it in `RECIPES` and
its parameters, with their tuned values, into a table of the same name in
`configs/`. What `prune` is: `(key, variables) -> mask`, see `hns.experiment`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from hns import tree, uploads
from hns.bases import Prune, dense, narrow, supermask, wide
from hns.errors import invalid
from hns.federated import Birth, Method, Server
from hns.wire import Message


def personal(base: Method, mine: Callable[[str, Any], bool]) -> Method:
  """`base`, of which the leaves chosen by `mine` never leave the client.

  Arivazhagan et al. 2019 (arXiv 1912.00818) with `mine` the head. At birth
  every client holds what it would have downloaded.

  Args:
    base: a method whose messages and `trained` are trees with the same paths.
    mine: told a leaf's path (`Conv_0/kernel`) and the leaf.
  """

  def theirs(held):
    return tree.split(held, mine)[1]

  def init(key, params):
    fixed, shared, own = base.init(key, params)
    message = base.download(key, fixed, shared)
    start = base.join(key, fixed, message, own)
    home = tree.split(start, mine)[0]
    sent = Server(*map(theirs, shared))
    return Birth((fixed, shared, message), sent, (own, home))

  def download(key, fixed, shared):
    inner, birth, _ = fixed
    message = base.download(
      key, inner, Server(*map(tree.combine, shared, birth))
    )
    return Message(theirs(message.value), theirs(message.weight))

  def whole(fixed, message):
    return Message(*(tree.combine(m, f) for m, f in zip(message, fixed[2])))

  def join(key, fixed, message, own):
    start = base.join(key, fixed[0], whole(fixed, message), own[0])
    return tree.combine(own[1], theirs(start))

  def prepare(key, fixed, message, own, score):
    inner = base.prepare(key, fixed[0], whole(fixed, message), own[0], score)
    return inner, own[1]

  def split(key, fixed, message, own, start, trained):
    message, inner = base.split(
      key, fixed[0], whole(fixed, message), own[0], start, trained
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


def remembering(base: Method) -> Method:
  """`base`, whose clients keep the last download and are sent what changed.

  A client keeps the symbols of the download it took part with, at first those
  of birth, which the seed gives it; it is sent, symbol by symbol, the
  difference to them modulo their number, which an entropy code shortens. One
  that missed rounds decodes as any other, because the server takes the
  difference to what this client holds: it has to know the round each client
  last took part in, and keep one download of each such round. With 32 bits,
  nothing changes.
  """
  count = base.down.symbols
  if not count:
    return base

  def places(message):
    return jax.tree.map(
      lambda v: ((v + count - 1) // 2).astype(jnp.uint8), message.value
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

  def join(key, fixed, message, own):
    return base.join(key, fixed, message, own[0])

  def prepare(key, fixed, message, own, score):
    return base.prepare(key, fixed, message, own[0], score), own[1]

  def split(key, fixed, message, own, start, trained):
    upload, inner = base.split(key, fixed, message, own[0], start, trained)
    return upload, (inner, places(message))

  return base._replace(
    init=init, join=join, prepare=prepare, split=split, news=news
  )


# What `upload` may be: what a client sends, and how its scores are spread.
UPLOADS = {
  'signs': (uploads.signs(), wide),
  'dithered': (uploads.dithered(), wide),
  'change': (
    uploads.change(uploads.one_bit(), rate=2.0, momentum=0.5, bound=1.0),
    narrow,
  ),
  'ternary': (
    uploads.change(
      uploads.ternary(2.1), rate=2.0, momentum=0.5, bound=1.0, feedback=True
    ),
    narrow,
  ),
}
OPTIMIZERS = {'adam': optax.adam, 'sgd': optax.sgd}


def hidenseek(
  prune: Prune,
  learning_rate: float,
  upload: str,
  download_bits: int,
  remember: bool,
) -> Method:
  """HideNseek: signs on the survivors.

  `upload` is one of `UPLOADS`; with `remember`, downloads are differences to
  what a client held: see `remembering`.
  """
  _known('upload', upload, UPLOADS)
  sent, spread = UPLOADS[upload]
  optimizer = optax.adam(learning_rate)
  method = supermask(optimizer, sent, download_bits, prune, spread)
  return remembering(method) if remember else method


def fedavg(
  prune: Prune, learning_rate: float, optimizer: str = 'sgd'
) -> Method:
  """FedAvg; nothing is pruned."""
  del prune
  return dense(_optimizer(optimizer, learning_rate), uploads.whole())


def fedavg_quantized(
  prune: Prune,
  learning_rate: float,
  optimizer: str,
  upload_bits: int,
  download_bits: int,
  pruned: bool,
) -> Method:
  """FedAvg of changes in `upload_bits`, stochastic and uniform: QSGD."""
  return dense(
    _optimizer(optimizer, learning_rate),
    uploads.change(uploads.uniform(upload_bits)),
    download_bits,
    prune if pruned else None,
  )


def signsgd(
  prune: Prune,
  learning_rate: float,
  optimizer: str,
  server_rate: float,
  feedback: bool,
  download_bits: int,
  pruned: bool,
) -> Method:
  """FedAvg of changes in one bit and a scale a layer, with error feedback."""
  return dense(
    _optimizer(optimizer, learning_rate),
    uploads.change(uploads.one_bit(), server_rate, feedback=feedback),
    download_bits,
    prune if pruned else None,
  )


def local(prune: Prune, learning_rate: float, optimizer: str = 'sgd') -> Method:
  """Every client alone: FedAvg of which nothing is shared."""
  base = fedavg(prune, learning_rate, optimizer)
  return personal(base, lambda path, leaf: True)


def _optimizer(name: str, learning_rate: float) -> optax.GradientTransformation:
  _known('optimizer', name, OPTIMIZERS)
  return OPTIMIZERS[name](learning_rate)


def _known(field: str, name: str, names: Any) -> None:
  if name not in names:
    raise invalid(field, name, f'choose one of {", ".join(names)}')


RECIPES = {
  'hidenseek': hidenseek,
  'fedavg': fedavg,
  'fedavg_quantized': fedavg_quantized,
  'signsgd': signsgd,
  'local': local,
}
