"""Programs that run once: the same bits, wherever they are called."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from hns.once import once, quickly


def drawn(key):
  """Logarithms, roots and products, as drawing a network has."""
  init = nn.initializers.variance_scaling(2.0, 'fan_in', 'normal')
  return jnp.exp(init(key, (257, 31))) @ jax.random.normal(key, (31, 5))


def test_the_bits_are_those_of_jit(optimised):
  key = jax.random.key(3)
  np.testing.assert_array_equal(once(drawn)(key), jax.jit(drawn)(key))


def test_a_program_in_another_has_no_options_of_its_own():
  """JAX refuses these anywhere but at the outermost program."""
  keys = jax.random.split(jax.random.key(3), 2)
  inside = once(drawn)
  both = jax.jit(lambda keys: jax.vmap(inside)(keys))(keys)
  np.testing.assert_allclose(both[1], inside(keys[1]), rtol=1e-4)


def test_static_arguments_are_named_as_for_jit():
  power = once(lambda x, n: x**n, static_argnums=1)
  assert power(jnp.float32(3), 2) == 9


def test_no_option_is_given_where_there_is_no_cpu(monkeypatch):
  assert quickly()
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  assert quickly() == {}


def test_jax_does_not_start_before_the_first_call(monkeypatch):
  """A module may be imported before JAX is told its devices."""
  asked = []
  monkeypatch.setattr(jax, 'default_backend', lambda: asked.append(1) or 'cpu')
  program = once(lambda x: x)
  assert not asked
  program(1)
  assert asked
