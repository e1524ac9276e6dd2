"""The loop over rounds: programs compiled once, one row of metrics a look."""

import concurrent.futures
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from hns import wire
from hns.engine import (
  client_store,
  cost,
  evaluation,
  metrics,
  parallel,
  payloads,
  rounds,
)
from hns.engine.context import RoundConfig, State
from hns.engine.rounds import RoundMetrics
from hns.engine.training import ClientIndices, FederatedData
from hns.methods.contract import Initial
from hns.runs import checkpoint, devices
from hns.runs.checkpoint import Progress
from hns.wire import Envelope


class Experiment(NamedTuple):
  """Everything a run needs, made from a config.

  Attributes:
    round_config: static functions and sizes.
    key: of all rounds.
    initial: what exists before round 1.
    federation: all clients' examples.
    eval_client_ids: int [clients evaluated], ordered by size.
    split: the examples that accuracies are measured on, test or validation.
    layers: by layer, how many weights survived pruning, of how many; {}
      where nothing is pruned.
    head: the path of the output layer; None where that is not plain.
    envelope: what every payload's header says, but for the round.
  """

  round_config: RoundConfig
  key: jax.Array
  initial: Initial
  federation: FederatedData
  eval_client_ids: np.ndarray
  split: str
  layers: dict[str, list[int]]
  head: str | None
  envelope: Envelope

  @property
  def constants(self) -> tuple[jax.Array, Initial, FederatedData]:
    """What every program of a run is given first."""
    return self.key, self.initial, self.federation

  @property
  def rows(self) -> ClientIndices:
    """The examples of `split`."""
    return getattr(self.federation, self.split)


def begin(experiment: Experiment) -> Progress:
  """Where a run is before round 1."""
  initial = experiment.initial
  nobody = np.full(experiment.federation.train.size.shape, -1, np.int32)
  return Progress(
    rounds.begin(initial),
    client_store.create(initial.client_state),
    metrics.Tally(),
    nobody,
  )


def train(
  experiment: Experiment,
  last: int,
  eval_every: int,
  progress: Progress | None = None,
  played: Callable[[int, Progress], None] = lambda number, progress: None,
) -> Iterator[dict[str, Any]]:
  """Yields a row of metrics every `eval_every` rounds and after the last.

  Bytes and rounds count from the first; `seconds` is the mean of the rounds
  since the last row.

  Args:
    experiment: what to run.
    last: the number of rounds in all.
    eval_every: rounds between evaluations.
    progress: where to go on, consumed; None for the beginning.
    played: called after every round with its number, before its evaluation;
      the progress it is given lasts until the next round.
  """
  check_payloads(experiment)
  start = time.perf_counter()
  run = programs(experiment)
  compile_seconds = time.perf_counter() - start
  each = cost.of(
    experiment.round_config, experiment.initial, experiment.federation
  )
  progress = progress or begin(experiment)
  number = int(progress.state.round)
  while True:
    is_new = progress.tally.rounds or progress.unread
    if is_new and (number % eval_every == 0 or number == last):
      progress = checkpoint.read(progress)
      row = _evaluate_row(experiment, run, progress, each)
      yield {'round': number, **row, 'compile_seconds': compile_seconds}
      progress = progress._replace(tally=metrics.evaluated(progress.tally))
    if number == last:
      return
    progress = _round(experiment, run, progress)
    number += 1
    played(number, progress)


def _round(experiment, run, progress) -> Progress:
  """One round; its metrics stay on the devices, to be read when needed."""
  state, store = progress.state, progress.store
  start = time.perf_counter()
  ids = run.cohort(experiment.key, experiment.federation, state.round)
  kept = client_store.fetch(store, ids)
  state, kept, told = run.round(*experiment.constants, state, ids, kept)
  client_store.keep(store, ids, kept)
  jax.block_until_ready(state)
  told = told._replace(votes=None)  # as large as a model
  unread = *progress.unread, (ids, told, time.perf_counter() - start)
  return progress._replace(state=state, unread=unread)


def _evaluate_row(experiment, run, progress, each) -> dict[str, Any]:
  """What a row of metrics says, of a progress with nothing unread."""
  tally, start = progress.tally, time.perf_counter()
  found = evaluate(experiment, run, progress.state, progress.store)
  count = np.asarray(experiment.rows.size)
  return {
    **metrics.summarise(found),
    **metrics.held_accuracy(progress.num_correct, count),
    **metrics.traffic(tally, each),
    'seconds': tally.seconds_since / tally.rounds,
    'eval_seconds': time.perf_counter() - start,
  }


class Programs(NamedTuple):
  """What a run compiles, once.

  Attributes:
    cohort: `(key, federation, round) -> ids`.
    round: as `rounds.run_round`; consumes the states it is given.
    evaluate_personal: the same, and always evaluates the models that clients
      end with; the same program as `round` if that does so too.
    evaluate_global: as `evaluation.evaluate_global`, for all clients evaluated.
  """

  cohort: Callable
  round: Callable
  evaluate_personal: Callable
  evaluate_global: Callable


