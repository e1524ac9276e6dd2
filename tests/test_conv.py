import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from hns.networks import conv as conv_file
from hns.networks import winograd
from hns.networks.conv import conv

# Each test jits its two sides, which compiles less than one operation after
# the other.
CASES = [
  ((5, 5), (1, 1), 'VALID', (12, 12)),
  ((3, 3), (1, 1), 'SAME', (9, 8)),
  ((3, 3), (2, 2), 'SAME', (14, 13)),
  ((3, 2), (2, 1), 'VALID', (9, 10)),
  ((4, 4), (3, 2), ((1, 2), (0, 3)), (11, 12)),
  ((5,), (2,), 'SAME', (13,)),
  ((4,), (1,), ((3, 0),), (11,)),
]


def layout(strides):
  """The keyword that names the dimensions of pictures, or of windows."""
  kind = (
    ('NHWC', 'HWIO', 'NHWC') if len(strides) == 2 else ('NWC', 'WIO', 'NWC')
  )
  return dict(dimension_numbers=kind)


def reference(x, kernel, strides, padding):
  return lax.conv_general_dilated(
    x, kernel, strides, padding, **layout(strides)
  )


def with_gradients(function, x, w, grad):
  """What it gives, and the gradients of both it is given."""

  @jax.jit
  def run(x, w, grad):
    out, back = jax.vjp(function, x, w)
    return out, *back(grad)

  return run(x, w, grad)


@pytest.mark.parametrize('channels', [3, 5])  # pictures of three are apart
@pytest.mark.parametrize('kernel,strides,padding,size', CASES)
def test_equals_lax_with_its_gradients(
  x64, kernel, strides, padding, size, channels
):
  keys = jax.random.split(jax.random.key(0), 3)
  x = jax.random.normal(keys[0], (2, *size, channels), jnp.float64)
  w = jax.random.normal(keys[1], (*kernel, channels, 4), jnp.float64)
  plain = lambda x, w: reference(x, w, strides, padding)
  grad = jax.random.normal(
    keys[2], jax.eval_shape(plain, x, w).shape, jnp.float64
  )
  ours = lambda x, w: conv(x, w, strides, padding, **layout(strides))
  for a, b in zip(*(with_gradients(f, x, w, grad) for f in (ours, plain))):
    np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('kernel,strides,padding,size', CASES)
