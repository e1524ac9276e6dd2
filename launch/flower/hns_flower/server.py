"""The server: a run of hns whose clients are SuperNodes."""

import contextlib
import functools
import pathlib
import shlex
import sys
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from absl import flags
from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from hns import report
from hns.engine.secure import Secure
from hns.remote import server, trust
from hns.remote.messages import Order, Reply, Sum
from hns.runs import commandline, devices, experiment
from hns.runs.programs import Experiment
from hns.values import ConfigDict
from hns_flower import masked, records

app = ServerApp()

_POLL = 0.2  # seconds


class Team(NamedTuple):
  """The nodes that the server has met; changed in place.

  Attributes:
    nodes: by client id, the node.
    refused: nodes that cannot take part, such as those with another config.
    late: by the id of an order that was not answered in time, the client. It is
      asked again, and not waited for until it answers anything.
    silent: by the id of a query that was not answered in time, the node.
  """

  nodes: dict[int, int]
  refused: set[int]
  late: dict[str, int]
  silent: dict[str, int]


@app.main()
def main(grid: Grid, context: Context) -> None:
  """Plays the rounds of the run; one that was killed goes on.

  Its table and what happens are written to WORKDIR.log.
  """
  folder = pathlib.Path(str(context.run_config['workdir']))
  with _logging(folder.with_name(f'{folder.name}.log')):
    config = _config(str(context.run_config['flags']))
    seconds = float(context.run_config['seconds'])
    here = experiment.build(config)
    team = Team({}, set(), {}, {})
    _wait_for_all(grid, here, team, config.num_clients, seconds)
    exchange = functools.partial(_exchange, grid, here, team, seconds)
    summed = functools.partial(
      _secure_exchange, grid, context, here, team, seconds
    )
    players = server.players(exchange, summed)
    rows = experiment.run(config, folder, players=players)
    print(experiment.title(config))
    print(report.table(rows))
    print(f'{folder}: metrics.jsonl, config.json, accuracy.png')


@contextlib.contextmanager
def _logging(path: pathlib.Path) -> Iterator[None]:
  """What is printed goes to a file: each event is a line of it."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with (
    path.open('a', buffering=1) as log,
    contextlib.redirect_stdout(log),
    contextlib.redirect_stderr(log),
  ):
    try:
      yield
    except Exception as error:
      _say(f'the server ended: {error}')
      raise


def _config(words: str) -> ConfigDict:
  """The config that the run's flags say; JAX is made ready for it."""
  words = ['hns', *shlex.split(words)]
  config = commandline.parse(words, flags.FlagValues(), None).config
  devices.start()
  return config


def _wait_for_all(
  grid: Grid,
  here: Experiment,
  team: Team,
  count: int,
  seconds: float,
) -> None:
  """Returns when so many clients are there, or after so many seconds."""
  last = time.monotonic() + seconds
  while len(team.nodes) < count and time.monotonic() < last:
    _meet(grid, here, team, seconds)
    time.sleep(_POLL)
  _say(f'{len(team.nodes)} of {count} clients are there')


def _exchange(
  grid: Grid,
  here: Experiment,
  team: Team,
  seconds: float,
  orders: dict[int, Order],
) -> dict[int, Reply]:
  """The `hns.remote.messages.Exchange` of clients that are SuperNodes."""
  least = _wait_for_enough(grid, here, team, seconds, orders)
  replies = {
    index: Reply(error='is not connected', asked=False)
    for index in orders.keys() - team.nodes.keys()
  }
  messages = {
    index: Message(
      records.from_order(order),
      dst_node_id=team.nodes[index],
      message_type='train' if order.trains else 'evaluate',
    )
    for index, order in orders.items()
    if index in team.nodes
  }
  answered = _ask_team(grid, team, seconds, least, messages)
  return replies | {i: _reply(message) for i, message in answered.items()}


def _wait_for_enough(
  grid: Grid,
  here: Experiment,
  team: Team,
  seconds: float,
  orders: dict[int, Order],
) -> int:
  """Returns when so many clients are there, however late, as a round needs."""
  least = min(here.round_config.failures.least, len(orders))
  _meet(grid, here, team, seconds)
  if len(orders.keys() & team.nodes.keys()) < least:
    _say(f'waits for clients: {least} of {sorted(orders)} must be there')
  while len(orders.keys() & team.nodes.keys()) < least:
    time.sleep(_POLL)
    _meet(grid, here, team, seconds)
  return least


