"""A config's network and method: drawn from its seed, and pruned, once."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hns.errors import InputError, invalid
from hns.methods.contract import Initial, Method
from hns.methods.recipes import RECIPES, NetworkInfo
from hns.networks import checks, compact, pruning
from hns.networks.models import Network


class Initialized(NamedTuple):
  """A network and a method before training.

  Attributes:
    net: the plain module, without the units that pruning cut off.
    method: its federated method.
    initial: what exists before round 1.
    key: of all rounds.
    layers: by layer, how many weights survived, of how many; {} unpruned.
    head: the path of the output layer; None if the config names none and more
      than one, or none, could be it.
  """

  net: Any
  method: Method
  initial: Initial
  key: jax.Array
  layers: dict[str, list[int]]
  head: str | None


def initialize(
  config: Any, net: Any, inputs: jax.Array, classes: int
) -> Initialized:
  """Draws and prunes a network: all of it follows from the config's seed.

  Args:
    config: a valid config; its data is not looked at.
    net: the plain module.
    inputs: float [1, ...]: the shape of one example.
    classes: number of logits.
  """
  weights, initial, key = jax.random.split(jax.random.key(config.seed), 3)
  prune = functools.partial(_prune, config, net, inputs)
  head = functools.partial(_head, config, net, inputs, classes)
  network, table = NetworkInfo(prune, head), config[config.algorithm]
  method = RECIPES[config.algorithm](network, **table)

  @jax.jit
  def begin(weights, initial):
    return method.server.init(initial, net.init(weights, inputs)['params'])

  born = begin(weights, initial)
  masks = compact.masks_of(born)
  pruning.check_layers(masks, config.density)
  layers = {name: [int(m.sum()), m.size] for name, m in masks.items()}
  net, born = compact.compact(net, born)
  return Initialized(
    net, method, born, key, layers, _or_none(head, config.head)
  )


def _head(config, net, inputs, classes: int) -> str:
  """The path of the output layer; `InputError` if that cannot be told."""
  shapes = checks.shapes_of(net, inputs)['params']
  found = checks.head_of(shapes, classes, config.head)
  if config.head or isinstance(net, Network):
    return found
  with jax.ensure_compile_time_eval():  # a method may ask inside its trace
    blank = jnp.zeros(inputs.shape, inputs.dtype)
    params = jax.jit(net.init)(jax.random.key(0), blank)['params']
    if checks.is_last(net, params, blank, found):
      return found
  remedy = f'{found} has {classes} outputs, but other layers follow it: name'
  raise invalid('head', '', f'{remedy} the layer that stays at home')


def _or_none(head: Callable[[], str], chosen: str) -> str | None:
  """The output layer where it is plain which; a wrong choice is an error."""
  try:
    return head()
  except InputError:
    if chosen:
      raise
    return None


def _prune(config, net, inputs, key, variables) -> Any:
  total = sum(w.size for w in jax.tree.leaves(variables['weights']))
  if not total:
    raise invalid('model', config.model, 'has no kernel that could be pruned')
  return pruning.prune(
    key,
    pruning.SCORES[config.pruning],
    net,
    variables,
    inputs,
    pruning.schedule(total, config.density, config.pruning_steps),
  )
