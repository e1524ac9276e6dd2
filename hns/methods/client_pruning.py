"""Pruning on the client, with its data: LotteryFL and FedMask.

What a client has pruned is 0 in what it starts from and stays 0; the server
hears of its places once, when they change, in a bit each before coding.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from hns import tree
from hns.methods import uploads
from hns.methods.bases import dense, masked_by
from hns.methods.contract import (
  Initial,
  Method,
)
from hns.methods.lift import beside, lift
from hns.networks import pruning
from hns.tree import Tree
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

  kept: Tree
  cut: Tree = ()
  inner: Tree = ()


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
    ticket = masked_by(message.value, client_state.kept)
    sizes = jax.tree.map(lambda w: abs(w) if w.ndim > 1 else None, ticket)
    smaller = largest(sizes, client_state.kept, share, target)
    good = score({'params': ticket}) > threshold
    mask = tree.where(good, smaller, client_state.kept)
    return PruneState(mask, tree.differ(client_state.kept, mask))

  def client_init(key, frozen, message, client_state):
    first = frozen['first']
    start = tree.where(client_state.cut, first, message.value)
    return masked_by(start, client_state.kept)

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
    wire=dict(download_for=kept_part, kept_mask=kept_of),
  )


def kept_of(client_state: PruneState) -> Tree:
  """The `KeptMask` of clients that prune."""
  return client_state.kept


def kept_part(frozen, message: Message, client_state: PruneState) -> Message:
  """The `DownloadFor` of clients that are sent what they kept."""
  return message._replace(weight=client_state.kept)


def prune_once(base: Method, target: float) -> Method:
  """`base`, a {0, 1} supermask of which each client prunes its scores, once.

  The server has pruned none of its weights.

  FedMask (Li et al. 2021, SenSys, doi 10.1145/3485730.3485929): after its first
  local training a client keeps the share `target` of each layer with the
  highest scores; its votes count there alone. Ours: single weights are pruned,
  where the paper prunes structures.
  """
  inside = beside(base)

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
    wire=dict(download_for=kept_part, kept_mask=kept_of),
  )


def off(client_state: PruneState, scores: Tree) -> Tree:
  """Scores that a gate never turns on where they were pruned."""
  return jax.tree.map(
    lambda s, m: jnp.where(m, s, _OFF), scores, client_state.kept
  )


def largest(scores: Tree, mask: Tree, share: float, target: float) -> Tree:
  """`mask` without `share` of each leaf's coordinates, those that score least.

  Of n coordinates n x target stay at least, and one, or all that are there if
  fewer; leaves for which `scores` has None stay as they are.
  """
  scored = jax.tree.map(lambda m, s: None if s is None else m, mask, scores)
  masks, structure = jax.tree.flatten(scored)
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


def zeros_stay(
  key, progress, forward, to_variables, initial_params, params
) -> jax.Array:
  """The `Objective` that leaves kernels' weights alone that start at 0."""
  del key, progress
  living = jax.tree.map(
    lambda s, t: t * (s != 0) if t.ndim > 1 else t, initial_params, params
  )
  return forward(to_variables(living))
