"""Leaving out the units that pruning has cut off, once, on the server.

Pruning is fixed before training and equal for all clients. A unit without
surviving inputs is 0 for every picture and every sign, so the network without
it computes the same, in less time. Signs of weights that lead from such a unit
change nothing and are not sent.
"""

from typing import Any

import jax
import numpy as np

from hns import tree
from hns.networks.models import Network

_LANES = 16  # widths that a core's vector units like: some dead units may stay

Cut = dict[str, tuple[np.ndarray, np.ndarray]]


def compact(net: Any, initial: Any) -> tuple[Any, Any]:
  """The network and what exists at first, without units that are always 0.

  A network that is not a `hns.networks.models.Network`, or was cut before, and
  one of a method without a mask stay as they are.

  Args:
    net: the plain module.
    initial: `hns.methods.contract.Initial`, or any tree of what has the
      network's layout.
  """
  masks = masks_of(initial)
  if not isinstance(net, Network) or net.full or not masks:
    return net, initial
  cut, widths = _living(net, masks)
  count = len(net.convs)
  convs = tuple((w, *c[1:]) for w, c in zip(widths, net.convs))
  full = (*(c[0] for c in net.convs), *net.dense)
  small = net.clone(convs=convs, dense=tuple(widths[count:]), full=full)
  return small, cut_out(initial, cut, {k: m.shape for k, m in masks.items()})


def cut_out(leaves: Any, cut: Cut, shapes: dict[str, tuple[int, ...]]) -> Any:
  """A tree without the rows and columns of kernels that belong to dead units.

  Args:
    leaves: those that have a whole kernel's shape, under its layer's name, are
      cut.
    cut: by layer, which inputs and outputs stay.
    shapes: by layer, the shape of the kernel.
  """

  def part(path, x):
    layer = tree.path_name(path[-2:]).split('/')[0]
    if layer not in cut or x.shape != shapes[layer]:
      return x
    inputs, outputs = cut[layer]
    return np.asarray(x)[..., inputs, :][..., outputs]

  return jax.tree_util.tree_map_with_path(part, leaves)


def masks_of(initial: Any) -> dict[str, np.ndarray]:
  """By layer, the mask of its kernel; empty for a method without masks.

  A layer is named by its path, `Block_0/Dense_1`, and a mask of what is not a
  kernel, such as an embedding, by its whole path.
  """
  found = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(initial):
    _, inside, name = f'/{tree.path_name(path)}'.partition('/mask/')
    if inside and leaf.ndim > 1:
      found[name.removesuffix('/kernel')] = np.asarray(leaf)
  return found


def _living(net, masks) -> tuple[Cut, list[int]]:
  """Which inputs and outputs of each layer stay, and the hidden widths."""
  names = [f'Conv_{i}' for i in range(len(net.convs))]
  names += [f'Dense_{i}' for i in range(len(net.dense) + 1)]
  cut, widths, alive = {}, [], np.ones(masks[names[0]].shape[-2], bool)
  for name in names:
    mask = masks[name]
    # Flattened pictures: channels are the fastest.
    alive = np.tile(alive, mask.shape[-2] // len(alive))
    inputs = np.flatnonzero(alive)
    reached = mask[..., inputs, :].any(tuple(range(mask.ndim - 1)))
    last = name == names[-1]
    outputs = np.arange(len(reached)) if last else _round_up(reached)
    cut[name] = inputs, outputs
    widths += [] if last else [len(outputs)]
    alive = np.isin(np.arange(len(reached)), outputs)
  return cut, widths


def _round_up(alive: np.ndarray) -> np.ndarray:
  """Living units, and dead ones up to a width that runs well; at least one."""
  living = np.flatnonzero(alive)
  room = max(-(-len(living) // _LANES), 1) * _LANES - len(living)
  return np.sort(np.concatenate([living, np.flatnonzero(~alive)[:room]]))
