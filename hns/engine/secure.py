"""Secure aggregation: the server learns the sum of the uploads, and none alone.

The protocol of Bonawitz et al. 2017 (CCS, Practical Secure Aggregation): every
two clients of a cohort agree on a mask that one adds and the other subtracts,
modulo a power of two; shares of the keys, held by the others, let the server
remove the masks of those that vanish. A simulated round gives the sum itself,
which is exact, and counts what the protocol would send; `hns.remote.secure`
plays it.
"""

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from hns import wire

# Bytes of what one client sends to, or receives for, one other: as Flower 1.42
# encodes them (two public keys of P-384, their shares encrypted, and a share of
# a seed or of a private key).
PUBLIC_KEYS = 2 * 215
ENCRYPTED_SHARES = 612
SEED_SHARE = 52
KEY_SHARE = 324
NODE_ID = 8


Count = TypeVar('Count', int, jax.Array)  # int32 []


class Secure(NamedTuple):
  """How uploads become whole numbers that can be summed under masks.

  A client sends, of each coordinate, the symbol of `hns.wire` times its
  examples / `unit`, modulo 2^bits.

  Attributes:
    symbols: of the upload's codec.
    unit: divides every client's number of training examples.
    most: the largest number that a client adds to a coordinate.
    bits: of the modulus, so that the sum of a whole cohort is below it.
    threshold: answers without which nothing can be unmasked.
  """

  symbols: int
  unit: int
  most: int
  bits: int
  threshold: int


def secure_sums(
  symbols: int, sizes: np.ndarray, asked: int, threshold: int
) -> Secure:
  """The smallest numbers that do.

  Args:
    symbols: of the upload's codec.
    sizes: int [clients], of their training examples.
    asked: clients of a round.
    threshold: answers of a round that are needed.
  """
  unit = int(np.gcd.reduce(sizes))
  most = (symbols - 1) * int(sizes.max()) // unit
  return Secure(symbols, unit, most, (asked * most).bit_length(), threshold)


def vector_bytes(secure: Secure, coordinates: Count) -> Count:
  """Bytes of a masked upload of so many coordinates."""
  whole, rest = coordinates // 8, coordinates % 8
  body = whole * secure.bits + (rest * secure.bits + 7) // 8
  return wire.HEADER_BYTES + body


def protocol_bytes(
  secure: Secure, took_part: jax.Array, answered: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """What a round's clients send and get beside downloads and masked uploads.

  All that take part exchange keys and shares before they train; those that
  answer are then asked for the shares that they hold, if they are enough.

  Args:
    secure: of the round.
    took_part, answered: bool [cohort].

  Returns:
    Bytes up and down of each client, int32 [cohort].
  """
  count, alive = jnp.sum(took_part), jnp.sum(answered)
  shares = (count - 1) * ENCRYPTED_SHARES
  held = alive * SEED_SHARE + (count - alive) * KEY_SHARE
  unmask = answered * (alive >= secure.threshold)
  up = took_part * (PUBLIC_KEYS + shares) + unmask * (held + count * NODE_ID)
  down = took_part * (count * PUBLIC_KEYS + shares) + unmask * count * NODE_ID
  return up.astype(jnp.int32), down.astype(jnp.int32)
