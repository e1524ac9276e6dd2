"""SSFL: one mask, of the saliency that clients find in their own data."""

import jax
import jax.numpy as jnp
import optax

from hns import tree
from hns.methods import uploads
from hns.methods.bases import dense
from hns.methods.client_pruning import zeros_stay
from hns.methods.contract import Initial, Method, ServerState
from hns.methods.parameters import OPTIMIZERS, NetworkInfo, Optimizer, Rate
from hns.networks import pruning
from hns.tree import Tree
from hns.wire import Message


def data_saliency(
  optimizer: optax.GradientTransformation, density: float
) -> Method:
  """FedAvg of the weights that matter to the clients' data, chosen once.

  SSFL (Ohib et al. 2024, arXiv 2405.09037). Clients score the weights as drawn
  by |w x gradient| on their data (Lee et al. 2019, arXiv 1810.02340); the
  server keeps the share `density` with the highest mean score, of all layers
  together, and only these are trained and sent from then on. Ours: the scores
  are of the first round's cohort, and the gradient is summed over its steps: |w
  x what training changed|, of SGD. The first round's bytes are those of all
  weights, both ways, and a client that takes part again tells once which
  weights it has left, as if it had chosen them: it could as well be told. A
  layer may lose all its weights; such a network only guesses.

  Args:
    optimizer: of the weights.
    density: share of the weights kept, vectors such as biases aside.
  """
  base = dense(optimizer, uploads.full())
  if density == 1:
    return base

  def init(key, params):
    drawn = base.server.init(key, params).server_state.values
    kept = jax.tree.map(lambda w: jnp.ones(w.shape, bool), drawn)
    return Initial((), ServerState(drawn, kept), kept)

  def update(key, frozen, message, client_state, initial_params, params):
    score = lambda w, after: abs(w * (after - w))
    scores = jax.tree.map(score, initial_params, params)
    value = tree.where(_is_pruned(message.weight), params, scores)
    return Message(value, message.weight), message.weight

  def server_update(key, frozen, server_state, mean, total):
    values, kept = server_state
    began = _is_pruned(kept)
    chosen = _highest(mean, density)
    first = jax.tree.map(jnp.multiply, values, chosen)
    mean = uploads.keep_unvoted(values, mean, total)
    voted = jnp.any(jnp.stack([jnp.any(t) for t in jax.tree.leaves(total)]))
    after = ServerState(mean, kept), ServerState(first, chosen)
    return tree.where(voted, tree.where(began, *after), server_state)

  return base.revise(
    client=dict(update=update, objective=zeros_stay),
    server=dict(
      init=init,
      broadcast=lambda key, frozen, state: Message(state.values, state.memory),
      update=server_update,
    ),
    wire=dict(kept_mask=lambda client_state: client_state),
  )


def _is_pruned(kept: Tree) -> jax.Array:
  """Whether a mask leaves anything out, bool []."""
  holes = [jnp.any(~mask) for mask in jax.tree.leaves(kept)]
  return jnp.any(jnp.stack(holes))


def _highest(scores: Tree, density: float) -> Tree:
  """The share `density` of the kernels' weights that score highest, bool."""
  kernels, vectors = tree.split(scores, lambda path, leaf: leaf.ndim > 1)
  flat = tree.flatten(kernels)
  # One at least is left out: that shows that the mask was chosen.
  count = min(round(density * flat.size), flat.size - 1)
  order = jnp.arange(flat.size, dtype=jnp.uint32)
  (kept,) = pruning.top_k(
    [flat.astype(jnp.float32)], [order], jnp.array([count])
  )
  everything = jax.tree.map(lambda v: jnp.ones(v.shape, bool), vectors)
  return tree.combine(tree.unflatten(kept, kernels), everything)


def ssfl(
  network: NetworkInfo, learning_rate: Rate = 0.05, optimizer: Optimizer = 'sgd'
) -> Method:
  """SSFL: Ohib et al. 2024 (arXiv 2405.09037); pruned by the clients' data."""
  return data_saliency(OPTIMIZERS[optimizer](learning_rate), network.density)
