"""Arrays that are made once and kept in a file, where one can be written."""

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
  """The arrays of a file, or `make()`, which is kept there.

  A damaged file is written again, and one that cannot be written is done
  without: both are said on stderr. The file is an .npz with its SHA-256 behind.
  """
  trouble = ''
  try:
    return _read(path)
  except (FileNotFoundError, NotADirectoryError):
    pass
  except (OSError, _Damaged) as error:
    trouble = f'{path} is of no use ({error}): it is made again'
  arrays = make()
  try:
    _write(path, arrays)
  except OSError as error:
    trouble = (
      f'{path} cannot be written ({error.strerror or error}): what it would '
      'hold is not kept; set HNS_CACHE_DIR to another folder'
    )
  if trouble:
    print(f'hns: {trouble}', file=sys.stderr)
  return arrays


class _Damaged(Exception):
  """A file is not what was written."""


def _read(path: pathlib.Path) -> Arrays:
  with open(path, 'rb') as file:
    size = file.seek(0, os.SEEK_END) - _DIGEST
    if size < 0 or _digest(file, size) != file.read():
      raise _Damaged('damaged, or written by another version')
    file.seek(0)
    with np.load(file) as arrays:
      return {name: arrays[name] for name in arrays}


def _write(path: pathlib.Path, arrays: Arrays) -> None:
  """Writes beside `path` first, so that a reader never sees half a file."""
  path.parent.mkdir(parents=True, exist_ok=True)
  _clear(path.parent)
  part = path.with_name(
    f'{path.name}.{os.getpid()}.{secrets.token_hex(4)}.part'
  )
  try:
    with open(part, 'xb+') as file:  # with the rights that the umask leaves
      np.savez(file, **arrays)
      file.write(_digest(file, file.seek(0, os.SEEK_END)))
    os.replace(part, path)
  finally:
    with contextlib.suppress(OSError):
      part.unlink(missing_ok=True)


def _digest(file: BinaryIO, size: int) -> bytes:
  """SHA-256 of the first `size` bytes; the file is left behind them."""
  file.seek(0)
  total = hashlib.sha256()
  while size and (part := file.read(min(size, 1 << 20))):
    total.update(part)
    size -= len(part)
  return total.digest()


def _clear(folder: pathlib.Path) -> None:
  """Removes what processes left that were killed while they wrote."""
  for part in folder.glob('*.part'):
    named = _PART.search(part.name)
    if named and not _lives(int(named[1])):
      with contextlib.suppress(OSError):
        part.unlink()


def _lives(process: int) -> bool:
  """Whether another process of that number runs here."""
  try:
    os.kill(process, 0)
  except ProcessLookupError:
    return False
  except PermissionError:
    pass
  return process != os.getpid()
