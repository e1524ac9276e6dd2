"""Hermes: the client prunes whole units; the server averages common ones."""

import functools

import jax
import jax.numpy as jnp
import optax

from hns import tree
from hns.errors import invalid
from hns.methods import uploads
from hns.methods.bases import dense
from hns.methods.client_pruning import (
  PruneState,
  kept_of,
  largest,
  masked_by,
  zeros_stay,
)
from hns.methods.contract import Initial, Method, Params, ServerState
from hns.methods.uploads import keep_unvoted
from hns.methods.wrappers import PersonalModel
from hns.networks.supermask import to_masked
from hns.tree import Tree
from hns.wire import Message


def prune_units(
  optimizer: optax.GradientTransformation,
  share: float,
  threshold: float,
  target: float,
  head: str,
) -> Method:
  """Hermes: clients cut whole units; the server averages what all keep.

  Li et al. 2021 (MobiCom, doi 10.1145/3447993.3483278). As
  `client_pruning.lottery`, but a client goes on from weights of its own, cuts
  `share` of the units of every hidden layer, those of the smallest L1 norm, and
  rewinds nothing. The server averages the coordinates that every client of the
  cohort keeps. Ours: with clients drawn anew every round, a client takes from
  the download what the last cohort had in common, at first everything, and the
  rest from itself. Weights that lead from a cut unit are still sent and
  computed with, so its bytes and FLOPs are upper bounds; a bit for each unit,
  whether the last cohort had it in common, is not counted.

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
  wire = dict(download_for=_common_part, kept_mask=kept_of)
  return base.revise(client=client, server=server, wire=wire)


def _hermes_init(head: str, key, params) -> Initial:
  _check_hidden(params, head)
  units = jax.tree.map(lambda w: jnp.ones(w.shape[-1:], bool), params)
  own = PersonalModel(params, jnp.zeros((), bool))
  return Initial((), ServerState(params, units), PruneState(units, inner=own))


def _hermes_start(key, frozen, message, client_state) -> Params:
  own, taken = client_state.inner.model, _taken(message, client_state)
  model = jax.tree.map(jnp.where, taken, message.value, own)
  return masked_by(model, client_state.kept)


def _hermes_update(key, frozen, message, client_state, initial_params, params):
  own = PersonalModel(params, jnp.ones((), bool))
  return Message(params, client_state.kept), client_state._replace(inner=own)


def _common_part(frozen, message: Message, client_state: PruneState) -> Message:
  """What a client of `prune_units` takes from the download."""
  taken = _taken(message, client_state)
  return message._replace(weight=masked_by(taken, client_state.kept))


def _check_hidden(params: Tree, head: str) -> None:
  """Raises `InputError` for a hidden layer with more than a kernel."""
  for path, _ in jax.tree_util.tree_leaves_with_path(
    to_masked(params)['params']
  ):
    name = tree.path_name(path)
    if not name.startswith(f'{head}/'):
      remedy = f'it cuts units of kernels, and {name} is none: leave that out'
      raise invalid('algorithm', 'hermes', remedy)


def _taken(message, client_state) -> Tree:
  """Where a client takes the download, if it keeps the unit."""
  return jax.tree.map(
    lambda common: common | ~client_state.inner.begun, message.weight
  )


def _norms(model: Tree, head: str) -> Tree:
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
