"""The entropy code: exact, near the entropy, of the length told."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hns.wire import coding, lengths

LENGTH, SIZE = jax.jit(lengths.length), jax.jit(lengths.size)


def entropy(symbols):
  counts = np.bincount(symbols)
  counts = counts[counts > 0]
  return float(-(counts * np.log2(counts / counts.sum())).sum()) / 8


def told(parts, bits):
  """Bytes of the code, as a device counts them."""
  return int(SIZE(lengths.counts_of(parts, bits)))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_symbols_round_trip_at_the_length_told(data):
  bits = data.draw(st.sampled_from([1, 2, 4, 8]))
  symbol = st.integers(0, 2**bits - 1)
  lists = data.draw(st.lists(st.lists(symbol, max_size=40), max_size=3))
  parts = [np.array(x, np.uint8) for x in lists]
  code = coding.encode(parts, bits)
  assert len(code) == told(parts, bits)
  got = coding.decode(code, [len(p) for p in parts], bits)
  assert len(got) == len(parts)
  for a, b in zip(got, parts):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize('bits', [1, 2, 4])
@pytest.mark.parametrize('skew', [0.0, 0.5, 2.0, 7.0])
def test_the_code_is_within_2_percent_of_the_entropy(bits, skew):
  """Plus 64 bytes a layer; both for a large and a small layer."""
  rng = np.random.RandomState(0)
  odds = np.exp(-skew * np.abs(np.arange(2**bits) - 1))
  parts = [
    rng.choice(2**bits, n, p=odds / odds.sum()).astype(np.uint8)
    for n in (100_000, 300)
  ]
  code = coding.encode(parts, bits)
  assert len(code) == told(parts, bits)
  ideal = sum(map(entropy, parts))
  assert ideal <= len(code) <= 1.02 * ideal + 64 * len(parts)


@pytest.mark.parametrize('bits', [5, 6, 7, 8])
@pytest.mark.parametrize('count', [20, 200, 2000, 20_000])
@pytest.mark.parametrize('draw', ['normal', 'laplace', 'uniform'])
def test_a_small_layer_of_many_values_tells_few_probabilities(
  bits, count, draw
):
  """Smooth distributions: within 2 percent and 64 bytes of the entropy."""
  value = getattr(np.random.RandomState(0), draw)(size=count)
  scaled = value / np.abs(value).max() * (2 ** (bits - 1) - 1)
  symbols = (np.round(scaled) + 2 ** (bits - 1)).astype(np.uint8)
  code = coding.encode([symbols], bits)
  assert len(code) == told([symbols], bits)
  assert len(code) <= 1.02 * entropy(symbols) + 64
  np.testing.assert_array_equal(coding.decode(code, [count], bits)[0], symbols)


@pytest.mark.parametrize('chance', [0.00624, 0.15, 0.5])
def test_many_symbols_still_fit_the_length_told(chance):
  """A range coder loses a little with every symbol."""
  symbols = (np.random.RandomState(2).rand(2_000_000) < chance).astype(np.uint8)
  code = coding.encode([symbols], 1)
  assert len(code) == told([symbols], 1)
  np.testing.assert_array_equal(
    coding.decode(code, [len(symbols)], 1)[0], symbols
  )


def test_lengths_are_counted_in_a_program():
  symbols = np.random.RandomState(1).randint(0, 16, 5000).astype(np.uint8)
  counted = np.arange(5000) % 3 > 0

  @jax.jit
  def length(symbols, counted):
    return lengths.size(lengths.histogram(symbols, counted, 4)[None])

  code = coding.encode([symbols[counted]], 4)
  assert len(code) == int(length(symbols, counted))


def test_the_bytes_of_many_layers_do_not_overflow():
  """20 layers of fewer than 2^24 symbols each, of 2^31 bits together."""
  rng, even = np.random.RandomState(0), np.full(256, 1 / 256)
  counts = rng.multinomial(2**24 - 1, even, 20)
  exact = lengths.size(counts)
  assert 20 * 2**24 < exact < 1.001 * 20 * 2**24
  assert SIZE(counts.astype(np.int32)) == exact


@pytest.mark.parametrize('bits', range(1, 9))
@pytest.mark.parametrize('skew', [0, 0.01, 1, 20])
def test_the_length_of_the_largest_layer_is_exact(bits, skew):
  """Up to the last layer that `most` lets pass; 64-bit integers agree."""
  largest = next(
    n for n in range(2**31 // bits, 0, -4096) if lengths.most(n, bits) < 2**31
  )
  odds = np.exp(-skew * np.arange(2**bits) / 2**bits)
  rng = np.random.RandomState(bits)
  counts = rng.multinomial(largest, odds / odds.sum(), 30)
  exact = lengths.length(counts)
  assert np.all(exact <= lengths.most(largest, bits))
  assert np.all(lengths.length(counts.astype(np.int32)) == exact)
  assert np.all(LENGTH(counts.astype(np.int32)) == exact)
