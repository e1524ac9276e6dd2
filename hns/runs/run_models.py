"""The models that a run has at a progress."""

from collections.abc import Sequence

import jax
import numpy as np

from hns.engine import client_store, evaluation, rounds
from hns.engine.context import RoundContext
from hns.methods.contract import Variables
from hns.runs.programs import Experiment
from hns.runs.progress import Progress


def global_model(experiment: Experiment, progress: Progress) -> Variables:
  """The variables of the server's model, for `round_config.learner.apply`."""
  round_config = experiment.round_config
  shared = evaluation.global_model(round_config, _context(experiment, progress))
  return round_config.learner.unpack(shared)


def personal_models(
  experiment: Experiment, progress: Progress, ids: Sequence[int]
) -> Variables:
  """Variables that clients have after local training, leaves [ids, ...]."""
  ids, round_config = np.asarray(ids, np.int32), experiment.round_config
  models = evaluation.personal_models(
    round_config,
    _context(experiment, progress),
    ids,
    client_store.fetch(progress.store, ids),
  )
  return jax.vmap(round_config.learner.unpack)(models)


def _context(experiment: Experiment, progress: Progress) -> RoundContext:
  return rounds.begin_round(
    experiment.round_config, *experiment.constants, progress.state
  )
