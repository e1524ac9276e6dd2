"""What clients keep between rounds, on the host.

Only the states of the clients that take part travel to the devices, and only
clients that ever took part cost memory.
"""

import contextlib
import pathlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from io import RawIOBase
from typing import Any, NamedTuple

import jax
import numpy as np

from hns.tree import from_host, to_host


class Store(NamedTuple):
  """The states of all clients.

  Attributes:
    birth: what every client starts with.
    held: by id, the states that are no longer that, as `to_host` leaves.
  """

  birth: Any
  held: dict[int, Any]


def create(birth: Any) -> Store:
  """A store in which every client has the state `birth`."""
  return Store(jax.tree.map(lambda x: from_host(to_host(x), x), birth), {})


def fetch(store: Store, ids: Any) -> Any:
  """The states of these clients, leaves [ids, ...]; `birth` past the last."""
  if not jax.tree.leaves(store.birth):
    return store.birth
  birth = jax.tree.map(to_host, store.birth)
  states = [store.held.get(int(i), birth) for i in np.asarray(ids)]
  stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *states)
  return jax.tree.map(from_host, stacked, store.birth)


def keep(store: Store, ids: Any, own: Any) -> None:
  """Writes the states of these clients, in place."""
  if not jax.tree.leaves(store.birth):
    return
  own = jax.tree.map(to_host, own)
  for place, i in enumerate(np.asarray(ids)):
    # A copy: a view would hold the whole cohort's.
    store.held[int(i)] = jax.tree.map(lambda x, p=place: x[p].copy(), own)


def bytes_each(birth: Any) -> int:
  """Bytes that one client's state costs on the host."""
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(birth))


def write(
  store: Store, create: Callable[[str], AbstractContextManager[RawIOBase]]
) -> None:
  """Writes the states held, a file a leaf, client after client.

  They are never in memory twice; `read` needs the ids, in the order of `held`.

  Args:
    store: what clients keep.
    create: opens a new file of that name.
  """
  for place in range(len(jax.tree.leaves(store.birth))):
    with create(f'own-{place}') as file:
      for state in store.held.values():
        file.write(jax.tree.leaves(state)[place].tobytes())


def read(birth: Any, ids: Any, folder: pathlib.Path) -> Store:
  """The store that was written, of these ids.

  Raises:
    ValueError: the files are not of so many states like `birth`.
  """
  leaves, structure = jax.tree.flatten(jax.tree.map(to_host, birth))
  with contextlib.ExitStack() as opened:
    files = [
      opened.enter_context(open(folder / f'own-{place}', 'rb'))
      for place in range(len(leaves))
    ]

    def state():
      parts = zip(files, leaves)
      read = [
        np.fromfile(f, x.dtype, x.size).reshape(x.shape) for f, x in parts
      ]
      return jax.tree.unflatten(structure, read)

    held = {int(i): state() for i in ids}
    if any(file.read(1) for file in files):
      raise ValueError('more bytes than the clients keep')
    return Store(birth, held)
