import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hns.networks import models


def params(name, shape, classes=10):
  net = models.create(name, classes)
  shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, *shape)))
  return shapes['params']


@pytest.mark.parametrize(
  'name,shape,size',
  [
    ('mlp', (28, 28, 1), 784 * 200 + 200 * 200 + 200 * 10),
    ('cnn', (28, 28, 1), 288 + 18_432 + 55_296 + 16 * 96 * 10),
    ('lenet', (28, 28, 1), 800 + 51_200 + 1024 * 512 + 5120),
    ('conv4', (32, 32, 3), 2_425_024),
  ],
)
def test_sizes_and_no_biases(name, shape, size):
  leaves = jax.tree.leaves(params(name, shape))
  assert sum(x.size for x in leaves) == size
  assert all(x.ndim > 1 for x in leaves)


@pytest.mark.parametrize('size', [(4, 4), (5, 7), (2, 3)])
def test_max_pool_equals_linens_and_so_does_its_gradient(size):
  x = jax.random.randint(jax.random.key(0), (9, *size, 3), -2, 3) * 1.0  # ties
  linens, back = jax.vjp(lambda x: nn.max_pool(x, (2, 2), (2, 2)), x)
  ours, our_back = jax.vjp(models.max_pool, x)
  grad = jax.random.normal(jax.random.key(1), ours.shape)
  np.testing.assert_array_equal(ours, linens)
  np.testing.assert_array_equal(our_back(grad)[0], back(grad)[0])


def test_norm_has_no_parameters_and_unit_rms():
  x = 50 * jax.random.normal(jax.random.key(0), (2, 3, 3, 8))
  out, variables = models.Norm().init_with_output(jax.random.key(0), x)
  assert not variables
  np.testing.assert_allclose(jnp.mean(out**2, -1), 1, rtol=1e-3)


def test_weights_are_kaiming_normal():
  kernel = models.create('mlp', 10).init(
    jax.random.key(0), jnp.zeros((1, 28, 28, 1))
  )['params']['Dense_0']['kernel']
  assert abs(float(kernel.std()) / np.sqrt(2 / 784) - 1) < 0.02
  assert float(jnp.abs(kernel).max()) > 3.5 * np.sqrt(2 / 784)
