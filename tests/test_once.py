"""Programs that run once: the same bits, wherever they are called."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hns.once import once, quickly


def drawn(key):
  """Logarithms, roots and products, as drawing a network has."""
  init = nn.initializers.variance_scaling(2.0, 'fan_in', 'normal')
  return jnp.exp(init(key, (257, 31))) @ jax.random.normal(key, (31, 5))


@pytest.fixture
def optimised():
  """As outside tests (conftest.py)."""
  jax.config.update('jax_disable_most_optimizations', False)
  yield
  jax.config.update('jax_disable_most_optimizations', True)


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


def test_nothing_is_compiled_before_the_first_call():
  """A module may be imported before JAX is told its devices."""
  seen = []
  program = once(functools.partial(lambda x: seen.append(x) or x))
  assert not seen
  program(1)
  assert len(seen) == 1
