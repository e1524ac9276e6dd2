"""A run's folder: its config, its metrics, its checkpoints, its picture.

Nothing that was written is lost: a folder of another config is refused, an
unfinished run goes on, and one process at a time writes.
"""

import contextlib
import fcntl
import io
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any, TextIO

from hns import durable
from hns.errors import invalid
from hns.report import files, pictures
from hns.runs import checkpoint, devices, identity
from hns.runs.checkpoint import Progress

# What a run's folder holds, and how to tell that it is that.
_PARTS = {
  'checkpoints': os.path.isdir,
  'metrics.jsonl': os.path.isfile,
  'config.json': os.path.isfile,
  'accuracy.png': os.path.isfile,
}


def check(config: dict[str, Any], workdir: pathlib.Path) -> None:
  """Raises `InputError` if no run of this config can be in the folder.

  It cannot be a folder, or holds a run of another config.
  """
  _check_path(workdir, config['rounds'])
  told = _told(workdir)
  for path, there in told.items():
    differing = identity.differing(there['config'], config)
    if differing:
      raise invalid(
        'workdir',
        str(workdir),
        f'holds a run of another config ({"; ".join(differing)} in '
        f'{path.relative_to(workdir)}): give another folder',
      )
  if not told and rows(workdir):
    raise invalid(
      'workdir',
      str(workdir),
      'holds the metrics of a run without its config.json: put it back, or '
      'give another folder',
    )


def _check_path(workdir: pathlib.Path, last: int) -> None:
  """Raises `InputError` if the file system takes no such names."""
  longest = checkpoint.longest(checkpoints(workdir), last)
  base = _existing(longest)
  names = longest.absolute().relative_to(base).parts
  try:
    for path in [longest, *(base / name for name in names)]:
      with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        os.lstat(path)
  # ValueError: a character that no file system takes.
  except (OSError, ValueError) as error:
    cause = getattr(error, 'strerror', None) or error
    remedy = f'cannot be a folder ({cause}): give another'
    raise invalid('workdir', str(workdir), remedy) from error


def check_writable(workdir: pathlib.Path) -> None:
  """Raises `InputError` if the folder could not be made or written."""
  for name, is_right in _PARTS.items():
    path = workdir / name
    if os.path.lexists(path) and not is_right(path):
      remedy = f'{name} there is something else: move it, or give another'
      raise invalid('workdir', str(workdir), remedy)
  base = _existing(workdir)
  if not base.is_dir() or not os.access(base, os.W_OK | os.X_OK):
    cause = 'may not be written' if base.is_dir() else 'is not a folder'
    remedy = f'cannot be written ({base} {cause}): give another folder'
    raise invalid('workdir', str(workdir), remedy)


def _existing(path: pathlib.Path) -> pathlib.Path:
  """The path, or the nearest folder above it that is there."""
  try:
    path = path.absolute()
  except OSError as error:  # the folder that we are in was removed
    remedy = f'the current folder cannot be told ({error.strerror})'
    raise invalid('workdir', str(path), remedy) from error
  return next(p for p in (path, *path.parents) if os.path.lexists(p))


def _told(workdir: pathlib.Path) -> dict[pathlib.Path, dict[str, Any]]:
  """What config.json says of its run; without it what checkpoints say.

  Returns: by paths.
  """
  about = files.about(workdir)
  if about is None:
    return checkpoint.abouts(checkpoints(workdir))
  return {workdir / 'config.json': about}


def check_shared(found: int, workdir: pathlib.Path) -> None:
  """Raises `InputError` unless all processes of a run found the same there."""
  if len(set(devices.gather(found))) > 1:
    remedy = 'is not one folder for all processes'
    raise invalid('workdir', str(workdir), remedy)


