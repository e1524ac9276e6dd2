"""Measures how many units pruning disconnects, and what removing them saves.

  python launch/dead_units.py

A unit (hidden dense unit, or channel of a convolution) lives if surviving
weights connect the input through it to a logit. `left` is the share of the
forward multiply-adds without dead units; `exact` the share without units that
have no input, which leaves all logits the same (others count in their layer's
norm). Means over seeds, with 100 steps of synaptic saliency; `dead units` are
the shares of each layer.
"""

import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from hns import command, tree
from hns.errors import InputError
from hns.networks import models, pruning
from hns.networks.supermask import Supermask, to_masked, to_params

_CASES = [(name, (28, 28, 1)) for name in ('mlp', 'cnn', 'lenet')]
_CASES += [(name, (32, 32, 3)) for name in ('cnn', 'conv4')]
_ROW = '{:6} {:12} {:>7}  {:35} {:>6} {:>6}'


def prune(net, inputs, density, seed):
  """The initial variables of a run of that seed."""
  weights_key, initial_key, _ = jax.random.split(jax.random.key(seed), 3)
  variables = to_masked(jax.jit(net.init)(weights_key, inputs)['params'])
  keep = pruning.schedule(tree.flatten(variables['mask']).size, density, 100)
  key = jax.random.split(initial_key)[0]
  mask = pruning.prune(key, pruning.synflow, net, variables, inputs, keep)
  pruning.check_layers(mask, density)
  return variables | {'mask': mask}


def live(mask, axis):
  """Which inputs (axis -2) or outputs (-1) of a kernel have a weight."""
  return np.moveaxis(mask, axis, 0).reshape(mask.shape[axis], -1).any(1)


def trim(masks):
  """Masks without weights of unreached units; also without useless ones."""
  reached = masks[:1]
  for mask in masks[1:]:
    # Repeats, because a flattened channel has an input for each position.
    reached.append(mask & np.resize(live(reached[-1], -1), (mask.shape[-2], 1)))
  needed = reached[-1:]
  for mask in reached[-2::-1]:
    rows = live(needed[0], -2).reshape(-1, mask.shape[-1])
    needed.insert(0, mask & rows.any(0))
  return reached, needed


def work(net, variables, inputs, masks):
  """Multiply-adds of one image without rows and columns that are all 0."""
  run = lambda v: net.apply(to_params(v), inputs, capture_intermediates=True)[1]
  seen = jax.eval_shape(run, variables)['intermediates']
  total = 0
  for name, m in zip(sorted(variables['weights']), masks):
    places = np.prod(seen[name]['__call__'][0].shape[1:-1] + m.shape[:-2])
    total += places * live(m, -2).sum() * live(m, -1).sum()
  return total


def check(net, variables, inputs, masks, exact, final):
  """Asserts equal logits with random signs; for `final` without norms."""
  key, (leaves, form) = jax.random.key(0), jax.tree.flatten(variables['mask'])
  signs = form.unflatten(jax.random.rademacher(key, m.shape) for m in leaves)
  signed, x = variables | {'signs': signs}, jax.random.normal(key, inputs.shape)
  run = lambda m: Supermask(net).apply(signed | {'mask': form.unflatten(m)}, x)
  np.testing.assert_array_equal(run(masks), run(exact))
  bypass = lambda call, args, kwargs, at: (
    args[0] if isinstance(at.module, models.Norm) else call(*args, **kwargs)
  )
  with nn.intercept_methods(bypass):
    np.testing.assert_array_equal(run(masks), run(final))


def measure(net, inputs, density, seed):
  """Shares of dead units of each layer, and of multiply-adds (both kinds)."""
  variables = prune(net, inputs, density, seed)
  masks = [np.asarray(m) for m in jax.tree.leaves(variables['mask'])]
  exact, final = trim(masks)
  check(net, variables, inputs, masks, exact, final)
  dead = [1 - live(m, -1).mean() for m in final[:-1]]
  each = final, exact, [np.ones_like(m) for m in masks]
  left, equal, full = (work(net, variables, inputs, m) for m in each)
  return [*dead, left / full, equal / full]


def main(words):
  values = flags.FlagValues()
  seeds = 'seeds 0, 1, ... of each row'
  flags.DEFINE_integer('seeds', 3, seeds, flag_values=values)
  with command.one_line():
    command.parse(words, values, __doc__)
  print(_ROW.format('model', 'input', 'density', 'dead units', 'left', 'exact'))
  for name, shape in _CASES:
    net, inputs = models.create(name, 10), jnp.zeros((1, *shape))
    for density in (0.2, 0.1, 0.05, 0.02):
      try:
        rows = [measure(net, inputs, density, s) for s in range(values.seeds)]
        *dead, left, exact = (f'{x:.3f}' for x in np.mean(rows, 0))
      except InputError:
        dead, left, exact = ['refused'], '', ''
      cells = name, str(shape), density, ' '.join(dead), left, exact
      print(_ROW.format(*cells), flush=True)


if __name__ == '__main__':
  main(sys.argv)
