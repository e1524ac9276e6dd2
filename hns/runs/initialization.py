"""The network and method of a config, initialized from its seed and pruned."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np

from hns import data, wire
from hns.engine import contract_check
from hns.engine.training import Learner
from hns.errors import InputError, invalid
from hns.methods.contract import Initial, Method
from hns.methods.floats import send_statistics
from hns.methods.privacy import randomise_signs
from hns.methods.recipes import RECIPES, NetworkInfo
from hns.networks import checks, compact, modes, packed, pruning, saliency
from hns.networks.models import Network
from hns.once import once
from hns.values import ConfigDict


class Initialized(NamedTuple):
  """A network and a method before training.

  Attributes:
    net: the plain module, without the units that pruning removed.
    method: its federated method.
    initial: what exists before round 1.
    key: the PRNG key that all rounds derive theirs from.
    layers: for each layer, the weights that survived pruning and all weights;
      {} without pruning.
    head: the path of the output layer; None if the config names none and it is
      not unique.
  """

  net: nn.Module
  method: Method
  initial: Initial
  key: jax.Array
  layers: dict[str, list[int]]
  head: str | None


def initialize(
  config: ConfigDict, net: nn.Module, inputs: jax.Array, classes: int
) -> Initialized:
  """Initializes and prunes a network; the result depends on the seed alone.

  Args:
    config: a valid config; its dataset is not read.
    net: the plain module.
    inputs: float [1, ...], the shape of one example.
    classes: number of logits.
  """
  weights, initial, key = _keys(np.uint32(config.seed))
  prune = functools.partial(_prune, config, net, inputs)
  # Methods ask for it once a leaf.
  head = functools.cache(functools.partial(_head, config, net, inputs, classes))
  network = NetworkInfo(prune, head, config.density)
  method = RECIPES[config.algorithm](network, **config[config.algorithm])
  if not isinstance(method, Method):
    remedy = f'its recipe must return a Method, not {type(method).__name__}'
    raise invalid('algorithm', config.algorithm, remedy)
  if config.sign_epsilon:
    method = randomise_signs(method, config.sign_epsilon)

  draw = once(functools.partial(modes.init, net))
  drawn = draw(weights, inputs)
  params = drawn['params']
  if config.statistics == 'averaged':
    if modes.STATISTICS not in drawn:
      remedy = f'{config.model} has no batch norm: leave it out'
      raise invalid('statistics', config.statistics, remedy)
    method = send_statistics(method, drawn[modes.STATISTICS])
  initial = method.server.init(initial, params)
  contract_check.check(config.algorithm, method, initial)
  masks = compact.masks_of(initial)
  # Asked once for each layer without weights.
  is_connected = functools.cache(
    functools.partial(saliency.is_connected, net, params, masks, inputs)
  )
  pruning.check_layers(masks, config.density, config.pruning, is_connected)
  layers = {name: [int(m.sum()), m.size] for name, m in masks.items()}
  if config.compact:
    net, initial = compact.compact(net, initial)
  return Initialized(
    net, method, initial, key, layers, _head_or_none(head, config.head)
  )


def pack(
  config: ConfigDict, ready: Initialized, inputs: jax.Array
) -> tuple[Initialized, packed.Packing]:
  """Pruned kernels as vectors, and which they are; none without `compact`."""
  if not config.compact:
    return ready, {}
  params = modes.shapes_of(ready.net, inputs)['params']
  packing, initial = packed.pack(ready.initial, params)
  method = _told_of_units(ready.method, packing)
  return ready._replace(method=method, initial=initial), packing


def _told_of_units(method: Method, packing: packed.Packing) -> Method:
  """A method whose codecs know the unit of each weight in a vector."""
  tell = functools.partial(
    wire.with_units, units_of=functools.partial(packed.units_of, packing)
  )
  upload, download = method.wire.upload_codec, method.wire.download_codec
  return method.revise(
    wire=dict(upload_codec=tell(upload), download_codec=tell(download))
  )


def learner(
  net: nn.Module,
  packing: packed.Packing,
  inputs: jax.Array,
  dataset: data.Dataset,
) -> Learner:
  """What is trained: a network, whose kernels may be packed, and a task."""
  return Learner(
    packed.unpacking(packing, modes.apply_of(net)),
    dataset.task,
    modes.blank_statistics(net, inputs),
    packed.unpacking(packing, modes.observe_of(net)),
    dataset.task.guess(dataset.classes),
    functools.partial(packed.unpack, packing),
  )


@once
def _keys(seed: jax.Array) -> tuple[jax.Array, ...]:
  """Of the weights, of what the method draws at first, and of all rounds."""
  return tuple(jax.random.split(jax.random.key(seed), 3))


def _head(
  config: ConfigDict, net: nn.Module, inputs: jax.Array, classes: int
) -> str:
  """The path of the output layer; raises `InputError` if it is not unique."""
  shapes = modes.shapes_of(net, inputs)['params']
  is_last = functools.partial(checks.is_last, net, shapes, inputs)
  head = checks.head_of(shapes, classes, config.head, is_last)
  if config.head or isinstance(net, Network):
    return head
  if is_last(head):
    return head
  raise invalid(
    'head',
    '',
    f'{head} has {classes} outputs, but other layers follow it: name the layer '
    'that each client keeps to itself',
  )


def _head_or_none(head: Callable[[], str], chosen: str) -> str | None:
  """The output layer, None if not unique; raises for a wrong `chosen` one."""
  try:
    return head()
  except InputError:
    if chosen:
      raise
    return None


def _prune(
  config: ConfigDict,
  net: nn.Module,
  inputs: jax.Array,
  key: jax.Array,
  variables: pruning.Variables,
) -> pruning.Weights:
  """The mask that pruning leaves, a tree of bool like the weights."""
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