def rows(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """The metrics written so far; [] for a new folder."""
  return files.read(workdir)


def complete(last: int, workdir: pathlib.Path) -> bool:
  """Whether a run is there and has done its last round."""
  found = rows(workdir)
  there = (workdir / 'config.json').exists()
  return there and bool(found) and found[-1]['round'] == last


@contextlib.contextmanager
def writing(workdir: pathlib.Path) -> Iterator[None]:
  """Makes an `InputError` of what a full or read-only disk raises."""
  try:
    yield
  except OSError as error:
    raise invalid(
      'workdir',
      str(workdir),
      f'cannot be written ({error.strerror or error}): make room or give '
      'another folder; what is there stays, and the same command goes on',
    ) from error


@contextlib.contextmanager
def claim(workdir: pathlib.Path) -> Iterator[TextIO]:
  """Opens `metrics.jsonl` to append, for the first process of one run.

  The operating system frees a folder whose process was killed. The other
  processes of the run get a file that keeps nothing.

  Raises:
    InputError: another run is writing there, or the folder cannot be written;
      in all processes.
  """
  with contextlib.ExitStack() as opened:
    with devices.together():
      file = opened.enter_context(_claimed(workdir))
    yield file


@contextlib.contextmanager
def _claimed(workdir: pathlib.Path) -> Iterator[TextIO]:
  if not devices.is_first():
    with open(os.devnull, 'a') as file:
      yield file
    return
  with writing(workdir):
    workdir.mkdir(parents=True, exist_ok=True)
    file = (workdir / 'metrics.jsonl').open('a')
  try:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise invalid(
        'workdir',
        str(workdir),
        'another run is writing there: wait for its end, or give another '
        'folder',
      ) from error
    except OSError:
      pass  # some network folders cannot be locked
    yield file
  finally:
    # Closing writes what a full disk did not take, and fails once more.
    with writing(workdir):
      file.close()


def check_there(workdir: pathlib.Path, file: TextIO) -> None:
  """Raises `InputError` if the file is no longer the folder's metrics.jsonl."""
  if file.name == os.devnull:
    return
  try:
    found = os.stat(workdir / 'metrics.jsonl')
  except OSError:
    found = None
  if found is None or not os.path.samestat(found, os.fstat(file.fileno())):
    raise invalid(
      'workdir',
      str(workdir),
      'was removed, renamed or replaced while its run was writing: the run has '
      'stopped; put the folder back, and the same command goes on from its '
      'last checkpoint',
    )


def start(here: dict[str, Any], workdir: pathlib.Path) -> None:
  """Writes `config.json` in the first process.

  Args:
    here: what it is to say.
    workdir: the run's folder.

  Raises:
    InputError: the folder holds an unfinished run that would go on with other
      numbers: of another config, version, dataset or device, or that began
      with other weights; or a checkpoint there is of such a run.
  """
  abouts = checkpoint.abouts(checkpoints(workdir))
  if rows(workdir) or checkpoint.numbers(checkpoints(workdir)):
    abouts |= _told(workdir)
  for path, there in abouts.items():
    differing = identity.unlike(there, here)
    if differing:
      raise invalid(
        'workdir',
        str(workdir),
        f'holds an unfinished run, which cannot go on exactly: '
        f'{"; ".join(differing)} (in {path.relative_to(workdir)}); go back to '
        'that, or give another folder',
      )
  if devices.is_first():
    content = json.dumps(here, indent=2) + '\n'
    with writing(workdir):
      durable.replace(workdir / 'config.json', content.encode())


def checkpoints(workdir: pathlib.Path) -> pathlib.Path:
  """Where a run's checkpoints are."""
  return workdir / 'checkpoints'


def cut(workdir: pathlib.Path, file: TextIO, last: int) -> list[dict[str, Any]]:
  """Cuts metrics off after the row of round `last`; returns those left.

  Args:
    workdir: the run's folder.
    file: from `claim`.
    last: an evaluated round, or 0.

  Raises:
    InputError: rows that were there are not.
  """
  kept = [row for row in rows(workdir) if row['round'] <= last]
  if last and (not kept or kept[-1]['round'] != last):
    raise invalid(
      'workdir',
      str(workdir),
      f'metrics.jsonl has lost the row of round {last}: put it back, or remove '
      'the folder to start over',
    )
  if devices.is_first():
    lines = (workdir / 'metrics.jsonl').read_bytes().split(b'\n')
    file.truncate(sum(len(line) + 1 for line in lines[: len(kept)]))
  return kept


def draw(title: str, workdir: pathlib.Path, anew: bool) -> None:
  """Draws `accuracy.png` from the metrics, `anew` or if it is not there.

  Raises:
    InputError: it cannot be written; all else is there.
  """
  path = workdir / 'accuracy.png'
  if not anew and path.exists():
    return
  picture = io.BytesIO()
  pictures.one_run(rows(workdir), title).savefig(picture, dpi=130, format='png')
  try:
    durable.replace(path, picture.getvalue())
  except OSError as error:
    raise invalid(
      'workdir',
      str(workdir),
      'the run is complete and saved, but accuracy.png cannot be written '
      f'({error.strerror or error}): make room, and the same command draws it',
    ) from error


def load(workdir: pathlib.Path, like: Progress, last: int) -> Progress:
  """Where a run is after its last round.

  Args:
    workdir: the run's folder.
    like: any progress of the run.
    last: its number of rounds.

  Raises:
    InputError: the run is not finished, or the checkpoint is another run's.
  """
  here = files.about(workdir)
  for path, there in checkpoint.abouts(checkpoints(workdir)).items():
    differing = (
      identity.unlike(there, here) if here else ['config.json is missing']
    )
    if differing:
      raise invalid(
        'workdir',
        str(workdir),
        f'{path.relative_to(workdir)} is of another run '
        f'({"; ".join(differing)}): remove it',
      )
  found = checkpoint.restore(checkpoints(workdir), like)
  if found is None or int(found.state.round) != last:
    raise invalid('workdir', str(workdir), 'the run has not finished')
  return found
