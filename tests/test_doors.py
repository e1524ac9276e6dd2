"""Folders of users: pictures of classes, and files of clients."""

import numpy as np
import pytest
from conftest import small_config
from PIL import Image

import hns
from hns import data
from hns.data import names
from hns.data.partition import Labelled
from hns.errors import InputError
from hns.report.labels import settings_of
from hns.runs import experiment, limits

RNG = np.random.RandomState(0)
GREY = RNG.randint(0, 256, (6, 4, 5)).astype(np.uint8)
RGB = RNG.randint(0, 256, (6, 4, 5, 3)).astype(np.uint8)
NEEDED = 'train_inputs', 'train_labels', 'test_inputs', 'test_labels'


def save(folder, pictures):
  """Pictures 0 to 3 are of train, b and a in turn; 4 and 5 of test, a."""
  for place, picture in enumerate(pictures):
    split, label = ('train', 'ba'[place % 2]) if place < 4 else ('test', 'a')
    path = folder / split / label / f'{place}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
  return folder


@pytest.mark.parametrize('pictures', [GREY, RGB])
def test_folders_of_classes(tmp_path, monkeypatch, pictures):
  folder = save(tmp_path / 'my data', pictures)
  (folder / '.DS_Store').write_text('')
  monkeypatch.setenv('HOME', str(tmp_path))
  found = data.load('folder:~/my data')
  wanted = pictures.reshape(6, 4, 5, -1)
  np.testing.assert_array_equal(found.train_inputs, wanted[[1, 3, 0, 2]])
  np.testing.assert_array_equal(found.test_inputs, wanted[4:])
  assert found.train_labels.tolist() == [0, 0, 1, 1]
  assert found.test_labels.tolist() == [0, 0]
  assert found.train_inputs.dtype == np.uint8
  assert found.classes == 2 and found.standardise
  assert not len(found.train_groups)
  assert data.version('folder:~/my data') == 'files'


def test_a_turned_picture_is_turned_back(tmp_path):
  folder = save(tmp_path, GREY[:, :, :4])
  path = folder / 'test' / 'a' / '5.png'
  exif = Image.Exif()
  exif[0x0112] = 3  # by half a turn
  Image.fromarray(GREY[5, ::-1, 3::-1]).save(path, exif=exif)
  found = data.load(f'folder:{folder}').test_inputs[1, ..., 0]
  np.testing.assert_array_equal(found, GREY[5, :, :4])


def write(path, picture):
  path.parent.mkdir(exist_ok=True)
  picture.save(path)


@pytest.mark.parametrize(
  'change,said',
  [
    (lambda f: (f / 'test/a/4.png').write_text('x'), 'test/a/4.png: is no pic'),
    (
      lambda f: (f / 'test/a/4.png').write_bytes(
        (f / 'test/a/4.png').read_bytes()[:60]
      ),
      'test/a/4.png: is no picture',
    ),
    (lambda f: (f / 'train/a/x.txt').write_text(''), 'train/a/x.txt: is no pi'),
    (lambda f: (f / 'train/c').mkdir(), 'train/c: is empty'),
    (lambda f: (f / 'train/c').write_text(''), 'train/c: is no folder'),
    (lambda f: (f / 'val').mkdir(), 'val: does not belong there'),
    (lambda f: (f / 'test').rename(f / '.test'), 'has no folder test: give'),
    (
      lambda f: write(f / 'test/c/0.png', Image.new('L', (5, 4))),
      'test/c: is no class',
    ),
    (
      lambda f: write(f / 'test/a/6.png', Image.new('L', (5, 6))),
      r'test/a/6.png: is \[6, 5, 1\], and .*train/a/1.png \[4, 5, 1\]',
    ),
    (
      lambda f: write(f / 'train/b/6.png', Image.new('RGB', (5, 4))),
      r'train/b/6.png: is \[4, 5, 3\], and',
    ),
    (
      lambda f: write(f / 'train/b/6.png', Image.new('RGBA', (5, 4))),
      r'train/b/6.png: is of mode RGBA: convert',
    ),
  ],
)
def test_files_that_are_no_pictures_of_a_class_are_named(
  tmp_path, change, said
):
  folder = save(tmp_path / 'd', GREY)
  change(folder)
  with pytest.raises(InputError, match=said) as error:
    data.load(f'folder:{folder}')
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  'name,said',
  [
    ('folder:', "dataset='folder:': needs a path"),
    ('folder:/nowhere', '/nowhere: is no folder that can be read'),
    ('folder:~nobody-here/x', 'dataset=.*nobody-here.* set it to a folder'),
    ('folder:a\0b', 'is no folder'),
    ('hf:', "dataset='hf:': needs a path"),
    ('hf:s3://x', "dataset='hf:s3://x': there is no such folder"),
    ('Folder:x', 'must be a name such as .* folder:PATH or hf:PATH'),
  ],
)
def test_paths_that_lead_nowhere(name, said):
  with pytest.raises(InputError, match=said):
    data.load(name)


