"""Weights that the server moves in steps, so that a bit tells each move."""

import math
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hns import tree, wire
from hns.fields import AtLeast, Label, Within
from hns.methods import uploads
from hns.methods.bases import Prune, dense
from hns.methods.contract import (
  Initial,
  Method,
  Params,
  ServerState,
  ServerUpdate,
)
from hns.methods.parameters import (
  OPTIMIZERS,
  NetworkInfo,
  Optimizer,
  Pruned,
  Rate,
)
from hns.methods.wrappers import remember_download
from hns.networks.supermask import sign
from hns.tree import Tree
from hns.wire import Message

Step = Annotated[
  float,
  Within(0, math.inf),
  "the server's in a round, in root mean squares of a layer's first weights, "
  'pruned ones as 0',
]
GridBits = Annotated[
  int,
  AtLeast(2, 9),
  Label(lambda bits: f'{bits} bits', tuned=True),
  'of the number of steps that a weight can be away from where it was drawn',
]


class Grid(NamedTuple):
  """What weights can be: first + step x a whole number.

  Attributes:
    inner: what never changes in `dense`: () or its mask.
    first: the weights as drawn.
    step: by layer, float32 [].
  """

  inner: Tree
  first: Params
  step: Tree


def moved_in_steps(
  optimizer: optax.GradientTransformation,
  feedback: bool,
  rate: float,
  bits: int,
  prune: Prune | None,
) -> Method:
  """FedAvg whose server moves every weight one step up or down a round.

  So a round's download is one bit a weight. A client that missed rounds is sent
  the sum of the moves since its last one, which entropy coding shortens
  (`remember_download`): what it missed is paid for. Without `feedback` a weight
  moves as the clients' mean says: with signs as uploads, the majority vote of
  Bernstein et al. 2018 (arXiv 1802.04434). With it the server adds the mean to
  what it wants a weight to be, and moves towards that, so that nothing is lost:
  error feedback on the server, as in DoubleSqueeze (Tang et al. 2019, arXiv
  1905.05957). Ours: a vote counts by its client's examples, and a tie is drawn;
  a layer's step is `rate` times the root mean square of its weights as drawn,
  pruned ones as 0, in all rounds; a weight stays within 2^(bits - 1) steps of
  where it was drawn.

  Args:
    optimizer: of the weights.
    feedback: whether client and server remember what a bit and a step left out.
    rate: of a step.
    bits: of the number of steps that a weight can be away, 2 to 8.
    prune: gives the mask of the weights that exist; None for all.
  """
  upload = uploads.delta(uploads.one_bit(feedback), feedback=feedback)
  base = dense(optimizer, upload, 32, prune)

  def init(key, params):
    inner, server_state, client_state = base.server.init(key, params)
    first = server_state.values
    step = jax.tree.map(lambda size: rate * size, tree.sizes(first))
    levels = jax.tree.map(lambda w: jnp.ones(w.shape, jnp.int16), first)
    known = ServerState(levels, first if feedback else ())
    return Initial(Grid(inner, first, step), known, client_state)

  def broadcast(key, frozen, server_state):
    whole = ServerState(server_state.values)
    message = base.server.broadcast(key, frozen.inner, whole)
    return Message(server_state.values, message.weight)

  def to_variables(key, frozen, params):
    return base.client.to_variables(key, frozen.inner, params)

  stepped = base.revise(
    client=dict(init=_client_init, to_variables=to_variables),
    server=dict(init=init, broadcast=broadcast, update=_step(feedback, bits)),
    wire=dict(download_codec=wire.levels(bits, coded=True)),
  )
  return remember_download(stepped)


def _client_init(key, frozen: Grid, message, client_state) -> Params:
  place = _place(frozen, message.value)
  return jax.tree.map(jnp.multiply, place, message.weight)


def _step(feedback: bool, bits: int) -> ServerUpdate:
  """One step of every weight, up or down."""
  most = 2**bits - 1

  def moved(level, gap, coin):
    return jnp.clip(level + 2 * _turn(gap, coin), -most, most)

  def within_reach(wanted, mean, first, step):
    """A weight that can go no further is not to be wanted further either."""
    reach = step * 2 ** (bits - 1)
    return jnp.clip(wanted + mean, first - reach, first + reach)

  def update(key, frozen, server_state, mean, total):
    levels, wanted = server_state
    gap = mean
    if feedback:
      grid = frozen.first, frozen.step
      wanted = jax.tree.map(within_reach, wanted, mean, *grid)
      gap = jax.tree.map(jnp.subtract, wanted, _place(frozen, levels))
    new = jax.tree.map(moved, levels, gap, tree.coins(key, gap))
    # Where nobody voted the mean is 0, and `wanted` stays as it was.
    return ServerState(uploads.keep_unvoted(levels, new, total), wanted)

  return update


def _turn(gap: jax.Array, coin: jax.Array) -> jax.Array:
  """1 or -1, the sign of a gap; of a tie, that of a coin, bool."""
  return jnp.where(gap == 0, jnp.where(coin, 1, -1), sign(gap))


def _place(frozen: Grid, levels: Tree) -> Params:
  """The weights at these levels, which are odd: 1 is where they were drawn."""
  place = lambda w, step, level: w + step * ((level - 1) // 2)
  return jax.tree.map(place, frozen.first, frozen.step, levels)


def majority_vote(
  network: NetworkInfo,
  learning_rate: Rate = 0.01,
  optimizer: Optimizer = 'adam',
  step: Step = 0.01,
  bits: GridBits = 6,
  pruned: Pruned = False,
) -> Method:
  """signSGD with majority vote: Bernstein et al. 2018 (arXiv 1802.04434)."""
  moved = OPTIMIZERS[optimizer](learning_rate)
  return moved_in_steps(moved, False, step, bits, network.prune_if(pruned))


def doublesqueeze(
  network: NetworkInfo,
  learning_rate: Rate = 0.01,
  optimizer: Optimizer = 'adam',
  step: Step = 0.01,
  bits: GridBits = 6,
  pruned: Pruned = False,
) -> Method:
  """DoubleSqueeze: Tang et al. 2019 (arXiv 1905.05957); feedback both ways."""
  moved = OPTIMIZERS[optimizer](learning_rate)
  return moved_in_steps(moved, True, step, bits, network.prune_if(pruned))
