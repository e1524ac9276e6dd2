"""Whether a run's folder can be made and written, before anything is built."""

import contextlib
import os
import pathlib

from hns.errors import InputError, invalid
from hns.runs import checkpoint

# What a run's folder contains, and the test that each must pass.
_PARTS = {
  'checkpoints': os.path.isdir,
  'metrics.jsonl': os.path.isfile,
  'config.json': os.path.isfile,
  'accuracy.png': os.path.isfile,
}


def refused(workdir: pathlib.Path, reason: str) -> InputError:
  """The error for a run's folder that cannot be used."""
  return invalid('workdir', str(workdir), reason)


def checkpoints(workdir: pathlib.Path) -> pathlib.Path:
  """The folder of a run's checkpoints."""
  return workdir / 'checkpoints'


def check_names(workdir: pathlib.Path, last: int) -> None:
  """Raises `InputError` if the file system does not allow the run's paths.

  Args:
    workdir: the run's folder, which need not exist.
    last: the run's number of rounds, part of the longest path.
  """
  longest = checkpoint.longest(checkpoints(workdir), last)
  base = _existing(longest)
  names = longest.absolute().relative_to(base).parts
  try:
    for path in [longest, *(base / name for name in names)]:
      with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        os.lstat(path)
  # ValueError: a character that no file system allows.
  except (OSError, ValueError) as error:
    cause = getattr(error, 'strerror', None) or error
    reason = f'cannot be a folder ({cause}): give another'
    raise refused(workdir, reason) from error


def check_writable(workdir: pathlib.Path) -> None:
  """Raises `InputError` if the folder could not be made or written."""
  for name, is_right in _PARTS.items():
    path = workdir / name
    if os.path.lexists(path) and not is_right(path):
      reason = f'{name} there is something else: move it, or give another'
      raise refused(workdir, reason)
  base = _existing(workdir)
  if not base.is_dir() or not os.access(base, os.W_OK | os.X_OK):
    cause = 'may not be written' if base.is_dir() else 'is not a folder'
    reason = f'cannot be written ({base} {cause}): give another folder'
    raise refused(workdir, reason)


def _existing(path: pathlib.Path) -> pathlib.Path:
  """The path, or the nearest folder above it that exists."""
  try:
    path = path.absolute()
  except OSError as error:  # the current folder was removed
    reason = f'the current folder is not known ({error.strerror})'
    raise refused(path, reason) from error
  return next(p for p in (path, *path.parents) if os.path.lexists(p))
