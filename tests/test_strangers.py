"""Bytes from anybody: whole messages or `WireError`, whatever the checksum."""

import struct
import warnings
import zlib

import jax
import numpy as np
import pytest

from hns import wire
from hns.errors import InputError
from hns.wire import Codec, Envelope, Message, WireError, coding, header

ENVELOPE = Envelope(round=7, direction=1, seed=3, density=0.2)
HEAD = wire.HEADER_BYTES
CODECS = [
  Codec(symbols, stepped, coded)
  for symbols in (2, 3, 4, 5, 8, 16, 32, 64, 128, 200, 256)
  for stepped in (False, True)
  for coded in (False, True)
] + [wire.FLOATS]


def repaired(payload, codec, like):
  """With the checksum of the bytes as they are now."""
  sent = map(np.broadcast_to, like.weight, map(np.shape, like.value))
  told = header.known(codec, ENVELOPE, list(sent))
  start, body = payload[: HEAD - 4], payload[HEAD:]
  checksum = zlib.crc32(body, zlib.crc32(told, zlib.crc32(start + bytes(4))))
  return start + struct.pack('<I', checksum) + body


def forged(payload, place, new, codec, like):
  """Other bytes at a place after the header."""
  place += HEAD
  changed = payload[:place] + new + payload[place + len(new) :]
  return repaired(changed, codec, like)


def message(codec, rng, sizes=(90, 31, 0, 12)):
  """Leaves of which one is empty and one is all that its step allows."""

  def leaf(size):
    if not codec.symbols:
      return rng.randn(size).astype(np.float32)
    last = codec.symbols - 1
    levels = 2 * rng.randint(0, codec.symbols, size) - last
    levels = np.where(rng.rand(size) < 0.15, levels, last)
    step = np.float32(0.5) if codec.stepped else np.int16(1)
    return (levels * step).astype(step.dtype)

  value = [leaf(size) for size in sizes]
  return Message(value, [np.arange(v.size) % 5 > 0 for v in value])


def mutated(rng, payload, codec, like):
  """One to three changes, most of them after the header; checksum right."""
  for _ in range(rng.randint(1, 4)):
    start = min(HEAD * (rng.rand() < 0.95), len(payload))
    first, last = sorted(rng.randint(start, len(payload) + 1, 2))
    last = last if rng.rand() < 0.3 else min(last, first + 1 + rng.randint(4))
    new = rng.randint(0, 256, last - first, dtype=np.uint8).tobytes()
    special = rng.choice([0, 1, 127, 128, 200, 255], last - first)
    new = (
      new,
      special.astype(np.uint8).tobytes(),
      bytes(b ^ 1 << rng.randint(8) for b in payload[first:last]),
      new + special[:1].astype(np.uint8).tobytes(),
      b'',
    )[rng.randint(5) if rng.rand() < 0.5 else rng.randint(3)]
    payload = payload[:first] + new + payload[last:]
  whole = len(payload) >= HEAD
  return repaired(payload, codec, like) if whole else payload


def check_whole(codec, got, like):
  """Every value is finite, in the alphabet, and only where something goes."""
  for value, kept in zip(got.value, like.weight):
    assert np.all(np.isfinite(value)) and not np.any(value[~kept])
    if codec.symbols:
      last = codec.symbols - 1
      largest = np.max(np.abs(value), initial=0)
      unit = largest / last if codec.stepped and largest else 1
      levels = value[kept] / unit
      assert np.isin(levels.round(4), np.arange(-last, last + 1, 2)).all()


def receive(codec, payload, like):
  """Whether a payload is taken; what is taken, is what `encode` gives."""
  try:
    got = wire.decode(codec, payload, like, ENVELOPE)
  except WireError:
    return False
  check_whole(codec, got, like)
  assert wire.encode(codec, got, ENVELOPE) == payload
  return True


