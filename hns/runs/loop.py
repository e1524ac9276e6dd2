"""The loop over rounds; a row of metrics after each evaluated round."""

import functools
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from hns import tree, wire
from hns.engine import (
  client_store,
  evaluation,
  flops,
  metrics,
  parallel,
  payloads,
  rounds,
)
from hns.engine.context import RoundConfig
from hns.engine.rounds import RoundMetrics
from hns.engine.training import FederatedData
from hns.errors import InputError
from hns.methods.contract import Initial
from hns.report.files import Row
from hns.runs import devices
from hns.runs.programs import Experiment, Programs, programs
from hns.runs.progress import PendingRound, Progress, fetch_metrics


def begin(experiment: Experiment) -> Progress:
  """The progress of a run before round 1."""
  initial = experiment.initial
  score = np.full(experiment.federation.train.size.shape, np.nan, np.float32)
  return Progress(
    rounds.begin(initial),
    client_store.create(initial.client_state),
    metrics.Tally(),
    score,
  )


def train(
  experiment: Experiment,
  last: int,
  eval_every: int,
  progress: Progress | None = None,
  after_round: Callable[[int, Progress], None] = lambda number, progress: None,
) -> Iterator[Row]:
  """Yields a row of metrics every `eval_every` rounds and after the last.

  Bytes and rounds count from round 1; `seconds` is a mean since the last row.

  Args:
    experiment: what to run.
    last: the number of rounds in all.
    eval_every: rounds between evaluations.
    progress: where to continue, consumed; None for the beginning.
    after_round: called after every round, before its evaluation; the progress
      is valid until the next round.
  """
  check_payloads(experiment)
  start = time.perf_counter()
  run = programs(experiment)
  compile_seconds = time.perf_counter() - start
  client_flops = flops.of(
    experiment.round_config, experiment.initial, experiment.federation
  )
  progress = progress or begin(experiment)
  number = int(progress.state.round)
  while True:
    is_new = progress.tally.rounds or progress.pending
    if is_new and (number % eval_every == 0 or number == last):
      progress = fetch_metrics(progress)
      row = _evaluate_row(experiment, run, progress, client_flops)
      yield {'round': number, **row, 'compile_seconds': compile_seconds}
      progress = progress._replace(tally=metrics.evaluated(progress.tally))
    if number == last:
      return
    progress = step(experiment, run, progress)
    number += 1
    after_round(number, progress)


def step(experiment: Experiment, run: Programs, progress: Progress) -> Progress:
  """Runs one round; its metrics stay on the devices until they are needed.

  Consumes the progress: go on with what is returned.
  """
  state, store = progress.state, progress.store
  start = time.perf_counter()
  ids = run.cohort(experiment.key, experiment.federation, state.round)
  client_states = client_store.fetch(store, ids)
  state, client_states, reported = run.round(
    *experiment.constants, state, ids, client_states
  )
  client_store.keep(store, ids, client_states)
  jax.block_until_ready(state)
  reported = reported._replace(votes=None)  # as large as a model
  done = PendingRound(ids, reported, time.perf_counter() - start)
  return progress._replace(state=state, pending=(*progress.pending, done))


def _evaluate_row(
  experiment: Experiment,
  run: Programs,
  progress: Progress,
  client_flops: flops.Flops,
) -> Row:
  """A row of metrics of a progress without pending rounds."""
  tally, start = progress.tally, time.perf_counter()
  evaluated = evaluate(experiment, run, progress)
  count = np.asarray(experiment.units)
  return {
    **metrics.summarise(evaluated),
    **metrics.held_accuracy(progress.score, count),
    **metrics.traffic(tally, client_flops),
    'seconds': tally.seconds_since / tally.rounds,
    'eval_seconds': time.perf_counter() - start,
  }


def evaluate(
  experiment: Experiment, run: Programs, progress: Progress
) -> evaluation.Evaluation:
  """Evaluates the personal models of `eval_client_ids` and the global model.

  Each client trains as in the next round; the results are discarded. The
  clients of `round_config.unseen` do the same, apart from all others.
  """
  chosen = np.asarray(experiment.eval_client_ids, np.int32)
  unseen = np.asarray(experiment.round_config.unseen, np.int32)
  count = np.asarray(experiment.units)
  personal, votes = zip(*_evaluate_blocks(experiment, run, progress, chosen))
  apart = _evaluate_blocks(experiment, run, progress, unseen)
  args = *experiment.constants, progress.state, chosen
  shared, server_signs = jax.device_get(run.evaluate_global(*args))
  return evaluation.Evaluation(
    np.concatenate(personal),
    shared,
    count[chosen],
    jax.tree.map(lambda *blocks: np.sum(blocks, 0), *votes),
    server_signs,
    np.concatenate([unseen[:0], *(right for right, _ in apart)]),
    count[unseen],
  )


