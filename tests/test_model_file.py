"""A model file from anybody: whole and true, or one line that refuses it."""

import json
import random
import struct
import zlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hns.errors import InputError
from hns.networks import models
from hns.runs import initialization, model_file

SPEC = model_file.Spec(
  model='tiny',
  classes=10,
  shape=(8, 8, 1),
  dtype='float32',
  dataset='digits',
  scale=(77.5, 96.25),
  seed=3,
  density=0.2,
  pruning='synflow',
  pruning_steps=2,
)


def signed(spec):
  """A model with signs drawn at random."""
  model = model_file.redraw(spec)
  draw = np.random.RandomState(0)
  signs = jax.tree.map(
    lambda m: np.where(np.asarray(m) & (draw.rand(*m.shape) < 0.4), -1.0, 1.0),
    model.variables['mask'],
  )
  return model._replace(variables={**model.variables, 'signs': signs})


@pytest.fixture(scope='module')
def model():
  return signed(SPEC)


@pytest.fixture(scope='module')
def content(model):
  return model_file.dump(model.spec, model.variables)


@pytest.fixture
def drawn_once(monkeypatch):
  """For files that differ in nothing that is drawn."""
  drawn = model_file.redraw(SPEC)
  monkeypatch.setattr(model_file, 'redraw', lambda spec: drawn)


@pytest.fixture
def undrawn(monkeypatch):
  """Fails a test in which weights are drawn."""
  draw = lambda *_: pytest.fail('weights were drawn')
  monkeypatch.setattr(initialization, 'initialize', draw)


def taken_apart(content):
  """The text's fields and the code of the signs."""
  end = 9 + struct.unpack_from('<I', content, 5)[0]
  return json.loads(content[9:end]), content[end:-4]


def whole(text, code=b'', version=4):
  """A file with a right checksum."""
  body = struct.pack('<4sBI', b'HNSM', version, len(text)) + text + code
  return body + struct.pack('<I', zlib.crc32(body))


def changed(content, **fields):
  about, code = taken_apart(content)
  return whole(json.dumps({**about, **fields}).encode(), code)


def refused(content, match):
  """That a file is refused in one line, which matches."""
  with pytest.raises(InputError, match=match) as caught:
    model_file.load(content)
  assert len(str(caught.value).splitlines()) == 1
  assert type(caught.value) is InputError


def test_a_file_gives_the_model_back(model, content):
  loaded = model_file.load(content)
  assert loaded.spec == SPEC
  jax.tree.map(np.testing.assert_array_equal, loaded.variables, model.variables)
  assert model_file.dump(loaded.spec, loaded.variables) == content


def test_what_changes_no_weight_may_be_changed(content):
  other = changed(content, dataset='others', scale=[0, 255])
  loaded = model_file.load(other)
  assert loaded.spec == SPEC._replace(dataset='others', scale=(0.0, 255.0))


WRONG = [
  *(('classes', v) for v in (0, -1, True, 10.0, '10', None, [10], 10**6 + 1)),
  *(('classes', v) for v in (2**31, 2**63, 10**400)),
  *(('shape', v) for v in (8, [], [1] * 9, [8, 8, 0], 'abc')),
  *(('dtype', v) for v in ('', 'float64', 'uint8', 3, None, ['int32'])),
  *(('shape', v) for v in ([8, 8, -1], [8.0, 8, 1], [2**10, 2**10, 2])),
  *(('shape', v) for v in ([2**40, 1, 1], {'0': 8}, [8, 8, None], [[8], 8, 1])),
  *(('scale', v) for v in ([1.0], [0, 0], [0, -1], [1, 'a'], 1.0, [1, 2, 3])),
  *(('scale', v) for v in ([float('nan'), 1], [1, float('nan')], [1, 1e-40])),
  *(('scale', v) for v in ([1, float('inf')], [1e39, 1], [0, 1e39], [None, 1])),
  *(('scale', v) for v in ([0, 10**400], [True, 1])),
  *(('seed', v) for v in (-1, 2**32, 1.5, '0', None, True, 10**30)),
  *(('density', v) for v in (0, -0.1, 1.1, float('nan'), '0.2', None, 1e-50)),
  *(('pruning_steps', v) for v in (0, -1, 1.0, 2**31, 10**30, '1', None)),
  *(('pruning', v) for v in ('', 'fisher', 0, None, ['synflow'])),
  *(('model', v) for v in ('', 'resnet', 0, None, ['tiny'], {'a': 1})),
  *(('dataset', v) for v in (0, None, ['digits'], {})),
  *(('weights', v) for v in ('0', None, 0.5, True, [1])),
]


