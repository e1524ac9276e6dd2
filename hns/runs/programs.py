"""An experiment, built from a config, and its compiled programs."""

import concurrent.futures
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hns.engine import evaluation, parallel, rounds
from hns.engine.context import RoundConfig, State
from hns.engine.privacy import Privacy
from hns.engine.rounds import RoundMetrics
from hns.engine.scoring import units
from hns.engine.training import ClientIndices, FederatedData
from hns.methods.contract import ClientState, Initial
from hns.once import quickly
from hns.wire import Envelope


class Experiment(NamedTuple):
  """Everything a run needs, built from a config.

  Attributes:
    round_config: static functions and sizes.
    key: the PRNG key that all rounds derive theirs from.
    initial: what exists before round 1.
    federation: all clients' examples.
    eval_client_ids: int [clients evaluated], of those that can take part,
      ordered by size.
    split: the examples that accuracies are measured on, test or validation.
    layers: for each layer, the weights that survived pruning and all weights;
      {} without pruning.
    head: the path of the output layer; None if it is not unique.
    privacy: what epsilons depend on.
    frozen: checksum of what never changes, the mask and pruned weights as well.
    envelope: what every payload is for; its round and direction are set later.
  """

  round_config: RoundConfig
  key: jax.Array
  initial: Initial
  federation: FederatedData
  eval_client_ids: np.ndarray
  split: str
  layers: dict[str, list[int]]
  head: str | None
  privacy: Privacy
  frozen: int
  envelope: Envelope

  @property
  def constants(self) -> tuple[jax.Array, Initial, FederatedData]:
    """The first arguments of every compiled program of a run."""
    return self.key, self.initial, self.federation

  @property
  def rows(self) -> ClientIndices:
    """The examples of `split`."""
    return getattr(self.federation, self.split)

  @property
  def units(self) -> np.ndarray:
    """What each client's examples of `split` count for, int32 [clients]."""
    examples = self.federation.examples
    return np.asarray(units(self.round_config.learner, examples, self.rows))


class Programs(NamedTuple):
  """The compiled programs of a run.

  Attributes:
    cohort: `(key, federation, round) -> ids`.
    round: as `rounds.run_round`; consumes the states passed to it.
    evaluate_personal: as `round`, and always evaluates the models that clients
      end with; the same program as `round` if that evaluates them too.
    evaluate_global: as `evaluation.evaluate_global`, for all clients evaluated.
  """

  cohort: Callable[..., jax.Array]
  round: Callable[..., tuple[State, ClientState, RoundMetrics]]
  evaluate_personal: Callable[..., tuple[State, ClientState, RoundMetrics]]
  evaluate_global: Callable[..., tuple[jax.Array, jax.Array | None]]


def programs(experiment: Experiment) -> Programs:
  """Compiles the programs of a run, side by side."""
  round_config, initial = experiment.round_config, experiment.initial
  evaluating = round_config._replace(eval_split=experiment.split)
  everywhere = parallel.everywhere(round_config.mesh)
  jit = functools.partial(
    jax.jit, in_shardings=everywhere, out_shardings=everywhere
  )
  state = jax.eval_shape(rounds.begin, initial)
  ids = lambda count: jax.ShapeDtypeStruct((count,), jnp.int32)
  client_states = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((round_config.cohort, *x.shape), x.dtype),
    initial.client_state,
  )

  def lower_round(round_config):
    step = functools.partial(rounds.run_round, round_config)
    return jit(step, donate_argnums=(3, 5)).lower(
      *experiment.constants, state, ids(round_config.cohort), client_states
    )

  draw = jit(
    functools.partial(rounds.cohort, round_config), compiler_options=quickly()
  )
  evaluate = jit(functools.partial(evaluation.evaluate_global, evaluating))
  num_evaluated = len(experiment.eval_client_ids)
  with concurrent.futures.ThreadPoolExecutor() as pool:
    compiled = lambda lowered: pool.submit(lowered.compile)
    personal = compiled(lower_round(evaluating))  # the longest first
    same = round_config.eval_split == experiment.split
    run_round = personal if same else compiled(lower_round(round_config))
    shared = compiled(
      evaluate.lower(*experiment.constants, state, ids(num_evaluated))
    )
    cohort = compiled(
      draw.lower(experiment.key, experiment.federation, state.round)
    )
  return Programs(*(p.result() for p in (cohort, run_round, personal, shared)))
