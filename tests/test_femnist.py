"""LEAF's JSON files become the dataset that `configs/femnist.py` reads."""

import json

import numpy as np
import pytest
from conftest import read_config

from hns import data
from hns.data import femnist
from hns.errors import InputError
from hns.runs import experiment

WRITERS = {'ada': 20, 'bob': 11, 'cy': 2, 'dee': 1}


def rows(name):
  """A writer's pictures: the first pixel is its number, the second grey."""
  x = np.ones((WRITERS[name], 784))
  x[:, 0] = np.arange(len(x)) / 255
  x[:, 1] = 0.5
  return x.tolist()


def content(*names):
  """What a file of LEAF holds; labels are 61, 60, ..."""
  held = {
    name: {'x': rows(name), 'y': [61 - i for i in range(WRITERS[name])]}
    for name in names
  }
  counts = [WRITERS[name] for name in names]
  return {'users': list(names), 'num_samples': counts, 'user_data': held}


@pytest.fixture
def leaf(tmp_path, monkeypatch):
  """A folder of two files, and nothing prepared yet."""
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'tfds'))
  monkeypatch.setenv('HNS_CACHE_DIR', str(tmp_path / 'cache'))
  folder = tmp_path / 'leaf'
  folder.mkdir()
  for i, names in enumerate((('ada', 'bob'), ('cy', 'dee'))):
    path = folder / f'all_data_{i}.json'
    path.write_text(json.dumps(content(*names)))
  return folder


def left(folder):
  """Files that were left in the data folder."""
  return [p for p in folder.parent.glob('tfds/**/*') if p.is_file()]


def test_leaf_files_become_the_dataset_the_config_reads(leaf):
  assert femnist.prepare(leaf, data.data_dir()).name == '1.0.0'
  got = data.load('femnist', 'writer')
  assert got.train_inputs.shape == (18 + 9 + 1 + 1, 28, 28, 1)
  assert got.test_inputs.shape == (2 + 2 + 1, 28, 28, 1)
  assert got.train_inputs.dtype == np.uint8 and got.classes == 62
  images = np.concatenate([got.train_inputs, got.test_inputs])[..., 0]
  labels = np.concatenate([got.train_labels, got.test_labels])
  groups = np.concatenate([got.train_groups, got.test_groups])
  number = images[:, 0, 0]
  np.testing.assert_array_equal(labels, 61 - number.astype(int))
  for group, count in enumerate(WRITERS.values()):  # each once, in one split
    mine = np.sort(number[groups == group])
    np.testing.assert_array_equal(mine, np.arange(count))
  assert np.all(images[:, 0, 1] == 128) and np.all(images[:, 1:] == 255)
  assert sorted(got.test_groups) == [0, 0, 1, 1, 2]

  config = read_config('femnist')
  config.update(num_clients=3, cohort=3, validation_fraction=0.0)
  shares = experiment.federate(config, got)
  assert sorted(np.asarray(shares.train.size)) == [1, 9, 18]
  assert sorted(np.asarray(shares.test.size)) == [1, 2, 2]


def test_the_split_is_the_writers_own(leaf, tmp_path):
  """Whatever else is prepared: in another file, alone, on another day."""
  femnist.prepare(leaf, data.data_dir())
  both = data.load('femnist', 'writer')
  (leaf / 'all_data_1.json').unlink()
  (leaf / 'all_data_0.json').write_text(json.dumps(content('bob')))
  femnist.prepare(leaf, tmp_path / 'alone')
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('TFDS_DATA_DIR', str(tmp_path / 'alone'))
    alone = data.load('femnist', 'writer')
  bob = both.test_labels[both.test_groups == 1]
  np.testing.assert_array_equal(np.sort(bob), np.sort(alone.test_labels))
  assert femnist.split_order('bob', 11)[0].tolist() != list(range(11))


def test_prepared_twice_leaves_the_first_alone(leaf):
  home = femnist.prepare(leaf, data.data_dir())
  before = {path: path.stat().st_mtime_ns for path in home.iterdir()}
  (leaf / 'all_data_1.json').write_text('{')
  assert femnist.prepare(leaf, data.data_dir()) == home
  assert {p: p.stat().st_mtime_ns for p in home.iterdir()} == before


def at(*path):
  """A change: the value at a path of the second file becomes another one."""

  def change(held, value):
    for step in path[:-1]:
      held = held[step]
    held[path[-1]] = value

  return change


CY = 'user_data', 'cy'


