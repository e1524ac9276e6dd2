"""What a round sums over the clients of its cohort, and lists of each."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from hns import tree, wire
from hns.engine import aggregate, attacks, payloads
from hns.engine.client import ClientResult, client_round
from hns.engine.context import RoundConfig, RoundContext
from hns.engine.parallel import ABSENT
from hns.engine.scoring import score
from hns.engine.secure import vector_bytes
from hns.engine.training import client_rows, steps_of
from hns.errors import InputError
from hns.methods.contract import ClientState, Variables
from hns.networks.supermask import model_signs
from hns.tree import Tree

_HOPELESS = 0.99  # of the objective of a guess, which rounding moves

# By name, what `RoundMetrics` lists of each client; leaves [].
ClientMetrics = dict[str, jax.Array]


class Answered(NamedTuple):
  """What a server has of a client; fields as in `ClientResult`."""

  read: wire.Message
  loss: jax.Array
  examples: jax.Array


class ClientSums(NamedTuple):
  """What a round sums over clients.

  Attributes:
    terms, weights: of the mean, as `aggregate.weigh` gives them.
    loss: float32 [], the objective x examples.
    examples: int32 [], how many were trained on.
    signs: int32 [weights] of the model that the client ends the round with;
      None for a method without signs, or if no model is evaluated.
  """

  terms: Tree
  weights: Tree
  loss: jax.Array
  examples: jax.Array
  signs: jax.Array | None


class ClientList(NamedTuple):
  """What a round lists of each client.

  Attributes:
    client_state: what it keeps.
    metrics: see `RoundMetrics`.
    upload: what the server reads in its upload, weighed by its examples, for
      `round_config.rule`; None without a rule.
  """

  client_state: ClientState
  metrics: ClientMetrics
  upload: wire.Message | None


def client_terms(
  round_config: RoundConfig,
  given: tuple[RoundContext, jax.Array | None],
  index: jax.Array,
  own: tuple[ClientState, jax.Array],
) -> tuple[ClientSums, ClientList]:
  """What a round sums over clients, and what it lists of each.

  Args:
    round_config: what is static.
    given: the round's context, and the bytes of a download that all share or
      None.
    index: the client's id.
    own: what the client keeps, and whether its answer arrives, bool [].
  """
  context, downlink = given
  client_state, arrives = own
  method = round_config.method
  if downlink is None:
    downlink = payloads.download_bytes(
      method, context.initial.frozen, context.message, client_state
    )
  result = client_round(round_config, context, index, client_state)
  right, signs = evaluated(round_config, context, index, result.model)
  metrics = client_metrics(round_config, context, index, client_state, result)
  counts = result.is_finite & arrives
  metrics |= dict(
    downlink=downlink,
    score=right,
    dropped=~arrives,
    uplink=metrics['uplink'] * arrives,
    uploaded=metrics['uploaded'] * arrives,
    rejected=metrics['rejected'] & arrives,
  )
  present = index != ABSENT
  metrics = jax.tree.map(
    lambda x: jnp.where(present, x, 0).astype(x.dtype), metrics
  )
  sums, upload = upload_terms(round_config, context, result, counts)
  kept = result.client_state
  if round_config.failures.drops:
    kept = tree.where(arrives, kept, client_state)
  return sums._replace(signs=signs), ClientList(kept, metrics, upload)


def upload_terms(
  round_config: RoundConfig,
  context: RoundContext,
  result: ClientResult | Answered,
  counts: jax.Array,
) -> tuple[ClientSums, wire.Message | None]:
  """What an upload adds to the sums, nothing unless it `counts`, bool [].

  And the upload for `round_config.rule`; None without a rule.
  """
  read, examples = result.read, result.examples
  sums = ClientSums(
    *aggregate.weigh(read, context.message.weight, examples),
    loss=result.loss * examples,
    examples=examples,
    signs=None,
  )
  if round_config.secure and jax.tree.leaves(sums.weights):
    raise InputError(
      'secure_aggregation: clients of this method weigh coordinates each in '
      'its own way, so the sum of uploads is not enough: leave it out'
    )
  nothing = jax.tree.map(jnp.zeros_like, sums)
  sums = tree.where(counts, sums, nothing)
  if round_config.rule is None:
    return sums, None
  return sums, aggregate.apart(read, examples * counts)


def client_metrics(
  round_config: RoundConfig,
  context: RoundContext,
  index: jax.Array,
  before: ClientState,
  result: ClientResult,
) -> ClientMetrics:
  """What a client's result tells: its upload, its steps, how it fared."""
  sound = result.is_finite
  uploaded = wire.coordinates(result.upload)
  if round_config.secure:
    uplink = vector_bytes(round_config.secure, uploaded)
  else:
    uplink = payloads.upload_bytes(
      round_config.method, result.upload, before, result.client_state
    )
  return dict(
    uplink=uplink * sound,
    uploaded=uploaded * sound,
    steps=steps_of(round_config.plan, result.examples)[0],
    scored=client_rows(context.federation.validation, index).size,
    took_part=jnp.array(True),
    rejected=~sound,
    diverged=(~sound | (result.loss > _HOPELESS * result.guess))
    & ~attacks.is_hostile(round_config.attack, index),
  )


def evaluated(
  round_config: RoundConfig,
  context: RoundContext,
  index: jax.Array,
  model: Variables,
) -> tuple[jax.Array, jax.Array | None]:
  """A model's score, NaN without `eval_split` or if hostile; its signs."""
  if not round_config.eval_split:
    return jnp.float32(jnp.nan), None
  federation = context.federation
  rows = client_rows(getattr(federation, round_config.eval_split), index)
  right = score(round_config.learner, model, federation.examples, rows)
  if round_config.attack.ids:
    hostile = attacks.is_hostile(round_config.attack, index)
    right = jnp.where(hostile, jnp.nan, right)
  present = lambda x: x * (index != ABSENT)
  return right, jax.tree.map(present, model_signs(model))