@pytest.mark.parametrize('field, value', WRONG)
def test_a_field_of_another_type_or_range_is_named(
  content, undrawn, field, value
):
  refused(changed(content, **{field: value}), f'{field}=')


@pytest.mark.parametrize('field', ['model', 'pruning'])
def test_a_name_that_a_config_file_registers_is_asked_for(content, field):
  other = changed(content, **{field: 'mine'})
  refused(other, f"{field}='mine': not known here: give --config=FILE")


@pytest.mark.parametrize('field', model_file.Spec._fields + ('weights',))
def test_fields_are_all_there_and_no_others(content, undrawn, field):
  about, code = taken_apart(content)
  del about[field]
  refused(whole(json.dumps(about).encode(), code), f'fields must be .*{field}')
  refused(changed(content, **{field.upper(): 1}), 'fields must be')


@pytest.mark.parametrize(
  'text',
  [
    *(b'', b'{', b'[]', b'null', b'1', b'"a"', b'{}', b'\xff\xfe', b'{"a":1,}'),
    *(b'[' * 4000, b'{"a":' * 800, b'9' * 4090, b'-', b'\x00' * 9, b'nul'),
    '{"a": 1}'.encode('utf-16'),
  ],
)
def test_a_text_that_is_no_table_is_refused(undrawn, text):
  refused(whole(text), 'model file: ')


def test_lengths_that_cannot_be_are_refused(content, undrawn):
  about, code = taken_apart(content)
  text = json.dumps(about).encode()
  refused(whole(text + b' ' * 4096, code), 'too many')
  for length in (len(text + code) + 1, 2**32 - 1):
    body = struct.pack('<4sBI', b'HNSM', 4, length) + text + code
    refused(body + struct.pack('<I', zlib.crc32(body)), 'too many')
  refused(whole(text, code, version=5), 'model format 5')
  refused(whole(text, bytes(2**22)), 'not a model')


@pytest.mark.parametrize(
  'fields',
  [
    dict(classes=10**6),
    dict(shape=[2**10, 2**10, 1]),
    dict(shape=[2**20, 1, 1], model='cnn'),
    dict(shape=[4, 4, 2**16], model='conv4'),
    dict(pruning_steps=10**5),
    dict(pruning_steps=10**6 - 1),
    dict(shape=[100, 100, 1], pruning_steps=1000),
  ],
)
def test_large_networks_are_refused_before_they_are_drawn(
  content, undrawn, fields
):
  refused(changed(content, **fields), 'weights and .* steps of pruning')


def test_pictures_that_do_not_fit_are_refused(content, undrawn, monkeypatch):
  small = dict(model='lenet', shape=[4, 4, 1])
  refused(changed(content, **small), "model='lenet': .*4x4 do not fit")

  class Strange(nn.Module):
    @nn.compact
    def __call__(self, x):
      raise LookupError('of its own\nand more')

  monkeypatch.setitem(models.MODELS, 'strange', lambda classes: Strange())
  refused(changed(content, model='strange'), 'LookupError: of its own')


def test_a_code_of_another_length_is_refused(content, drawn_once):
  about, code = taken_apart(content)
  text = json.dumps(about).encode()
  for other in (b'', code[:1], code[:-1], code[:-4], code + b'\0'):
    refused(whole(text, other), 'code')


def test_a_code_that_is_too_long_is_refused_undrawn(content, undrawn):
  about, code = taken_apart(content)
  text = json.dumps(about).encode()
  refused(whole(text, code + bytes(len(code))), 'bytes of signs are too many')


