"""How uploads reach the server: each alone, or only their sum."""

import sys
from typing import NamedTuple

import jax
import numpy as np
import tqdm

from hns import wire
from hns.engine import parallel
from hns.engine.rounds import Closed
from hns.remote import trust
from hns.remote.messages import (
  Exchange,
  Left,
  Order,
  Reply,
  SecureExchange,
)
from hns.remote.programs import ServerPrograms
from hns.remote.secure import summed
from hns.runs.programs import Experiment
from hns.runs.progress import Progress
from hns.wire import Message

_LONGEST = 300  # characters of a line


class Round(NamedTuple):
  """What came of a round's orders.

  Attributes:
    replies: by client.
    told: of the clients whose uploads came, what they tell.
    used: the clients whose uploads the server used.
    closed: what it made of them.
  """

  replies: dict[int, Reply]
  told: dict[int, dict[str, float]]
  used: set[int]
  closed: Closed


def each(
  exchange: Exchange,
  experiment: Experiment,
  run: ServerPrograms,
  progress: Progress,
  ids: np.ndarray,
  orders: dict[int, Order],
) -> Round:
  """A round in which the server reads every upload."""
  number = int(progress.state.round) + 1
  replies = exchange(orders)
  uploads, told = {}, {}
  for index in ids.tolist():
    reply = replies.get(index, Reply(error='did not answer'))
    try:
      uploads[index] = trust.upload(experiment, run.upload, number, reply)
      told[index] = reply.told
    except (wire.WireError, Left) as error:
      say(f'round {number}: client {index} is left out: {error}')
  closed, used = _merged(experiment, run, progress.state, ids, uploads, told)
  for index in sorted(uploads.keys() - used):
    say(f'round {number}: client {index} is left out: it is not finite')
  return Round(replies, told, used, closed)


def sum_alone(
  exchange: SecureExchange,
  experiment: Experiment,
  run: ServerPrograms,
  progress: Progress,
  ids: np.ndarray,
  orders: dict[int, Order],
) -> Round:
  """A round in which the server learns only the sum of the uploads."""
  secure, number = experiment.round_config.secure, int(progress.state.round) + 1
  replies, total = exchange(secure, orders)
  used = set()
  for index in ids.tolist():
    reply = replies.get(index, Reply(error='did not answer'))
    if reply.error:
      say(f'round {number}: client {index} is left out: {reply.error}')
    else:
      used.add(index)
  values = jax.tree.map(np.zeros_like, run.upload.value)
  examples = int(np.asarray(experiment.federation.train.size)[[*used]].sum())
  in_sum = used
  try:
    if total is None:
      raise Left('nothing could be unmasked')
    values = summed(secure, run.upload, total, examples)
  except Left as error:
    say(f'round {number}: {error}')
    in_sum = set()
    used = used if total is None else in_sum
  told = {i: trust.told(replies[i]) for i in used}
  for index in sorted(i for i in used if not told[i]):
    say(f'round {number}: client {index} is in the sum, but tells no numbers')
  losses = [told.get(i, {}).get('loss', np.nan) for i in ids.tolist()]
  closed = run.merge(
    *experiment.constants,
    progress.state,
    np.where(np.isin(ids, [*in_sum]), ids, parallel.ABSENT).astype(np.int32),
    values,
    np.array(losses, np.float32),
  )
  return Round(replies, told, used, closed)


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


def say(text: str) -> None:
  line = ' '.join(text.split())[:_LONGEST]  # it may be a client's word
  tqdm.tqdm.write(f'hns: {line}', file=sys.stderr)
