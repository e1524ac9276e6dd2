"""The rounds that are timed, and the input that every side gets.

A problem is a dict of arrays: `images` float32 [n, h, w, c], `labels` int32
[n], `batches` int32 [clients, steps, batch], the examples of each step,
`start/...` the initial parameters by path, and for HideNseek `weights/...`, the
frozen weights. The answer of a side is the mean over clients of the trained
parameters, for HideNseek of their signs.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from hns import config, data
from hns.networks import models
from hns.values import ConfigDict


class Workload(NamedTuple):
  """Sizes of a workload; `cohort` and `examples` are those of a round.

  `density` is HideNseek's; below 1 no other library has such a round, and its
  upload and download are those of its defaults.
  """

  clients: int
  cohort: int
  examples: int
  batch: int
  image: tuple[int, int, int]
  model: str
  density: float = 1.0


WORKLOADS = {
  'lenet': Workload(100, 100, 100, 20, (28, 28, 1), 'lenet'),
  'lenet_1000': Workload(1000, 1000, 100, 20, (28, 28, 1), 'lenet'),
  'lenet_long': Workload(100, 100, 1000, 20, (28, 28, 1), 'lenet'),
  'lenet_split': Workload(1000, 1000, 10, 10, (28, 28, 1), 'lenet'),
  'lenet_pruned': Workload(100, 100, 100, 20, (28, 28, 1), 'lenet', 0.03),
  'mlp': Workload(100, 100, 100, 20, (28, 28, 1), 'mlp'),
  'mlp_pruned': Workload(100, 100, 100, 20, (28, 28, 1), 'mlp', 0.2),
  'cnn': Workload(100, 10, 40, 20, (28, 28, 1), 'cnn', 0.2),
  'pfl_cifar10': Workload(1000, 50, 50, 10, (32, 32, 3), 'pfl'),
  'resnet_cifar100': Workload(100, 10, 100, 20, (32, 32, 3), 'resnet8'),
  # For a quick test: a round takes milliseconds.
  'trial': Workload(12, 12, 20, 20, (8, 8, 1), 'mlp'),
}
RATES = {'fedavg': 0.05, 'hidenseek': 0.01}


class PflCNN(nn.Module):
  """The 1,626,442 weights of pfl-research's CIFAR-10 CNN, without dropout.

  Attributes:
    conv: `nn.Conv`, or the one of `hns.networks.models`.
    pool: 2x2 max pooling.
  """

  conv: Callable[..., nn.Module]
  pool: Callable[[jax.Array], jax.Array]
  classes: int = 10

  @nn.compact
  def __call__(self, x):
    x = nn.relu(self.conv(32, (3, 3), padding='VALID')(x))
    x = self.pool(nn.relu(self.conv(64, (3, 3), padding='VALID')(x)))
    x = nn.relu(nn.Dense(128)(x.reshape(x.shape[0], -1)))
    return nn.Dense(self.classes)(x)


class PlainNetwork(nn.Module):
  """`models.lenet` or `models.mlp` with Linen's own convolution and pooling."""

  convs: bool

  @nn.compact
  def __call__(self, x):
    for features in (32, 64) if self.convs else ():
      x = nn.Conv(features, (5, 5), padding='VALID', use_bias=False)(x)
      x = nn.relu(models.Norm()(_pool(x)))
    x = x.reshape(x.shape[0], -1)
    for width in (512,) if self.convs else (200, 200):
      x = nn.relu(models.Norm()(nn.Dense(width, use_bias=False)(x)))
    return nn.Dense(10, use_bias=False)(x)


def _pool(x):
  return nn.max_pool(x, (2, 2), (2, 2))


def few(workload: Workload) -> int:
  """Number of clients of plain_vmap and of the answer for comparison."""
  return 10 if jax.default_backend() == 'cpu' else workload.cohort


