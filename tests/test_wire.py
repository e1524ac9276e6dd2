import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hns import tree, wire
from hns.errors import InputError
from hns.wire import Codec, Envelope, Message, WireError

ENVELOPE = Envelope(round=7, direction=1, seed=3, density=0.2)


def message(codec, seed=0, density=0.3):
  rng = np.random.RandomState(seed)
  shapes = {'a': (5, 7), 'b': {'c': (3, 3, 2, 4)}}
  draw = lambda shape: (
    rng.randn(*shape).astype(np.float32)
    if codec.bits == 32
    else (2 * rng.randint(0, 2**codec.bits, shape) - 2**codec.bits + 1).astype(
      np.int16
    )
  )
  is_shape = lambda x: isinstance(x, tuple)
  weight = jax.tree.map(
    lambda s: rng.rand(*s) < density, shapes, is_leaf=is_shape
  )
  value = jax.tree.map(draw, shapes, is_leaf=is_shape)
  return Message(jax.tree.map(lambda v, w: v * w, value, weight), weight)


CODECS = [*map(wire.levels, range(1, 9)), wire.FLOATS]
NAMES = [f'{c.bits} bits' for c in CODECS]


@pytest.mark.parametrize('codec', CODECS, ids=NAMES)
@pytest.mark.parametrize('density', [0.0, 0.3, 1.0])
def test_round_trip_and_size(codec, density):
  sent = message(codec, density=density)
  payload = wire.encode(codec, sent, ENVELOPE)
  assert len(payload) == int(jax.jit(lambda m: wire.size(codec, m))(sent))
  count = sum(w.sum() for w in jax.tree.leaves(sent.weight))
  assert len(payload) == wire.HEADER_BYTES + -(-count * codec.bits // 8)
  like = Message(jax.tree.map(np.zeros_like, sent.value), sent.weight)
  got = wire.decode(codec, payload, like, ENVELOPE)
  chex.assert_trees_all_equal(got.value, sent.value)


def test_a_sign_costs_one_bit():
  codec = wire.levels(1)
  ones = Message(np.ones(8000, np.int8), np.True_)
  assert len(wire.encode(codec, ones, ENVELOPE)) == 1000 + wire.HEADER_BYTES
  assert wire.HEADER_BYTES <= 64


def test_nothing_to_say_costs_nothing():
  empty = Message({'a': None}, {'a': None})
  assert wire.encode(wire.FLOATS, empty, ENVELOPE) == b''
  assert int(wire.size(wire.FLOATS, empty)) == 0
  assert wire.decode(wire.FLOATS, b'', empty, ENVELOPE) == empty
  with pytest.raises(WireError):
    wire.decode(wire.FLOATS, b'x', empty, ENVELOPE)


def test_bytes_of_a_large_network_do_not_overflow():
  """Its bits are more than an int32 holds."""
  large = Message([jnp.zeros(2**27, bool)], [jnp.ones((), bool)])
  size = jax.jit(lambda message: wire.size(wire.FLOATS, message))(large)
  assert int(size) == wire.HEADER_BYTES + 4 * 2**27


@pytest.mark.parametrize(
  'bits, count',
  [(7, 2**28 + 2**26 + 3), (32, (2**31 - 1 - wire.HEADER_BYTES) // 4)],
)
def test_bytes_are_exact_up_to_the_last_that_an_int32_holds(bits, count):
  codec = wire.levels(bits)
  size = lambda kept: wire.size(
    codec, Message([jnp.zeros(count, bool)], [kept])
  )
  exact = wire.HEADER_BYTES + -(-count * bits // 8)
  assert exact < 2**31
  assert int(jax.jit(size)(True)) == exact


@pytest.mark.parametrize(
  'codec, sizes, words',
  [
    (wire.FLOATS, [2**28, 2**28], 'coordinates=536870912: at 32 bits'),
    (wire.levels(1), [2**30, 2**30], 'coordinates=2147483648'),
    (wire.levels(8, coded=True), [5, 2**28], 'coordinates of b/w=268435456'),
    (wire.levels(8, coded=True), [2**27] * 16, 'coordinates=2147483648'),
    (wire.levels(8, coded=True), [2**27 - 1] * 16, 'at 8 bits'),
  ],
)
def test_messages_too_large_to_count_are_refused_before_they_are_counted(
  codec, sizes, words
):
  value = {
    chr(97 + i): {'w': np.broadcast_to(np.int8(1), n)}
    for i, n in enumerate(sizes)
  }
  sent = Message(value, jax.tree.map(lambda _: np.False_, value))
  shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, sent))
  with pytest.raises(InputError, match=words):
    jax.eval_shape(lambda m: wire.size(codec, m), shapes)
  with pytest.raises(InputError, match=words):
    wire.encode(codec, sent, ENVELOPE)


@pytest.mark.parametrize('extra', (-1, 3))
def test_coordinates_of_a_large_layer_are_counted_exactly(extra):
  """A float32 counts to 2^24 and no further."""
  layer = np.ones(2**24 + extra, bool)
  layer[[0, -1]] = False
  counts = jax.jit(tree.count)({'layer': layer, 'bias': np.ones(3, bool)})
  assert counts == 2**24 + extra + 1 and counts.dtype == np.int32


def damaged(payload):
  """Payloads that must never decode."""
  for cut in (0, 1, wire.HEADER_BYTES - 1, wire.HEADER_BYTES, len(payload) - 1):
    yield payload[:cut]
  yield payload + b'\0'
  yield payload + payload
  yield payload[1:]
  yield b'PNG' + payload[3:]
  yield bytes(len(payload))
  for byte in range(len(payload)):
    for bit in (0, 7):
      flipped = bytearray(payload)
      flipped[byte] ^= 1 << bit
      yield bytes(flipped)


@pytest.mark.parametrize('codec', [CODECS[0], CODECS[3], CODECS[-1]])
def test_damaged_bytes_raise_and_change_nothing(codec):
  sent = message(codec)
  payload = wire.encode(codec, sent, ENVELOPE)
  like = Message(jax.tree.map(np.copy, sent.value), sent.weight)
  for bad in damaged(payload):
    with pytest.raises(WireError):
      wire.decode(codec, bad, like, ENVELOPE)
  chex.assert_trees_all_equal(like.value, sent.value)


def corrupted(rng, payload):
  """The payload cut, flipped, or with a part doubled or moved; never equal."""
  first, last = sorted(rng.randint(0, len(payload) + 1, 2))
  part = payload[first:last]
  flipped = bytearray(payload)
  for place in rng.randint(0, len(payload), rng.randint(1, 4)):
    flipped[place] ^= rng.randint(1, 256)
  found = (
    payload[:first],
    payload[:first] + payload[last:],
    bytes(flipped),
    payload[:last] + part + payload[last:],
    payload[:first] + part[::-1] + payload[last:],
    payload[last:] + payload[:last],
  )[rng.randint(6)]
  return found if found != payload else payload[:-1]


def coded_message(codec, seed=0):
  """Of every layer most values are one and the same: its code is short."""
  rng = np.random.RandomState(seed)
  last = codec.symbols - 1
  step = np.float32(0.5) if codec.stepped else np.int16(1)

  def leaf(shape):
    level = 2 * rng.randint(0, codec.symbols, shape) - last
    level = np.where(rng.rand(*shape) < 0.05, level, last)
    return (level * step).astype(step.dtype)

  value = {'a': leaf((60, 50)), 'b': leaf((40, 30))}
  return Message(value, jax.tree.map(lambda v: np.ones(v.shape, bool), value))


@pytest.mark.parametrize(
  'codec',
  [
    wire.levels(1, coded=True),
    wire.levels(4, coded=True),
    Codec(3, stepped=True, coded=True),
  ],
  ids=['signs', '4 bits', 'ternary'],
)
def test_no_damage_to_a_coded_payload_decodes(codec):
  sent, rng = coded_message(codec), np.random.RandomState(1)
  payload = wire.encode(codec, sent, ENVELOPE)
  assert (
    len(payload)
    < len(wire.encode(codec._replace(coded=False), sent, ENVELOPE)) / 2
  )
  assert len(payload) == int(wire.size(codec, sent))
  got = wire.decode(codec, payload, sent, ENVELOPE)
  chex.assert_trees_all_equal(got.value, sent.value)
  for _ in range(2000):
    with pytest.raises(WireError):
      wire.decode(codec, corrupted(rng, payload), sent, ENVELOPE)
  foreign = wire.encode(
    codec, coded_message(codec, 2), ENVELOPE._replace(seed=9)
  )
  with pytest.raises(WireError, match='seed'):
    wire.decode(codec, foreign, sent, ENVELOPE)


def test_a_payload_of_other_layers_is_refused():
  """The same number of weights, the same mask: another network."""
  ones = lambda **shapes: {k: np.ones(s, np.int8) for k, s in shapes.items()}
  message = lambda **shapes: Message(ones(**shapes), ones(**shapes))
  codec, sent = wire.levels(1), message(a=(8, 16))
  payload = wire.encode(codec, sent, ENVELOPE)
  others = (message(a=(16, 8)), message(b=(8, 16)), message(a=(8, 8), b=(8, 8)))
  for other in others:
    with pytest.raises(WireError, match='layers'):
      wire.decode(codec, payload, other, ENVELOPE)


@functools.partial(jax.jit, static_argnums=0)
def size_of(codec, sent):
  return wire.size(codec, sent)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_message_round_trips_at_the_size_told(data):
  bits, count = data.draw(st.sampled_from([1, 3, 8])), 24
  codec = wire.levels(bits, stepped=bits < 8, coded=True)
  last = 2**bits - 1
  many = lambda each: data.draw(st.lists(each, min_size=count, max_size=count))
  # Each often, or no code would be shorter than packing.
  often = lambda each: np.repeat(np.array(many(each)), 50)
  level = 2 * often(st.integers(0, last)) - last
  kept = often(st.booleans())
  level[np.argmax(kept)] = last  # a step needs its largest level
  value = (level * 0.25).astype(np.float32) if codec.stepped else level
  sent = Message({'a': value * kept}, {'a': kept})
  payload = wire.encode(codec, sent, ENVELOPE)
  assert len(payload) == int(size_of(codec, sent))
  got = wire.decode(codec, payload, sent, ENVELOPE)
  chex.assert_trees_all_equal(got.value, sent.value)


def test_a_step_that_bfloat16_would_change_is_refused():
  sent = Message({'a': np.float32([0.1, -0.1])}, {'a': np.True_})
  with pytest.raises(InputError, match='step'):
    wire.encode(wire.levels(1, stepped=True), sent, ENVELOPE)


def test_a_code_is_never_longer_than_packing():
  """Symbols without pattern, and few of them, are packed."""
  for count in (1, 9, 5000):
    value = {
      'a': np.where(np.random.RandomState(0).rand(count) < 0.5, -1, 1).astype(
        np.int8
      )
    }
    sent = Message(value, {'a': np.True_})
    lengths = [
      len(wire.encode(wire.levels(1, coded=c), sent, ENVELOPE))
      for c in (True, False)
    ]
    assert lengths[0] <= lengths[1]


def test_payloads_of_another_round_network_or_codec_are_refused():
  codec = wire.levels(1)
  sent = message(codec)
  payload = wire.encode(codec, sent, ENVELOPE)
  for other, words in (
    (ENVELOPE._replace(round=8), 'round is 7, expected 8'),
    (ENVELOPE._replace(direction=0), 'checksum .* direction 0,'),
    (ENVELOPE._replace(seed=4), 'checksum .* seed 4,'),
    (ENVELOPE._replace(density=0.1), r'checksum .* density 0\.1 '),
  ):
    with pytest.raises(WireError, match=words):
      wire.decode(codec, payload, sent, other)
  with pytest.raises(WireError, match='checksum .* 4 symbols'):
    wire.decode(wire.levels(2), payload, sent, ENVELOPE)
  moved = Message(
    sent.value, jax.tree.map(lambda w: np.roll(w, 1), sent.weight)
  )
  with pytest.raises(WireError, match='prune mask'):
    wire.decode(codec, payload, moved, ENVELOPE)
  with pytest.raises(WireError, match='coordinates'):
    wire.decode(codec, payload, message(codec, seed=1), ENVELOPE)


@pytest.mark.parametrize('bits', range(1, 9))
def test_quantise_is_nearest_and_never_zero(bits):
  x = jnp.linspace(-1, 1, 1001)
  level = wire.quantise(x, bits)
  step = 2 / 2**bits
  back = wire.dequantise(level, bits)
  assert np.all(np.asarray(level) % 2 == 1) and np.all(back != 0)
  assert np.max(np.abs(back - x)) <= step / 2 + 1e-6
  far = np.abs(x) > 1e-6
  np.testing.assert_array_equal((back < 0)[far], (x < 0)[far])
  assert float(wire.dequantise(wire.quantise(jnp.float32(0), bits), bits)) > 0


@pytest.mark.parametrize('value', [0, 2, 3])
def test_values_outside_the_alphabet_are_refused(value):
  told = Message(np.full(9, value), np.True_)
  with pytest.raises(InputError, match='symbols=2'):
    wire.encode(wire.levels(1), told, ENVELOPE)
