"""Methods as recipes: bases, uploads, wrappers; a dict of names.

A new method is a function that returns a `Method`; put it in `RECIPES` and
its parameters, with their tuned values, into a table of the same name in
`configs/`. Every recipe is told what is `Given` first; what its arguments mean
is said behind their defaults in `hns/config.py`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hns.methods import client_pruning, uploads, wrappers
from hns.methods.bases import (
  Prune,
  dense,
  masked,
  sampled,
  signed,
  spread_cell,
  spread_odds,
  spread_uniform,
  supermask,
)
from hns.methods.contract import Method
from hns.methods.wrappers import (
  carry_scores,
  keep_local,
  proximal,
  remember_download,
)


class Given(NamedTuple):
  """What a recipe may know of the network.

  Attributes:
    prune: `(key, variables) -> mask`, of the config's score and density.
    find_head: gives `head`, or raises `InputError` where it cannot be told.
  """

  prune: Prune
  find_head: Callable[[], str]

  @property
  def head(self) -> str:
    """The path of the output layer, such as `Dense_2`."""
    return self.find_head()


# What `upload` may be: what a client sends, and how its scores are spread.
UPLOADS = {
  'signs': (uploads.signs(), spread_uniform),
  'dithered': (uploads.dithered(), spread_uniform),
  'change': (
    uploads.delta(uploads.one_bit(), rate=2.0, momentum=0.5, bound=1.0),
    spread_cell,
  ),
  'ternary': (
    uploads.delta(
      uploads.ternary(2.1), rate=2.0, momentum=0.5, bound=1.0, feedback=True
    ),
    spread_cell,
  ),
}
OPTIMIZERS = {'adam': optax.adam, 'sgd': optax.sgd}
GATES = {'sign': signed, 'binary': masked}


def hidenseek(
  given: Given,
  learning_rate: float,
  upload: str,
  download_bits: int,
  gate: str,
  carry: bool,
  remember: bool,
) -> Method:
  """HideNseek (arXiv 2206.04385): signs on the survivors of one pruning."""
  sent, spread = UPLOADS[upload]
  optimizer = optax.adam(learning_rate)
  method = supermask(
    optimizer, sent, download_bits, given.prune, spread, GATES[gate]
  )
  method = carry_scores(method) if carry else method
  return remember_download(method) if remember else method


def hidenseek_personal(given: Given, **table: Any) -> Method:
  """HideNseek, of which the signs of the output layer stay at home."""
  return keep_local(hidenseek(given, **table), _is_head(given))


def fedavg(given: Given, learning_rate: float, optimizer: str) -> Method:
  """FedAvg: McMahan et al. 2017 (arXiv 1602.05629)."""
  del given
  return dense(OPTIMIZERS[optimizer](learning_rate), uploads.full())


def fedprox(
  given: Given, learning_rate: float, optimizer: str, pull: float
) -> Method:
  """FedProx: Li et al. 2018 (arXiv 1812.06127)."""
  return proximal(fedavg(given, learning_rate, optimizer), pull)


def fedper(given: Given, learning_rate: float, optimizer: str) -> Method:
  """FedPer: Arivazhagan et al. 2019 (arXiv 1912.00818); the head at home."""
  return keep_local(fedavg(given, learning_rate, optimizer), _is_head(given))


def ditto(
  given: Given, learning_rate: float, optimizer: str, pull: float
) -> Method:
  """Ditto: Li et al. 2020 (arXiv 2012.04221)."""
  return wrappers.ditto(fedavg(given, learning_rate, optimizer), pull)


def fedavg_quantized(
  given: Given,
  learning_rate: float,
  optimizer: str,
  upload_bits: int,
  download_bits: int,
  pruned: bool,
) -> Method:
  """FedAvg of changes in `upload_bits`, stochastic and uniform: QSGD."""
  return dense(
    OPTIMIZERS[optimizer](learning_rate),
    uploads.delta(uploads.uniform(upload_bits)),
    download_bits,
    given.prune if pruned else None,
  )


def signsgd(
  given: Given,
  learning_rate: float,
  optimizer: str,
  server_rate: float,
  feedback: bool,
  download_bits: int,
  pruned: bool,
) -> Method:
  """FedAvg of changes in one bit and a scale a layer, with error feedback."""
  return dense(
    OPTIMIZERS[optimizer](learning_rate),
    uploads.delta(uploads.one_bit(), server_rate, feedback=feedback),
    download_bits,
    given.prune if pruned else None,
  )


def local(given: Given, learning_rate: float, optimizer: str) -> Method:
  """Every client alone: FedAvg of which nothing is shared."""
  base = fedavg(given, learning_rate, optimizer)
  return keep_local(base, lambda path, leaf: True)


def lotteryfl(
  given: Given, learning_rate: float, optimizer: str, **pruning: float
) -> Method:
  """LotteryFL: Li et al. 2020 (arXiv 2008.03371)."""
  del given
  return client_pruning.lottery(OPTIMIZERS[optimizer](learning_rate), **pruning)


def hermes(
  given: Given, learning_rate: float, optimizer: str, **pruning: float
) -> Method:
  """Hermes: Li et al. 2021 (MobiCom)."""
  moved = OPTIMIZERS[optimizer](learning_rate)
  return client_pruning.hermes(moved, **pruning, head=given.head)


def fedmask(
  given: Given,
  learning_rate: float,
  upload: str,
  download_bits: int,
  target: float,
) -> Method:
  """FedMask: Li et al. 2021 (SenSys); {0, 1} masks, the head's at home.

  Ours: scores start as HideNseek's do, spread around the server's mean; all
  layers are masked.
  """
  sent, spread = UPLOADS[upload]
  optimizer = optax.adam(learning_rate)
  base = supermask(optimizer, sent, download_bits, _everything, spread, masked)
  pruned = client_pruning.prune_once(base, target)
  return keep_local(pruned, _is_head(given))


def fedpm(given: Given, learning_rate: float) -> Method:
  """FedPM: Isik et al. 2023 (arXiv 2209.15328); Bernoulli masks.

  Weights are -s or s, s the standard deviation of the layer's own draw; the
  prior starts anew every round; probabilities travel as floats.
  """
  del given
  adam = optax.adam(learning_rate)
  base = supermask(
    adam, uploads.bernoulli_samples(), 32, _everything, spread_odds, sampled
  )

  def constant(w):
    return jnp.sign(w) * jnp.sqrt(2 / np.prod(w.shape[:-1]))

  return base._replace(
    init=lambda key, params: base.init(key, jax.tree.map(constant, params))
  )


def _everything(key: jax.Array, variables: Any) -> Any:
  """A `Prune` that keeps all weights."""
  del key
  return variables['mask']


def _is_head(given: Given):
  return lambda path, leaf: path.startswith(f'{given.head}/')


RECIPES = {
  'hidenseek': hidenseek,
  'hidenseek_personal': hidenseek_personal,
  'fedavg': fedavg,
  'fedavg_finetuned': fedavg,
  'fedprox': fedprox,
  'fedper': fedper,
  'ditto': ditto,
  'local': local,
  'fedavg_quantized': fedavg_quantized,
  'signsgd': signsgd,
  'lotteryfl': lotteryfl,
  'hermes': hermes,
  'fedmask': fedmask,
  'fedpm': fedpm,
}
