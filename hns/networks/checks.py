"""Checks of a network by its shapes, before its weights are initialized."""

import functools
from collections.abc import Callable
from typing import Any

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jax.extend import core

from hns import tree
from hns.data.tasks import CLASSIFICATION, Task
from hns.errors import InputError, invalid
from hns.networks import modes
from hns.networks.intercept import intercepted
from hns.once import once
from hns.tree import Tree

_ONE_LABEL = jax.ShapeDtypeStruct((1,), jnp.int32)


def check(
  name: str,
  net: Any,
  inputs: jax.Array,
  classes: int,
  task: Task = CLASSIFICATION,
  labels: jax.ShapeDtypeStruct = _ONE_LABEL,
) -> None:
  """Traces a model on one example, without computing anything.

  Other errors of the model's own code are not caught.

  Args:
    name: of the model in the config.
    net: what the function in `hns.networks.models.MODELS` returned.
    inputs: float [1, ...], the shape of one example.
    classes: the number of logits that it must return.
    task: what it is to do.
    labels: [1, ...], the shape and dtype of one example's labels.

  Raises:
    InputError: it is not a Linen module, has variables that are no parameters
      and no statistics of batch norm, needs random numbers without training,
      has a layer without inputs, or does not return what the task takes; or
      the task does not measure each example.
  """
  if not isinstance(net, nn.Module):
    kind = type(net).__name__
    remedy = 'wrap a Flax NNX module in flax.nnx.bridge.to_linen'
    raise invalid('model', name, f'is a {kind}, not a Linen module; {remedy}')
  try:
    shapes = modes.shapes_of(net, inputs)
  except InputError as error:
    raise _misfit(name, inputs, str(error)) from error
  if not all(x.size for x in jax.tree.leaves(shapes)):
    raise _misfit(name, inputs, 'a layer is left without inputs')
  _check_collections(name, shapes)
  _check_outputs(name, net, shapes, inputs, classes, task, labels)


def check_tokens(
  name: str, net: nn.Module, inputs: Tree, least: Tree, most: Tree
) -> None:
  """Raises `InputError` for whole numbers that an embedding does not have.

  JAX would read another row, without a word.

  Args:
    name: of the model in the config.
    net: the plain module.
    inputs: [1, ...], the shape of one example.
    least, most: int [] for each array of inputs, of all examples; None for an
      array of other numbers.
  """
  if not jax.tree.leaves(most):
    return
  both = jax.tree.map(
    lambda x, *ends: np.concatenate(
      [x if end is None else np.full_like(x, end) for end in ends]
    ),
    *(inputs, least, most),
    is_leaf=lambda x: x is None,
  )
  for path, number, rows in _looked_up(net, inputs, both):
    if not 0 <= number < rows:
      remedy = f'{path} has {rows} rows, but is asked for number {number}'
      raise invalid('model', name, remedy)


def _looked_up(
  net: nn.Module, blank: Tree, inputs: Tree
) -> list[tuple[str, int, int]]:
  """By look-up, the embedding's path, a number asked for, and its rows.

  The number is a negative one, or else the largest. `blank`: one example.
  """
  shapes, known = modes.shapes_of(net, blank), []

  def watched(call, args, kwargs, context):
    module = context.module
    if isinstance(module, nn.Embed) and context.method_name == '__call__':
      asked = jnp.asarray(args[0] if args else kwargs['inputs'])
      if jnp.issubdtype(asked.dtype, jnp.integer):
        known.append(('/'.join(module.path), module.num_embeddings))
        low, high = jnp.min(asked), jnp.max(asked)
        found.append(jnp.where(low < 0, low, high))
    return call(*args, **kwargs)

  found = []

  @once
  def look(inputs):
    # Only what the numbers depend on is compiled.
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    with intercepted(watched):
      net.apply(zeros, inputs, **modes.options(net, False))
    return list(found)

  numbers = map(int, jax.device_get(look(inputs)))
  return [(path, n, rows) for (path, rows), n in zip(known, numbers)]


def _check_outputs(name, net, shapes, inputs, classes, task, labels) -> None:
  """Raises `InputError` for outputs that the task does not take."""
  evaluate = functools.partial(net.apply, **modes.options(net, False))
  try:
    outputs = jax.eval_shape(evaluate, shapes, inputs)
  except flax.errors.InvalidRngError as error:
    cause = str(error).split(' (http')[0]
    remedy = 'give __call__ an argument train, and draw only if it is True'
    raise invalid('model', name, f'{cause}: {remedy}') from error
  except flax.errors.ModifyScopeVariableError as error:
    remedy = 'give __call__ an argument train for use_running_average=not train'
    raise invalid(
      'model', name, f'changes without training: {remedy}'
    ) from error
  shape = getattr(outputs, 'shape', None)
  wanted = task.shape(labels.shape, classes) if task.shape else shape
  if shape != wanted or shape is None:
    what = 'logits' if task.has_classes else 'outputs'
    kind = type(outputs).__name__ if shape is None else list(shape)
    wanted = 'an array' if wanted is None else list(wanted)
    remedy = f'must give {what} {wanted} for one example, not {kind}'
    raise invalid('model', name, remedy)
  if not jnp.issubdtype(outputs.dtype, jnp.floating):
    raise invalid('model', name, f'must give floats, not {outputs.dtype}')
  train = lambda variables, inputs: modes.apply_of(net)(
    variables, inputs, jax.random.key(0), jnp.ones(1, bool)
  )
  jax.eval_shape(train, {'params': shapes['params']}, inputs)
  _check_task(task, outputs, labels)


