"""Writes files completely or not at all, also when the power fails."""

import contextlib
import hashlib
import io
import os
import pathlib
from collections.abc import Iterator
from typing import BinaryIO


class Hashed(io.RawIOBase):
  """A file that computes the SHA-256 of what is written; it cannot seek."""

  def __init__(self, file: BinaryIO):
    self.file, self.sha = file, hashlib.sha256()

  def writable(self) -> bool:
    return True

  def write(self, data: bytes) -> int:
    self.sha.update(data)
    return self.file.write(data)


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[Hashed]:
  """Yields a new file, and flushes it to the disk at the end."""
  with open(path, 'wb') as file:
    yield Hashed(file)
    file.flush()
    os.fsync(file.fileno())


def sync_folder(path: pathlib.Path) -> None:
  """Flushes the names in a folder to the disk."""
  with contextlib.suppress(OSError):  # some network folders cannot
    folder = os.open(path, os.O_RDONLY)
    try:
      os.fsync(folder)
    finally:
      os.close(folder)


def replace(path: pathlib.Path, content: bytes) -> None:
  """Replaces a file; on an `OSError` the old one is unchanged."""
  part = path.with_name(f'{path.name}.part')
  try:
    with writing(part) as file:
      file.write(content)
    os.replace(part, path)
  except OSError:
    with contextlib.suppress(OSError):
      part.unlink()
    raise
  sync_folder(path.parent)


def digest(path: pathlib.Path) -> str:
  """SHA-256 of a file, read from the disk where the system allows it."""
  with path.open('rb') as file:
    if hasattr(os, 'posix_fadvise'):
      os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return hashlib.file_digest(file, 'sha256').hexdigest()
