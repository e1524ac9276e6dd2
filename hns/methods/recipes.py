"""Methods as recipes: bases, uploads, wrappers; a dict of names.

A method is a function in `RECIPES` that returns a `Method`. Its first argument
is what it may know of the network. The others are the fields of its table in a
config: defaults, types, limits and texts come from its signature and docstring
(`hns.fields`).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hns import tree
from hns.errors import invalid
from hns.fields import OF_RUN, fields_of, same_fields
from hns.methods import client_pruning, uploads, wrappers
from hns.methods.bases import (
  dense,
  masked,
  sampled,
  spread_odds,
  supermask,
)
from hns.methods.contract import Method, Variables
from hns.methods.eden import eden
from hns.methods.fedbat import fedbat
from hns.methods.fedbif import fedbif
from hns.methods.fedmrn import fedmrn
from hns.methods.floats import signed_but
from hns.methods.follow import follow_units
from hns.methods.hermes import prune_units
from hns.methods.parameters import (
  FLOATS,
  GATES,
  OPTIMIZERS,
  UPLOADS,
  Bits,
  CutShare,
  Floats,
  Gate,
  Kept,
  Momentum,
  NetworkInfo,
  Optimizer,
  Pruned,
  Pull,
  Rate,
  ServerRate,
  Threshold,
  Unsigned,
  UploadBits,
  UploadName,
)
from hns.methods.pfed1bs import pfed1bs
from hns.methods.ssfl import ssfl
from hns.methods.votes import doublesqueeze, majority_vote
from hns.methods.wrappers import keep_local, proximal, remember_download
from hns.networks.supermask import has_sign
from hns.once import once
from hns.tree import Tree


def hidenseek(
  network: NetworkInfo,
  learning_rate: Rate = 0.03,
  upload: UploadName = OF_RUN,
  gate: Gate = 'sign',
  download_bits: Bits = 1,
  remember: bool = True,
  server_rate: ServerRate = 4.0,
  momentum: Momentum = 0.5,
  unsigned: Unsigned = '',
  floats: Floats = 'frozen',
  floats_rate: Rate = 0.003,
) -> Method:
  """HideNseek (arXiv 2206.04385): signs on the survivors of one pruning.

  Args:
    remember: clients keep the last download and are sent what changed
    floats_rate: of Adam for floats=local and floats=sent
  """
  signed = signed_but(unsigned)
  sent, spread = UPLOADS[upload](server_rate, momentum)
  optimizer = optax.adam(learning_rate)
  method = supermask(
    optimizer, sent, download_bits, network.prune, spread, GATES[gate], signed
  )
  method = follow_units(method) if upload == 'change' else method
  method = remember_download(method) if remember else method
  return FLOATS[floats](method, floats_rate, signed)


@same_fields(hidenseek)
def hidenseek_personal(network: NetworkInfo, **table: Any) -> Method:
  """HideNseek whose clients keep the signs of the output layer local."""
  given = {
    k: field.default for k, field in fields_of(hidenseek).items()
  } | table
  signed = signed_but(given['unsigned'])
  if not signed(f'{network.head}/kernel', np.zeros((1, 1))):
    remedy = 'the output layer has no sign that could stay at home'
    raise invalid('unsigned', given['unsigned'], remedy)
  base = hidenseek(network, **table | {'floats': 'frozen'})
  method = keep_local(base, _is_head(network))
  return FLOATS[given['floats']](method, given['floats_rate'], signed)


def fedavg(
  network: NetworkInfo, learning_rate: Rate = 0.05, optimizer: Optimizer = 'sgd'
) -> Method:
  """FedAvg: McMahan et al. 2017 (arXiv 1602.05629)."""
  del network
  return dense(OPTIMIZERS[optimizer](learning_rate), uploads.full())


def fedprox(
  network: NetworkInfo,
  learning_rate: Rate = 0.05,
  optimizer: Optimizer = 'sgd',
  pull: Pull = 0.1,
) -> Method:
  """FedProx: Li et al. 2018 (arXiv 1812.06127)."""
  return proximal(fedavg(network, learning_rate, optimizer), pull)


@same_fields(fedavg)
def fedper(network: NetworkInfo, **table: Any) -> Method:
  """FedPer: Arivazhagan et al. 2019 (arXiv 1912.00818); a local head."""
  return keep_local(fedavg(network, **table), _is_head(network))


def ditto(
  network: NetworkInfo,
  learning_rate: Rate = 0.05,
  optimizer: Optimizer = 'sgd',
  pull: Pull = 0.1,
) -> Method:
  """Ditto: Li et al. 2020 (arXiv 2012.04221)."""
  return wrappers.ditto(fedavg(network, learning_rate, optimizer), pull)


@same_fields(fedavg)
def local(network: NetworkInfo, **table: Any) -> Method:
  """Every client alone: FedAvg that shares nothing."""
  return keep_local(fedavg(network, **table), lambda path, leaf: True)


def fedavg_quantized(
  network: NetworkInfo,
  learning_rate: Rate = 0.01,
  optimizer: Optimizer = 'adam',
  upload_bits: UploadBits = 4,
  pruned: Pruned = False,
  download_bits: Bits = OF_RUN,
) -> Method:
  """FedAvg of changes in `upload_bits`, stochastic and uniform: QSGD."""
  return dense(
    OPTIMIZERS[optimizer](learning_rate),
    uploads.delta(uploads.uniform(upload_bits)),
    download_bits,
    network.prune_if(pruned),
  )


def signsgd(
  network: NetworkInfo,
  learning_rate: Rate = 0.01,
  optimizer: Optimizer = 'adam',
  server_rate: ServerRate = 1.0,
  feedback: bool = True,
  pruned: Pruned = False,
  download_bits: Bits = OF_RUN,
) -> Method:
  """FedAvg of changes in one bit and a scale a layer, with error feedback.

  Args:
    feedback: a client adds what a bit left out to its next change
  """
  return dense(
    OPTIMIZERS[optimizer](learning_rate),
    uploads.delta(uploads.one_bit(), server_rate, feedback=feedback),
    download_bits,
    network.prune_if(pruned),
  )


def lotteryfl(
  network: NetworkInfo,
  learning_rate: Rate = 0.05,
  optimizer: Optimizer = 'sgd',
  share: CutShare = 0.2,
  threshold: Threshold = 0.2,
  target: Kept = 0.5,
) -> Method:
  """LotteryFL: Li et al. 2020 (arXiv 2008.03371)."""
  del network
  moved = OPTIMIZERS[optimizer](learning_rate)
  return client_pruning.lottery(moved, share, threshold, target)


def hermes(
  network: NetworkInfo,
  learning_rate: Rate = 0.05,
  optimizer: Optimizer = 'sgd',
  share: CutShare = 0.2,
  threshold: Threshold = 0.5,
  target: Kept = 0.5,
) -> Method:
  """Hermes: Li et al. 2021 (MobiCom)."""
  moved = OPTIMIZERS[optimizer](learning_rate)
  return prune_units(moved, share, threshold, target, network.head)


def fedmask(
  network: NetworkInfo,
  learning_rate: Rate = 0.03,
  upload: UploadName = 'signs',
  download_bits: Bits = OF_RUN,
  target: Kept = 0.5,
  server_rate: ServerRate = 2.0,
  momentum: Momentum = 0.5,
  floats: Floats = 'frozen',
  floats_rate: Rate = 0.003,
) -> Method:
  """FedMask: Li et al. 2021 (SenSys); {0, 1} masks, the head's local.

  Ours: scores start as HideNseek's do, spread around the server's mean; all
  layers are masked.

  Args:
    floats_rate: of Adam for floats=local and floats=sent
  """
  sent, spread = UPLOADS[upload](server_rate, momentum)
  optimizer = optax.adam(learning_rate)
  base = supermask(optimizer, sent, download_bits, _everything, spread, masked)
  pruned = client_pruning.prune_once(base, target)
  method = keep_local(pruned, _is_head(network))
  return FLOATS[floats](method, floats_rate, has_sign)


def fedpm(
  network: NetworkInfo,
  learning_rate: Rate = 0.1,
  floats: Floats = 'frozen',
  floats_rate: Rate = 0.003,
) -> Method:
  """FedPM: Isik et al. 2023 (arXiv 2209.15328); Bernoulli masks.

  Weights are -s or s, s the standard deviation of the layer's own draw; the
  prior starts anew every round; probabilities travel as floats. Biases and
  gains stay as drawn unless they are trained.

  Args:
    floats_rate: of Adam for floats=local and floats=sent
  """
  del network
  adam = optax.adam(learning_rate)
  base = supermask(
    adam, uploads.bernoulli_samples(), 32, _everything, spread_odds, sampled
  )

  def constant(path, w):
    if not has_sign(tree.path_name(path), w):
      return w
    return jnp.sign(w) * jnp.sqrt(2 / np.prod(w.shape[:-1]))

  @once
  def constants(params):
    return jax.tree_util.tree_map_with_path(constant, params)

  def init(key, params):
    return base.server.init(key, constants(params))

  method = base.revise(server=dict(init=init))
  return FLOATS[floats](method, floats_rate, has_sign)


def _everything(key: jax.Array, variables: Variables) -> Tree:
  """A `Prune` that keeps all weights."""
  del key
  return variables['mask']


def _is_head(network: NetworkInfo):
  return lambda path, leaf: path.startswith(f'{network.head}/')


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
  'eden': eden,
  'fedmrn': fedmrn,
  'fedbat': fedbat,
  'fedbif': fedbif,
  'pfed1bs': pfed1bs,
  'majority_vote': majority_vote,
  'doublesqueeze': doublesqueeze,
  'ssfl': ssfl,
}
