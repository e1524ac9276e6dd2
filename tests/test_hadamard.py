"""The Hadamard transform and random rotations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import slow_if

from hns.methods import hadamard

KEY = jax.random.key(3)


@pytest.mark.parametrize('power', [0, 1, 3, 7, 8, 11])
def test_the_transform_is_that_of_the_definition(power):
  """Coordinate i, j of the matrix is (-1)^(common bits of i and j)."""
  size = 2**power
  places = np.arange(size)
  common = np.bitwise_count(places[:, None] & places) % 2
  matrix = np.where(common, -1, 1) / np.sqrt(size)
  x = jax.random.normal(KEY, (size,))
  transform = jax.jit(hadamard.transform)
  y = transform(x)
  np.testing.assert_allclose(y, matrix @ np.asarray(x, float), atol=2e-5)
  np.testing.assert_allclose(transform(y), x, atol=1e-5)


@pytest.mark.parametrize(
  'count', [1, 2, 3, 128, 3001, slow_if(True, 100), slow_if(True, 1000)]
)
@pytest.mark.parametrize('share', [1.0, 0.3])
def test_a_rotation_keeps_lengths_and_comes_back(count, share):
  kept = jax.random.uniform(jax.random.key(5), (count,)) <= share
  x = jax.random.normal(KEY, (count,)) * kept
  y, x = map(np.asarray, (jax.jit(hadamard.rotate)(KEY, x, kept), x))
  np.testing.assert_allclose(np.sum(y**2), np.sum(x**2), rtol=1e-4)
  back = jax.jit(hadamard.unrotate)(KEY, y, kept)
  np.testing.assert_allclose(back, x, atol=1e-5)
  used = hadamard.in_use(kept)
  assert not np.any(y[~used])
  size = hadamard.block_size(count)
  assert int(used.sum()) == -(-int(kept.sum()) // size) * size


def test_a_rotation_spreads_one_coordinate_and_one_half():
  count = 2**12 - 1
  kept = jnp.ones(count, bool)
  one = jnp.zeros(count).at[5].set(1.0)
  assert np.max(np.abs(hadamard.rotate(KEY, one, kept))) < 0.05
  half = jnp.where(jnp.arange(count) < count // 2, 1.0, 0.0)
  rotated = hadamard.rotate(KEY, half, kept)
  energy = np.asarray(jnp.sum(rotated[: count // 2] ** 2) / jnp.sum(rotated**2))
  assert 0.4 < energy < 0.6


def test_another_key_is_another_rotation():
  x, kept = jax.random.normal(KEY, (500,)), jnp.ones(500, bool)
  one, other = (
    hadamard.rotate(key, x, kept) for key in (KEY, jax.random.key(4))
  )
  assert abs(np.corrcoef(one, other)[0, 1]) < 0.2
