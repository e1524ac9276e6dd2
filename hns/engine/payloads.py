"""Bytes of what travels: downloads, uploads, and the places a client chose."""

import jax
import jax.numpy as jnp

from hns import tree, wire
from hns.methods.contract import ClientState, Frozen, Method
from hns.wire import Message

# Of the message that says which coordinates a client chose: a bit each.
MASK_CODEC = wire.levels(1, coded=True)


def download_for(
  method: Method, frozen: Frozen, message: Message, client_state: ClientState
) -> Message:
  """What of the download is sent to a client that keeps this state."""
  if method.wire.download_for is None:
    return message
  return method.wire.download_for(frozen, message, client_state)


def received(
  method: Method, frozen: Frozen, sent: Message, client_state: ClientState
) -> Message:
  """The download of a client that keeps this state and was sent this."""
  if method.wire.received is None:
    return sent
  return method.wire.received(frozen, sent, client_state)


def download_bytes(
  method: Method, frozen: Frozen, message: Message, client_state: ClientState
) -> jax.Array:
  """Bytes of one client's download, int32 []."""
  sent = download_for(method, frozen, message, client_state)
  return wire.size(method.wire.download_codec, sent)


def upload_bytes(
  method: Method, upload: Message, before: ClientState, after: ClientState
) -> jax.Array:
  """Bytes of an upload, and of a client's choice where it changed, int32 []."""
  size = wire.size(method.wire.upload_codec, upload)
  if method.wire.kept_mask is None:
    return size
  changed = tree.differ(*map(method.wire.kept_mask, (before, after)))
  return size + changed * wire.size(MASK_CODEC, mask_message(method, after))


def mask_message(method: Method, client_state: ClientState) -> Message:
  """Which coordinates a client with this state uses, in `MASK_CODEC`."""
  kept_mask = method.wire.kept_mask
  chosen = kept_mask(client_state) if kept_mask else ()
  levels = jax.tree.map(lambda m: 2 * m.astype(jnp.int8) - 1, chosen)
  return Message(levels, jax.tree.map(lambda m: jnp.ones((), bool), chosen))
