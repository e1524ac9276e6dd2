"""Measures convolutions where every client has its own kernel.

  taskset -c 0 python launch/benchmark_conv.py

Prints the seconds per client-step of sign training of LeNet on one core, for
`jax.vmap` and `jax.lax.scan` over clients, each with `nn.Conv` and with this
package's convolution. All take the same batches, and the results are compared.
"""

import functools
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from engine import workloads

from hns import command
from hns.networks import models
from hns.networks.supermask import Supermask, signs_of, to_masked


def client(net, frozen, scores, images, labels):
  """A few steps of SGD on one client's scores: images [steps, b, h, w, c]."""

  def loss(scores, x, y):
    logits = Supermask(net).apply(frozen | {'signs': signs_of(scores)}, x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

  def step(scores, batch):
    grads = jax.grad(loss)(scores, *batch)
    return jax.tree.map(lambda s, g: s - 0.01 * g, scores, grads), None

  return jax.lax.scan(step, scores, (images, labels))[0]


def vmapped(net, frozen, scores, images, labels):
  run = functools.partial(client, net, frozen)
  return jax.vmap(run)(scores, images, labels)


def scanned(net, frozen, scores, images, labels):
  run = functools.partial(client, net, frozen)
  return jax.lax.map(lambda args: run(*args), (scores, images, labels))


def _flags():
  values = flags.FlagValues()
  number = functools.partial(flags.DEFINE_integer, flag_values=values)
  number('clients', 10, 'clients side by side')
  number('batch_size', 20, 'examples a step')
  number('steps', 3, 'steps a client')
  number('repeats', 3, 'interleaved repeats')
  return values


def main(words):
  values = _flags()
  with command.one_line():
    command.parse(words, values, __doc__)
  keys = jax.random.split(jax.random.key(0), 4)
  count, steps = values.clients, values.steps
  shape = (count, steps, values.batch_size)
  images = jax.random.normal(keys[0], (*shape, 28, 28, 1))
  labels = jax.random.randint(keys[1], shape, 0, 10)
  params = models.lenet(10).init(keys[2], images[0, 0])['params']
  scores = jax.tree.map(
    lambda w: 0.01 * jax.random.normal(keys[3], (count, *w.shape)), params
  )
  args = (to_masked(params), scores, images, labels)
  contenders = {
    'vmap, plain nn.Conv': (vmapped, workloads.PlainNetwork(convs=True)),
    'scan, plain nn.Conv': (scanned, workloads.PlainNetwork(convs=True)),
    'vmap, hns.networks.conv': (vmapped, models.lenet(10)),
    'scan, hns.networks.conv': (scanned, models.lenet(10)),
  }
  programs = {
    name: jax.jit(functools.partial(run, net)).lower(*args).compile()
    for name, (run, net) in contenders.items()
  }
  times = {name: [] for name in programs}
  results = {}
  for _ in range(values.repeats):
    for name, program in programs.items():
      start = time.perf_counter()
      results[name] = jax.block_until_ready(program(*args))
      times[name].append((time.perf_counter() - start) / count / steps)
  report(times, results)


def report(times, results):
  """Prints the times of all contenders, after checking that they agree."""
  ours = statistics.median(times['scan, hns.networks.conv'])
  truth = results['vmap, plain nn.Conv']
  for name, each in times.items():
    off = max(
      float(jnp.max(jnp.abs(a - b)))
      for a, b in zip(jax.tree.leaves(truth), jax.tree.leaves(results[name]))
    )
    assert np.isfinite(off) and off < 1e-2, f'{name} differs by {off}'
    median = statistics.median(each)
    print(
      f'{name:22} {1e3 * median:8.2f} ms a client-step '
      f'({1e3 * min(each):.2f} to {1e3 * max(each):.2f}), '
      f'{median / ours:5.1f} x scan, hns.networks.conv'
    )


if __name__ == '__main__':
  main(sys.argv)