@pytest.mark.parametrize('codec', CODECS, ids=str)
def test_changed_payloads_are_refused_or_other_messages(codec):
  rng = np.random.RandomState(codec.symbols)
  sent = message(codec, rng)
  payload = wire.encode(codec, sent, ENVELOPE)
  assert receive(codec, payload, sent)
  taken = 0
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    for _ in range(80):
      taken += receive(codec, mutated(rng, payload, codec, sent), sent)
    for _ in range(40):
      noise = rng.randint(0, 256, len(payload) - HEAD, dtype=np.uint8)
      taken += receive(
        codec, forged(payload, 0, noise.tobytes(), codec, sent), sent
      )
  assert taken > 0 or codec.stepped or codec.coded


def lone(codec, *values):
  """A payload of one leaf, and its message."""
  dtype = np.float32 if codec.stepped or not codec.symbols else np.int16
  sent = Message([np.array(values, dtype)], [np.True_])
  return wire.encode(codec, sent, ENVELOPE), sent


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_floats_that_are_not_finite_are_refused(bad):
  payload, like = lone(wire.FLOATS, 1, 2, 3)
  with pytest.raises(WireError, match='finite'):
    new = struct.pack('<f', bad)
    wire.decode(
      wire.FLOATS, forged(payload, 4, new, wire.FLOATS, like), like, ENVELOPE
    )


@pytest.mark.parametrize('codec', CODECS, ids=str)
@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf, 1e38])
def test_values_that_are_not_finite_are_not_sent(codec, bad):
  value = np.full(9, bad, np.float64 if bad == 1e38 else np.float32)
  value = value * 10 if bad == 1e38 else value  # more than a float32 holds
  sent = Message([value], [np.True_])
  with warnings.catch_warnings(), pytest.raises(InputError, match='a value is'):
    warnings.simplefilter('error')
    wire.encode(codec, sent, ENVELOPE)


def test_floats_that_float32_would_change_are_not_sent():
  sent = Message([np.array([1, 2**24 + 1])], [np.True_])
  with pytest.raises(InputError, match='float32'):
    wire.encode(wire.FLOATS, sent, ENVELOPE)


STEPS = {
  'zero': 0,
  'not normal': 1,
  'minus one': 0xBF80,
  'infinity': 0x7F80,
  'nan': 0x7FC0,
  'so large that levels overflow': 0x7F7F,
}


@pytest.mark.parametrize('step', STEPS.values(), ids=STEPS)
@pytest.mark.parametrize('symbols', [2, 3, 256])
def test_a_step_that_no_message_has_is_refused(step, symbols):
  codec = Codec(symbols, stepped=True)
  last = symbols - 1
  payload, like = lone(codec, last, -last, last, last)
  new = struct.pack('<H', step)
  if symbols == 2 and step == 0x7F7F:  # its only levels are the step itself
    assert receive(codec, forged(payload, 0, new, codec, like), like)
    return
  with warnings.catch_warnings(), pytest.raises(WireError):
    warnings.simplefilter('error')
    wire.decode(codec, forged(payload, 0, new, codec, like), like, ENVELOPE)


def test_a_step_whose_last_level_does_not_occur_is_refused():
  codec = Codec(4, stepped=True)
  payload, like = lone(codec, 9, -9, 3, 3)
  assert payload[-1] == 0b11_00_10_10
  with pytest.raises(WireError, match='packed'):
    new = bytes([0b10_01_10_10])
    wire.decode(codec, forged(payload, 2, new, codec, like), like, ENVELOPE)


def test_a_step_where_all_values_are_zero_is_one():
  codec = Codec(3, stepped=True)
  payload, like = lone(codec, 0, 0)
  assert payload[HEAD : HEAD + 2] == b'\x80\x3f'
  with pytest.raises(WireError, match='packed'):
    wire.decode(
      codec, forged(payload, 0, b'\x00\x40', codec, like), like, ENVELOPE
    )


