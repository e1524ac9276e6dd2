"""What server and clients of a federation on several machines exchange.

Only bytes of `hns.wire` and a few numbers; how they travel is not known here.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from hns.engine.secure import Secure


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
    payload: the upload; empty without one, and if it was summed under masks.
    told: numbers of its round, `hns.engine.halves.TOLD`; 'lost' if it has
      lost what it kept.
    error: why there is neither; '' if there is.
    asked: whether the order reached the client at all.
  """

  payload: bytes = b''
  told: dict[str, float] = {}
  error: str = ''
  asked: bool = True


class Left(Exception):
  """Why an answer, or the sum of all, cannot be used."""


# Sends orders, by the client's id, and waits for the replies; a client without
# a reply did not answer.
Exchange = Callable[[dict[int, Order]], dict[int, Reply]]


class Sum(NamedTuple):
  """The uploads of a round, summed under masks.

  Attributes:
    replies: by the client's id, without payloads; those without an error are in
      the sum.
    total: int64 [coordinates], of what `hns.remote.secure.addend` gives; None
      if nothing could be unmasked.
  """

  replies: dict[int, Reply]
  total: np.ndarray | None


# As `Exchange`, where the server learns only the sum of the uploads.
SecureExchange = Callable[[Secure, dict[int, Order]], Sum]
