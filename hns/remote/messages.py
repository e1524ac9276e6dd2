"""What server and clients of a federation on several machines exchange.

Only bytes of `hns.wire` and a few numbers; how they travel is not known here.
"""

from collections.abc import Callable
from typing import NamedTuple


class Order(NamedTuple):
  """What a server asks of one client.

  Attributes:
    number: of the round, from 1.
    base: the last round whose upload of this client the server used, 0 for
      none: the client goes on from what it kept then.
    trains: whether an upload is wanted; else the client is only evaluated, and
      keeps nothing.
    payload: the download.
  """

  number: int
  base: int
  trains: bool
  payload: bytes


class Reply(NamedTuple):
  """What a client answers.

  Attributes:
    payload: the upload; empty without one.
    told: numbers of its round, `hns.engine.halves.TOLD`; 'lost' if it has
      lost what it kept.
    error: why there is neither; '' if there is.
    asked: whether the order reached the client at all.
  """

  payload: bytes = b''
  told: dict[str, float] = {}
  error: str = ''
  asked: bool = True


# Sends orders, by the client's id, and waits for the replies; a client without
# a reply did not answer.
Exchange = Callable[[dict[int, Order]], dict[int, Reply]]
