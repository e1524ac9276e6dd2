"""Synaptic saliency: what flows through each weight of any Linen network.

SynFlow (Tanaka et al. 2020, arXiv 2006.05467) defines it for chains of ReLU:
with positive weights such a network is linear, and all saliencies of a cut add
up to the output. So that this holds elsewhere, what is not positively
homogeneous of degree one is replaced while the flow is measured:

- A norm passes its input on, as in the paper.
- An embedding is a dense layer on one-hot tokens; its all-ones input has all
  tokens at once.
- Softmax in attention looks at all visible places alike. A score of query and
  key counts as a factor of 1 whose relative change is the score's, so that the
  kernels of both carry the flow that their head carries. What goes into them
  carries no flow for that: it would count twice.
- A gate is half open, and counts as such a factor; tanh passes its input on.

Functions that are close to ReLU, such as GELU, are computed as they are. Other
divisions by what the network computes, such as an unknown norm, and functions
that saturate are an error that names the module.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from hns import tree
from hns.errors import invalid
from hns.networks import modes, traced
from hns.networks.intercept import intercepted
from hns.networks.layers import Norm
from hns.networks.supermask import to_masked, to_params
from hns.once import once, quickly
from hns.tree import Tree

_NORMS = (
  *(Norm, nn.BatchNorm, nn.GroupNorm, nn.InstanceNorm, nn.LayerNorm),
  nn.RMSNorm,
)
_CELLS = (nn.LSTMCell, nn.OptimizedLSTMCell, nn.GRUCell, nn.SimpleCell)
# The layers inside a module that only make its factors.
_FACTORS = {
  nn.MultiHeadDotProductAttention: ('query', 'key'),
  nn.LSTMCell: ('ii', 'hi', 'if', 'hf', 'io', 'ho'),
  nn.OptimizedLSTMCell: ('ii', 'hi', 'if', 'hf', 'io', 'ho'),
  nn.GRUCell: ('ir', 'hr', 'iz', 'hz'),
}
_DIVISIONS = ('div', 'rsqrt', 'sqrt', 'pow', 'integer_pow', 'cbrt')
_SATURATING = ('tanh', 'logistic', 'erf', 'exp', 'exp2', 'log', 'log1p')
_SATURATING += ('expm1', 'erfc', 'sin', 'cos')


class Flow(NamedTuple):
  """What flows through a network.

  Attributes:
    outputs: their sum, [].
    saliency: |w x d outputs / d w|, a tree like the weights.
  """

  outputs: jax.Array
  saliency: Tree


def flow(net: nn.Module, variables: dict[str, Tree], inputs: jax.Array) -> Flow:
  """The flow from an all-ones input, in the widest float that JAX may use.

  Args:
    net: the plain module.
    variables: `supermask.to_masked`; the signs are not used.
    inputs: [1, ...], only its shape and dtype are used.
  """
  weights = jax.tree.map(
    lambda w, m: jnp.abs(_wide(w)) * m, variables['weights'], variables['mask']
  )
  rest = jax.tree.map(lambda p: jnp.abs(_wide(p)), variables['params'])
  outputs, grads = jax.value_and_grad(_total)(weights, net, rest, inputs)
  return Flow(
    outputs, jax.tree.map(lambda w, g: jnp.abs(w * g), weights, grads)
  )


def is_connected(
  net: nn.Module, params: Tree, masks: dict[str, np.ndarray], inputs: jax.Array
) -> bool:
  """Whether anything flows through a pruned network.

  Args:
    net: the plain module.
    params: its parameters as drawn.
    masks: by layer, `hns.networks.compact.masks_of`.
    inputs: [1, ...], the shape of one example.
  """
  variables = once(to_masked)(params)

  def mask_of(path, whole):
    return masks.get(tree.path_name(path).removesuffix('/kernel'), whole)

  mask = jax.tree_util.tree_map_with_path(mask_of, variables['mask'])
  outputs = once(lambda variables: flow(net, variables, inputs).outputs)
  return bool(outputs(variables | {'mask': mask}) > 0)


def check(
  net: nn.Module, inputs: jax.Array, params: Tree | None = None
) -> None:
  """Raises `InputError` for a network whose saliency would mean nothing.

  Twice the input has to give at least twice the flow.

  Args:
    net: the plain module.
    inputs: [1, ...], the shape of one example.
    params: as drawn; None draws some here, which is one more to compile.
  """
  zeros = lambda x: np.zeros(x.shape, x.dtype)
  blank = jax.tree.map(zeros, inputs)
  draw = lambda seed: modes.init(net, jax.random.key(seed), blank)['params']
  draw, given = (draw, np.uint32(0)) if params is None else (_pass_on, params)
  shapes = jax.eval_shape(lambda given: _positive(draw(given)), given)
  jaxpr = _traced(net, blank, *shapes)
  _refuse(traced.find(jaxpr, _DIVISIONS), 'divides by what it computes')
  # Compiled here, as pruning may be traced.
  measure = jax.jit(lambda given: _measure(net, blank, *_positive(draw(given))))
  measured = measure.lower(given).compile(quickly())(given)
  totals, extremes = jax.tree.map(np.asarray, measured)
  none, one, two = map(float, totals)
  # Whole numbers that are no tokens of an embedding have no size.
  is_sized = not none == one == two
  if not one > (none if is_sized else 0):
    _refuse('the network', 'passes nothing on where all is positive')
  if is_sized and two - none < 1.999 * (one - none):
    found = traced.find(jaxpr, _SATURATING) or 'the network'
    _refuse(found, 'saturates where all is positive')
  for name, (least, largest) in extremes.items():
    parts = name.split('/')
    is_factor = any(set(parts) & set(names) for names in _FACTORS.values())
    if not is_factor and least[1] < -1e-6 * largest[1]:
      _refuse(name, 'is subtracted from other parts of the flow')


def _positive(params: Tree) -> tuple[Tree, Tree]:
  """The sizes of the weights, and of other params."""
  drawn = to_masked(params)
  sizes = lambda params: jax.tree.map(lambda p: jnp.abs(_wide(p)), params)
  return sizes(drawn['weights']), sizes(drawn['params'])


def _traced(
  net: nn.Module, blank: np.ndarray, weights: Tree, rest: Tree
) -> core.Jaxpr:
  """What computes the flow from weights, of these shapes, and a size."""
  rest = jax.tree.map(lambda p: np.zeros(p.shape, p.dtype), rest)
  total = lambda weights, size: _total(weights, net, rest, blank, size)
  size = jax.ShapeDtypeStruct((), jnp.result_type(float))
  return jax.make_jaxpr(total)(weights, size).jaxpr


def _measure(
  net: nn.Module, blank: np.ndarray, weights: Tree, rest: Tree
) -> tuple[jax.Array, dict[str, tuple[jax.Array, jax.Array]]]:
  """The flow of an input of size 0, 1 and 2, and its gradient's extremes.

  Of each kernel, by path, the least and the largest size; [3] all.
  """

  def measured(size):
    total, grads = jax.value_and_grad(_total)(weights, net, rest, blank, size)
    leaves = jax.tree_util.tree_leaves_with_path(grads)
    extremes = {tree.path_name(p): (g.min(), abs(g).max()) for p, g in leaves}
    return total, extremes

  # A loop, as it compiles once for all sizes.
  return jax.lax.map(measured, jnp.arange(3, dtype=jnp.result_type(float)))


def _refuse(module: str | None, what: str) -> None:
  if module is not None:
    raise invalid(
      'pruning',
      'synflow',
      f'{module} {what}, so saliency would mean nothing: use ReLU, the norms, '
      'attention and cells of flax.linen, or choose pruning=magnitude',
    )


def _wide(x: jax.Array) -> jax.Array:
  return x.astype(jnp.result_type(float))


def _total(
  weights: Tree,
  net: nn.Module,
  rest: Tree,
  inputs: jax.Array,
  size: float | jax.Array = 1.0,
) -> jax.Array:
  """The sum of outputs for an input of ones times `size`."""
  ones = jax.tree.map(jnp.ones_like, weights)
  params = to_params(
    {'weights': weights, 'mask': ones, 'signs': ones, 'params': rest}
  )
  given = jax.tree.map(functools.partial(_of_ones, size), inputs)
  with intercepted(lambda *call: _replaced(size, *call)):
    return jnp.sum(net.apply(params, given, **modes.options(net, False)))


def _of_ones(size: float | jax.Array, x: jax.Array) -> jax.Array:
  """Ones in the shape of x, times `size` if x is of floats."""
  ones = jnp.ones(x.shape, x.dtype)
  is_sized = jnp.issubdtype(x.dtype, jnp.floating)
  return _wide(ones) * size if is_sized else ones


def _replaced(size, call, args, kwargs, context) -> Any:
  """What a module does while the flow is measured."""
  module = context.module
  if context.method_name != '__call__':
    return call(*args, **kwargs)
  if isinstance(module, _NORMS):
    return args[0] if args else kwargs['x']
  if isinstance(module, nn.Embed):
    tokens = args[0] if args else kwargs['inputs']
    every = size * jnp.sum(module.embedding, 0)
    return jnp.broadcast_to(every, (*tokens.shape, every.size))
  if module.name in _factors_of(module.parent):
    return call(*jax.lax.stop_gradient(args), **kwargs)
  if isinstance(module, nn.OptimizedLSTMCell) and not _is_changed(module):
    # The same layers, but one by one; it comes here again.
    call = functools.partial(nn.LSTMCell.__call__, module)
  changed = {}
  if isinstance(module, nn.MultiHeadDotProductAttention):
    changed = {'attention_fn': _attend}
  elif isinstance(module, _CELLS):
    changed = {'gate_fn': _half_open, 'activation_fn': _pass_on}
  elif isinstance(module, nn.RNN):  # its cell's first state is of that dtype
    module, changed = module.cell, {'param_dtype': jnp.result_type(float)}
  with _changed(module, changed):
    return call(*args, **kwargs)


def _is_changed(cell: nn.Module) -> bool:
  return cell.gate_fn is _half_open


def _factors_of(module: Any) -> tuple[str, ...]:
  """The names of the layers that only make factors of what a module gives."""
  kinds = [kind for kind in _FACTORS if isinstance(module, kind)]
  return _FACTORS[kinds[0]] if kinds else ()


@contextlib.contextmanager
def _changed(module: nn.Module, attributes: dict[str, Any]) -> Iterator[None]:
  """A module with other attributes; a bound one is frozen, so not by clone."""
  before = {k: getattr(module, k) for k in attributes if hasattr(module, k)}
  for name in before:
    object.__setattr__(module, name, attributes[name])
  try:
    yield
  finally:
    for name, value in before.items():
      object.__setattr__(module, name, value)


def _pass_on(x: Any) -> Any:
  return x


@jax.named_scope(traced.OURS)
def _factor(z: jax.Array) -> jax.Array:
  """1, with the relative change of z."""
  still = jax.lax.stop_gradient(z)
  return jnp.where(still > 0, z / jnp.where(still > 0, still, 1), 1)


def _half_open(z: jax.Array) -> jax.Array:
  return _factor(z) / 2


@jax.named_scope(traced.OURS)
def _attend(query, key, value, bias=None, mask=None, **options) -> jax.Array:
  """Attention to all visible places alike; [..., places, heads, features]."""
  del bias, options
  scores = jnp.einsum('...qhd,...khd->...hqk', query, key)
  visible = jnp.ones_like(scores) if mask is None else mask * (scores * 0 + 1)
  count = jnp.maximum(jnp.sum(visible, -1, keepdims=True), 1)
  share = visible / count * _factor(scores)
  return jnp.einsum('...hqk,...khd->...qhd', share, value)