def test_a_damaged_code_is_refused_or_other_signs(content, drawn_once):
  """No two files hold the same signs."""
  about, code = taken_apart(content)
  text = json.dumps(about, separators=(',', ':')).encode()
  seen = 0
  for place in range(0, len(code), 10):
    other = bytearray(code)
    other[place] ^= 16
    file = whole(text, bytes(other))
    try:
      loaded = model_file.load(file)
    except InputError:
      seen += 1
    else:
      assert model_file.dump(loaded.spec, loaded.variables) == file
  assert seen > 3


def test_a_model_that_no_file_may_hold_is_not_written(model):
  large = SPEC._replace(shape=(300, 300, 1))
  with pytest.raises(InputError, match='--file=NAME.npz'):
    model_file.dump(large, model.variables)


def test_what_has_no_sign_is_checked_too(monkeypatch):
  def net(bias):
    flat = lambda x: x.reshape(len(x), -1)
    init = nn.initializers.constant(bias)
    last = lambda classes: nn.Dense(classes, bias_init=init)
    return lambda classes: nn.Sequential((flat, last(classes)))

  monkeypatch.setitem(models.MODELS, 'biased', net(0.5))
  model = signed(SPEC._replace(model='biased', pruning='magnitude'))
  content = model_file.dump(model.spec, model.variables)
  loaded = model_file.load(content)
  assert np.all(loaded.variables['params']['layers_1']['bias'] == 0.5)
  monkeypatch.setitem(models.MODELS, 'biased', net(0.25))
  refused(content, 'are not those of the model')


VALUES = [
  *(0, 1, -1, 2, 10, 255, 2**16, 2**31 - 1, 2**31, 2**63, 10**40, 0.0, -0.5),
  *(0.2, 1e-45, 1e-30, 1e30, 1e300, float('nan'), float('inf'), True, None),
  *('', 'a', 'tiny', 'mlp', 'cnn', 'lenet', 'random', '\ud800', '\n', 'ä' * 99),
  *([], {}, [1], [8, 8, 1], [8, 8], [28, 28, 1], [1e9, 1], [[], []], {'a': []}),
]


def mutated(draw, content):
  """A file with something changed and a right checksum."""
  about, code = taken_apart(content)
  for _ in range(draw.choice([0, 1, 1, 1, 2, 3])):
    name = draw.choice([*about, 'more'])
    value = draw.choice(VALUES)
    old = about.get(name)
    if isinstance(old, list) and old and draw.random() < 0.5:
      value = list(old)
      value[draw.randrange(len(value))] = draw.choice(VALUES)
    about[name] = value
    if draw.random() < 0.1:
      del about[name]
  text = bytearray(json.dumps(about).encode())
  code, version = bytearray(code), 4
  part = draw.choice([text, code, code, None, None])
  for _ in range(draw.choice([1, 1, 2, 8]) if part else 0):
    place = draw.randrange(len(part) + 1)
    size = draw.choice([0, 1, 1, 4, 50])
    part[place : place + size] = draw.randbytes(draw.choice([0, 1, size]))
  if draw.random() < 0.02:
    version = draw.randrange(256)
  return whole(bytes(text), bytes(code), version)


def test_mutated_files_raise_nothing_else(content, drawn_once):
  draw, accepted = random.Random(0), 0
  for _ in range(300):
    file = mutated(draw, content)
    try:
      loaded = model_file.load(file)
    except InputError as error:
      assert len(str(error).splitlines()) == 1
    else:
      accepted += 1
      signs = jax.tree.leaves(loaded.variables['signs'])
      assert all(np.all(np.abs(s) == 1) for s in signs)
  assert 20 < accepted < 280


def test_pictures_and_logits_have_the_spec_s_shapes(content):
  model = model_file.load(content)
  x = jnp.zeros((3, *model.spec.shape))
  assert model.net.apply(model.variables, x).shape == (3, model.spec.classes)