def client(count, **changed):
  """The arrays of a file: `count` windows of training."""
  arrays = [
    RNG.randn(count, 8, 2),
    np.arange(count) % 3,
    RNG.randn(2, 8, 2),
    np.array([0, 1]),
  ]
  return dict(zip(NEEDED, arrays)) | changed


def save_clients(folder, *clients):
  """Files ann.npz, bob.npz and cy.npz."""
  folder.mkdir(exist_ok=True)
  for name, arrays in zip(('ann', 'bob', 'cy'), clients):
    np.savez(folder / f'{name}.npz', **arrays)
  return folder


def test_files_of_clients_make_a_dataset_and_a_partition(tmp_path):
  held = dict(validation_inputs=RNG.randn(1, 8, 2), validation_labels=[3])
  clients = client(5), client(1) | held, client(4)
  dataset, partition = data.from_folder(save_clients(tmp_path, *clients), 5)
  assert dataset.classes == 5 and not dataset.standardise
  splits = [
    Labelled(getattr(dataset, f'{split}_labels'), None)
    for split in ('train', 'test')
  ]
  shares = partition(None, splits[0], 0, None, splits[1])
  for k, given in enumerate(clients):
    for split, rows in zip(('train', 'test'), (shares.train, shares.test)):
      inputs = getattr(dataset, f'{split}_inputs')[rows[k]]
      labels = getattr(dataset, f'{split}_labels')[rows[k]]
      groups = getattr(dataset, f'{split}_groups')[rows[k]]
      np.testing.assert_array_equal(
        inputs, np.float32(given[f'{split}_inputs'])
      )
      np.testing.assert_array_equal(labels, given[f'{split}_labels'])
      assert set(groups) == {k}
  assert [len(rows) for rows in shares.validation] == [0, 1, 0]
  assert dataset.train_groups[shares.validation[1]] == 1
  with pytest.raises(InputError, match='bob.npz: has validation .*from_folder'):
    data.load(f'folder:{tmp_path}')


def test_a_run_in_which_a_file_is_a_client(shared, tmp_path):
  folder = save_clients(tmp_path / 'd', client(6), client(1), client(4))
  fields = dict(dataset=f'folder:{folder}', partition='natural', rounds=1)
  fields |= dict(num_clients=3, cohort=2, eval_every=1)
  config = small_config(algorithm='fedavg', **fields)
  assert experiment.title(config).startswith('fedavg on d: 3 clients')
  loaded = data.load(config.dataset)
  sizes = experiment.federate(config, loaded).train.size
  assert sorted(np.asarray(sizes)) == [1, 3, 5]  # a fifth is for validation
  (row,) = hns.run(config, tmp_path / 'run')
  assert row['round'] == 1


