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
from hns.engine import client_store, cost, evaluation, metrics, parallel, rounds
from hns.engine.client import RoundConfig
from hns.engine.training import ClientIndices, FederatedData
from hns.methods import contract
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
    asked: int [clients evaluated], ids ordered by size.
    client_update: the examples that accuracies are measured on, test or
      validation.
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
    news = progress.tally.rounds or progress.unread
    if news and (number % eval_every == 0 or number == last):
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
  """One round; what it told stays on the devices, to be read when needed."""
  _, key, initial, federation, *_ = experiment
  state, store, *_ = progress
  start = time.perf_counter()
  ids = run.cohort(key, federation, state.round)
  mine = client_store.fetch(store, ids)
  state, mine, told = run.round(key, initial, federation, state, ids, mine)
  client_store.keep(store, ids, mine)
  jax.block_until_ready(state)
  told = told._replace(votes=None)  # as large as a model
  unread = *progress.unread, (ids, told, time.perf_counter() - start)
  return progress._replace(state=state, unread=unread)


def _evaluate_row(experiment, run, progress, each) -> dict[str, Any]:
  """What a row of metrics says, of a progress with nothing unread."""
  state, store, tally, held, _ = progress
  start = time.perf_counter()
  scores = evaluate(experiment, run, state, store)
  return {
    **metrics.summarise(scores),
    **metrics.held(held, np.asarray(experiment.rows.size)),
    **metrics.traffic(tally, each),
    'seconds': tally.seconds_since / tally.rounds,
    'eval_seconds': time.perf_counter() - start,
  }


class Programs(NamedTuple):
  """What a run compiles, once.

  Attributes:
    cohort: `(key, federation, round) -> ids`.
    round: as `rounds.run_round`; consumes the states it is given.
    trial: the same, and always tells how good the models are that it ends
      with; the same program as `round` if that tells it too.
    newcomers: as `evaluation.newcomers`, for all that are asked.
  """

  cohort: Any
  round: Any
  trial: Any
  evaluate_global: Any


def programs(experiment: Experiment) -> Programs:
  """Compiles the round and the evaluation, side by side."""
  round_config, key, initial, federation, eval_client_ids, split, *_ = (
    experiment
  )
  asking = round_config._replace(held=split)
  everywhere = parallel.everywhere(round_config.mesh)
  jit = functools.partial(
    jax.jit, in_shardings=everywhere, out_shardings=everywhere
  )
  given = key, initial, federation, jax.eval_shape(rounds.begin, initial)
  ids = lambda count: jax.ShapeDtypeStruct((count,), jnp.int32)
  kept = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((round_config.cohort, *x.shape), x.dtype),
    initial.client_state,
  )

  def play(round_config):
    step = functools.partial(rounds.run_round, round_config)
    step = jit(step, donate_argnums=(3, 5))
    return step.lower(*given, ids(round_config.cohort), kept)

  draw = jit(functools.partial(rounds.cohort, round_config))
  ask = jit(functools.partial(evaluation.evaluate_global, asking))
  with concurrent.futures.ThreadPoolExecutor() as pool:
    soon = lambda lowered: pool.submit(lowered.compile)
    trial = soon(play(asking))  # the longest first
    quiet = trial if round_config.held == split else soon(play(round_config))
    evaluate_global = soon(ask.lower(*given, ids(len(eval_client_ids))))
    cohort = soon(draw.lower(key, federation, given[-1].round))
  return Programs(
    *(p.result() for p in (cohort, quiet, trial, evaluate_global))
  )


def evaluate(
  experiment: Experiment,
  run: Programs,
  state: Any,
  store: client_store.ClientStore,
) -> evaluation.Evaluation:
  """How good the models of all `asked` are.

  Each client trains as in the next round; nothing that comes of it is kept.
  """
  round_config, key, initial, federation, eval_client_ids, *_ = experiment
  personal, votes = [], []
  blocks = range(0, len(eval_client_ids), round_config.cohort)
  quiet = None if devices.is_first() else True
  for first in tqdm.tqdm(
    blocks, 'evaluating', leave=False, delay=5, disable=quiet
  ):
    ids = np.full(round_config.cohort, parallel.ABSENT, np.int32)
    here = eval_client_ids[first : first + round_config.cohort]
    ids[: len(here)] = here
    copy = jax.tree.map(jnp.array, state)  # it will be consumed
    mine = client_store.fetch(store, ids)
    told = run.trial(key, initial, federation, copy, ids, mine)[-1]
    told = jax.device_get(told)
    personal.append(told.held[: len(here)])
    votes.append(told.votes)
  total = jax.tree.map(lambda *blocks: np.sum(blocks, 0), *votes)
  given = key, initial, federation, state, np.asarray(eval_client_ids, np.int32)
  right, server = jax.device_get(run.evaluate_global(*given))
  count = np.asarray(experiment.rows.size)[eval_client_ids]
  return evaluation.Evaluation(
    np.concatenate(personal), right, count, total, server
  )


def check_payloads(experiment: Experiment) -> None:
  """Encodes first messages and decodes what would travel.

  Raises:
    RuntimeError: the bytes counted are not those of the payloads.
    WireError: the receiver would read something else than was sent.
  """
  round_config, key, initial, federation, *_, envelope = experiment
  method = round_config.method

  @jax.jit
  def first(key, initial, federation):
    state = rounds.begin(initial)
    context = rounds.begin_round(round_config, key, initial, federation, state)
    given, frozen = context.message, initial.frozen
    start = method.client_init(key, frozen, given, initial.client_state)
    down = method.download_for(frozen, given, initial.client_state)
    up, client_state = method.client_update(
      key, frozen, given, initial.client_state, start, start
    )
    sent = down, up, contract.mask_message(method, client_state)
    return [(m, wire.size(codec, m)) for m, codec in zip(sent, codecs)]

  # In the order of wire.DIRECTIONS.
  codecs = method.download_codec, method.upload_codec, contract.MASK_CODEC
  told = zip(codecs, first(key, initial, federation))
  for way, (codec, (message, size)) in enumerate(told):
    if not jax.tree.leaves(message.value):
      continue
    envelope = envelope._replace(way=way)
    payload = wire.encode(codec, message, envelope)
    wire.decode(codec, payload, message, envelope)
    if len(payload) != size:
      raise RuntimeError(
        f'bytes of the {wire.DIRECTIONS[way]} are counted wrongly'
      )
