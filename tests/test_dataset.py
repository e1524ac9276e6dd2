"""A dataset is taken, in the right types, or its first bad example is named."""

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import small_config
from PIL import Image

from hns import data
from hns.data.dataset import checked
from hns.errors import InputError
from hns.runs import experiment, federation, workdir

DIGITS = data.digits()
TRAIN, TEST = DIGITS.train_inputs, DIGITS.test_inputs
LABELS = DIGITS.train_labels


def load(monkeypatch, **columns):
  """`digits` with other columns, as a user's dataset."""
  given = DIGITS._replace(**columns)
  monkeypatch.setitem(data.SOURCES, 'mine', lambda: given)
  return data.load('mine')


def both(change):
  """Both splits' pictures, changed."""
  return dict(train_inputs=change(TRAIN), test_inputs=change(TEST))


def at(array, place, value):
  """A copy with one value changed."""
  array = array.copy()
  array[place] = value
  return array


FLOAT = both(lambda x: x / 255)
OBJECTS = np.empty(len(TRAIN), object)
OBJECTS[:] = list(TRAIN)
REFUSED = [
  # Labels.
  (dict(train_labels=LABELS + 1), r'train_labels\[9\]=10: must be in 0..9'),
  (
    dict(test_labels=DIGITS.test_labels - 1),
    r'test_labels\[0\]=-1: must be in',
  ),
  (dict(classes=9), r'train_labels\[9\]=9: must be in 0..8, as classes=9'),
  (
    dict(train_labels=at(LABELS.astype(np.int64), 17, 2**40)),
    r'train_labels\[17\]=1099511627776: must be in 0..9',
  ),
  (
    dict(train_labels=LABELS * 1.0),
    r"\[0\]=0.0: .*asarray\(train_labels, 'int3",
  ),
  (dict(train_labels=LABELS * 1.5), r'train_labels\[1\]=1.5: must be a whole'),
  (
    dict(train_labels=at(LABELS * 1.0, 3, np.nan)),
    r'train_labels\[3\]=nan: must be a whole number',
  ),
  (dict(train_labels=LABELS > 4), r'train_labels\[0\]=False: .* not bool'),
  (dict(train_labels=np.eye(10)[LABELS]), r'shape=\[1352, 10\]: .*argmax\(1\)'),
  (dict(train_labels=LABELS[:, None]), r'shape=\[1352, 1\]: .*take \[:, 0\]'),
  (dict(train_labels=LABELS[:-50]), r'train_labels.shape=\[1302\]: .*\[1352\]'),
  (dict(test_labels=[]), r'test_labels.shape=\[0\]: must be \[445\]'),
  (dict(train_labels=LABELS.astype(str)), "train_labels.dtype='<U"),
  (dict(train_labels=[*LABELS[:-1], 'nine']), r"train_labels\[1351\]='nine'"),
  (dict(train_labels=[0, None, *LABELS[2:]]), r'train_labels\[1\]=None'),
  (dict(train_labels=None), 'train_labels: .* not a NoneType'),
  (dict(train_labels=iter(LABELS)), 'train_labels: .* a list, not a iter'),
  # Classes.
  (dict(classes=10.0), 'classes=10.0: must be a whole number, at least 2'),
  (dict(classes='10'), "classes='10': must be a whole number"),
  (dict(classes=True), 'classes=True: must be a whole number'),
  (dict(classes=None), 'classes=None: must be a whole number'),
  (dict(classes=1), 'classes=1: must be a whole number, at least 2'),
  # Pictures.
  (both(np.zeros_like), 'train_inputs=0: every pixel'),
  (both(lambda x: 0 * x + 7.5), 'train_inputs=7.5: every pixel'),
  (dict(test_inputs=0 * TEST), 'test_inputs=0: every pixel'),
  (
    both(lambda x: np.broadcast_to(TRAIN[:1], x.shape)),
    'train_inputs: all 1352 pictures are the same',
  ),
  (
    both(lambda x: 1e3 + 1e-6 * x),
    'train_inputs: pixels from 1000 to .* alike',
  ),
  (both(lambda x: x * 1e-40), 'train_inputs: pixels from 0 to .* alike'),
  (
    FLOAT | dict(test_inputs=at(TEST / 255, (5, 3, 2, 0), np.nan)),
    r'test_inputs\[5, 3, 2, 0\]=nan: must be a finite number',
  ),
  (
    FLOAT | dict(train_inputs=at(TRAIN / 255, (5, 3, 2, 0), -np.inf)),
    r'train_inputs\[5, 3, 2, 0\]=-inf: must be a finite number',
  ),
  (
    FLOAT | dict(train_inputs=at(TRAIN / 255, (0, 7, 7, 0), 1e300)),
    r'train_inputs\[0, 7, 7, 0\]=1e\+300: must be a finite number',
  ),
  (dict(test_inputs=TEST / 255), "test_inputs.dtype='float64': .* are uint8"),
  (dict(test_inputs=TEST > 9), "test_inputs.dtype='bool': .* are uint8"),
  (
    dict(test_inputs=TEST[:, :7]),
    r'test_inputs.shape=\[445, 7, 8, 1\]: must be \[n, 8, 8, 1\]',
  ),
  (dict(train_inputs=TRAIN[:0]), r'train_inputs.shape=\[0, 8, 8, 1\]'),
  (dict(test_inputs=[]), r'test_inputs.shape=\[0\]: must be \[n, h, w\] or'),
  (
    both(lambda x: x.reshape(-1, 64)),
    r'shape=\[1352, 64\]: must be \[n, h, w\]',
  ),
  (both(lambda x: x[..., None]), r'train_inputs.shape=\[1352, 8, 8, 1, 1\]'),
  (dict(train_inputs=OBJECTS), "train_inputs.dtype='object': .*np.stack"),
  (both(lambda x: x.astype(str)), "train_inputs.dtype='<U"),
  (both(lambda x: x * 1j), "train_inputs.dtype='complex128'"),
  (
    dict(train_inputs=[*TRAIN[:7], TRAIN[7, :5], *TRAIN[8:]]),
    r'train_inputs\[7\].shape=\[5, 8, 1\]: all rows',
  ),
  (dict(train_inputs=[*TRAIN[:7], 'x.png']), r'train_inputs\[7\].shape=\[\]'),
  (dict(train_inputs={'image': TRAIN}), 'train_inputs: a dict of arrays'),
  # Groups.
  (dict(train_groups=LABELS), r'test_groups.shape=\[0\]: must be \[445\]'),
  (dict(test_groups=DIGITS.test_labels), r'train_groups.shape=\[0\]: must be'),
  (dict(train_groups=LABELS[1:]), r'train_groups.shape=\[1351\]: .*\[1352\]'),
  (dict(train_groups=LABELS * 1.0), r'train_groups\[0\]=0.0: must be a whole'),
  (
    dict(train_groups=LABELS.astype(np.int64) + 2**40),
    r'train_groups\[0\]=1099.*: must fit int32',
  ),
  (dict(train_groups=None), 'train_groups: .* not a NoneType'),
]


