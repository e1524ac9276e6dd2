"""Arrays that are computed once and cached in a file."""

import contextlib
import hashlib
import os
import pathlib
import re
import secrets
import sys
from collections.abc import Callable
from typing import BinaryIO

import numpy as np

Arrays = dict[str, np.ndarray]
_DIGEST = hashlib.sha256().digest_size
_PART = re.compile(r'\.npz\.([0-9]{1,9})\.[0-9a-f]{8}\.part$')


def cached(path: pathlib.Path, make: Callable[[], Arrays]) -> Arrays:
  """The arrays of a file, or those of `make()`, which are then written to it.

  A damaged file is replaced. That, and a file that cannot be written, is
  reported on stderr. The file is an .npz followed by its SHA-256.

  Args:
    path: the file.
    make: computes the arrays.
  """
  trouble = ''
  try:
    return _read(path)
  except (FileNotFoundError, NotADirectoryError):
    pass
  except (OSError, _Damaged) as error:
    trouble = f'{path} cannot be used ({error}): it is made again'
  arrays = make()
  try:
    _write(path, arrays)
  except OSError as error:
    trouble = (
      f'{path} cannot be written ({error.strerror or error}): the dataset is '
      'not cached; set HNS_CACHE_DIR to another folder'
    )
  if trouble:
    print(f'hns: {trouble}', file=sys.stderr)
  return arrays


class _Damaged(Exception):
  """A file does not hold what was written."""


def _read(path: pathlib.Path) -> Arrays:
  with open(path, 'rb') as file:
    size = file.seek(0, os.SEEK_END) - _DIGEST
    if size < 0 or _digest(file, size) != file.read():
      raise _Damaged('damaged, or written by another version')
    file.seek(0)
    with np.load(file) as arrays:
      return {name: arrays[name] for name in arrays}


def _write(path: pathlib.Path, arrays: Arrays) -> None:
  """Writes to another name first, so that a reader never sees half a file."""
  path.parent.mkdir(parents=True, exist_ok=True)
  _remove_stale(path.parent)
  part = path.with_name(
    f'{path.name}.{os.getpid()}.{secrets.token_hex(4)}.part'
  )
  try:
    with open(part, 'xb+') as file:  # not tempfile, which ignores the umask
      np.savez(file, **arrays)
      file.write(_digest(file, file.seek(0, os.SEEK_END)))
    os.replace(part, path)
  finally:
    with contextlib.suppress(OSError):
      part.unlink(missing_ok=True)


def _digest(file: BinaryIO, size: int) -> bytes:
  """SHA-256 of the first `size` bytes; moves the file's position after them."""
  file.seek(0)
  total = hashlib.sha256()
  while size and (part := file.read(min(size, 1 << 20))):
    total.update(part)
    size -= len(part)
  return total.digest()


def _remove_stale(folder: pathlib.Path) -> None:
  """Removes partly written files of processes that no longer run."""
  for part in folder.glob('*.part'):
    match = _PART.search(part.name)
    if match and not _is_running(int(match[1])):
      with contextlib.suppress(OSError):
        part.unlink()


def _is_running(process: int) -> bool:
  """Whether another process of that number runs on this machine."""
  try:
    os.kill(process, 0)
  except ProcessLookupError:
    return False
  except PermissionError:
    pass
  return process != os.getpid()