def programs(experiment: Experiment) -> Programs:
  """Compiles the round and the evaluation, side by side."""
  round_config, initial = experiment.round_config, experiment.initial
  evaluating = round_config._replace(eval_split=experiment.split)
  everywhere = parallel.everywhere(round_config.mesh)
  jit = functools.partial(
    jax.jit, in_shardings=everywhere, out_shardings=everywhere
  )
  state = jax.eval_shape(rounds.begin, initial)
  ids = lambda count: jax.ShapeDtypeStruct((count,), jnp.int32)
  kept = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((round_config.cohort, *x.shape), x.dtype),
    initial.client_state,
  )

  def play(round_config):
    step = functools.partial(rounds.run_round, round_config)
    step = jit(step, donate_argnums=(3, 5))
    return step.lower(
      *experiment.constants, state, ids(round_config.cohort), kept
    )

  draw = jit(functools.partial(rounds.cohort, round_config))
  ask = jit(functools.partial(evaluation.evaluate_global, evaluating))
  with concurrent.futures.ThreadPoolExecutor() as pool:
    soon = lambda lowered: pool.submit(lowered.compile)
    personal = soon(play(evaluating))  # the longest first
    same = round_config.eval_split == experiment.split
    quiet = personal if same else soon(play(round_config))
    shared = soon(
      ask.lower(
        *experiment.constants, state, ids(len(experiment.eval_client_ids))
      )
    )
    cohort = soon(
      draw.lower(experiment.key, experiment.federation, state.round)
    )
  return Programs(*(p.result() for p in (cohort, quiet, personal, shared)))


def evaluate(
  experiment: Experiment,
  run: Programs,
  state: State,
  store: client_store.ClientStore,
) -> evaluation.Evaluation:
  """How good the models of all `eval_client_ids` are.

  Each client trains as in the next round; nothing that comes of it is kept.
  """
  chosen, cohort = experiment.eval_client_ids, experiment.round_config.cohort
  personal, votes = [], []
  hidden = None if devices.is_first() else True
  for first in tqdm.tqdm(
    range(0, len(chosen), cohort),
    'evaluating',
    leave=False,
    delay=5,
    disable=hidden,
  ):
    ids = np.full(cohort, parallel.ABSENT, np.int32)
    here = chosen[first : first + cohort]
    ids[: len(here)] = here
    told = _evaluate_personal(experiment, run, state, store, ids)
    personal.append(told.num_correct[: len(here)])
    votes.append(told.votes)
  given = *experiment.constants, state, np.asarray(chosen, np.int32)
  shared, server_signs = jax.device_get(run.evaluate_global(*given))
  return evaluation.Evaluation(
    np.concatenate(personal),
    shared,
    np.asarray(experiment.rows.size)[chosen],
    jax.tree.map(lambda *blocks: np.sum(blocks, 0), *votes),
    server_signs,
  )


def _evaluate_personal(experiment, run, state, store, ids) -> RoundMetrics:
  """The metrics of a round of which nothing is kept, on the host."""
  copy = jax.tree.map(jnp.array, state)  # it will be consumed
  kept = client_store.fetch(store, ids)
  given = *experiment.constants, copy, ids, kept
  return jax.device_get(run.evaluate_personal(*given)[-1])


def check_payloads(experiment: Experiment) -> None:
  """Encodes first messages and decodes what would travel.

  Raises:
    RuntimeError: the bytes counted are not those of the payloads.
    WireError: the receiver would read something else than was sent.
  """
  method = experiment.round_config.method
  codecs = (  # in the order of wire.DIRECTIONS
    method.wire.download_codec,
    method.wire.upload_codec,
    payloads.MASK_CODEC,
  )
  sent = jax.jit(
    functools.partial(_first_messages, experiment.round_config, codecs)
  )(*experiment.constants)
  for direction, (codec, (message, size)) in enumerate(zip(codecs, sent)):
    if not jax.tree.leaves(message.value):
      continue
    envelope = experiment.envelope._replace(direction=direction)
    payload = wire.encode(codec, message, envelope)
    wire.decode(codec, payload, message, envelope)
    if len(payload) != size:
      raise RuntimeError(
        f'bytes of the {wire.DIRECTIONS[direction]} are counted wrongly'
      )


def _first_messages(round_config, codecs, key, initial, federation):
  """A client's first download, upload and choice, each with its bytes."""
  method, frozen = round_config.method, initial.frozen
  kept = initial.client_state
  state = rounds.begin(initial)
  context = rounds.begin_round(round_config, key, initial, federation, state)
  message = context.message
  start = method.client.init(key, frozen, message, kept)
  down = payloads.download_for(method, frozen, message, kept)
  up, kept = method.client.update(key, frozen, message, kept, start, start)
  sent = down, up, payloads.mask_message(method, kept)
  return [(m, wire.size(codec, m)) for m, codec in zip(sent, codecs)]
