"""Runs of several seeds as one program: seeds are one more axis of `vmap`.

On an accelerator that a run of small clients does not fill, they take less time
than one after the other; on a CPU they take more.
"""

import functools
import operator
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hns import tree
from hns.engine import client_store, parallel, rounds
from hns.errors import InputError
from hns.runs import experiment
from hns.runs.programs import Experiment, Programs, programs
from hns.runs.progress import PendingRound, Progress
from hns.values import ConfigDict


class Together(NamedTuple):
  """Experiments that are played side by side.

  Attributes:
    experiments: of one shape: their examples are padded.
    programs: of each of them, for `hns.evaluate`.
    constants: the first arguments of `round`, leaves [seeds, ...].
    round: as `Programs.round`, all leaves with a first axis of seeds.
  """

  experiments: tuple[Experiment, ...]
  programs: Programs
  constants: tuple
  round: Any


def together(config: ConfigDict, seeds: Sequence[int]) -> Together:
  """Compiles the runs of a config with several seeds as one program.

  Without `compact`, so that networks of all seeds have one shape.

  Raises:
    InputError: the config cannot run, or not as one program, and why.
  """
  experiments = [_build(config, seed) for seed in seeds]
  _check_alike(experiments)
  padded = _padded(experiments)
  first = padded[0]
  step = jax.vmap(functools.partial(rounds.run_round, first.round_config))
  everywhere = parallel.everywhere(first.round_config.mesh)
  run_round = jax.jit(step, in_shardings=everywhere, out_shardings=everywhere)
  constants = _stacked([e.constants for e in padded])
  return Together(padded, programs(first), constants, run_round)


def step_together(
  many: Together, progress: Sequence[Progress]
) -> list[Progress]:
  """One round of each, with the numbers of `hns.step` up to rounding.

  Args:
    many: from `together`.
    progress: of each experiment, at first `hns.begin(experiment)`; consumed.
  """
  start = time.perf_counter()
  pairs = list(zip(many.experiments, progress, strict=True))
  ids = [
    many.programs.cohort(e.key, e.federation, p.state.round) for e, p in pairs
  ]
  kept = [client_store.fetch(p.store, i) for i, p in zip(ids, progress)]
  played = many.round(
    *many.constants,
    _stacked([p.state for p in progress]),
    jnp.stack(ids),
    _stacked(kept),
  )
  jax.block_until_ready(played)
  seconds = (time.perf_counter() - start) / len(pairs)
  after = []
  for number, (one, own) in enumerate(zip(progress, ids)):
    state, client_states, reported = jax.tree.map(
      operator.itemgetter(number), played
    )
    client_store.keep(one.store, own, client_states)
    done = PendingRound(own, reported._replace(votes=None), seconds)
    after.append(one._replace(state=state, pending=(*one.pending, done)))
  return after


def _build(config: ConfigDict, seed: int) -> Experiment:
  """The experiment of a config with another seed, and without `compact`."""
  with config.copy_and_resolve_references().unlocked() as one:
    one.seed, one.compact = seed, False
  return experiment.build(one)


def _check_alike(experiments: Sequence[Experiment]) -> None:
  """Raises `InputError` for seeds that cannot be one program."""
  if not experiments:
    raise InputError('together: seeds: give at least one')
  first = experiments[0].round_config
  for number, one in enumerate(experiments):
    where = f'together: seed {number} of the list'
    for field in first._fields:
      ours, theirs = getattr(first, field), getattr(one.round_config, field)
      if field in ('method', 'learner', 'rule'):
        continue  # functions, which cannot be compared: their shapes are
      if ours != theirs:
        raise InputError(
          f'{where}: {field} is {theirs}, and {ours} for seed 0 of it: unseen '
          'or hostile clients follow from the seed: leave them out'
        )
    shapes = [
      jax.tree.map(lambda x: (x.shape, str(x.dtype)), e.initial)
      for e in (experiments[0], one)
    ]
    if shapes[0] != shapes[1]:
      raise InputError(
        f'{where}: its network has another shape than that of seed 0 of it: '
        'play them apart'
      )


def _padded(experiments: Sequence[Experiment]) -> tuple[Experiment, ...]:
  """The experiments with examples of one shape: more, that no client has."""
  federations = [e.federation for e in experiments]
  shapes = jax.tree.map(
    lambda *x: np.max([a.shape for a in x], 0), *federations
  )

  def grown(x, shape):
    more = [(0, int(most) - own) for own, most in zip(x.shape, shape)]
    return jnp.pad(x, more)

  return tuple(
    e._replace(federation=jax.tree.map(grown, e.federation, shapes))
    for e in experiments
  )


def _stacked(trees: Sequence[tree.Tree]) -> tree.Tree:
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
