"""Supermasks: Linen modules with frozen weights and a trained sign on each."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from hns.tree import Tree

_UNMASKED = ('bias', 'scale')
COLLECTIONS = ('weights', 'mask', 'signs', 'params')


@jax.custom_vjp
def sign(scores: jax.Array) -> jax.Array:
  """+1 where a score is >= 0, else -1, in the dtype of `scores`.

  Its gradient is straight-through, the identity (Bengio et al. 2013,
  arXiv 1308.3432).
  """
  return jnp.where(scores < 0, -1, 1).astype(scores.dtype)


sign.defvjp(lambda scores: (sign(scores), None), lambda _, grad: (grad,))


@jax.custom_vjp
def binary(scores: jax.Array) -> jax.Array:
  """1 where a score is >= 0, else 0; its gradient is straight-through."""
  return jnp.where(scores < 0, 0, 1).astype(scores.dtype)


binary.defvjp(lambda scores: (binary(scores), None), lambda _, grad: (grad,))


@jax.custom_vjp
def bernoulli(scores: jax.Array, draw: jax.Array) -> jax.Array:
  """1 with probability sigmoid(score), else 0; `draw` is uniform in [0, 1).

  Its gradient is that of the probability (Isik et al. 2023, arXiv 2209.15328,
  section 3).
  """
  return (draw < jax.nn.sigmoid(scores)).astype(scores.dtype)


def _bernoulli_bwd(scores, grad):
  chance = jax.nn.sigmoid(scores)
  return grad * chance * (1 - chance), None


bernoulli.defvjp(
  lambda scores, draw: (bernoulli(scores, draw), scores), _bernoulli_bwd
)


def signs_of(scores: Tree) -> Tree:
  """`sign` of every leaf of a tree."""
  return jax.tree.map(sign, scores)


def model_signs(variables: dict[str, Tree]) -> jax.Array | None:
  """A model's signs, int32 [weights], 0 where pruned; None without signs."""
  if 'signs' not in variables:
    return None
  signs = jax.tree.map(jnp.multiply, variables['signs'], variables['mask'])
  flat = [x.ravel() for x in jax.tree.leaves(signs)]
  return jnp.concatenate(flat).astype(jnp.int32)


def has_sign(path: str, leaf: jax.Array) -> bool:
  """Whether a parameter gets a sign: kernels and embeddings.

  Not vectors, and not leaves named `bias` or `scale`.
  """
  return leaf.ndim > 1 and path.rpartition('/')[2] not in _UNMASKED


def to_masked(
  params: Tree,
  mask: Tree = None,
  signs: Tree = None,
  has_sign: Callable[[str, jax.Array], bool] = has_sign,
) -> dict[str, Tree]:
  """The variables of `Supermask(net)` for the params of `net`.

  Those for which `has_sign(path, leaf)`, the path such as `Dense_0/kernel`, go
  to `weights`, with a `mask` (bool, default all True) and `signs` (default +1)
  of the same tree; others stay in `params`.
  """
  flat = flatten_dict(params)
  named = {k: v for k, v in flat.items() if has_sign('/'.join(k), v)}
  weights = unflatten_dict(named)
  rest = unflatten_dict({k: v for k, v in flat.items() if k not in named})
  if mask is None:
    mask = jax.tree.map(lambda w: jnp.ones(w.shape, bool), weights)
  if signs is None:
    signs = jax.tree.map(jnp.ones_like, weights)
  return {'weights': weights, 'mask': mask, 'signs': signs, 'params': rest}


def to_params(variables: dict[str, Tree]) -> dict[str, Tree]:
  """The inverse of `to_masked`: weights x mask x signs, and other params.

  Without `signs`, as with a {0, 1} mask, all signs are +1.
  """
  weights, mask = variables.get('weights', {}), variables.get('mask', {})
  if variables.get('signs'):
    mask = jax.tree.map(jnp.multiply, mask, variables['signs'])
  product = jax.tree.map(jnp.multiply, weights, mask)
  rest = flatten_dict(variables.get('params', {}))
  return {'params': unflatten_dict({**rest, **flatten_dict(product)})}


class Supermask(nn.Module):
  """A Linen module that computes with weights x mask x signs.

  Its variables have the collections `weights` (frozen), `mask` (bool: which
  weights survived pruning), `signs` ({-1, +1}) and `params` (those without a
  sign), under the module's own paths. To train real-valued scores, pass
  `signs=signs_of(scores)`, whose gradient is straight-through.

  Attributes:
    unmasked: the module to mask; its own submodules may have any other name.
  """

  unmasked: nn.Module

  def setup(self):
    nn.share_scope(self, self.unmasked)

  def __call__(self, *args, **kwargs):
    call = nn.map_variables(
      lambda net: net(*args, **kwargs),
      COLLECTIONS,
      trans_in_fn=to_params,
      trans_out_fn=lambda variables: to_masked(variables.get('params', {})),
      init=self.is_initializing(),
    )
    return call(self.unmasked)