def plain(workload: Workload) -> nn.Module:
  """The network as a Linen user writes it, with the same parameters."""
  if workload.model == 'pfl':
    return PflCNN(nn.Conv, _pool)
  if workload.model in ('lenet', 'mlp'):
    return PlainNetwork(workload.model == 'lenet')
  return models.create(workload.model, 10)


def configure(workload: Workload, method: str, width: int) -> ConfigDict:
  """The config of our side; registers its dataset and model."""

  def conv(*args, **options):
    return models.Conv(*args, use_bias=True, **options)

  models.MODELS['pfl'] = lambda classes: PflCNN(conv, models.max_pool)
  data.SOURCES['noise'] = lambda: _noise(workload)
  table = {'learning_rate': RATES[method]}
  if method == 'hidenseek' and workload.density == 1:
    table |= {'download_bits': 8, 'remember': False}
  fields = {method: table}
  return config.base(
    algorithm=method,
    upload='signs' if workload.density == 1 else 'change',
    dataset='noise',
    partition='iid',
    num_clients=workload.clients,
    cohort=workload.cohort,
    examples_per_client=workload.examples,
    validation_fraction=0.0,
    batch_size=workload.batch,
    local_epochs=1,
    model=workload.model,
    density=workload.density,
    pruning_steps=1 if workload.density == 1 else 100,
    eval_clients=1,
    eval_held=False,
    test_examples_per_client=1,
    clients_per_step=width,
    **fields,
  )


def _noise(workload: Workload) -> data.Dataset:
  """Uniform pixels and labels, because time does not depend on the data."""
  draw, no_groups = np.random.RandomState(0), np.zeros(0, np.int32)
  count = workload.clients * workload.examples
  image = lambda n: draw.randint(0, 256, (n, *workload.image)).astype(np.uint8)
  label = lambda n: draw.randint(0, 10, n).astype(np.int32)
  few = workload.clients
  return data.Dataset(
    image(count), label(count), no_groups, image(few), label(few), no_groups, 10
  )


def named(prefix: str, tree: dict) -> dict[str, np.ndarray]:
  """A tree's leaves by path."""
  flat = flatten_dict(tree, sep='/')
  return {f'{prefix}/{name}': np.asarray(x) for name, x in flat.items()}


def tree_of(problem: dict[str, np.ndarray], prefix: str) -> dict:
  """The inverse of `named`."""
  start = prefix + '/'
  chosen = {k[len(start) :]: problem[k] for k in problem if k.startswith(start)}
  return unflatten_dict(chosen, sep='/')


def step_bytes(workload: Workload, method: str) -> int:
  """Bytes that a training step moves at least, of the whole network.

  What is trained is read and written: the weights; for HideNseek scores and
  both of Adam's moments, and the frozen weights are read. All are float32.
  """
  x = jax.ShapeDtypeStruct((1, *workload.image), np.float32)
  params = jax.eval_shape(plain(workload).init, jax.random.key(0), x)
  arrays = 2 if method == 'fedavg' else 2 * 3 + 1
  return 4 * arrays * sum(leaf.size for leaf in jax.tree.leaves(params))


def step_flops(workload: Workload) -> int:
  """Model FLOPs of a training step: matrix products and convolutions.

  Forward, and the gradients of kernels and of all inputs but the images; of the
  whole network, whatever its density.
  """
  net = plain(workload)
  x = jax.ShapeDtypeStruct((workload.batch, *workload.image), np.float32)
  params = jax.eval_shape(net.init, jax.random.key(0), x)['params']
  run = lambda p, x: net.apply({'params': p}, x, capture_intermediates=True)
  made = jax.eval_shape(run, params, x)[1]['intermediates']
  forward = [
    2 * made[name]['__call__'][0].size * np.prod(layer['kernel'].shape[:-1])
    for name, layer in params.items()
  ]
  first = 'Conv_0' if 'Conv_0' in params else 'Dense_0'
  return int(3 * sum(forward) - forward[list(params).index(first)])
