"""Uploads as whole numbers that can be summed under masks, and their sum.

The masks are not made here: a well-kept protocol does that, such as Flower's.
"""

import jax
import numpy as np

from hns import wire
from hns.engine.secure import Secure
from hns.remote.messages import Left
from hns.tree import Tree
from hns.wire import Message


def addend(
  secure: Secure, codec: wire.Codec, upload: Message, examples: int
) -> np.ndarray:
  """What a client adds to the sum, int64 [coordinates], 0 to `secure.most`.

  Args:
    secure: how uploads become numbers.
    codec: of the upload.
    upload: on the host.
    examples: that the client trained on.
  """
  values, sent = jax.tree.leaves(upload.value), _sent(upload)
  symbols = [
    wire.symbols_of(codec, np.asarray(v)[s], 1) for v, s in zip(values, sent)
  ]
  return np.concatenate(symbols).astype(np.int64) * (examples // secure.unit)


def summed(
  secure: Secure, like: Message, total: np.ndarray, examples: int
) -> Tree:
  """What the clients' values, each times its examples, sum up to.

  Args:
    secure: how uploads became numbers.
    like: an upload, for its shapes and weights.
    total: int64 [coordinates], the sum of the clients' addends.
    examples: of all these clients.

  Returns:
    A tree like `like.value` of int32, or float32 where it has floats; 0 where
    nothing is sent.

  Raises:
    Left: no clients can have this sum.
  """
  sent, leaves = _sent(like), jax.tree.leaves(like.value)
  counts = [int(s.sum()) for s in sent]
  most = (secure.symbols - 1) * (examples // secure.unit)
  if total.shape != (sum(counts),):
    raise Left(f'the sum has {total.size} numbers, expected {sum(counts)}')
  if total.min(initial=0) < 0 or total.max(initial=0) > most:
    raise Left(f'a number of the sum is not in 0 to {most}')
  values = 2 * secure.unit * total - (secure.symbols - 1) * examples
  parts = np.split(values, np.cumsum(counts)[:-1])
  found = [_scattered(*given) for given in zip(parts, leaves, sent)]
  return jax.tree.unflatten(jax.tree.structure(like.value), found)


def _sent(message: Message) -> list[np.ndarray]:
  """Of each leaf, which coordinates are sent, bool."""
  sent = jax.tree.map(
    lambda v, w: np.broadcast_to(np.asarray(w) != 0, v.shape), *message
  )
  return jax.tree.leaves(sent)


def _scattered(
  part: np.ndarray, like: np.ndarray, sent: np.ndarray
) -> np.ndarray:
  is_float = np.issubdtype(np.asarray(like).dtype, np.floating)
  leaf = np.zeros(like.shape, np.float32 if is_float else np.int32)
  leaf[sent] = part
  return leaf