def test_vmapped_kernels_equal_one_by_one(x64, kernel, strides, padding, size):
  keys = jax.random.split(jax.random.key(0), 2)
  xs = jax.random.normal(keys[0], (3, 2, *size, 3), jnp.float64)
  ws = jax.random.normal(keys[1], (3, *kernel, 3, 4), jnp.float64)

  def run(convolve):
    def loss(x, w):
      return jnp.sum(jnp.sin(convolve(x, w)))

    return jax.grad(loss, (0, 1))

  client_state = run(
    lambda x, w: conv(x, w, strides, padding, **layout(strides))
  )
  plain = jax.jit(run(lambda x, w: reference(x, w, strides, padding)))
  got = jax.jit(jax.vmap(client_state))(xs, ws)
  shared = jax.jit(jax.vmap(client_state, (None, 0)))(xs[0], ws)
  for i in range(3):
    for a, b in zip(got, plain(xs[i], ws[i])):
      np.testing.assert_allclose(a[i], b, rtol=1e-9, atol=1e-9)
    for a, b in zip(shared, plain(xs[0], ws[i])):
      np.testing.assert_allclose(a[i], b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('turns', [2, 3])
def test_clients_that_take_turns_equal_clients_at_once(monkeypatch, turns):
  kernel, strides, padding, size = CASES[2]
  keys = jax.random.split(jax.random.key(0), 2)
  xs = jax.random.normal(keys[0], (3, 2, *size, 3))
  ws = jax.random.normal(keys[1], (3, *kernel, 3, 4))

  def loss(x, w):
    return jnp.sum(jnp.sin(conv(x, w, strides, padding, **layout(strides))))

  def grads():  # another function each time, which JAX traces anew
    return jax.vmap(jax.value_and_grad(lambda x, w: loss(x, w), (0, 1)))

  at_once = jax.jit(grads())(xs, ws)
  patches = xs.size * 9 // 4
  monkeypatch.setattr(conv_file, '_ROOM', -(-patches // turns))
  assert f'length={3 // -(-3 // turns)}' in str(jax.make_jaxpr(grads())(xs, ws))
  for a, b in zip(
    jax.tree.leaves(jax.jit(grads())(xs, ws)), jax.tree.leaves(at_once)
  ):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_other_convolutions_are_left_to_lax():
  x, w = jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 1, 4))
  got = conv(x, w, (1, 1), 'SAME', feature_group_count=4, **layout((1, 1)))
  assert float(got[0, 4, 4, 0]) == 9
  got = conv(
    x,
    jnp.ones((3, 3, 4, 1)),
    (1, 1),
    'VALID',
    rhs_dilation=(2, 2),
    **layout((1, 1)),
  )
  assert got.shape == (1, 4, 4, 1)


WINOGRAD = [
  ((5, 5), 'VALID', (12, 12)),
  ((3, 3), 'SAME', (8, 9)),
  ((2, 4), ((0, 1), (2, 0)), (7, 11)),
]


def both(kernel, padding, size, dtype):
  """Outputs and gradients of Winograd's way, and of lax's."""
  keys = jax.random.split(jax.random.key(0), 3)
  x = jax.random.normal(keys[0], (3, *size, 32), dtype)
  w = jax.random.normal(keys[1], (*kernel, 32, 64), dtype)
  pads = padding
  if isinstance(padding, str):
    pads = lax.padtype_to_pads(size, kernel, (1, 1), padding)
  plain = lambda x, w: reference(x, w, (1, 1), padding)
  ours = lambda x, w: winograd.conv(x, w, pads)
  grad = jax.random.normal(keys[2], jax.eval_shape(plain, x, w).shape, dtype)
  return [with_gradients(f, x, w, grad) for f in (ours, plain)]


@pytest.mark.parametrize('kernel,padding,size', WINOGRAD)
def test_winograds_way_equals_lax_with_its_gradients(
  x64, kernel, padding, size
):
  for a, b in zip(*both(kernel, padding, size, jnp.float64)):
    np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('kernel,padding,size', WINOGRAD)
def test_winograds_way_rounds_to_a_hundred_thousandth(kernel, padding, size):
  for a, b in zip(*both(kernel, padding, size, jnp.float32)):
    assert abs(a - b).max() < 1e-5 * abs(b).max()


def test_winograds_way_is_taken_where_it_takes_fewer_products():
  valid, same = ((0, 0), (0, 0)), ((1, 1), (1, 1))
  assert winograd.pays((20, 12, 12, 32), (5, 5, 32, 64), valid)  # of lenet
  assert winograd.pays((20, 16, 16, 128), (3, 3, 128, 128), same)  # of conv4
  assert not winograd.pays((20, 28, 28, 1), (5, 5, 1, 32), valid)
  assert not winograd.pays((20, 5, 5, 32), (3, 3, 32, 32), same)  # tiles of 8
  assert not winograd.pays((20, 30, 30, 32), (7, 7, 32, 32), valid)
  assert not winograd.pays((1, 32, 32, 64), (3, 3, 64, 64), same)  # a saliency


def matrix_products(x, w, strides, **asked):
  run = lambda x, w: conv(x, w, strides, 'SAME', **layout((1, 1)), **asked)
  return str(jax.make_jaxpr(run)(x, w)).count('dot_general')


def test_conv_goes_winograds_way_on_a_cpu_for_float32():
  x, w = jnp.ones((9, 16, 16, 64)), jnp.ones((3, 3, 64, 64))
  on_a_cpu = jax.default_backend() == 'cpu'
  assert matrix_products(x, w, (1, 1)) == 4 * on_a_cpu
  assert matrix_products(x, w, (2, 2)) == 0
  assert matrix_products(x, w, (1, 1), precision='highest') == 0
  with jax.default_matmul_precision('highest'):
    assert matrix_products(x, w, (1, 1)) == 0
  short = [a.astype(jnp.bfloat16) for a in (x, w)]
  assert matrix_products(*short, (1, 1)) == 0
