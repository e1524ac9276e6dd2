"""Pytrees of arrays: split and combine by path, flatten what is kept."""

import functools
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

Tree = Any


def path_name(path: tuple) -> str:
  """A leaf's path as words, `Conv_0/kernel`."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def split(tree: Tree, chosen: Callable[[str, Any], bool]) -> tuple[Tree, Tree]:
  """Two trees of the same structure, each with `None` where the other has it.

  Args:
    tree: any pytree.
    chosen: told a leaf's path (`Conv_0/kernel`) and the leaf; True puts it in
      the first tree.
  """
  pick = jax.tree_util.tree_map_with_path
  first = pick(lambda p, x: x if chosen(path_name(p), x) else None, tree)
  second = pick(lambda p, x: None if chosen(path_name(p), x) else x, tree)
  return first, second


def combine(first: Tree, second: Tree) -> Tree:
  """Fills the holes of `first` with the leaves of `second`."""
  return jax.tree.map(
    lambda a, b: b if a is None else a,
    first,
    second,
    is_leaf=lambda x: x is None,
  )


def flatten(tree: Tree) -> jax.Array:
  """All leaves, raveled and joined in tree order, as one vector."""
  return jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(tree)])


def unflatten(vector: jax.Array, like: Tree) -> Tree:
  """The inverse of `flatten`: cuts a vector into the shapes of `like`."""
  leaves, structure = jax.tree.flatten(like)
  ends, cut = 0, []
  for leaf in leaves:
    cut.append(vector[ends : ends + leaf.size].reshape(leaf.shape))
    ends += leaf.size
  return jax.tree.unflatten(structure, cut)


def uniform(key: jax.Array, like: Tree, least: float = 0.0) -> Tree:
  """Uniform draws from [least, 1) in the shapes of `like`, float32.

  One draw, not one a leaf: that compiles faster.
  """
  size = sum(leaf.size for leaf in jax.tree.leaves(like))
  draw = jax.random.uniform(key, (size,), jnp.float32, least)
  return unflatten(draw, like)


def count(tree: Tree) -> jax.Array:
  """Number of non-zero coordinates, int32 [].

  Leaves of fewer than 2^24 are added up as float32, which is exact, and on a
  CPU runs and compiles in half the time that integers take.
  """

  def leaf(x):
    dtype = jnp.float32 if x.size < 2**24 else jnp.int32
    return jnp.sum(x != 0, dtype=dtype).astype(jnp.int32)

  return sum(map(leaf, jax.tree.leaves(tree)), jnp.int32(0))


def merge(first: Tree, second: Tree) -> Tree:
  """One dict of dicts of two that share no leaf."""
  flat = {**flatten_dict(first), **flatten_dict(second)}
  return unflatten_dict(flat)


def checksum(tree: Tree) -> int:
  """CRC-32 of all leaves' bytes, in tree order; a leaf may be a PRNG key."""
  leaves = map(to_host, jax.tree.leaves(tree))
  # Views, not copies: a tree may hold all pictures of a run.
  flat = (np.ascontiguousarray(leaf).reshape(-1) for leaf in leaves)
  parts = (leaf.view(np.uint8) for leaf in flat)
  return functools.reduce(lambda crc, part: zlib.crc32(part, crc), parts, 0)


def is_finite(tree: Tree) -> jax.Array:
  """Whether every number of a tree of arrays is finite, bool [].

  A leaf whose sum passes the largest float counts as infinite, too: its sum is
  looked at, which is the cheapest pass over it.
  """
  floats = [
    x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)
  ]
  return jnp.isfinite(sum(map(jnp.sum, floats), jnp.float32(0)))


def where(which: jax.Array, first: Tree, second: Tree) -> Tree:
  """The first tree where `which`, bool [], holds, else the second."""
  return jax.tree.map(lambda a, b: jnp.where(which, a, b), first, second)


def differ(first: Tree, second: Tree) -> jax.Array:
  """Whether two trees of arrays differ anywhere, bool []."""
  return count(jax.tree.map(jnp.not_equal, first, second)) > 0


def to_host(leaf: Any) -> np.ndarray:
  """A leaf as NumPy; of a typed PRNG key the uint32 that make it."""
  return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def from_host(leaf: Any, like: Any) -> Any:
  """The inverse of `to_host`, for a leaf of the kind of `like`."""
  if not _is_key(like):
    return leaf
  return jax.random.wrap_key_data(leaf, impl=jax.random.key_impl(like))


def _is_key(leaf: Any) -> bool:
  dtype = getattr(leaf, 'dtype', None)
  return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
