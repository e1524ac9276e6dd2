"""A network in training and in evaluation: dropout, batch norm, random numbers.

A module's `__call__` may have an argument `train` (or `training`,
`is_training`, or the opposite, `deterministic`), by which it tells dropout and
batch norm what to do. In training it may draw random numbers of any name.

Batch norm keeps no running mean. In training it uses the batch's own
statistics; a model that is evaluated gets those of the client's own training
examples, measured with the very weights that are evaluated (precise batch norm:
Wu and Johnson 2021, arXiv 2105.07576). So they never travel and nobody keeps
them, as in SiloBN (Andreux et al. 2020), and no round depends on them; but with
`statistics=averaged` of a config (`hns.methods.floats.send_statistics`).
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from hns.errors import InputError
from hns.networks.intercept import intercepted
from hns.networks.supermask import Supermask
from hns.tree import Tree

Variables = dict[str, Tree]
# `(variables, inputs) -> outputs` evaluates; with `key` and `valid`, bool [n],
# it trains: examples that are not valid are padding.
Apply = Callable[..., jax.Array]
# `(variables, inputs, valid, statistics, seen) -> statistics`
Observe = Callable[..., Tree]

STATISTICS = 'batch_stats'
_TRAINING = 'train', 'training', 'is_training'


def options(net: nn.Module, train: bool) -> dict[str, bool]:
  """The argument by which a module is told whether it trains; {} without."""
  names = inspect.signature(type(net).__call__).parameters
  found = {name: train for name in _TRAINING if name in names}
  if 'deterministic' in names:
    found['deterministic'] = not train
  return found


def init(net: nn.Module, key: jax.Array, inputs: jax.Array) -> Variables:
  """The variables of a module, drawn for inputs [1, ...]."""
  return net.init(key, inputs, **options(net, False))


def shapes_of(net: nn.Module, inputs: jax.Array) -> Variables:
  """The variables of a module, as trees of shapes and dtypes."""
  # The key is made inside, where it costs no program.
  draw = lambda inputs: init(net, jax.random.key(0), inputs)
  return jax.eval_shape(draw, inputs)


def apply_of(net: nn.Module) -> Apply:
  """How a plain module computes with the variables of a supermask or params."""
  return functools.partial(_apply, net)


def _apply(net, variables, inputs, key=None, valid=None) -> jax.Array:
  if key is None:
    return Supermask(net).apply(variables, inputs, **options(net, False))
  return _training(net, variables, inputs, key, valid, 0.0)[0]


def observe_of(net: nn.Module) -> Observe:
  """How a network's batch norms take a batch into account.

  `statistics` and `seen`, int32 [], are of the batches before; the mean is over
  all examples. `statistics`: `blank_statistics` at first.
  """

  def observe(variables, inputs, valid, statistics, seen):
    count = jnp.sum(valid, dtype=jnp.int32)
    kept = seen / jnp.maximum(seen + count, 1)
    known = {**variables, STATISTICS: statistics}
    key = jax.random.key(0)
    _, changed = _training(net, known, inputs, key, valid, kept)
    return changed[STATISTICS]

  return observe


def blank_statistics(net: nn.Module, inputs: jax.Array) -> Tree:
  """Zeros for the statistics of a network's batch norms; () without any."""
  shapes = shapes_of(net, inputs).get(STATISTICS, ())
  return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)


def _training(
  net: nn.Module,
  variables: Variables,
  inputs: jax.Array,
  key: jax.Array,
  valid: jax.Array,
  kept: float | jax.Array,
) -> tuple[jax.Array, Variables]:
  """Outputs in training, and the statistics that batch norms changed."""
  with intercepted(functools.partial(_normalised, valid, kept)):
    return Supermask(net).apply(
      variables,
      inputs,
      **options(net, True),
      rngs={'params': key},  # which stands in for any other name
      mutable=[STATISTICS],
    )


def _normalised(valid, kept, call, args, kwargs, context) -> Any:
  """A batch norm's call, without padding, that keeps a share of its mean."""
  module = context.module
  if not isinstance(module, nn.BatchNorm) or context.method_name != '__call__':
    return call(*args, **kwargs)
  _check_measures(module, args, kwargs)
  x = args[0] if args else kwargs.pop('x')
  if kwargs.get('mask') is None:
    rows = jnp.repeat(valid, x.shape[0] // valid.shape[0])
    kwargs['mask'] = rows.reshape(-1, *[1] * (x.ndim - 1))
  before = module.momentum
  object.__setattr__(module, 'momentum', kept)  # a bound module is frozen
  try:
    return call(x, *args[1:], **kwargs)
  finally:
    object.__setattr__(module, 'momentum', before)


def _check_measures(module: nn.BatchNorm, args: tuple, kwargs: dict) -> None:
  """Raises `InputError` for a batch norm that in training measures nothing."""
  given = args[1] if len(args) > 1 else kwargs.get('use_running_average')
  uses = module.use_running_average if given is None else given
  if uses is True:
    raise InputError(
      f'model: {"/".join(module.path)} uses a running average in training, '
      'which nothing measures: give __call__ an argument train, for '
      'use_running_average=not train'
    )
