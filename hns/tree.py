"""Functions of pytrees of arrays."""

import functools
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

Tree = Any  # a pytree of arrays


def path_name(path: tuple) -> str:
  """A leaf's path as text, `Conv_0/kernel`."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def split(tree: Tree, chosen: Callable[[str, Any], bool]) -> tuple[Tree, Tree]:
  """Two trees of the same structure; each leaf is `None` in one of them.

  Args:
    tree: any pytree.
    chosen: whether a leaf, given its path (`Conv_0/kernel`) and itself, goes to
      the first tree.
  """
  is_first = jax.tree_util.tree_map_with_path(
    lambda path, x: chosen(path_name(path), x), tree
  )
  first = jax.tree.map(lambda x, c: x if c else None, tree, is_first)
  second = jax.tree.map(lambda x, c: None if c else x, tree, is_first)
  return first, second


def has(tree: Tree) -> Callable[[str, Any], bool]:
  """`(path, leaf) -> bool`, for `split`: whether `tree` has a leaf there."""
  paths = {path_name(p) for p, _ in jax.tree_util.tree_leaves_with_path(tree)}
  return lambda path, leaf: path in paths


def combine(first: Tree, second: Tree) -> Tree:
  """Fills the holes of `first` with the leaves of `second`."""
  return jax.tree.map(
    lambda a, b: b if a is None else a,
    first,
    second,
    is_leaf=lambda x: x is None,
  )


def flatten(tree: Tree) -> jax.Array:
  """All leaves, raveled and concatenated in tree order."""
  return jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(tree)])


def unflatten(vector: jax.Array, like: Tree) -> Tree:
  """The inverse of `flatten`: cuts a vector into the shapes of `like`."""
  leaves, structure = jax.tree.flatten(like)
  start, parts = 0, []
  for leaf in leaves:
    parts.append(vector[start : start + leaf.size].reshape(leaf.shape))
    start += leaf.size
  return jax.tree.unflatten(structure, parts)


def uniform(key: jax.Array, like: Tree, least: float = 0.0) -> Tree:
  """Uniform draws from [least, 1) in the shapes of `like`, float32.

  One draw for all leaves compiles faster than one per leaf.
  """
  size = sum(leaf.size for leaf in jax.tree.leaves(like))
  draw = jax.random.uniform(key, (size,), jnp.float32, least)
  return unflatten(draw, like)


def coins(key: jax.Array, like: Tree) -> Tree:
  """Fair coins in the shapes of `like`, bool, of one random bit each."""
  size = sum(leaf.size for leaf in jax.tree.leaves(like))
  drawn = jax.random.bits(key, (-(-size // 8),), jnp.uint8)
  return unflatten(jnp.unpackbits(drawn, count=size) > 0, like)


def normal(key: jax.Array, like: Tree) -> Tree:
  """Normal draws of mean 0 and variance 1 in the shapes of `like`, float32."""
  size = sum(leaf.size for leaf in jax.tree.leaves(like))
  return unflatten(jax.random.normal(key, (size,), jnp.float32), like)


def count(tree: Tree) -> jax.Array:
  """Number of non-zero coordinates, int32 [].

  Leaves of fewer than 2^24 coordinates are summed as float32, which is exact
  and on a CPU runs and compiles twice as fast as with integers.
  """

  def leaf(x):
    dtype = jnp.float32 if x.size < 2**24 else jnp.int32
    return jnp.sum(x != 0, dtype=dtype).astype(jnp.int32)

  return sum(map(leaf, jax.tree.leaves(tree)), jnp.int32(0))


def sizes(tree: Tree) -> Tree:
  """The root mean square of each leaf; of a leaf of zeros, of all leaves."""
  whole = jnp.sqrt(jnp.mean(jnp.square(flatten(tree))))

  def size(leaf):
    mean = jnp.sqrt(jnp.mean(jnp.square(leaf)))
    return jnp.where(mean > 0, mean, whole).astype(leaf.dtype)

  return jax.tree.map(size, tree)


def merge(first: Tree, second: Tree) -> Tree:
  """The union of two dicts of dicts that have no leaf in common."""
  flat = {**flatten_dict(first), **flatten_dict(second)}
  return unflatten_dict(flat)


def checksum(tree: Tree) -> int:
  """CRC-32 of all leaves' bytes, in tree order; a leaf may be a PRNG key."""
  leaves = map(to_host, jax.tree.leaves(tree))
  # Views, because a tree may hold all pictures of a run.
  flat = (np.ascontiguousarray(leaf).reshape(-1) for leaf in leaves)
  parts = (leaf.view(np.uint8) for leaf in flat)
  return functools.reduce(lambda crc, part: zlib.crc32(part, crc), parts, 0)


def is_finite(tree: Tree) -> jax.Array:
  """Whether the sum of all leaves is finite, bool [].

  Computing the sum is the cheapest test. It also rejects finite numbers whose
  sum overflows.
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
  """A leaf as a NumPy array; a typed PRNG key as its uint32 data."""
  return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def from_host(leaf: Any, like: Any) -> Any:
  """The inverse of `to_host`, for a leaf of the kind of `like`."""
  if not _is_key(like):
    return leaf
  return jax.random.wrap_key_data(leaf, impl=jax.random.key_impl(like))


def _is_key(leaf: Any) -> bool:
  dtype = getattr(leaf, 'dtype', None)
  return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