def _evaluate_blocks(
  experiment: Experiment,
  run: Programs,
  progress: Progress,
  chosen: np.ndarray,
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
  """Scores and summed signs of as many clients a time as a cohort has.

  Of their models after local training: float32 [block], and int32 [weights]
  or None.
  """
  cohort = experiment.round_config.cohort
  for first in tqdm.tqdm(
    range(0, len(chosen), cohort),
    'evaluating',
    leave=False,
    delay=5,
    disable=None if devices.is_first() else True,
  ):
    block = chosen[first : first + cohort]
    ids = np.full(cohort, parallel.ABSENT, np.int32)
    ids[: len(block)] = block
    reported = _evaluate_personal(experiment, run, progress, ids)
    yield reported.score[: len(block)], reported.votes


def _evaluate_personal(
  experiment: Experiment,
  run: Programs,
  progress: Progress,
  ids: np.ndarray,
) -> RoundMetrics:
  """The metrics, on the host, of a round whose results are discarded."""
  copy = jax.tree.map(jnp.array, progress.state)  # the program consumes it
  client_states = client_store.fetch(progress.store, ids)
  args = *experiment.constants, copy, ids, client_states
  return jax.device_get(run.evaluate_personal(*args)[-1])


def check_payloads(experiment: Experiment) -> None:
  """Encodes first messages of a client and decodes them again.

  Its params are moved by noise in place of training: bytes are counted rightly
  and messages can be encoded whatever was trained.

  Raises:
    InputError: the client leaves out coordinates without telling which, or a
      message cannot be encoded, or decodes to something else.
    RuntimeError: the number of bytes counted is not that of the payload.
  """
  method = experiment.round_config.method
  codecs = (  # in the order of wire.DIRECTIONS
    method.wire.download_codec,
    method.wire.upload_codec,
    payloads.MASK_CODEC,
  )
  sent, is_silent = jax.jit(
    functools.partial(_first_messages, experiment.round_config, codecs)
  )(*experiment.constants)
  if is_silent:
    raise InputError(
      'the upload leaves out coordinates that the download has: give the '
      'method a wire.kept_mask that tells which, or their places travel free'
    )
  for direction, (codec, (message, size)) in enumerate(zip(codecs, sent)):
    if not jax.tree.leaves(message.value):
      continue
    envelope = experiment.envelope._replace(direction=direction)
    payload = wire.encode(codec, message, envelope)
    wire.decode(codec, payload, message, envelope)
    if len(payload) != size:
      name = wire.DIRECTIONS[direction]
      raise RuntimeError(
        f'the {name} has {len(payload)} bytes, but {size} are counted'
      )


def _first_messages(
  round_config: RoundConfig,
  codecs: tuple[wire.Codec, ...],
  key: jax.Array,
  initial: Initial,
  federation: FederatedData,
) -> tuple[list[tuple[wire.Message, jax.Array]], jax.Array]:
  """A client's first download, upload and mask, each with its bytes.

  And whether the upload leaves out coordinates without a mask, bool [].
  """
  method, frozen = round_config.method, initial.frozen
  client_state = initial.client_state
  state = rounds.begin(initial)
  context = rounds.begin_round(round_config, key, initial, federation, state)
  message = context.message
  start = method.client.init(key, frozen, message, client_state)
  down = payloads.download_for(method, frozen, message, client_state)
  noise = tree.uniform(key, start, -1.0)
  params = jax.tree.map(lambda x, n: (x + n).astype(x.dtype), start, noise)
  up, client_state = method.client.update(
    key, frozen, message, client_state, start, params
  )
  sent = down, up, payloads.mask_message(method, client_state)
  fewer = wire.coordinates(up) < wire.coordinates(message)
  is_silent = fewer & (method.wire.kept_mask is None)
  return [(m, wire.size(codec, m)) for m, codec in zip(sent, codecs)], is_silent
