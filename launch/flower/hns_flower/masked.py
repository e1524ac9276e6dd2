"""Uploads that are summed under masks, by Flower's own secure aggregation.

Its protocol is SecAgg (Bonawitz et al. 2017): `SecAggPlusWorkflow` on the
server, with every client a neighbour of every other, and `secaggplus_mod` at
the client. Here is only how orders and replies fit in.
"""

import types
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.common import (
  Code,
  FitIns,
  FitRes,
  Parameters,
  Status,
  ndarrays_to_parameters,
  parameters_to_ndarrays,
)
from flwr.common.secure_aggregation.secaggplus_constants import (
  RECORD_KEY_CONFIGS,
)
from flwr.compat.common import recorddict_compat as compat
from flwr.server import LegacyContext
from flwr.server.workflow.constant import (
  MAIN_CONFIGS_RECORD,
  MAIN_PARAMS_RECORD,
  Key,
)
from flwr.server.workflow.secure_aggregation.secaggplus_workflow import (
  SecAggPlusWorkflow,
  WorkflowState,
)

from hns.engine.secure import Secure
from hns.remote.messages import Order, Reply, Sum

_NOTHING = Parameters([], '')
_MIDDLE = 'middle'
_LOST = 'hns: lost: '  # in an error: what the client kept
_BITS = 32  # of Flower's modulus, its largest

Ask = Callable[[dict[int, Message]], list[Message]]


class _Node(NamedTuple):
  """All that the workflow asks of Flower's ClientProxy."""

  node_id: int


def only_masked(message: Message, context: Context, call_next) -> Message:
  """Flower's `secaggplus_mod`, for the messages of its protocol."""
  if is_masked(message.content):
    return secaggplus_mod(message, context, call_next)
  return call_next(message, context)


def is_masked(content: RecordDict) -> bool:
  """Whether an order is one whose upload is to be masked."""
  return RECORD_KEY_CONFIGS in content.config_records


def to_order(content: RecordDict) -> tuple[Order, float]:
  """The order in a message of the protocol, and the middle of what is added."""
  fields = compat.recorddict_to_fitins(content, True).config
  return Order(*(fields[name] for name in Order._fields)), fields[_MIDDLE]


def from_reply(reply: Reply, middle: float) -> RecordDict:
  """A reply, as what `secaggplus_mod` masks; raises `RuntimeError` for none.

  A client that has nothing to add must not be in the sum.
  """
  if reply.error or not reply.payload:
    lost = _LOST if reply.told.get('lost') else ''
    raise RuntimeError(f'{lost}{reply.error or "its update was not finite"}')
  numbers = np.frombuffer(reply.payload, '<i8') - middle
  result = FitRes(
    Status(Code.OK, ''),
    ndarrays_to_parameters([numbers]),
    num_examples=1,  # `numbers` are weighed already
    metrics=dict(reply.told),
  )
  return compat.fitres_to_recorddict(result, keep_input=False)


def exchange(
  ask: Ask,
  context: Context,
  nodes: dict[int, int],
  secure: Secure,
  orders: dict[int, Order],
) -> Sum:
  """The `hns.remote.messages.SecureExchange` of these nodes, by client id.

  `ask` sends messages, by client id, and gives the replies that came in time.
  """
  ids = {nodes[index]: index for index in orders if index in nodes}
  errors, found, state = {}, [], WorkflowState()

  def send_and_receive(messages, timeout):
    replies = ask({ids[m.metadata.dst_node_id]: m for m in messages})
    for message in replies:
      if message.has_error():
        errors[message.metadata.src_node_id] = str(message.error.reason)
    return replies

  def configure_fit(server_round, parameters, client_manager):
    middle = {_MIDDLE: secure.most / 2}
    return [
      (_Node(node), FitIns(_NOTHING, orders[index]._asdict() | middle))
      for node, index in ids.items()
    ]

  def aggregate_fit(server_round, results, failures):
    found.extend(results)
    return None, {}

  legacy = LegacyContext(
    context,
    strategy=types.SimpleNamespace(
      configure_fit=configure_fit, aggregate_fit=aggregate_fit
    ),
  )
  number = next(iter(orders.values())).number
  round_record = ConfigRecord({Key.CURRENT_ROUND: number})
  legacy.state.config_records[MAIN_CONFIGS_RECORD] = round_record
  legacy.state.array_records[MAIN_PARAMS_RECORD] = ArrayRecord()
  grid = types.SimpleNamespace(send_and_receive=send_and_receive)
  try:
    _play(_workflow(secure), grid, legacy, state)
    return _read(secure, orders, ids, errors, found, state)
  except Exception as error:  # whatever a client sent, the run goes on
    reason = f'the sum failed ({error!r})'
    return Sum({index: Reply(error=reason) for index in orders}, None)


def _workflow(secure: Secure) -> SecAggPlusWorkflow:
  """All clients are neighbours; numbers from 0 to `most` stay as they are.

  Flower draws masks from all numbers below the modulus but the last one, so a
  small modulus would let votes through.
  """
  return SecAggPlusWorkflow(
    num_shares=1.0,
    reconstruction_threshold=secure.threshold,
    max_weight=1.0,
    clipping_range=secure.most / 2,
    quantization_range=secure.most,
    modulus_range=2**_BITS,
  )


def _play(
  workflow: SecAggPlusWorkflow,
  grid: types.SimpleNamespace,
  legacy: LegacyContext,
  state: WorkflowState,
) -> None:
  """The four stages, as long as enough clients are left.

  Flower's own loop takes clients that never shared their keys for lost ones,
  and then asks for shares that nobody has.
  """
  for stage in (workflow.setup_stage, workflow.share_keys_stage):
    if not stage(grid, legacy, state):
      return
    state.sampled_node_ids = set(state.active_node_ids)
  if workflow.collect_masked_vectors_stage(grid, legacy, state):
    workflow.unmask_stage(grid, legacy, state)


def _read(
  secure: Secure,
  orders: dict[int, Order],
  ids: dict[int, int],
  errors: dict[int, str],
  found: list[tuple[_Node, FitRes]],
  state: WorkflowState,
) -> Sum:
  """What came of the protocol; `found` is empty if nothing was unmasked."""
  replies = {
    index: Reply(error='is not connected', asked=False)
    for index in orders.keys() - set(ids.values())
  }
  for node, index in ids.items():
    reason = errors.get(node, 'did not answer')
    told = dict.fromkeys(['lost'] * (_LOST in reason), 1.0)
    # Whoever sent no keys was not sent the order either.
    has_keys = node in state.nid_to_publickeys
    replies[index] = Reply(error=reason, told=told, asked=has_keys)
  for node, result in state.legacy_results:
    replies[ids[node.node_id]] = Reply(told=dict(result.metrics))
  if not found:
    return Sum(replies, None)
  # Flower divides by the number of clients, and takes their middle off.
  (mean,) = parameters_to_ndarrays(found[0][1].parameters)
  total = np.rint(len(found) * (mean + secure.most / 2)).astype(np.int64)
  return Sum(replies, total)
