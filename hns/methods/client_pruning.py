"""Pruning on the client, with its data: LotteryFL, Hermes, FedMask.

What a client has pruned is 0 in what it starts from and stays 0; the server
hears of its places once, when they change, in a bit each before coding.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hns import tree
from hns.errors import invalid
from hns.methods import uploads
from hns.methods.bases import dense
from hns.methods.contract import (
  Initial,
  Method,
  Params,
  ServerState,
)
from hns.methods.lift import lift
from hns.methods.uploads import keep_unvoted
from hns.methods.wrappers import PersonalModel
from hns.networks import pruning
from hns.networks.supermask import to_masked
from hns.wire import Message

_OFF = -1e9  # a score so far below 0 that no step moves it


class PruneState(NamedTuple):
  """What a client that prunes keeps.

  Attributes:
    kept: tree of bool, leaves that broadcast against the weights': what it has
      not pruned.
    cut: bool [], whether it pruned: in this round for `lottery`, ever for
      `prune_once`; () for `hermes`.
    inner: what else it keeps.
  """

  kept: Any
  cut: Any = ()
  inner: Any = ()


def lottery(
  optimizer: optax.GradientTransformation,
  share: float,
  threshold: float,
  target: float,
) -> Method:
  """LotteryFL: tickets found on the client, rewound, averaged where kept.

  Li et al. 2020 (arXiv 2008.03371). A client whose masked download is right on
  more than `threshold` of its validation examples, and that keeps more than
  `target`, cuts `share` of its living weights, the smallest of each layer, and
  starts from the first round's weights once more. A coordinate is averaged over
  the clients that keep it. Ours: layer by layer, so that none is emptied; the
  paper scores on 80 pictures of its own.

  Args:
    optimizer: of the weights.
    share: of the living weights, cut at once.
    threshold: accuracy, below 1; below 0 prunes always.
    target: density that is never undercut.
  """
  base = lift(dense(optimizer, uploads.full()), frozen=lambda given: ())

  def init(key, params):
    _, server_state, _ = base.server.init(key, params)
    everything = jax.tree.map(lambda w: jnp.ones(w.shape, bool), params)
    client_state = PruneState(everything, jnp.zeros((), bool))
    return Initial({'first': params}, server_state, client_state)

  def before_training(key, frozen, message, client_state, score):
    ticket = _masked(message.value, client_state.kept)
    sizes = jax.tree.map(lambda w: abs(w) if w.ndim > 1 else None, ticket)
    smaller = largest(sizes, client_state.kept, share, target)
    good = score({'params': ticket}) > threshold
    mask = tree.where(good, smaller, client_state.kept)
    return PruneState(mask, tree.differ(client_state.kept, mask))

  def client_init(key, frozen, message, client_state):
    first = frozen['first']
    start = tree.where(client_state.cut, first, message.value)
    return _masked(start, client_state.kept)

  def update(key, frozen, message, client_state, initial_params, params):
    return Message(params, client_state.kept), client_state

  client = dict(
    init=client_init,
    before_training=before_training,
    update=update,
    objective=zeros_stay,
  )
  return base.revise(
    client=client,
    server=dict(init=init),
    wire=dict(download_for=_kept_part, kept_mask=_kept),
  )


def hermes(
  optimizer: optax.GradientTransformation,
  share: float,
  threshold: float,
  target: float,
  head: str,
) -> Method:
  """Hermes: whole units cut on the client; what all keep is averaged.

  Li et al. 2021 (MobiCom, doi 10.1145/3447993.3483278). As `lottery`, but a
  client goes on from weights of its own, cuts `share` of the units of every
  hidden layer, those of the smallest L1 norm, and rewinds nothing. The server
  averages the coordinates that every client of the cohort keeps. Ours: with
  clients drawn anew every round, a client takes from the download what the
  last cohort had in common, at first everything, and the rest from itself.
  Weights that lead from a cut unit are still sent and computed with, so its
  bytes and FLOPs are upper bounds; a bit for each unit, whether the last cohort
  had it in common, is not counted.

  Args:
    optimizer: of the weights.
    share: of the living units of a layer, cut at once.
    threshold: accuracy, below 1; below 0 prunes always.
    target: share of the units that is never undercut.
    head: name of the output layer, which keeps its units.

  Raises `InputError` from `init` for hidden layers with more than a kernel: a
  unit that is cut would keep its bias.
  """
  base = dense(optimizer, uploads.full())
  server = dict(
    init=functools.partial(_hermes_init, head),
    broadcast=lambda key, frozen, state: Message(state.values, state.memory),
    update=_what_all_keep,
  )

  def before_training(key, frozen, message, client_state, score):
    model = _hermes_start(key, frozen, message, client_state)
    smaller = largest(_norms(model, head), client_state.kept, share, target)
    good = score({'params': model}) > threshold
    kept = tree.where(good, smaller, client_state.kept)
    return client_state._replace(kept=kept)

  client = dict(
    before_training=before_training,
    init=_hermes_start,
    update=_hermes_update,
    objective=zeros_stay,
  )
  wire = dict(download_for=_common_part, kept_mask=_kept)
  return base.revise(client=client, server=server, wire=wire)


def _hermes_init(head: str, key, params) -> Initial:
  _check_hidden(params, head)
  units = jax.tree.map(lambda w: jnp.ones(w.shape[-1:], bool), params)
  own = PersonalModel(params, jnp.zeros((), bool))
  return Initial((), ServerState(params, units), PruneState(units, inner=own))


def _hermes_start(key, frozen, message, client_state) -> Params:
  own, taken = client_state.inner.model, _taken(message, client_state)
  model = jax.tree.map(jnp.where, taken, message.value, own)
  return _masked(model, client_state.kept)


def _hermes_update(key, frozen, message, client_state, initial_params, params):
  own = PersonalModel(params, jnp.ones((), bool))
  return Message(params, client_state.kept), client_state._replace(inner=own)


def _common_part(frozen, message: Message, client_state: PruneState) -> Message:
  """What a client of `hermes` takes from the download."""
  taken = _taken(message, client_state)
  return message._replace(weight=_masked(taken, client_state.kept))


def _kept(client_state: PruneState) -> Any:
  """The `KeptMask` of clients that prune."""
  return client_state.kept


def _kept_part(frozen, message: Message, client_state: PruneState) -> Message:
  """The `DownloadFor` of clients that are sent what they kept."""
  return message._replace(weight=client_state.kept)


def _check_hidden(params: Any, head: str) -> None:
  """Raises `InputError` for a hidden layer with more than a kernel."""
  for path, _ in jax.tree_util.tree_leaves_with_path(
    to_masked(params)['params']
  ):
    name = tree.path_name(path)
    if not name.startswith(f'{head}/'):
      remedy = f'it cuts units of kernels, and {name} is none: leave that out'
      raise invalid('algorithm', 'hermes', remedy)


def _taken(message, client_state) -> Any:
  """Where a client of `hermes` takes the download, if it keeps the unit."""
  return jax.tree.map(
    lambda common: common | ~client_state.inner.begun, message.weight
  )


def _norms(model: Any, head: str) -> Any:
  """The L1 norms of the units of hidden layers, None for the head's leaves."""

  def layer(path, w):
    if tree.path_name(path).startswith(f'{head}/'):
      return None
    return jnp.sum(abs(w), tuple(range(w.ndim - 1)))

  return jax.tree_util.tree_map_with_path(layer, model)


