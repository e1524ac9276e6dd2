"""What clients keep between rounds, on the host.

Only the states of the clients that take part travel to the devices, and only
those of clients that ever took part cost memory.
"""

from typing import Any, NamedTuple

import jax
import numpy as np


class Store(NamedTuple):
  """The states of all clients.

  Attributes:
    birth: what every client starts with.
    seen: bool [clients], whose state is `held`; the others' is `birth`.
    held: leaves [clients, ...]. Rows of unseen clients are pages never touched,
      which the operating system does not count.
  """

  birth: Any
  seen: np.ndarray
  held: Any


def create(birth: Any, clients: int) -> Store:
  """A store in which every client has the state `birth`."""
  birth = jax.tree.map(np.asarray, birth)
  held = jax.tree.map(lambda x: np.zeros((clients, *x.shape), x.dtype), birth)
  return Store(birth, np.zeros(clients, bool), held)


def fetch(store: Store, ids: Any) -> Any:
  """The states of these clients, leaves [ids, ...]; `birth` past the last."""
  if not jax.tree.leaves(store.birth):
    return store.birth
  ids = np.asarray(ids)
  seen = np.zeros(ids.shape, bool)
  seen[ids < len(store.seen)] = store.seen[ids[ids < len(store.seen)]]

  def rows(birth, held):
    found = np.empty((len(ids), *birth.shape), birth.dtype)
    found[~seen] = birth
    found[seen] = held[ids[seen]]
    return found

  return jax.tree.map(rows, store.birth, store.held)


def keep(store: Store, ids: Any, own: Any) -> None:
  """Writes the states of these clients, in place."""
  if not jax.tree.leaves(store.birth):
    return
  ids = np.asarray(ids)

  def write(held, new):
    held[ids] = np.asarray(new)

  jax.tree.map(write, store.held, own)
  store.seen[ids] = True


def bytes_each(birth: Any) -> int:
  """Bytes that one client's state costs on the host."""
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(birth))
