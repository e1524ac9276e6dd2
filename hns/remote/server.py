"""The server of a federation whose clients are other machines.

It plays rounds as a simulation does (`hns.runs.loop.Players`), so a run of it
has the same folder, checkpoints and table.
"""

import functools
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from hns import tree, wire
from hns.engine import client_store, parallel
from hns.engine.evaluation import Evaluation
from hns.engine.rounds import Closed, RoundMetrics
from hns.remote.client import TOLD, envelope
from hns.remote.messages import Exchange, Order, Reply
from hns.remote.programs import Known, ServerPrograms, programs
from hns.runs import loop
from hns.runs.loop import Players
from hns.runs.programs import Experiment
from hns.runs.progress import PendingRound, Progress
from hns.wire import Message

_LONGEST = 300  # characters of a line
_LARGEST = 1e30  # that a client may tell of itself


def players(exchange: Exchange) -> Players:
  """How a server plays rounds with clients that are reached by `exchange`."""
  return Players(
    programs,
    begin,
    functools.partial(step, exchange),
    functools.partial(evaluate, exchange),
    saves_all=True,
  )


def begin(experiment: Experiment) -> Progress:
  """The progress before round 1; the store holds a `Known` of each client."""
  progress = loop.begin(experiment)
  known = Known(experiment.initial.client_state, np.zeros((), np.int32))
  return progress._replace(store=client_store.create(known))


def known(experiment: Experiment, about: dict[str, int]) -> str:
  """Why a client with these facts cannot take part; '' if it can.

  Args:
    experiment: the server's.
    about: as `hns.remote.client.about` tells.
  """
  index = about.get('client', -1)
  sizes = np.asarray(experiment.federation.train.size)
  if not 0 <= index < len(sizes):
    return f'client {index} is not one of {len(sizes)}'
  here = {
    'frozen': tree.checksum(experiment.initial.frozen),
    'examples': int(sizes[index]),
    'units': int(experiment.units[index]),
  }
  names = dict(
    frozen='checksum of the network',
    examples='number of training examples',
    units='number of examples to evaluate',
  )
  for name, expected in here.items():
    if about.get(name) != expected:
      return (
        f'client {index}: its {names[name]} is {about.get(name)}, here '
        f'{expected}: give it the same config, versions and data'
      )
  return ''


def step(
  exchange: Exchange,
  experiment: Experiment,
  run: ServerPrograms,
  progress: Progress,
) -> Progress:
  """One round: orders to the cohort, their uploads, the server's mean.

  Clients that do not answer, or whose uploads cannot be used, are left out with
  one line on stderr.
  """
  start, state = time.perf_counter(), progress.state
  number = int(state.round) + 1
  ids = np.asarray(
    run.cohort(experiment.key, experiment.federation, state.round)
  )
  orders = _orders(experiment, run, progress, ids, trains=True)
  replies = exchange(orders)
  uploads, told = {}, {}
  for index in ids.tolist():
    reply = replies.get(index, Reply(error='did not answer'))
    try:
      uploads[index] = _upload(experiment, run, number, reply)
      told[index] = reply.told
    except (wire.WireError, _Left) as error:
      _say(f'round {number}: client {index} is left out: {error}')
      if reply.told.get('lost'):  # next time it starts as a new client
        progress.store.states.pop(index, None)
  closed, used = _merged(experiment, run, state, ids, uploads, told)
  for index in sorted(uploads.keys() - used):
    _say(f'round {number}: client {index} is left out: it is not finite')
  if bool(closed.skipped):
    _say(f'round {number}: {len(used)} answers are too few: skipped')
  elif not bool(closed.sound):
    _say(f'round {number}: the mean is not finite: nothing changed')
    used = set()
  else:
    _remember(experiment, run, progress, number, sorted(used))
  report = _report(run, ids, orders, replies, used, told, closed)
  done = PendingRound(ids, report, time.perf_counter() - start)
  return progress._replace(
    state=closed.state, pending=(*progress.pending, done)
  )


class _Left(Exception):
  """Why a client's answer cannot be used."""


def _upload(
  experiment: Experiment, run: ServerPrograms, number: int, reply: Reply
) -> Message:
  """What a client sent; raises `WireError` or `_Left`."""
  if reply.error:
    raise _Left(reply.error)
  if reply.told.get('rejected'):
    raise _Left('its update was not finite')
  missing = _untold(reply)
  if missing:
    raise _Left(f'it tells no {missing} that can be')
  return wire.decode(
    experiment.round_config.method.wire.upload_codec,
    reply.payload,
    run.upload,
    envelope(experiment, number, 'upload'),
  )


def _untold(reply: Reply) -> str:
  """The first number that a client had to tell and did not; '' if none.

  A client's word is all there is for them; they must fit in a float32.
  """
  for name in (*TOLD, 'loss', 'score_global'):
    value = reply.told.get(name)
    if not isinstance(value, float) or not abs(value) < _LARGEST:
      return name
  return ''


def _orders(
  experiment: Experiment,
  run: ServerPrograms,
  progress: Progress,
  ids: np.ndarray,
  trains: bool,
) -> dict[int, Order]:
  """What each of these clients is asked."""
  number = int(progress.state.round) + 1
  message = run.message(*experiment.constants, progress.state)
  frozen = experiment.initial.frozen
  codec = experiment.round_config.method.wire.download_codec
  header = envelope(experiment, number, 'download')
  orders = {}
  for index in ids.tolist():
    known = _known(progress, index)
    sent = run.sent(frozen, message, known.client_state)
    payload = wire.encode(codec, sent, header)
    orders[index] = Order(number, int(known.base), trains, payload)
  return orders


