"""What clients keep between rounds, on the host.

Only the states of the clients that take part travel to the devices, and only
clients that ever took part cost memory.
"""

from typing import Any, NamedTuple

import jax
import numpy as np


class Store(NamedTuple):
  """The states of all clients.

  Attributes:
    birth: what every client starts with.
    held: by id, the states that are no longer that.
  """

  birth: Any
  held: dict[int, Any]


def create(birth: Any) -> Store:
  """A store in which every client has the state `birth`."""
  return Store(jax.tree.map(np.asarray, birth), {})


def fetch(store: Store, ids: Any) -> Any:
  """The states of these clients, leaves [ids, ...]; `birth` past the last."""
  if not jax.tree.leaves(store.birth):
    return store.birth
  states = [store.held.get(int(i), store.birth) for i in np.asarray(ids)]
  return jax.tree.map(lambda *leaves: np.stack(leaves), *states)


def keep(store: Store, ids: Any, own: Any) -> None:
  """Writes the states of these clients, in place."""
  if not jax.tree.leaves(store.birth):
    return
  own = jax.tree.map(np.asarray, own)
  for place, i in enumerate(np.asarray(ids)):
    # A copy: a view would hold the whole cohort's.
    store.held[int(i)] = jax.tree.map(lambda x, p=place: x[p].copy(), own)


def bytes_each(birth: Any) -> int:
  """Bytes that one client's state costs on the host."""
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(birth))


def pack(store: Store) -> tuple[Any, Any]:
  """The ids of the states held, and these stacked; `None`s without any.

  The one copy of the store that a checkpoint costs.
  """
  if not store.held:
    return None, None
  stack = lambda *leaves: np.stack(leaves)
  ids = np.array(list(store.held), np.int64)
  return ids, jax.tree.map(stack, *store.held.values())


def unpack(store: Store, ids: Any, own: Any) -> Store:
  """The store that was packed; `store` gives what clients start with."""
  full = create(store.birth)
  keep(full, ids, own)
  return full
