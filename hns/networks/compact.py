"""Removes the units that pruning disconnected, once, on the server.

Pruning is done before training and is the same for all clients. A unit without
surviving inputs is 0 for every picture and all signs, so the network without it
computes the same in less time. The signs of its outgoing weights have no effect
and are not sent.
"""

import flax.linen as nn
import jax
import numpy as np

from hns import tree
from hns.networks.models import Network
from hns.tree import Tree

_LANES = 8  # widths are multiples of it, for vector units

# By layer, the indices of the inputs and of the outputs that remain.
Remaining = dict[str, tuple[np.ndarray, np.ndarray]]


def compact(net: nn.Module, initial: Tree) -> tuple[nn.Module, Tree]:
  """A network and its initial state without units that are always 0.

  Both are unchanged if the network is not a `hns.networks.models.Network`, is
  compact already, or if the method has no mask of one of its layers.

  Args:
    net: the plain module.
    initial: `hns.methods.contract.Initial`, or any tree with arrays of the
      shapes of the network's kernels.
  """
  masks = masks_of(initial)
  if not isinstance(net, Network) or net.full:
    return net, initial
  if masks.keys() != set(_layers(net)):
    return net, initial
  remaining, widths = _remaining(net, masks)
  count = len(net.convs)
  convs = tuple((w, *c[1:]) for w, c in zip(widths, net.convs))
  full = (*(c[0] for c in net.convs), *net.dense)
  small = net.clone(convs=convs, dense=tuple(widths[count:]), full=full)
  shapes = {name: mask.shape for name, mask in masks.items()}
  return small, select_units(initial, remaining, shapes)


def select_units(
  initial: Tree, remaining: Remaining, shapes: dict[str, tuple[int, ...]]
) -> Tree:
  """A tree without the rows and columns of kernels of removed units.

  Args:
    initial: a tree; arrays that have a kernel's shape and are under its layer's
      name are changed.
    remaining: by layer, the inputs and outputs that remain.
    shapes: by layer, the shape of the kernel.
  """

  def part(path, x):
    layer = tree.path_name(path[-2:]).split('/')[0]
    if layer not in remaining or x.shape != shapes[layer]:
      return x
    inputs, outputs = remaining[layer]
    return np.asarray(x)[..., inputs, :][..., outputs]

  return jax.tree_util.tree_map_with_path(part, initial)


def masks_of(initial: Tree) -> dict[str, np.ndarray]:
  """By layer, the mask of its kernel; empty for a method without masks.

  A layer is named by its path, `Block_0/Dense_1`; the mask of another array,
  such as an embedding, by the path of that array.
  """
  masks = masks_by_path(initial)
  return {name.removesuffix('/kernel'): mask for name, mask in masks.items()}


def masks_by_path(initial: Tree) -> dict[str, np.ndarray]:
  """By path, such as `Dense_0/kernel`, the masks in an initial state."""
  masks = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(initial):
    _, inside, name = f'/{tree.path_name(path)}'.partition('/mask/')
    # A module may be named mask: what it holds is of floats.
    if inside and leaf.ndim > 1 and leaf.dtype == bool:
      masks[name] = np.asarray(leaf)
  return masks


def _remaining(
  net: Network, masks: dict[str, np.ndarray]
) -> tuple[Remaining, list[int]]:
  """The inputs and outputs that remain of each layer, and the hidden widths."""
  names = _layers(net)
  remaining, widths, alive = {}, [], np.ones(masks[names[0]].shape[-2], bool)
  for name in names:
    mask = masks[name]
    # In flattened pictures the channels vary fastest.
    alive = np.tile(alive, mask.shape[-2] // len(alive))
    inputs = np.flatnonzero(alive)
    reached = mask[..., inputs, :].any(tuple(range(mask.ndim - 1)))
    last = name == names[-1]
    outputs = np.arange(len(reached)) if last else _round_up(reached)
    remaining[name] = inputs, outputs
    widths += [] if last else [len(outputs)]
    alive = np.isin(np.arange(len(reached)), outputs)
  return remaining, widths


def _layers(net: Network) -> list[str]:
  """The names of a network's layers, in their order."""
  names = [f'Conv_{i}' for i in range(len(net.convs))]
  return names + [f'Dense_{i}' for i in range(len(net.dense) + 1)]


def _round_up(alive: np.ndarray) -> np.ndarray:
  """Living units, and dead ones up to a multiple of `_LANES`."""
  living = np.flatnonzero(alive)
  room = max(-(-len(living) // _LANES), 1) * _LANES - len(living)
  return np.sort(np.concatenate([living, np.flatnonzero(~alive)[:room]]))