def _secure_exchange(
  grid: Grid,
  context: Context,
  here: Experiment,
  team: Team,
  seconds: float,
  secure: Secure,
  orders: dict[int, Order],
) -> Sum:
  """The `hns.remote.messages.SecureExchange` of clients that are SuperNodes."""
  _wait_for_enough(grid, here, team, seconds, orders)
  ask = functools.partial(_ask_team, grid, team, seconds, secure.threshold)
  nodes = dict(team.nodes)
  return masked.exchange(
    lambda messages: list(ask(messages).values()),
    context,
    nodes,
    secure,
    orders,
  )


def _ask_team(
  grid: Grid,
  team: Team,
  seconds: float,
  least: int,
  messages: dict[int, Message],
) -> dict[int, Message]:
  """Replies by client; those that were late once are not waited for."""
  for message in _pull(grid, team.late):
    _arrived(team, team.late[message.metadata.reply_to_message_id])
  slow = set(team.late.values())
  answered, late = _ask(grid, messages, slow, seconds, least)
  for index in answered:
    _arrived(team, index)
  team.late.update(late)
  return answered


def _arrived(team: Team, index: int) -> None:
  """A client has answered something: it is late no more."""
  for late in [i for i, other in team.late.items() if other == index]:
    del team.late[late]


def _ask(
  grid: Grid,
  messages: dict[int, Message],
  slow: set[int],
  seconds: float,
  least: int = 0,
) -> tuple[dict[int, Message], dict[str, int]]:
  """Sends messages, by any number, and waits for all but the `slow` ones.

  For these too while fewer than `least` have answered.

  Returns:
    The replies by that number, and the numbers of those still to come by the id
    of the message.
  """
  last = time.monotonic() + seconds
  ids = grid.push_messages(list(messages.values()))
  coming = {i: number for i, number in zip(ids, messages) if i is not None}
  found = {}
  waits = lambda: set(coming.values()) - slow or len(found) < least
  while coming and waits() and time.monotonic() < last:
    for message in _pull(grid, coming):
      found[coming.pop(message.metadata.reply_to_message_id)] = message
    time.sleep(_POLL)
  return found, coming


def _pull(grid: Grid, ids: Iterable[str]) -> list[Message]:
  ids = list(ids)
  return list(grid.pull_messages(ids)) if ids else []


def _reply(message: Message) -> Reply:
  """A client's reply; whatever it sent, an error if it is none."""
  if message.has_error():
    return Reply(error=message.error.reason or 'its app failed')
  try:
    return records.to_reply(message.content)
  except (KeyError, TypeError, ValueError, OverflowError) as error:
    return Reply(error=f'sent no reply of hns ({error!r})')


def _meet(grid: Grid, here: Experiment, team: Team, seconds: float) -> None:
  """Asks new nodes who they are; forgets those that are gone, in place.

  The first node is asked alone: on one machine the others then find its
  programs compiled.
  """
  there = set(grid.get_node_ids())
  for index, node in list(team.nodes.items()):
    if node not in there:
      _say(f'client {index} is gone')
      del team.nodes[index]
  for message in _pull(grid, team.silent):
    node = team.silent.pop(message.metadata.reply_to_message_id)
    _welcome(here, team, node, message)
  met = set(team.nodes.values()) | team.refused | set(team.silent.values())
  new = sorted(there - met)
  for some in (new[:1], new[1:]) if not team.nodes else (new,):
    asked = {
      node: Message(RecordDict(), dst_node_id=node, message_type='query')
      for node in some
    }
    answered, silent = _ask(grid, asked, set(), seconds)
    team.silent.update(silent)
    for node, message in answered.items():
      _welcome(here, team, node, message)


def _welcome(here: Experiment, team: Team, node: int, message: Message) -> None:
  """Notes which client a node is, or why it is none."""
  if message.has_error():  # it may pass: the node is asked again
    _say(f'node {node} cannot say who it is: {message.error.reason}')
    return
  try:
    about = records.to_about(message.content)
    reason = trust.known(here, about)
  except (KeyError, TypeError, ValueError, OverflowError) as error:
    reason = f'it does not say who it is ({error!r})'
  if reason:
    team.refused.add(node)
    _say(f'node {node} is refused: {reason}')
    return
  team.nodes[about['client']] = node
  _say(f'client {about["client"]} is there')


def _say(text: str) -> None:
  line = ' '.join(text.split())[:300]  # it may be a client's word
  print(f'hns: {line}', file=sys.stderr, flush=True)
