"""Checks of a network by its shapes, before its weights are initialized."""

from typing import Any

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from hns.errors import InputError, invalid
from hns.networks.intercept import intercepted
from hns.tree import Tree


def shapes_of(net: nn.Module, inputs: jax.Array) -> dict[str, Any]:
  """The collections of a module, as trees of shapes and dtypes."""
  return jax.eval_shape(net.init, jax.random.key(0), inputs)


def check(name: str, net: Any, inputs: jax.Array, classes: int) -> None:
  """Traces a model on one example, without computing anything.

  Other errors of the model's own code are not caught.

  Args:
    name: of the model in the config.
    net: what the function in `hns.networks.models.MODELS` returned.
    inputs: float [1, ...], the shape of one example.
    classes: the number of logits that it must return.

  Raises:
    InputError: it is not a Linen module, has variables that change, needs
      random numbers, has a layer without inputs, or does not return logits.
  """
  if not isinstance(net, nn.Module):
    kind = type(net).__name__
    remedy = 'wrap a Flax NNX module in flax.nnx.bridge.to_linen'
    raise invalid('model', name, f'is a {kind}, not a Linen module; {remedy}')
  try:
    shapes = shapes_of(net, inputs)
  except InputError as error:
    raise _misfit(name, inputs, str(error)) from error
  if not all(x.size for x in jax.tree.leaves(shapes)):
    raise _misfit(name, inputs, 'a layer is left without inputs')
  _check_collections(name, shapes)
  try:
    logits = jax.eval_shape(net.apply, shapes, inputs)
  except flax.errors.InvalidRngError as error:
    cause = str(error).split(' (http')[0]
    remedy = 'dropout and other randomness is not supported; leave it out'
    raise invalid('model', name, f'{cause}: {remedy}') from error
  if getattr(logits, 'shape', None) != (1, classes):
    kind = list(getattr(logits, 'shape', [])) or type(logits).__name__
    remedy = f'must give logits [1, {classes}] for one example, not {kind}'
    raise invalid('model', name, remedy)


def _misfit(name: str, inputs: jax.Array, cause: str) -> InputError:
  problem = f'examples of shape {inputs.shape[1:]} do not fit: {cause}'
  remedy = 'choose mlp or cnn, which take any size'
  return invalid('model', name, f'{problem}; {remedy}')


def _check_collections(name: str, shapes: dict[str, Any]) -> None:
  """Raises `InputError` for collections other than real `params`."""
  for collection in shapes:
    if collection != 'params':
      module = '/'.join(next(iter(flatten_dict(shapes[collection])))[:-1])
      raise invalid(
        'model',
        name,
        f'{module or "the module"} has {collection}, and only params are '
        'supported; of norms use GroupNorm, LayerNorm or RMSNorm',
      )
  for path, leaf in flatten_dict(shapes.get('params', {}), sep='/').items():
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
      remedy = f'{path} is {leaf.dtype}: parameters must be real floats'
      raise invalid('model', name, remedy)
  if not shapes.get('params'):
    raise invalid('model', name, 'has no parameters: nothing can be trained')


def head_of(params: Tree, classes: int, chosen: str = '') -> str:
  """The path of the output layer, such as `Dense_2` or `body/Dense_0`.

  Args:
    params: a dict of dicts of arrays or shapes.
    classes: number of logits.
    chosen: the path that the user gave; '' for the only layer whose kernel has
      one output per class.

  Raises:
    InputError: there is no such layer, more than one, or it is the whole
      network.
  """
  paths = {'/'.join(path): leaf for path, leaf in flatten_dict(params).items()}
  layers = {path.rpartition('/')[0]: None for path in paths}
  heads = [chosen] if chosen else _of_width(paths, classes)
  inside = [path.startswith(f'{heads[0]}/') for path in paths if heads]
  if len(heads) != 1:
    names = ', '.join(heads) or 'none'
    problem = f'exactly one layer must have {classes} outputs, not {names}'
  elif not any(inside):
    problem = 'there is no such layer'
  elif all(inside):
    problem = f'{heads[0]} is the whole network, so nothing would be shared'
  else:
    return heads[0]
  names = ', '.join(filter(None, layers))
  remedy = f'name the layer that each client keeps to itself: {names}'
  raise invalid('head', chosen, f'{problem}; {remedy}')


def is_last(
  net: nn.Module, params: Tree, inputs: jax.Array, layer: str
) -> bool:
  """Whether no kernel acts on a layer's output; True if that is unknown.

  The layer's output is replaced by a constant. The gradient of the logits then
  shows the kernels after the layer or parallel to it.

  Args:
    net: the plain module.
    params: the module's params, a dict of dicts of arrays.
    inputs: float [1, ...], the shape of one example.
    layer: the path of a module with parameters.
  """

  def replace(call, args, kwargs, context):
    output = call(*args, **kwargs)
    is_layer = '/'.join(context.module.path) == layer
    if is_layer and context.method_name == '__call__':
      return jnp.ones_like(output)
    return output

  @jax.grad
  def gradient(params):
    draw = jnp.ones_like(inputs)
    if jnp.issubdtype(inputs.dtype, jnp.floating):
      draw = jax.random.normal(jax.random.key(1), inputs.shape)
    with intercepted(replace):
      return jnp.sum(net.apply({'params': params}, draw) ** 2)

  after = flatten_dict(jax.jit(gradient)(params), sep='/')
  own = after[f'{layer}/kernel'] if f'{layer}/kernel' in after else None
  if own is None or jnp.any(own):  # no such module, so nothing was replaced
    return True
  return not any(jnp.any(g) for g in after.values() if g.ndim > 1)


def _of_width(paths: dict[str, Any], classes: int) -> list[str]:
  """The layers whose kernels have `classes` outputs."""
  return [
    path.rpartition('/')[0]
    for path, leaf in paths.items()
    if leaf.ndim > 1 and leaf.shape[-1] == classes
  ]