@pytest.mark.parametrize('columns,said', REFUSED, ids=[x for _, x in REFUSED])
def test_what_cannot_be_used_is_named(monkeypatch, columns, said):
  with pytest.raises(InputError, match=said) as error:
    load(monkeypatch, **columns)
  assert "dataset 'mine'" in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize(
  'given', [None, tuple(DIGITS), DIGITS._asdict(), [DIGITS]], ids=type
)
def test_a_source_returns_a_dataset(monkeypatch, given):
  monkeypatch.setitem(data.SOURCES, 'mine', lambda: given)
  found = type(given).__name__
  with pytest.raises(InputError, match=f"dataset='mine': .* not a {found}"):
    data.load('mine')


def test_errors_inside_a_source_are_its_own(monkeypatch):
  def broken():
    raise KeyError('label')

  monkeypatch.setitem(data.SOURCES, 'broken', broken)
  with pytest.raises(KeyError, match='label'):
    data.load('broken')


@pytest.mark.parametrize(
  'kind', [np.int8, np.uint8, np.uint16, np.int64, np.uint64, list, 'numbers']
)
def test_whole_labels_of_any_kind_are_taken(monkeypatch, kind):
  kinds = {list: list, 'numbers': np.ndarray.tolist}
  labels = kinds.get(kind, lambda x: x.astype(kind))(LABELS)
  found = load(monkeypatch, train_labels=labels, classes=np.int64(10))
  assert found.train_labels.dtype == np.int32 and type(found.classes) is int
  np.testing.assert_array_equal(found.train_labels, LABELS)


@pytest.mark.parametrize(
  'change',
  [
    lambda x: x.astype(np.int16),
    lambda x: x.astype(np.int64),
    lambda x: x[..., 0],
    list,
    np.ndarray.tolist,
    jnp.asarray,
    lambda x: [Image.fromarray(picture[..., 0]) for picture in x],
  ],
)
def test_bytes_of_any_kind_are_the_same_pictures(monkeypatch, change):
  found = load(monkeypatch, **both(change))
  for images, wanted in (
    (found.train_inputs, TRAIN),
    (found.test_inputs, TEST),
  ):
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, wanted)


