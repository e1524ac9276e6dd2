"""The server of a federation whose clients are other machines.

It plays rounds as a simulation does (`hns.runs.loop.Players`), so a run of it
has the same folder, checkpoints and table.
"""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

from hns import tree, wire
from hns.engine import client_store
from hns.engine.evaluation import Evaluation
from hns.engine.rounds import RoundMetrics
from hns.engine.secure import protocol_bytes, vector_bytes
from hns.errors import invalid
from hns.remote import collect, trust
from hns.remote.client import envelope
from hns.remote.collect import Round, say
from hns.remote.messages import Exchange, Order, Reply, SecureExchange
from hns.remote.programs import Known, ServerPrograms, programs
from hns.runs import loop
from hns.runs.loop import Players
from hns.runs.programs import Experiment
from hns.runs.progress import PendingRound, Progress
from hns.wire import Message


def players(
  exchange: Exchange, secure_exchange: SecureExchange | None = None
) -> Players:
  """How a server plays rounds with clients that are reached by `exchange`.

  Runs with `secure_aggregation` need a `secure_exchange` too.
  """

  def checked_programs(experiment):
    if experiment.round_config.secure and secure_exchange is None:
      remedy = 'give hns.remote.server.players a secure_exchange, or set False'
      raise invalid('secure_aggregation', True, remedy)
    return programs(experiment)

  return Players(
    checked_programs,
    begin,
    functools.partial(step, exchange, secure_exchange),
    functools.partial(evaluate, exchange),
    saves_all=True,
  )


def begin(experiment: Experiment) -> Progress:
  """The progress before round 1; the store holds a `Known` of each client."""
  progress = loop.begin(experiment)
  known = Known(experiment.initial.client_state, np.zeros((), np.int32))
  return progress._replace(store=client_store.create(known))


def step(
  exchange: Exchange,
  secure_exchange: SecureExchange | None,
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
  message = run.message(*experiment.constants, state)
  orders = _orders(experiment, run, progress, message, ids, trains=True)
  if experiment.round_config.secure is None:
    came = collect.each(exchange, experiment, run, progress, ids, orders)
  else:
    came = collect.sum_alone(
      secure_exchange, experiment, run, progress, ids, orders
    )
  replies, told, used, closed = came
  for index, reply in replies.items():
    if reply.told.get('lost'):  # next time it starts as a new client
      progress.store.states.pop(index, None)
  if bool(closed.skipped):
    say(f'round {number}: {len(used)} answers are too few: skipped')
  elif not bool(closed.sound):
    say(f'round {number}: the mean is not finite: nothing changed')
    used = set()
  else:
    _remember(experiment, run, progress, message, sorted(used))
  report = _report(experiment, run, ids, orders, came._replace(used=used))
  done = PendingRound(ids, report, time.perf_counter() - start)
  return progress._replace(
    state=closed.state, pending=(*progress.pending, done)
  )


def _orders(
  experiment: Experiment,
  run: ServerPrograms,
  progress: Progress,
  message: Message,
  ids: np.ndarray,
  trains: bool,
) -> dict[int, Order]:
  """What each of these clients is asked in the round of this download."""
  number = int(progress.state.round) + 1
  frozen = experiment.initial.frozen
  codec = experiment.round_config.method.wire.download_codec
  purpose = envelope(experiment, number, 'download')
  orders = {}
  for index in ids.tolist():
    known = _known(progress, index)
    sent = run.sent(frozen, message, known.client_state)
    payload = wire.encode(codec, sent, purpose)
    orders[index] = Order(number, int(known.base), trains, payload)
  return orders


def _known(progress: Progress, index: int) -> Known:
  known = client_store.fetch(progress.store, [index])
  return jax.tree.map(lambda x: tree.from_host(tree.to_host(x)[0], x), known)


def _remember(
  experiment: Experiment,
  run: ServerPrograms,
  progress: Progress,
  message: Message,
  answered: list[int],
) -> None:
  """Notes, of the clients whose uploads were used, what they have now."""
  number = int(progress.state.round) + 1
  for index in answered:
    known = _known(progress, index)
    _, kept = run.learned_nothing(
      *experiment.constants,
      progress.state,
      message,
      jnp.int32(index),
      known.client_state,
    )
    after = Known(kept, np.array(number, np.int32))
    one = jax.tree.map(
      lambda x: tree.from_host(tree.to_host(x)[None], x), after
    )
    client_store.keep(progress.store, [index], one)


def _report(
  experiment: Experiment,
  run: ServerPrograms,
  ids: np.ndarray,
  orders: dict[int, Order],
  came: Round,
) -> RoundMetrics:
  """The metrics of a round, on the host."""
  replies, told, used, closed = came
  listed, closed = ids.tolist(), jax.device_get(closed)
  answers = [replies.get(i, Reply()) for i in listed]
  asked = np.array([reply.asked for reply in answers])
  sent = np.array([i in told for i in listed])
  counted = np.isin(ids, list(used))
  said = np.array([bool(reply.told.get('rejected')) for reply in answers])
  rejected = said | (sent & ~counted)
  column = lambda name: np.array([told.get(i, {}).get(name, 0) for i in listed])
  whole = lambda name: np.clip(column(name), 0, 2**31).astype(np.int64)
  uploaded = int(wire.coordinates(run.upload))
  up = np.array([len(reply.payload) for reply in answers]) * counted
  down = np.array([len(orders[i].payload) for i in listed]) * asked
  secure = experiment.round_config.secure
  if secure:
    keys_up, keys_down = map(np.asarray, protocol_bytes(secure, asked, counted))
    up, down = (
      vector_bytes(secure, uploaded) * counted + keys_up,
      down + keys_down,
    )
  return RoundMetrics(
    train_loss=closed.train_loss,
    flip_rate=closed.flip_rate,
    uplink=up,
    downlink=down,
    uploaded=counted * uploaded,
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
  message = run.message(*experiment.constants, progress.state)
  orders = _orders(experiment, run, progress, message, chosen, trains=False)
  replies = exchange(orders)
  told = {
    i: r.told
    for i, r in replies.items()
    if trust.tells_scores(experiment, i, r)
  }
  for index in orders.keys() - told.keys():
    say(f'client {index} is not evaluated: it told no score that can be')
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
