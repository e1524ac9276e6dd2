"""Symbols whose first bits have odds for each unit of a layer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import play, small
from hypothesis import given, settings
from hypothesis import strategies as st
from test_strangers import refused_or_the_same
from test_wire import ENVELOPE

from hns import wire
from hns.engine import payloads
from hns.errors import InputError
from hns.networks import packed
from hns.wire import Message, coding, lengths, odds, units


def entropy(symbols):
  """In bits."""
  counts = np.bincount(symbols)
  counts = counts[counts > 0]
  return float(-(counts * np.log2(counts / counts.sum())).sum())


def mixed(seed=0, columns=40, each=200):
  """Bits whose odds differ by column, in rows, and the column of each."""
  rng = np.random.RandomState(seed)
  share = rng.choice([0.02, 0.2, 0.5, 0.8, 0.98], columns)
  bits = (rng.rand(each, columns) < share).astype(np.uint8).ravel()
  return bits, np.tile(np.arange(columns), each)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_symbols_of_any_units_round_trip_at_the_length_told(data):
  bits = data.draw(st.sampled_from([1, 2, 4]))
  pair = st.tuples(st.integers(0, 2**bits - 1), st.integers(0, 6))
  layers = data.draw(st.lists(st.lists(pair, max_size=60), max_size=3))
  parts = [np.array([s for s, _ in layer], np.uint8) for layer in layers]
  unit = [np.array([u for _, u in layer], int) for layer in layers]
  code = coding.encode(parts, bits, unit)
  assert len(code) == lengths.size_of(parts, bits, unit)
  counts = list(map(len, parts))
  got = coding.decode(code, counts, bits, unit)
  assert len(got) == len(parts)
  assert all(map(np.array_equal, got, parts))


def test_a_unit_costs_its_entropy_and_three_bits():
  """Where one probability for all would need a bit a symbol."""
  bits, unit = mixed()
  ideal = sum(entropy(bits[unit == u]) for u in range(40))
  code = coding.encode([bits], 1, [unit])
  assert 8 * len(code) <= 1.04 * ideal + 3 * 40 + 100
  assert 8 * len(coding.encode([bits], 1)) > 0.95 * len(bits) > 1.3 * ideal
  assert np.array_equal(coding.decode(code, [len(bits)], 1, [unit])[0], bits)


def test_units_without_symbols_cost_nothing():
  bits, unit = mixed()
  assert coding.encode([bits], 1, [unit]) == coding.encode(
    [bits], 1, [7 * unit + 3]
  )


@pytest.mark.parametrize('bits', [1, 2, 4])
def test_units_that_are_alike_do_not_make_a_code_longer(bits):
  rng = np.random.RandomState(0)
  symbols = rng.binomial(2**bits - 1, 0.3, 3000).astype(np.uint8)
  unit = rng.randint(0, 100, 3000)
  code = coding.encode([symbols], bits, [unit])
  assert len(code) == len(coding.encode([symbols], bits))


def test_damaged_code_of_units_is_refused():
  rng = np.random.RandomState(0)
  bits, unit = mixed(each=30)
  code, counts = coding.encode([bits], 1, [unit]), [len(bits)]
  bad = [code[:n] for n in range(len(code))] + [code + b'\0']
  bad += [bytes([kind]) + code[1:] for kind in range(256) if kind != code[0]]
  bad += [bytes([code[0]]) * 5000]  # units of units of units
  for _ in range(300):
    flipped = bytearray(code)
    flipped[rng.randint(len(code))] ^= rng.randint(1, 256)
    bad.append(bytes(flipped))
  refused_or_the_same(bad, counts, [unit])
  with pytest.raises(InputError):
    coding.decode(code, counts, 1)  # by one who does not know the units


def messages():
  """Signs of a kernel, of a part of one, and of a vector of survivors."""
  bits, unit = mixed()
  signs = (2 * bits.astype(np.int8) - 1).reshape(-1, 40)
  some = np.random.RandomState(1).rand(*signs.shape) < 0.5
  codec = wire.levels(1, coded=True)
  yield codec, Message({'kernel': signs}, {'kernel': np.True_})
  yield codec, Message({'kernel': signs}, {'kernel': some})
  known = codec._replace(units_of={'d/kernel': unit[some.ravel()]}.get)
  part = {'d': {'kernel': signs[some]}}
  yield known, Message(part, {'d': {'kernel': np.True_}})


@pytest.mark.parametrize('codec,message', messages())
def test_a_device_counts_the_bytes_of_a_message_with_units(codec, message):
  payload = wire.encode(codec, message, ENVELOPE)
  size = jax.jit(functools.partial(wire.size, codec))
  assert len(payload) == int(size(message))
  packed_size = wire.HEADER_BYTES + int(wire.coordinates(message)) // 8
  assert len(payload) < 0.8 * packed_size
  got = wire.decode(codec, payload, message, ENVELOPE)
  sent = jax.tree.map(lambda v, w: v * w, message.value, message.weight)
  jax.tree.map(np.testing.assert_array_equal, got.value, sent)


def test_a_vector_and_its_kernel_have_codes_of_one_length():
  (codec, _), (_, kernel), (known, vector) = messages()
  whole, packed_ = (
    len(wire.encode(c, m, ENVELOPE))
    for c, m in ((codec, kernel), (known, vector))
  )
  assert whole == packed_


def test_the_codecs_of_a_run_know_the_units_of_packed_kernels():
  experiment = small(algorithm='hidenseek', density=0.3)
  method = experiment.round_config.method
  codec = method.wire.upload_codec
  packing = experiment.round_config.learner.unpack.args[0]
  assert packing
  for name, kernel in packing.items():
    unit = codec.units_of(name)
    whole = np.unravel_index(kernel.places, kernel.shape)
    np.testing.assert_array_equal(unit, whole[-1])
    assert codec.units_of(f'inner/{name}') is not None
  assert codec.units_of('bias') is None
  assert packed.units_of(packing, 'Dense_9/kernel') is None


def test_uploads_of_training_are_shorter_with_units():
  """Two classes a client: the weights into the other outputs turn alike."""
  experiment = small(
    algorithm='hidenseek', density=0.3, upload='change', num_clients=4
  )
  method, uploads = experiment.round_config.method, []

  def update(*given):
    upload, client_state = method.client.update(*given)
    jax.debug.callback(uploads.append, upload)
    return upload, client_state

  watched = method.revise(client=dict(update=update))
  sent = play(experiment, method=watched).report.uplink
  jax.effects_barrier()
  codec = method.wire.upload_codec
  sizes = [len(wire.encode(codec, u, ENVELOPE)) for u in uploads]
  assert sum(sizes) == sum(sent) and len(uploads) == len(sent)
  parts = [
    [
      (np.asarray(v)[np.broadcast_to(w, v.shape)] > 0).astype(np.uint8)
      for v, w in zip(*map(jax.tree.leaves, u))
    ]
    for u in uploads
  ]
  alone = sum(lengths.size_of(p, 1) + wire.HEADER_BYTES for p in parts)
  assert sum(sent) < 0.97 * alone


def test_the_grade_of_a_unit_is_the_cheapest():
  """Or within a bit of it: borders lie in the middle of log odds."""
  zeros, ones = np.meshgrid(np.arange(30), np.arange(30), indexing='ij')
  counts = np.stack([zeros, ones], -1).reshape(-1, 2).astype(np.int32)
  costs = odds.bits(counts[:, :1], counts[:, 1:], units.GRADES)
  chosen = np.take_along_axis(costs, units.grade(counts)[:, None], 1)[:, 0]
  assert np.all(chosen <= costs.min(1) + 1)


def test_a_message_of_many_layers_is_counted_in_32_bits():
  """Of several layers of 2^20 symbols, as the host counts them in 64."""
  rng = np.random.RandomState(0)
  leaves = {
    str(n): (2 * (rng.rand(2**10, 2**10) < p) - 1).astype(np.int8)
    for n, p in enumerate((0.001, 0.5, 0.9))
  }
  codec = wire.levels(1, coded=True)
  message = Message(leaves, jax.tree.map(lambda x: jnp.ones((), bool), leaves))
  size = jax.jit(functools.partial(wire.size, codec))
  assert int(size(message)) == len(wire.encode(codec, message, ENVELOPE))
  assert payloads.MASK_CODEC == codec


@pytest.mark.parametrize(
  'shape', [(0,), (0, 5), (5, 0), (3, 0, 2), (1,), (1, 1), (4, 1)]
)
@pytest.mark.parametrize('weight', [1.0, np.True_])
def test_empty_and_small_arrays_are_counted(shape, weight):
  for codec in (wire.levels(1, coded=True), wire.levels(2, coded=True)):
    message = Message({'k': np.ones(shape, np.int8)}, {'k': weight})
    payload = wire.encode(codec, message, ENVELOPE)
    assert len(payload) == int(wire.size(codec, message))


def test_many_layers_fit_into_what_is_counted():
  """A range coder loses most where even bits and sure ones take turns."""
  even, sure = np.resize([0, 1], 29).astype(np.uint8), np.zeros(2048, np.uint8)
  for count in (20, 80, 320):
    parts = [even, sure] * count
    code = coding.encode(parts, 1)
    assert len(code) == lengths.size_of(parts, 1)
    got = coding.decode(code, list(map(len, parts)), 1)
    assert all(map(np.array_equal, got, parts))


def test_bytes_are_counted_alike_in_double_precision(x64):
  for codec, message in messages():
    size = jax.jit(functools.partial(wire.size, codec))(message)
    assert size.dtype == jnp.int32
    assert int(size) == len(wire.encode(codec, message, ENVELOPE))