@pytest.mark.parametrize(
  'change,value,said',
  [
    (at(*CY, 'x', 1), [1.0] * 783, r'writer cy x\[1\] has 783 numbers, not'),
    (at(*CY, 'x', 0), 0.5, r'writer cy x\[0\] has no numbers'),
    (at(*CY, 'x', 1, 5), 1.5, r'writer cy x\[1\] holds something else'),
    (at(*CY, 'x', 1, 5), float('nan'), r'writer cy x\[1\] holds something'),
    (at(*CY, 'x', 1, 5), 10**400, r'writer cy x\[1\] holds something'),
    (at(*CY, 'x', 1, 5), [], r'writer cy x\[1\] holds something else'),
    (at(*CY, 'x', 1, 5), 'ink', r'writer cy x\[1\] holds something else'),
    (at(*CY, 'y'), None, 'writer cy has no list y'),
    (at(*CY), {'y': [1, 2]}, 'writer cy has no list x'),
    (at(*CY, 'y'), [1], 'writer cy num_samples says 2, y holds 1'),
    (at(*CY, 'y', 1), 62, r'writer cy y\[1\] is 62, not 0 to 61'),
    (at(*CY, 'y', 0), '7', r"writer cy y\[0\] is '7', not 0 to 61"),
    (at('num_samples', 0), 3, 'writer cy num_samples says 3, x holds 2'),
    (at('num_samples'), [2], 'has 2 users but 1 num_samples'),
    (at('num_samples'), None, 'has no list num_samples'),
    (at('users', 0), 'eve', 'writer cy is in user_data but not in users'),
    (at(*CY), [], 'writer cy is in users but not in user_data'),
    (at('users'), ['cy', 'cy', 'dee'], 'has 3 users but 2 num_samples'),
    (at('user_data'), [], 'has no dict user_data'),
  ],
)
def test_a_broken_file_is_named_with_its_writer(leaf, change, value, said):
  held = content('cy', 'dee')
  change(held, value)
  (leaf / 'all_data_1.json').write_text(json.dumps(held))
  with pytest.raises(InputError, match=f"all_data_1.json': {said}") as error:
    femnist.prepare(leaf, data.data_dir())
  assert '\n' not in str(error.value) and not left(leaf)


@pytest.mark.parametrize(
  'keep,where', [(0.005, 'somewhere'), (0.5, 'writer cy'), (0.9, 'writer dee')]
)
def test_a_file_cut_off_is_named_with_its_writer(leaf, keep, where):
  path = leaf / 'all_data_1.json'
  text = path.read_text()
  path.write_text(text[: int(keep * len(text))])
  with pytest.raises(
    InputError, match=f'_1.json.*cut off or damaged.* {where}'
  ):
    femnist.prepare(leaf, data.data_dir())
  assert not left(leaf)


def test_files_that_are_not_leaf_s_are_refused(leaf):
  path = leaf / 'all_data_1.json'
  path.write_bytes(b'\xff\xfe\x00')
  with pytest.raises(InputError, match='all_data_1.json.*damaged'):
    femnist.prepare(leaf, data.data_dir())
  path.write_text('[' * 100_000)
  with pytest.raises(InputError, match='all_data_1.json.*damaged'):
    femnist.prepare(leaf, data.data_dir())
  path.write_text('[]')
  with pytest.raises(InputError, match='all_data_1.json.*has no list users'):
    femnist.prepare(leaf, data.data_dir())
  path.write_text(json.dumps(content('cy', 'ada')))
  with pytest.raises(InputError, match='writer ada is in all_data_0.json'):
    femnist.prepare(leaf, data.data_dir())
  (leaf / 'all_data_0.json').unlink()
  path.write_text(json.dumps(content('dee')))
  with pytest.raises(InputError, match='no writer has two pictures'):
    femnist.prepare(leaf, data.data_dir())
  path.unlink()
  with pytest.raises(InputError, match=r'leaf.: holds no \*.json'):
    femnist.prepare(leaf, data.data_dir())
  assert not left(leaf)


def test_the_command_says_where_it_is(leaf, capsys):
  command = ['femnist', f'--json={leaf}', f'--data_dir={leaf.parent / "here"}']
  femnist.main(command)
  home = leaf.parent / 'here' / 'femnist' / '1.0.0'
  assert capsys.readouterr().out.strip().endswith(str(home)) and home.exists()
  with pytest.raises(SystemExit, match='^hns: json=.*/not.: holds no'):
    femnist.main(['femnist', f'--json={leaf}/not'])
