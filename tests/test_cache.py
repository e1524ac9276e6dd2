"""What is made once is kept whole, or made again, and never in the way."""

import errno
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from hns.data import cache

ARRAYS = {
  'pictures': np.arange(200, dtype=np.uint8),
  'labels': np.int32([3, 1]),
}


def same(found):
  assert found.keys() == ARRAYS.keys()
  for name, array in ARRAYS.items():
    np.testing.assert_array_equal(found[name], array)
    assert found[name].dtype == array.dtype
  return True


@pytest.fixture
def path(tmp_path):
  """A file that holds the arrays."""
  path = tmp_path / 'kept' / 'arrays-01.npz'
  assert same(cache.cached(path, lambda: ARRAYS))
  return path


def never():
  raise AssertionError('made again')


def test_what_is_kept_is_not_made_again(path, capsys):
  assert same(cache.cached(path, never)) and capsys.readouterr().err == ''
  with np.load(path) as arrays:
    assert same(dict(arrays))


def test_every_flipped_bit_is_noticed(path):
  whole = path.read_bytes()
  for place in range(len(whole)):
    damaged = bytearray(whole)
    damaged[place] ^= 1 << place % 8
    path.write_bytes(damaged)
    with pytest.raises(cache._Damaged):
      cache._read(path)


@pytest.mark.parametrize(
  'damage',
  [
    lambda whole: b'',
    lambda whole: whole[:20],
    lambda whole: whole[:-1],
    lambda whole: whole[: len(whole) // 2],
    lambda whole: whole + b'\0',
    lambda whole: bytes(len(whole)),
    lambda whole: whole[:-32],  # as earlier versions wrote it
  ],
)
def test_a_damaged_file_is_said_once_and_written_again(path, damage, capsys):
  whole = path.read_bytes()
  path.write_bytes(damage(whole))
  assert same(cache.cached(path, lambda: ARRAYS))
  said = capsys.readouterr().err
  assert (
    said.count('\n') == 1 and f'hns: {path} cannot be used (damaged' in said
  )
  assert same(cache.cached(path, never)) and capsys.readouterr().err == ''


@pytest.mark.parametrize('where', ['file/kept', '/proc/hns', '/dev/null'])
def test_a_folder_that_cannot_be_written_is_done_without(
  tmp_path, where, capsys
):
  (tmp_path / 'file').write_text('')
  path = tmp_path / where / 'arrays.npz'
  assert same(cache.cached(path, lambda: ARRAYS))
  said = capsys.readouterr().err
  assert said.count('\n') == 1 and 'set HNS_CACHE_DIR to another folder' in said
  assert f'hns: {path} cannot be written (' in said


def test_a_folder_in_place_of_the_file_is_done_without(path, capsys):
  path.unlink()
  path.mkdir()
  assert same(cache.cached(path, lambda: ARRAYS))
  assert capsys.readouterr().err.count('\n') == 1
  assert os.listdir(path.parent) == [path.name]


def test_a_full_disk_is_done_without(path, monkeypatch, capsys):
  def full(file, **arrays):
    file.write(b'PK')
    raise OSError(errno.ENOSPC, 'No space left on device')

  path.write_bytes(b'damaged')
  monkeypatch.setattr(np, 'savez', full)
  assert same(cache.cached(path, lambda: ARRAYS))
  said = capsys.readouterr().err
  assert said.count('\n') == 1 and 'written (No space left on device)' in said
  assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize('mask,mode', [(0o022, 0o644), (0o002, 0o664)])
def test_a_group_can_read_it(tmp_path, mask, mode):
  before = os.umask(mask)
  try:
    cache.cached(tmp_path / 'arrays.npz', lambda: ARRAYS)
  finally:
    os.umask(before)
  assert (tmp_path / 'arrays.npz').stat().st_mode & 0o777 == mode


KILLED = """
import os, pathlib, sys
import numpy as np
from hns.data import cache

np.savez = lambda file, **arrays: (file.write(b'PK'), os._exit(9))
cache.cached(pathlib.Path(sys.argv[1]), lambda: dict(a=np.zeros(9)))
"""


def test_killed_writers_leave_nothing_for_long(path):
  path.unlink()
  mine = path.with_name('notes.part')
  mine.write_text('not ours')
  for _ in range(2):
    assert subprocess.run([sys.executable, '-c', KILLED, path]).returncode == 9
    assert len(os.listdir(path.parent)) == 2
  assert same(cache.cached(path, lambda: ARRAYS))
  assert sorted(os.listdir(path.parent)) == sorted([path.name, mine.name])


def test_another_writer_is_left_alone(path):
  path.unlink()
  other = path.with_name(f'{path.name}.{os.getppid()}.0123abcd.part')
  other.write_bytes(b'PK')
  assert same(cache.cached(path, lambda: ARRAYS))
  assert other.exists() and pathlib.Path(path).exists()


def test_errors_of_what_makes_them_are_its_own(path):
  path.write_bytes(b'')
  with pytest.raises(AssertionError, match='made again'):
    cache.cached(path, never)