@pytest.mark.parametrize('body', [0b11_01_01_00, 0b00_01_01_01])
def test_a_symbol_too_many_and_bits_to_spare_are_refused(body):
  """3 symbols in two bits each, of which the last two bits are spare."""
  payload, like = lone(Codec(3), -2, 0, 0)
  assert payload[-1] == 0b00_01_01_00
  with pytest.raises(WireError):
    wire.decode(
      Codec(3),
      forged(payload, 0, bytes([body]), Codec(3), like),
      like,
      ENVELOPE,
    )


def test_the_longer_of_packed_and_coded_is_refused():
  rng = np.random.RandomState(0)
  for skew in (0.02, 0.5):
    codec = wire.levels(1, coded=True)
    signs = np.where(rng.rand(800) < skew, 1, -1).astype(np.int8)
    sent = Message([signs], [np.True_])
    payload = wire.encode(codec, sent, ENVELOPE)
    coded = payload[3]
    assert coded == (skew < 0.5)
    other = np.packbits(signs > 0).tobytes()
    if not coded:
      other = coding.encode([(signs > 0).astype(np.uint8)], 1)[:100]
    head = payload[:3] + bytes([1 - coded]) + payload[4:HEAD]
    with pytest.raises(WireError):
      other = repaired(head + other, codec, sent)
      wire.decode(codec, other, sent, ENVELOPE)


@pytest.mark.parametrize('dtype', [np.int8, np.float16])
def test_a_value_that_the_receiver_cannot_hold_is_refused(dtype):
  codec = wire.levels(8) if dtype == np.int8 else wire.FLOATS
  payload, _ = lone(codec, 255, 1, -255) if codec.symbols else lone(codec, 1e9)
  like = Message([np.zeros(3 if codec.symbols else 1, dtype)], [np.True_])
  with pytest.raises(WireError, match=dtype.__name__):
    wire.decode(codec, payload, like, ENVELOPE)


def test_code_that_is_cut_or_too_long_or_damaged_is_refused():
  """By one kind of error, whatever the library below raises."""
  rng = np.random.RandomState(0)
  parts = [(rng.rand(n) < 0.1).astype(np.uint8) for n in (500, 40, 0)]
  code, counts = coding.encode(parts, 1), [500, 40, 0]
  assert all(map(np.array_equal, coding.decode(code, counts, 1), parts))
  bad = [code[:n] for n in range(len(code))]
  bad += [code + extra for extra in (b'\0', b'\0' * 4, b'\1', code)]
  bad += [bytes([depth]) + code[1:] for depth in (0, 2, 8, 32, 63, 200, 255)]
  bad += [code[:4] + bytes([255] * n) for n in range(60)]
  bad += [code[:1] + b'\xff' + code[2:]]
  for _ in range(500):
    flipped = bytearray(code)
    flipped[rng.randint(len(code))] ^= rng.randint(1, 256)
    bad.append(bytes(flipped))
  refused_or_the_same(bad, counts)


def refused_or_the_same(codes, counts, unit=None):
  """Each code raises `InputError`, or is what the encoder makes of it."""
  for one in codes:
    try:
      got = coding.decode(one, counts, 1, unit)
    except InputError:
      continue
    assert coding.encode(got, 1, unit) == one


@pytest.mark.parametrize(
  'codec',
  [Codec(1), Codec(257), Codec(-2), Codec(0, True), Codec(0, False, True)],
)
def test_a_codec_without_payloads_is_refused(codec):
  sent = Message([np.float32([1, 1])], [np.True_])
  for use in (
    lambda: wire.encode(codec, sent, ENVELOPE),
    lambda: wire.decode(codec, b'', sent, ENVELOPE),
    lambda: jax.eval_shape(lambda m: wire.size(codec, m), sent),
  ):
    with pytest.raises(InputError, match='symbols'):
      use()


@pytest.mark.parametrize(
  'wrong', [{'round': -1}, {'round': 2**32}, {'seed': -1}, {'direction': 256}]
)
def test_an_envelope_that_a_header_cannot_hold_is_refused(wrong):
  sent = Message([np.int8([1, 1])], [np.True_])
  with pytest.raises(InputError, match='envelope|round'):
    wire.encode(wire.levels(1), sent, ENVELOPE._replace(**wrong))
