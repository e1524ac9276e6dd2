"""Orders and replies of hns as records of Flower."""

from flwr.app import ConfigRecord, MetricRecord, RecordDict

from hns.remote.messages import Order, Reply

# The one record with bytes; everything else is a few numbers.
_PAYLOAD, _TOLD = 'payload', 'told'


def from_order(order: Order) -> RecordDict:
  """An order as content of a message."""
  return RecordDict({_PAYLOAD: ConfigRecord(order._asdict())})


def to_order(content: RecordDict) -> Order:
  """The inverse of `from_order`."""
  return Order(**content[_PAYLOAD])


def from_reply(reply: Reply) -> RecordDict:
  """A reply as content of a message."""
  sent = ConfigRecord({'payload': reply.payload, 'error': reply.error})
  return RecordDict({_PAYLOAD: sent, _TOLD: MetricRecord(reply.told)})


def to_reply(content: RecordDict) -> Reply:
  """The inverse of `from_reply`."""
  return Reply(told=dict(content[_TOLD]), **content[_PAYLOAD])


def from_about(about: dict[str, int]) -> RecordDict:
  """What a client tells of itself as content of a message."""
  return RecordDict({_TOLD: MetricRecord(about)})


def to_about(content: RecordDict) -> dict[str, int]:
  """The inverse of `from_about`."""
  return dict(content[_TOLD])