def _what_all_keep(key, frozen, server_state, mean, total) -> ServerState:
  """A `ServerUpdate` that moves only what every client of the cohort sent."""
  everyone = jnp.max(jnp.stack([jnp.max(t) for t in jax.tree.leaves(total)]))
  common = jax.tree.map(lambda t: t * (t == everyone), total)
  voted = jax.tree.map(lambda c: c > 0, common)
  return ServerState(keep_unvoted(server_state.values, mean, common), voted)


def prune_once(base: Method, target: float) -> Method:
  """`base`, a {0, 1} supermask of which each client prunes its scores, once.

  The server has pruned none of its weights.

  FedMask (Li et al. 2021, SenSys, doi 10.1145/3485730.3485929): after its first
  local training a client keeps the share `target` of each layer with the
  highest scores; its votes count there alone. Ours: single weights are pruned,
  where the paper prunes structures.
  """

  inside = lift(
    base,
    keep=lambda client_state, inner: client_state._replace(inner=inner),
    client_state=lambda given: given['client_state'].inner,
  )

  def init(key, params):
    frozen, server_state, inner = base.server.init(key, params)
    everything = jax.tree.map(
      lambda s: jnp.ones(s.shape, bool), server_state.values
    )
    client_state = PruneState(everything, jnp.zeros((), bool), inner)
    return Initial(frozen, server_state, client_state)

  def client_init(key, frozen, message, client_state):
    start = inside.client.init(key, frozen, message, client_state)
    return off(client_state, start)

  def update(key, frozen, message, client_state, initial_params, params):
    smaller = largest(params, client_state.kept, 1 - target, target)
    mask = tree.where(client_state.cut, client_state.kept, smaller)
    sent = message._replace(weight=mask)
    upload, kept = inside.client.update(
      key, frozen, sent, client_state, initial_params, params
    )
    return upload, kept._replace(kept=mask, cut=jnp.ones((), bool))

  return inside.revise(
    client=dict(init=client_init, update=update, finalize=off),
    server=dict(init=init),
    wire=dict(download_for=_kept_part, kept_mask=_kept),
  )


def off(client_state: PruneState, scores: Any) -> Any:
  """Scores that a gate never turns on where they were pruned."""
  return jax.tree.map(
    lambda s, m: jnp.where(m, s, _OFF), scores, client_state.kept
  )


def largest(scores: Any, mask: Any, share: float, target: float) -> Any:
  """`mask` without `share` of each leaf's coordinates, those that score least.

  Of n coordinates n x target stay at least, and one, or all that are there if
  fewer; leaves for which `scores` has None stay as they are.
  """
  asked = jax.tree.map(lambda m, s: None if s is None else m, mask, scores)
  masks, structure = jax.tree.flatten(asked)
  kept = pruning.top_k(
    [
      jnp.where(m, s, -jnp.inf).ravel()
      for m, s in zip(masks, jax.tree.leaves(scores))
    ],
    [jnp.arange(m.size, dtype=jnp.uint32) for m in masks],
    jnp.array([_keep(m, share, target) for m in masks], jnp.int32),
  )
  smaller = [k.reshape(m.shape) & m for k, m in zip(kept, masks)]
  return tree.combine(jax.tree.unflatten(structure, smaller), mask)


def _keep(mask, share, target) -> jax.Array:
  living = tree.count(mask)
  keep = jnp.round(living * (1 - share)).astype(jnp.int32)
  least = max(1, round(mask.size * target))
  return jnp.minimum(living, jnp.maximum(keep, least))


def zeros_stay(forward, to_variables, initial_params, params) -> jax.Array:
  """The `Objective` that leaves kernels' weights alone that start at 0."""
  living = jax.tree.map(
    lambda s, t: t * (s != 0) if t.ndim > 1 else t, initial_params, params
  )
  return forward(to_variables(living))


def _masked(values: Any, mask: Any) -> Any:
  return jax.tree.map(jnp.multiply, values, mask)