def test_groups_of_an_own_dataset_need_no_name(tmp_path, monkeypatch):
  dataset, _ = data.from_folder(save_clients(tmp_path, client(2), client(9)))
  monkeypatch.setitem(hns.DATASETS, 'own', lambda: dataset)
  fields = dict(dataset='own', partition='natural', num_clients=2, cohort=2)
  limits.validate(small_config(**fields))
  with pytest.raises(InputError, match="group='': partition=natural needs"):
    limits.validate(small_config(**fields | dict(dataset='hf:x')))


def test_bytes_of_clients_are_pictures(tmp_path):
  grey = lambda n: RNG.randint(0, 256, (n, 4, 4)).astype(np.uint8)
  given = client(5) | dict(train_inputs=grey(5), test_inputs=grey(2))
  found = data.load(f'folder:{save_clients(tmp_path, given)}')
  assert found.standardise and found.train_inputs.shape == (5, 4, 4, 1)
  plain, _ = data.from_folder(tmp_path, standardise=False)
  assert plain.train_inputs.dtype == np.int32 and plain.classes == 3


NAN = RNG.randn(5, 8, 2)
NAN[3, 1, 1] = np.nan


@pytest.mark.parametrize(
  'changed,said',
  [
    (dict(train_inputs=NAN), 'train of .*bob.npz: example 3 has NaN'),
    (
      dict(test_labels=np.array([0, 3])),
      r'test of .*bob.npz: labels\[1\]=.*: must be in 0..2',
    ),
    (
      dict(train_labels=np.array([0, 1, -1, 0, 1])),
      r'train of .*bob.npz: labels\[2\]=',
    ),
    (
      dict(train_labels=np.ones(5)),
      r'bob.npz: labels\[0\]=.*: must be a whole number',
    ),
    (dict(train_labels=np.ones(4, int)), r'bob.npz: .* labels \[4\]: give one'),
    (
      dict(test_inputs=np.zeros((0, 8, 2)), test_labels=np.zeros(0, int)),
      'test of .*bob.npz: has no examples',
    ),
    (
      dict(test_inputs=np.ones((2, 9, 2))),
      r'bob.npz: inputs are \[9, 2\] each, and \[8, 2\] at .*ann.npz',
    ),
    (dict(more=np.ones(2)), 'bob.npz: has arrays more, test_inputs, .*: give'),
    (dict(validation_inputs=np.ones(2)), 'bob.npz: has arrays .*: give it'),
    (dict(train_inputs=np.array([{}] * 5)), 'bob.npz: cannot be read .*pickle'),
    ('', 'bob.npz: cannot be read'),
  ],
)
def test_the_file_and_the_example_of_a_client_are_named(
  tmp_path, changed, said
):
  other = client(5) | (changed or {})
  save_clients(tmp_path, client(3), other)
  if not changed:
    path = tmp_path / 'bob.npz'
    path.write_bytes(path.read_bytes()[:-90])
  with pytest.raises(InputError, match=said) as error:
    data.from_folder(tmp_path, 3)
  assert '\n' not in str(error.value)


def test_folders_have_no_features_and_no_other_files(tmp_path):
  save_clients(tmp_path, client(3))
  with pytest.raises(InputError, match="inputs='x': .* no named features"):
    data.load(f'folder:{tmp_path}', inputs='x')
  (tmp_path / 'about.txt').write_text('')
  with pytest.raises(InputError, match='about.txt: only NAME.npz is read'):
    data.load(f'folder:{tmp_path}')


def test_names_of_paths_are_their_last_part():
  assert names.short('folder:/a/my data/') == 'my data'
  assert names.short('hf:x') == 'x' and names.short('emnist/a') == 'emnist/a'
  sets = ['folder:/a/x', 'hf:/b/x', 'hf:/b/y', 'mnist', 'folder:/c/mnist']
  found = settings_of([dict(dataset=x, num_clients=2) for x in sets])
  told = [line.removesuffix(', 2 clients') for line in found]
  assert told == ['folder:/a/x', 'hf:/b/x', 'y', 'mnist', 'folder:/c/mnist']
