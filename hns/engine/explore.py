"""Many clients, or many networks, compared in one call.

See launch/explore.ipynb.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from hns import tree
from hns.engine.client import client_round
from hns.engine.context import RoundConfig, RoundContext
from hns.engine.parallel import each_client
from hns.engine.scoring import score, units, with_statistics
from hns.engine.training import ClientIndices, Examples, fit
from hns.methods.contract import ClientState, Variables
from hns.networks import modes, pruning
from hns.networks.supermask import to_masked
from hns.wire import Message


def agreements(signs: jax.Array) -> np.ndarray:
  """The share of the weights left on which clients agree, [clients, clients].

  Args:
    signs: int [clients, weights], 0 where pruned: `model_signs` of each.
  """
  signs = np.asarray(signs, np.float32)
  return (1 + signs @ signs.T / np.count_nonzero(signs[0])) / 2


def cross(
  round_config: RoundConfig,
  models: Variables,
  examples: Examples,
  rows: ClientIndices,
) -> jax.Array:
  """Accuracy of each client's model on each client's examples.

  Args:
    round_config: see its type.
    models: variables with a leading axis, `evaluation.personal_models`.
    examples: of everybody.
    rows: of the clients on whose examples the models are evaluated.

  Returns:
    float32 [models, clients].
  """

  learner = round_config.learner

  def client(given, index, model):
    examples, rows = given
    return (), jax.vmap(lambda r: score(learner, model, examples, r))(rows)

  ids = jnp.arange(jax.tree.leaves(models)[0].shape[0])
  given = examples, rows
  right = each_client(
    client, given, ids, models, round_config.width, round_config.mesh
  )[1]
  return right / units(learner, examples, rows)


def uploads(
  round_config: RoundConfig,
  context: RoundContext,
  ids: jax.Array,
  client_state: ClientState,
) -> Message:
  """What these clients would upload, leaves [ids, ...]."""

  def client(context, index, client_state):
    return (), client_round(round_config, context, index, client_state).upload

  return each_client(
    client, context, ids, client_state, round_config.width, round_config.mesh
  )[1]


def pool(rows: ClientIndices) -> ClientIndices:
  """Everybody's rows as one client's."""
  index, size = map(np.asarray, rows)
  joined = np.concatenate([i[:n] for i, n in zip(index, size)])
  return ClientIndices(jnp.asarray(joined), jnp.int32(len(joined)))


def draw(
  key: jax.Array, net: nn.Module, inputs: jax.Array, keep: jax.Array
) -> Variables:
  """A random network pruned by synaptic saliency, its signs +1.

  Args:
    key: of the weights and of ties; `vmap` over it, and over `keep`, for many
      networks.
    net: the plain module.
    inputs: float [1, ...]: the shape of one example.
    keep: int32 [steps], weights left after each: `pruning.schedule`.
  """
  weights, ties = jax.random.split(key)
  variables = to_masked(modes.init(net, weights, inputs)['params'])
  score = pruning.synflow
  mask = pruning.prune(ties, score, net, variables, inputs, keep)
  return {**variables, 'mask': mask}


def learn(
  key: jax.Array,
  round_config: RoundConfig,
  variables: Variables,
  examples: Examples,
  rows: ClientIndices,
  test_rows: ClientIndices,
) -> jax.Array:
  """Accuracy on `test_rows` of a network whose signs were trained on `rows`.

  One client without a server, from random scores; `vmap` over `key` and
  `variables` trains many networks at once.

  Args:
    key: of the scores and of the order of the examples.
    round_config: of a method of signs; its `learner` and `plan` are used.
    variables: of one network, `draw`.
    examples, rows, test_rows: see their types.

  Returns:
    float32 [].
  """
  scores, order = jax.random.split(key)
  frozen = {name: v for name, v in variables.items() if name != 'signs'}
  start = tree.uniform(scores, frozen['weights'], -1.0)
  method, learner = round_config.method, round_config.learner
  trained, _ = fit(
    order, method, learner, round_config.plan, examples, rows, frozen, start
  )
  model = method.client.to_variables(key, frozen, trained)
  model = with_statistics(learner, model, examples, rows)
  right = score(learner, model, examples, test_rows)
  return right / units(learner, examples, test_rows)
