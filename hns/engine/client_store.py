"""What clients keep between rounds, on the host.

Only the states of the clients that take part travel to the devices, and only
clients that ever took part cost memory.
"""

import contextlib
import pathlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from io import RawIOBase
from typing import NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike

from hns.methods.contract import ClientState
from hns.tree import from_host, to_host


class ClientStore(NamedTuple):
  """The states of all clients.

  Attributes:
    initial: what every client starts with.
    states: by client id, those that are no longer that, as `pack` leaves.
  """

  initial: ClientState
  states: dict[int, ClientState]


def pack(leaf: ArrayLike) -> np.ndarray:
  """A leaf on the host, a view if it can be; bools as bits, uint8 [bytes]."""
  leaf = to_host(leaf)
  return np.packbits(leaf) if leaf.dtype == bool else leaf


def unpack(packed: np.ndarray, like: np.ndarray) -> np.ndarray:
  """The inverse of `pack`, for a leaf on the host of this shape and dtype."""
  if like.dtype != bool:
    return packed
  return np.unpackbits(packed, count=like.size).astype(bool).reshape(like.shape)


def create(initial: ClientState) -> ClientStore:
  """A store in which every client has the state `initial`."""
  return ClientStore(
    jax.tree.map(lambda x: from_host(to_host(x), x), initial), {}
  )


def fetch(store: ClientStore, ids: ArrayLike) -> ClientState:
  """The states of these clients, leaves [ids, ...]; `initial` past the last."""
  if not jax.tree.leaves(store.initial):
    return store.initial
  initial = jax.tree.map(to_host, store.initial)
  chosen = [_state(store, int(i), initial) for i in np.asarray(ids)]
  stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *chosen)
  return jax.tree.map(from_host, stacked, store.initial)


def _state(store: ClientStore, index: int, initial: ClientState) -> ClientState:
  """A client's state, as `to_host` leaves; `initial` if it has none."""
  if index not in store.states:
    return initial
  return jax.tree.map(unpack, store.states[index], initial)


def keep(store: ClientStore, ids: ArrayLike, client_state: ClientState) -> None:
  """Writes the states of these clients, in place."""
  if not jax.tree.leaves(store.initial):
    return
  client_state = jax.tree.map(to_host, client_state)
  for place, i in enumerate(np.asarray(ids)):
    # A copy: a view would hold the whole cohort's.
    store.states[int(i)] = jax.tree.map(
      lambda x, p=place: pack(x[p].copy()), client_state
    )


def bytes_each(initial: ClientState) -> int:
  """Bytes that one client's state costs on the host."""
  return sum(
    -(-x.size // 8) if x.dtype == bool else x.size * x.dtype.itemsize
    for x in jax.tree.leaves(initial)
  )


def write(
  store: ClientStore, create: Callable[[str], AbstractContextManager[RawIOBase]]
) -> None:
  """Writes the states kept, a file a leaf, client after client.

  They are never in memory twice; `read` needs the ids, in their order.

  Args:
    store: what clients keep.
    create: opens a new file of that name.
  """
  for place in range(len(jax.tree.leaves(store.initial))):
    with create(f'kept-{place}') as file:
      for state in store.states.values():
        file.write(jax.tree.leaves(state)[place].tobytes())


def read(
  initial: ClientState, ids: ArrayLike, folder: pathlib.Path
) -> ClientStore:
  """The store that was written, of these ids.

  Raises:
    ValueError: the files are not of so many states like `initial`.
  """
  leaves, structure = jax.tree.flatten(jax.tree.map(pack, initial))
  with contextlib.ExitStack() as opened:
    files = [
      opened.enter_context(open(folder / f'kept-{place}', 'rb'))
      for place in range(len(leaves))
    ]

    def state():
      parts = zip(files, leaves)
      read = [
        np.fromfile(f, x.dtype, x.size).reshape(x.shape) for f, x in parts
      ]
      return jax.tree.unflatten(structure, read)

    states = {int(i): state() for i in ids}
    if any(file.read(1) for file in files):
      raise ValueError('more bytes than the clients keep')
    return ClientStore(initial, states)
