"""FedBiF: clients train one bit of every quantised weight."""

from collections.abc import Callable
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hns import wire
from hns.fields import AtLeast
from hns.methods import uploads
from hns.methods.bases import Prune, dense
from hns.methods.contract import (
  Initial,
  Method,
  Params,
  ServerState,
)
from hns.methods.parameters import (
  OPTIMIZERS,
  NetworkInfo,
  Optimizer,
  Pruned,
  Rate,
)
from hns.methods.uploads import Compress
from hns.networks.supermask import sign
from hns.tree import Tree
from hns.wire import Message

_REACH = 2.0  # the largest level, in root mean squares of a layer


class OneBit(NamedTuple):
  """What a client of FedBiF trains, `virtual`, and what stays as downloaded.

  Attributes:
    rest: the weights without the bit.
    size: by layer, float32 [], what the bit adds or takes off.
    virtual: real numbers whose signs are the bits.
  """

  rest: Params
  size: Tree
  virtual: Params


def frozen_bits(
  optimizer: optax.GradientTransformation,
  bits: int,
  prune: Prune | None = None,
) -> Method:
  """FedAvg of quantised weights, of which the clients of a round train one bit.

  FedBiF (Li et al. 2025, arXiv 2509.10161). The server keeps float weights and
  sends them quantised. A client trains a real number for one bit of each
  weight; its sign is the bit, its gradient straight-through. It sends that bit,
  and the server averages the clients' weights. Ours, where the abstract is
  silent: a weight is its layer's step times the sum of +-2^j over its bits j,
  with `_REACH` for the largest; the server rounds up or down at random,
  unbiased; bits take turns, one a round, the largest first, and messages say
  whose turn it is; a bit's number starts at what the bit adds, so a weight
  trained by as much turns it. A layer that is drawn as zeros stays zeros.

  Args:
    optimizer: of the numbers.
    bits: of a weight, 2 to 8.
    prune: gives the mask of the weights that exist; None for all.
  """
  base = dense(optimizer, uploads.full(), prune=prune)
  download = uploads.uniform(bits, _REACH)

  def client_init(key, frozen, message, client_state):
    return _apart(message.value, bits)

  def to_variables(key, frozen, params):
    return base.client.to_variables(key, frozen, _whole(params))

  return base.revise(
    client=dict(init=client_init, to_variables=to_variables, update=_update),
    server=_server(base, download, bits),
    wire=dict(upload_codec=wire.levels(1), download_codec=download.codec),
  )


def _server(base: Method, download: Compress, bits: int) -> dict[str, Callable]:
  def init(key, params):
    frozen, server_state, _ = base.server.init(key, params)
    values = {'turn': jnp.zeros(bits), 'weights': server_state.values}
    return Initial(frozen, ServerState(values, jnp.int32(0)), ())

  def broadcast(key, frozen, server_state):
    active = jnp.arange(bits) == (bits - 1 - server_state.memory) % bits
    values = server_state.values | {'turn': jnp.where(active, 1.0, -1.0)}
    weights = ServerState(values['weights'])
    kept = base.server.broadcast(key, frozen, weights).weight
    mask = {'turn': jnp.ones(()), 'weights': kept}
    return Message(download.function(key, values, mask), mask)

  def read_upload(key, frozen, message, upload):
    params = _apart(message.value, bits)
    sent = params._replace(virtual=upload.value['weights'])
    value = upload.value | {'weights': _whole(sent)}
    return message._replace(value=value)

  def update(key, frozen, server_state, mean, total):
    values = uploads.keep_unvoted(server_state.values, mean, total)
    return ServerState(values, server_state.memory + 1)

  return dict(
    init=init, broadcast=broadcast, read_upload=read_upload, update=update
  )


def _whole(params: OneBit) -> Params:
  """Weights with their bits; a number's gradient is that of its weight."""

  def leaf(rest, size, number):
    rest, size = jax.lax.stop_gradient((rest, size))
    return rest + size * sign(number / size)

  return jax.tree.map(leaf, *params)


def _update(key, frozen, message, client_state, initial_params, params):
  trained = message.value | {'weights': params.virtual}
  return message._replace(value=jax.tree.map(sign, trained)), client_state


def _apart(value: Tree, bits: int) -> OneBit:
  """A download's weights, with the bit whose turn it is apart."""
  bit = jnp.argmax(value['turn'])

  def leaf(weights):
    # The largest level occurs, as its step could not be known without it.
    step = jnp.max(abs(weights)) / (2**bits - 1)
    level = jnp.rint(weights / step).astype(jnp.int32)
    place = (level + 2**bits - 1) // 2
    size = step * 2.0**bit
    number = jnp.where((place >> bit) & 1, size, -size)
    return weights - number, size, number

  split = jax.tree.map(leaf, value['weights'])
  return OneBit(
    *jax.tree.transpose(
      jax.tree.structure(value['weights']), jax.tree.structure((0, 0, 0)), split
    )
  )


def fedbif(
  network: NetworkInfo,
  learning_rate: Rate = 0.1,
  optimizer: Optimizer = 'sgd',
  bits: Annotated[int, AtLeast(2, 9)] = 3,
  pruned: Pruned = False,
) -> Method:
  """FedBiF: Li et al. 2025 (arXiv 2509.10161); one bit a weight is trained.

  Args:
    bits: of a weight in the download
  """
  moved = OPTIMIZERS[optimizer](learning_rate)
  return frozen_bits(moved, bits, network.prune_if(pruned))