def _check_task(task, outputs, labels) -> None:
  """Raises `InputError` unless a task gives each example its numbers."""
  two = lambda x: jax.ShapeDtypeStruct((2, *x.shape[1:]), x.dtype)
  found = jax.eval_shape(task.measure, two(outputs), two(labels))
  is_pair = isinstance(found, tuple | list) and len(found) == 2
  shapes = [list(x.shape) for x in jax.tree.leaves(found)]
  if not is_pair or shapes != [[2], [2]]:
    remedy = 'must return (losses, scores), each [n], one an example'
    raise InputError(f'task.measure: {remedy}; of 2 it gives {shapes}')
  for name, x in zip(('losses', 'scores'), found):
    if not jnp.issubdtype(x.dtype, jnp.floating):
      raise InputError(f'task.measure: {name} are {x.dtype}, not floats')
  count = jax.eval_shape(task.count, two(labels)).shape
  if count != (2,):
    raise InputError(
      f'task.count: must return [n]; of 2 it gives {list(count)}'
    )


def _misfit(name: str, inputs: jax.Array, cause: str) -> InputError:
  shape = jax.tree.map(lambda x: x.shape[1:], inputs)
  problem = f'examples of shape {shape} do not fit: {cause}'
  remedy = 'choose mlp or cnn, which take any size'
  return invalid('model', name, f'{problem}; {remedy}')


def _check_collections(name: str, shapes: dict[str, Any]) -> None:
  """Raises `InputError` for other collections, and params but floats."""
  for collection in shapes:
    leaves = {path[-1] for path in flatten_dict(shapes[collection])}
    is_norm = collection == modes.STATISTICS and leaves == {'mean', 'var'}
    if collection != 'params' and not is_norm:
      module = '/'.join(next(iter(flatten_dict(shapes[collection])))[:-1])
      raise invalid(
        'model',
        name,
        f'{module or "the module"} has {collection}, and only params and the '
        'statistics of nn.BatchNorm are supported',
      )
  for path, leaf in flatten_dict(shapes.get('params', {}), sep='/').items():
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
      remedy = f'{path} is {leaf.dtype}: parameters must be real floats'
      raise invalid('model', name, remedy)
  if not shapes.get('params'):
    raise invalid('model', name, 'has no parameters: nothing can be trained')


def head_of(
  params: Tree,
  classes: int,
  chosen: str = '',
  is_last: Callable[[str], bool] = lambda layer: True,
) -> str:
  """The path of the output layer, such as `Dense_2` or `body/Dense_0`.

  Args:
    params: a dict of dicts of arrays or shapes.
    classes: number of logits.
    chosen: the path that the user gave; '' for the only layer whose kernel has
      one output per class, or the last in the flow of several.
    is_last: whether nothing follows a layer, asked where several could be it.

  Raises:
    InputError: there is no such layer, more than one, or it is the whole
      network.
  """
  paths = {'/'.join(path): leaf for path, leaf in flatten_dict(params).items()}
  layers = {path.rpartition('/')[0]: None for path in paths}
  heads = [chosen] if chosen else _of_width(paths, classes)
  heads = list(filter(is_last, heads)) if len(heads) > 1 else heads
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

  The layer's output is replaced by a constant. The kernels that the logits
  still depend on come after the layer, or are parallel to it.

  Args:
    net: the plain module.
    params: of the module, arrays or their shapes, a dict of dicts.
    inputs: [1, ...], the shape of one example.
    layer: the path of a module with parameters.
  """

  def replace(call, args, kwargs, context):
    output = call(*args, **kwargs)
    is_layer = '/'.join(context.module.path) == layer
    if is_layer and context.method_name == '__call__':
      return jnp.ones_like(output)
    return output

  def outputs(params, inputs):
    with intercepted(replace):
      mode = modes.options(net, False)
      statistics = modes.blank_statistics(net, inputs)
      variables = {'params': params, modes.STATISTICS: statistics or {}}
      return net.apply(variables, inputs, **mode)

  traced = jax.make_jaxpr(outputs)(params, inputs).jaxpr
  leaves, needed = jax.tree_util.tree_leaves_with_path(params), _needed(traced)
  used = {
    tree.path_name(path): (v in needed, leaf.ndim)
    for v, (path, leaf) in zip(traced.invars, leaves)
  }
  # Without such a kernel, or where it is used, nothing was replaced.
  if used.get(f'{layer}/kernel', (True, 0))[0]:
    return True
  return not any(is_used and rank > 1 for is_used, rank in used.values())


def _needed(jaxpr: core.Jaxpr) -> set:
  """What the outputs of a traced function depend on."""
  needed = {v for v in jaxpr.outvars if not isinstance(v, core.Literal)}
  for eqn in reversed(jaxpr.eqns):
    if needed & set(eqn.outvars):
      needed |= {v for v in eqn.invars if not isinstance(v, core.Literal)}
  return needed


def _of_width(paths: dict[str, Any], classes: int) -> list[str]:
  """The layers whose kernels have `classes` outputs."""
  found = {
    path.rpartition('/')[0]: None
    for path, leaf in paths.items()
    if leaf.ndim > 1 and leaf.shape[-1] == classes
  }
  return list(found)
