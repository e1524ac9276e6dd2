"""Whether a method's answers fit each other, before a program is compiled."""

import jax
import jax.numpy as jnp

from hns.engine import aggregate
from hns.errors import invalid
from hns.methods.contract import ClientState, Initial, Method, ServerState
from hns.tree import Tree, path_name


def check(name: str, method: Method, initial: Initial) -> None:
  """Traces a round of one client and compares the states before and after.

  Args:
    name: of the method, for the messages.
    method: any.
    initial: what its `server.init` gave.

  Raises:
    InputError: a state does not keep its structure, shapes or dtypes.
  """
  round_of_one = lambda initial: _round(
    name, method, jax.random.key(0), initial
  )
  after = jax.eval_shape(round_of_one, initial)
  questions = 'client.before_training', 'client.update', 'server.update'
  states = initial.client_state, initial.client_state, initial.server_state
  for question, before, found in zip(questions, states, after):
    compare(name, question, before, found)


def _round(
  name: str, method: Method, key: jax.Array, initial: Initial
) -> tuple[ClientState, ClientState, ServerState]:
  """The states after each question that changes one."""
  client, server = method.client, method.server
  frozen, server_state, client_state = initial
  message = server.broadcast(key, frozen, server_state)
  prepared = client_state
  if client.before_training is not None:
    score = lambda variables: jnp.float32(0)
    prepared = client.before_training(key, frozen, message, client_state, score)
  params = client.init(key, frozen, message, client_state)
  sent = client.update(key, frozen, message, client_state, params, params)
  if not isinstance(sent, tuple) or len(sent) != 2:
    remedy = 'client.update must return (Message, client_state)'
    raise invalid('algorithm', name, remedy)
  upload, kept = sent
  if server.read_upload is not None:
    upload = server.read_upload(key, frozen, message, upload)
  examples = jnp.int32(1)
  terms, weights = aggregate.weigh(upload, message.weight, examples)
  total = aggregate.total_weights(weights, terms, message.weight, examples)
  mean = aggregate.mean(terms, total)
  return prepared, kept, server.update(key, frozen, server_state, mean, total)


def compare(name: str, question: str, before: Tree, after: Tree) -> None:
  """Raises `InputError` where two states differ in more than their values."""
  leaves = [
    {path_name(path): leaf for path, leaf in tree_leaves}
    for tree_leaves in map(jax.tree_util.tree_leaves_with_path, (before, after))
  ]
  other = sorted(leaves[0].keys() ^ leaves[1].keys())
  if other or jax.tree.structure(before) != jax.tree.structure(after):
    what = f'{other[0]} is not in both' if other else 'its structure changes'
    remedy = f'{question} must return a state like that of server.init: {what}'
    raise invalid('algorithm', name, remedy)
  for path, leaf in leaves[0].items():
    found = leaves[1][path]
    if (found.shape, found.dtype) != (leaf.shape, leaf.dtype):
      raise invalid(
        'algorithm',
        name,
        f'{question} returns {path} as {found.dtype}{list(found.shape)}, '
        f'server.init gave {leaf.dtype}{list(leaf.shape)}',
      )
