"""Kernels as vectors of the weights that pruning left.

The mask is the same for all clients and all rounds, so what a method keeps of a
pruned kernel, its scores, its optimiser's moments, messages and states, needs
an entry for each survivor alone. Only the network sees whole kernels.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hns import tree
from hns.networks import compact
from hns.networks.modes import Variables
from hns.networks.supermask import COLLECTIONS, to_params
from hns.tree import Tree

# The share of survivors up to which a vector is as fast (speed.md).
MOST = 0.7


class Kernel(NamedTuple):
  """A kernel that is packed.

  Attributes:
    shape: of the whole kernel.
    places: int32 [survivors], their flat indices in it, rising.
  """

  shape: tuple[int, ...]
  places: np.ndarray


# By path, such as `Dense_0/kernel`.
Packing = dict[str, Kernel]


def pack(initial: Tree, params: Tree) -> tuple[Packing, Tree]:
  """The kernels that are worth packing, and what exists at first with them.

  Args:
    initial: `hns.methods.contract.Initial`. Arrays of a kernel's shape, under
      its path, become vectors of the survivors. Which survive says the mask in
      `frozen`: where nothing but survivors is left, it becomes True, bool [].
    params: the network's, or their shapes, for their paths.
  """
  names = [
    tree.path_name(path)
    for path, _ in jax.tree_util.tree_leaves_with_path(params)
  ]
  packing = {
    name: Kernel(mask.shape, np.flatnonzero(mask).astype(np.int32))
    for name, mask in compact.masks_by_path(initial.frozen).items()
    if 0 < np.mean(mask) <= MOST  # XLA cannot reshape what is empty
  }

  def vector(path, leaf):
    kernel = packing.get(_owner(names, tree.path_name(path)))
    if kernel is None or leaf.shape != kernel.shape:
      return leaf
    return np.asarray(leaf).reshape(-1)[kernel.places]

  def single(path, leaf):
    is_mask = '/mask/' in f'/{tree.path_name(path)}' and leaf.dtype == bool
    return np.True_ if is_mask and np.all(leaf) else leaf

  initial = jax.tree_util.tree_map_with_path(vector, initial)
  frozen = jax.tree_util.tree_map_with_path(single, initial.frozen)
  return packing, initial._replace(frozen=frozen)


def unpack(packing: Packing, variables: Variables) -> Variables:
  """The variables with whole kernels, 0 where pruned; whole ones stay."""

  def whole(path, leaf):
    _, _, name = tree.path_name(path).partition('/')  # behind a collection
    kernel = packing.get(name)
    if kernel is None or leaf.shape not in ((), kernel.places.shape):
      return leaf
    kept = jnp.zeros(np.prod(kernel.shape), leaf.dtype).at[kernel.places]
    known = dict(indices_are_sorted=True, unique_indices=True)
    values = kept.set(leaf, mode='promise_in_bounds', **known)
    return values.reshape(kernel.shape)

  variables = jax.tree_util.tree_map_with_path(whole, variables)
  if 'mask' not in variables:
    return variables
  full = lambda mask, weights: jnp.broadcast_to(mask, weights.shape)
  masks = jax.tree.map(full, variables['mask'], variables['weights'])
  return variables | {'mask': masks}


def units_of(packing: Packing, name: str) -> np.ndarray | None:
  """The output unit of each survivor of a kernel, int32 [survivors].

  `name` is the path of a vector that belongs to the kernel; None for others.
  """
  kernel = packing.get(_owner(list(packing), name))
  return None if kernel is None else kernel.places % kernel.shape[-1]


def unpacking(packing: Packing, function: Callable) -> Callable:
  """`function(variables, ...)`, given variables whose kernels are packed."""
  if not packing:
    return function
  return functools.partial(_unpacked, packing, function)


def _unpacked(packing, function, variables, *arguments):
  # One product of vectors, so that one vector is spread instead of three.
  rest = {k: v for k, v in variables.items() if k not in COLLECTIONS}
  params = to_params(variables) | rest
  return function(unpack(packing, params), *arguments)


def _owner(names: list[str], path: str) -> str | None:
  """The parameter to which a leaf of a method's state belongs.

  The longest of the names that end its path: `Dense_0/kernel` also ends that of
  `Block_0/Dense_0/kernel`.
  """
  whole = f'/{path}'
  return max(
    filter(lambda n: whole.endswith(f'/{n}'), names), key=len, default=None
  )