def _known(progress: Progress, index: int) -> Known:
  known = client_store.fetch(progress.store, [index])
  return jax.tree.map(lambda x: tree.from_host(tree.to_host(x)[0], x), known)


def _merged(
  experiment: Experiment,
  run: ServerPrograms,
  state,
  ids: np.ndarray,
  uploads: dict[int, Message],
  told: dict[int, dict[str, float]],
) -> tuple[Closed, set[int]]:
  """What the server makes of the uploads, and whose it could use."""
  nothing = jax.tree.map(np.zeros_like, run.upload)
  weight = run.upload.weight
  each = [uploads.get(i, nothing)._replace(weight=weight) for i in ids.tolist()]
  losses = [told[i]['loss'] if i in told else 0.0 for i in ids.tolist()]
  answered = np.isin(ids, list(uploads))
  closed, counts = run.merge(
    *experiment.constants,
    state,
    np.where(answered, ids, parallel.ABSENT).astype(np.int32),
    jax.tree.map(lambda *leaves: np.stack(leaves), *each),
    np.array(losses, np.float32),
  )
  return closed, set(ids[np.asarray(counts)].tolist())


def _remember(
  experiment: Experiment,
  run: ServerPrograms,
  progress: Progress,
  number: int,
  answered: list[int],
) -> None:
  """Notes, of the clients whose uploads were used, what they have now."""
  for index in answered:
    known = _known(progress, index)
    _, kept = run.learned_nothing(
      *experiment.constants,
      progress.state,
      jnp.int32(index),
      known.client_state,
    )
    after = Known(kept, np.array(number, np.int32))
    one = jax.tree.map(
      lambda x: tree.from_host(tree.to_host(x)[None], x), after
    )
    client_store.keep(progress.store, [index], one)


def _report(
  run: ServerPrograms,
  ids: np.ndarray,
  orders: dict[int, Order],
  replies: dict[int, Reply],
  used: set[int],
  told: dict[int, dict[str, float]],
  closed: Closed,
) -> RoundMetrics:
  """The metrics of a round, on the host; `used`: whose uploads were."""
  listed, closed = ids.tolist(), jax.device_get(closed)
  answers = [replies.get(i, Reply()) for i in listed]
  asked = np.array([reply.asked for reply in answers])
  sent = np.array([i in told for i in listed])
  counted = np.isin(ids, list(used))
  said = np.array([bool(reply.told.get('rejected')) for reply in answers])
  rejected = said | (sent & ~counted)
  column = lambda name: np.array([told.get(i, {}).get(name, 0) for i in listed])
  whole = lambda name: np.clip(column(name), 0, 2**31).astype(np.int64)
  up = [len(reply.payload) for reply in answers]
  return RoundMetrics(
    train_loss=closed.train_loss,
    flip_rate=closed.flip_rate,
    uplink=np.array(up) * counted,
    downlink=np.array([len(orders[i].payload) for i in listed]) * asked,
    uploaded=counted * int(wire.coordinates(run.upload)),
    steps=whole('steps'),
    scored=whole('scored'),
    took_part=np.ones(len(ids), bool),
    dropped=~counted & ~rejected,
    rejected=rejected,
    diverged=column('diverged').astype(bool) | rejected,
    score=column('score').astype(np.float32),
    votes=None,
    skipped=closed.skipped,
  )


def evaluate(
  exchange: Exchange,
  experiment: Experiment,
  run: ServerPrograms,
  progress: Progress,
) -> Evaluation:
  """As `hns.runs.loop.evaluate`, of the clients that answer.

  These downloads are not counted, as in a simulation.
  """
  chosen = np.asarray(experiment.eval_client_ids, np.int32)
  orders = _orders(experiment, run, progress, chosen, trains=False)
  replies = exchange(orders)
  told = {i: r.told for i, r in replies.items() if _evaluates(experiment, i, r)}
  for index in orders.keys() - told.keys():
    _say(f'client {index} is not evaluated: it told no score that can be')
  answered = [i for i in chosen.tolist() if i in told]
  column = lambda name: np.array(
    [told[i][name] for i in answered] or [np.nan], np.float32
  )
  count = (
    np.asarray(experiment.units)[answered] if answered else np.ones(1, int)
  )
  none = np.zeros(0, np.float32)
  return Evaluation(
    column('score'), column('score_global'), count, None, None, none, none
  )


def _evaluates(experiment: Experiment, index: int, reply: Reply) -> bool:
  """Whether a client tells scores that can be."""
  most = np.inf
  if experiment.round_config.learner.task.has_classes:
    most = float(experiment.units[index])
  scores = [reply.told.get(name) for name in ('score', 'score_global')]
  return not reply.error and all(
    isinstance(x, float) and abs(x) < min(_LARGEST, most + 1) for x in scores
  )


def _say(text: str) -> None:
  line = ' '.join(text.split())[:_LONGEST]  # it may be a client's word
  tqdm.tqdm.write(f'hns: {line}', file=sys.stderr)