@pytest.mark.parametrize(
  'change',
  [
    lambda x: (x / 255).astype(np.float16),
    lambda x: (x / 255).astype(np.float32)[..., 0],
    lambda x: x / 255,
    lambda x: (x / 255).tolist(),
    lambda x: x.astype(np.int32) - 100,
    lambda x: x.astype(np.uint16) * 257,
  ],
)
def test_other_pictures_become_float32(monkeypatch, change):
  found = load(monkeypatch, **both(change))
  wanted = np.asarray(change(TRAIN), np.float32).reshape(TRAIN.shape)
  assert found.train_inputs.dtype == found.test_inputs.dtype == np.float32
  np.testing.assert_array_equal(found.train_inputs, wanted)


def test_pictures_of_two_colours(monkeypatch):
  found = load(monkeypatch, **both(lambda x: x > 99))
  assert found.train_inputs.dtype == np.uint8 and found.train_inputs.max() == 1


def test_one_test_picture_is_enough(monkeypatch):
  few = dict(test_inputs=TEST[:1], test_labels=[3])
  assert load(monkeypatch, **few).test_inputs.shape == (1, 8, 8, 1)


def test_groups_are_kept(monkeypatch):
  who = dict(train_groups=LABELS.tolist(), test_groups=DIGITS.test_labels + 0)
  found = load(monkeypatch, **who)
  assert found.train_groups.dtype == np.int32
  np.testing.assert_array_equal(found.train_groups, LABELS)
  empty = load(monkeypatch, train_groups=[], test_groups=())
  assert empty.train_groups.shape == empty.test_groups.shape == (0,)


def test_grey_oblong_floats_are_learnt(monkeypatch, tmp_path):
  rng = np.random.RandomState(0)
  labels = np.arange(500) % 4
  pictures = 1e-3 * (rng.randn(4, 20, 32)[labels] + rng.randn(500, 20, 32))
  mine = data.Dataset(
    pictures[:400], labels[:400], [], pictures[400:], labels[400:], [], 4
  )
  monkeypatch.setitem(data.SOURCES, 'mine', lambda: mine)
  monkeypatch.setattr(workdir, 'draw', lambda *given: None)
  fields = dict(dataset='mine', pruning='random', rounds=1)
  config = small_config(num_clients=4, cohort=4, **fields)
  (row,) = experiment.run(config, tmp_path / 'run')
  assert row['personal_accuracy'] > 0.8 and row['train_loss'] < 1


def test_the_scale_of_floats_is_that_of_their_bytes():
  """And right where float32 sums are not: far from zero."""
  mean, deviation = federation._pixel_scale(TRAIN)
  assert (mean, deviation) == pytest.approx((TRAIN.mean(), TRAIN.std()))
  far = (TRAIN + 2.0**17).astype(np.float32)
  found = federation._pixel_scale(far)
  assert found == pytest.approx((mean + 2**17, deviation), rel=1e-12)


def odd_scales():
  """Digits whose pictures cannot be standardised together, and what is said."""
  digits = data.digits()
  train, test = (
    x.astype(np.float32) for x in (digits.train_inputs, digits.test_inputs)
  )
  outlier = train.copy()
  outlier[7, 3, 3] = 1e20
  yield (
    digits._replace(train_inputs=outlier, test_inputs=test),
    (r'train_inputs\[7\]: has pixels so large'),
  )
  yield (
    digits._replace(train_inputs=train, test_inputs=test / 255),
    ('test_inputs: the standard deviation of their pixels is 0.3'),
  )
  yield (
    digits._replace(test_inputs=digits.test_inputs // 255),
    ('test_inputs: the standard deviation of their pixels is 0.2'),
  )


@pytest.mark.parametrize('dataset,said', odd_scales())
def test_pictures_that_drown_in_others_are_refused(dataset, said):
  with pytest.raises(InputError, match=said):
    checked('own', dataset)


def test_classes_without_an_example_are_said(monkeypatch, capsys):
  """As where labels are counted from 1 and there are fewer than is said."""
  digits = data.digits()
  few = lambda labels: (labels % 5 + 1).astype(np.int32)
  own = digits._replace(
    train_labels=few(digits.train_labels), test_labels=few(digits.test_labels)
  )
  monkeypatch.setitem(data.SOURCES, 'own', lambda: own)
  data.load('own')
  assert capsys.readouterr().err == (
    "hns: dataset 'own' has no training example of 5 of its 10 classes: 0, 6, "
    '7, 8, 9 (labels count from 0)\n'
    "hns: dataset 'own' has no test example of 5 of its 10 classes: 0, 6, "
    '7, 8, 9 (labels count from 0)\n'
  )
  data.load('digits')
  assert capsys.readouterr().err == ''
