"""The weighted mean over clients, each coordinate by itself."""

import functools

import jax
import jax.numpy as jnp

from hns import tree
from hns.tree import Tree
from hns.wire import Message


def weigh(
  message: Message, common: Tree, examples: jax.Array
) -> tuple[Tree, Tree]:
  """A client's terms of the mean: weight x value, and weight, x examples.

  Integer values with integer or bool weights give int32, so their sum is
  exact in any order; others give at least float32. The second term is None for
  a leaf that is the very array of `common`, the weights of the download: it is
  the same for all clients, and `total_weights` knows it without a sum.
  """
  scaled = functools.partial(_scaled, examples)
  weights = jax.tree.map(scaled, message.value, message.weight)
  sums = jax.tree.map(lambda w, v: w * v, weights, message.value)
  chosen = jax.tree.map(
    lambda x, own, shared: None if own is shared else x,
    *(weights, message.weight, common),
  )
  return sums, chosen


def apart(message: Message, examples: jax.Array) -> Message:
  """An upload for a `Rule`, 0 where nothing is sent; weights x examples.

  Float32; a weight has as many axes as its value. For 0 examples all is 0, also
  what is not finite.
  """

  def weight(value, weight):
    shape = (1,) * (value.ndim - weight.ndim) + weight.shape
    return weight.astype(jnp.float32).reshape(shape) * examples

  weights = jax.tree.map(weight, message.value, message.weight)
  values = jax.tree.map(
    lambda v, w: jnp.where(w > 0, v, 0), message.value, weights
  )
  return Message(values, weights)


def total_weights(
  chosen: Tree, sums: Tree, common: Tree, examples: Tree
) -> Tree:
  """All clients' weights x examples; `chosen`, `sums` and `examples` summed."""
  scaled = functools.partial(_scaled, examples)
  weights = tree.combine(chosen, jax.tree.map(scaled, sums, common))
  # Without it XLA rounded means of floats on one device otherwise than on two.
  return jax.lax.optimization_barrier(weights)


def _scaled(examples, value, weight) -> jax.Array:
  floats = any(jnp.issubdtype(x.dtype, jnp.floating) for x in (value, weight))
  dtype = jnp.promote_types(value.dtype, jnp.float32) if floats else jnp.int32
  return examples * weight.astype(dtype)


def mean(sums: Tree, weights: Tree) -> Tree:
  """The weighted mean of each coordinate; 0 where the weight is 0."""

  def one(total, weight):
    # By a scalar XLA multiplies with its reciprocal, which rounds twice.
    each = jnp.broadcast_to(jnp.where(weight == 0, 1, weight), total.shape)
    return total / jax.lax.optimization_barrier(each)

  return jax.tree.map(one, sums, weights)
