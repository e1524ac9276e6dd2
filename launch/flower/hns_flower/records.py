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
  """The inverse of `from_reply`; raises `ValueError` for anything else."""
  payload, error = (content[_PAYLOAD][name] for name in ('payload', 'error'))
  if not isinstance(payload, bytes) or not isinstance(error, str):
    raise ValueError('payload or error is of another type')
  return Reply(payload, _floats(content), error)


def _floats(content: RecordDict) -> dict[str, float]:
  """The numbers that a client tells; raises `ValueError` for lists."""
  told = dict(content[_TOLD])
  if not all(isinstance(x, int | float) for x in told.values()):
    raise ValueError('a number is of another type')
  return {name: float(x) for name, x in told.items()}


def from_about(about: dict[str, int]) -> RecordDict:
  """What a client tells of itself as content of a message."""
  return RecordDict({_TOLD: MetricRecord(about)})


def to_about(content: RecordDict) -> dict[str, int]:
  """The inverse of `from_about`; raises `ValueError` for anything else."""
  return {name: int(x) for name, x in _floats(content).items()}
