"""A run's folder: its config, its metrics, its checkpoints, its picture.

The folder of a run with another config is refused, an unfinished run is
continued, and only one process writes at a time.
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
from hns.report import files
from hns.report.files import Row, RunInfo
from hns.runs import checkpoint, devices, identity
from hns.runs.paths import check_names, checkpoints, refused
from hns.runs.progress import Progress


def check(config: dict[str, Any], workdir: pathlib.Path) -> None:
  """Raises `InputError` if a run of this config cannot be in the folder.

  Either the path cannot be a folder, or it holds a run of another config.
  """
  check_names(workdir, config['rounds'])
  stored = _stored_run_infos(workdir)
  for path, there in stored.items():
    differing = identity.config_differences(there['config'], config)
    if differing:
      raise refused(
        workdir,
        f'holds a run of another config ({"; ".join(differing)} in '
        f'{path.relative_to(workdir)}): give another folder',
      )
  if not stored and files.read(workdir):
    raise refused(
      workdir,
      'holds the metrics of a run without its config.json: put it back, or '
      'give another folder',
    )


def _stored_run_infos(workdir: pathlib.Path) -> dict[pathlib.Path, RunInfo]:
  """By path, the content of config.json or, without it, of the checkpoints."""
  run_info = files.read_run_info(workdir)
  if run_info is None:
    return checkpoint.run_infos(checkpoints(workdir))
  return {workdir / 'config.json': run_info}


def check_same_for_all(number: int, workdir: pathlib.Path) -> None:
  """Raises `InputError` unless all processes of a run read the same number."""
  if len(set(devices.gather(number))) > 1:
    raise refused(workdir, 'is not one folder for all processes')


def is_complete(last: int, workdir: pathlib.Path) -> bool:
  """Whether the folder holds a run that has done round `last`."""
  rows = files.read(workdir)
  has_config = (workdir / 'config.json').exists()
  return has_config and bool(rows) and rows[-1]['round'] == last


@contextlib.contextmanager
def writing(workdir: pathlib.Path) -> Iterator[None]:
  """Turns the `OSError` of a full or read-only disk into an `InputError`."""
  try:
    yield
  except OSError as error:
    raise refused(
      workdir,
      f'cannot be written ({error.strerror or error}): make room or give '
      'another folder; what is there stays, and the same command goes on',
    ) from error


@contextlib.contextmanager
def claim(workdir: pathlib.Path) -> Iterator[TextIO]:
  """Opens `metrics.jsonl` to append, locked by the run's first process.

  The operating system releases the lock of a killed process. The other
  processes of the run get the null device.

  Raises:
    InputError: another run is writing there, or the folder cannot be written;
      in all processes.
  """
  with contextlib.ExitStack() as stack:
    with devices.fail_together():
      file = stack.enter_context(_claimed(workdir))
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
      reason = 'another run is writing there: wait for its end, or give '
      raise refused(workdir, f'{reason}another folder') from error
    except OSError:
      pass  # some network folders cannot be locked
    yield file
  finally:
    # Closing tries again to write what did not fit on a full disk.
    with writing(workdir):
      file.close()


def check_not_replaced(workdir: pathlib.Path, file: TextIO) -> None:
  """Raises `InputError` unless the file is still the folder's metrics.jsonl."""
  if file.name == os.devnull:
    return
  try:
    there = os.stat(workdir / 'metrics.jsonl')
  except OSError:
    there = None
  if there is None or not os.path.samestat(there, os.fstat(file.fileno())):
    raise refused(
      workdir,
      'was removed, renamed or replaced while its run was writing: the run has '
      'stopped; put the folder back, and the same command goes on from its '
      'last checkpoint',
    )


def write_run_info(run_info: RunInfo, workdir: pathlib.Path) -> None:
  """Writes `config.json` in the first process.

  Args:
    run_info: its content.
    workdir: the run's folder.

  Raises:
    InputError: the folder holds an unfinished run, or a checkpoint of one, that
      would continue with other numbers, because its config, version, dataset,
      device or initial weights differ.
  """
  stored = checkpoint.run_infos(checkpoints(workdir))
  if files.read(workdir) or checkpoint.numbers(checkpoints(workdir)):
    stored |= _stored_run_infos(workdir)
  for path, there in stored.items():
    differing = identity.differences(there, run_info)
    if differing:
      raise refused(
        workdir,
        f'holds an unfinished run, which cannot go on exactly: '
        f'{"; ".join(differing)} (in {path.relative_to(workdir)}); go back to '
        'that, or give another folder',
      )
  if devices.is_first():
    content = json.dumps(run_info, indent=2) + '\n'
    with writing(workdir):
      durable.replace(workdir / 'config.json', content.encode())


def truncate(workdir: pathlib.Path, file: TextIO, last: int) -> list[Row]:
  """Removes the rows after round `last`; returns the rows that remain.

  Args:
    workdir: the run's folder.
    file: from `claim`.
    last: an evaluated round, or 0.

  Raises:
    InputError: the row of round `last` is missing.
  """
  rows = [row for row in files.read(workdir) if row['round'] <= last]
  if last and (not rows or rows[-1]['round'] != last):
    raise refused(
      workdir,
      f'metrics.jsonl has lost the row of round {last}: put it back, or remove '
      'the folder to start over',
    )
  if devices.is_first():
    lines = (workdir / 'metrics.jsonl').read_bytes().split(b'\n')
    file.truncate(sum(len(line) + 1 for line in lines[: len(rows)]))
  return rows


def draw(title: str, workdir: pathlib.Path, overwrite: bool) -> None:
  """Draws `accuracy.png` from the metrics, if missing or with `overwrite`.

  Raises:
    InputError: it cannot be written; all else is saved.
  """
  path = workdir / 'accuracy.png'
  if not overwrite and path.exists():
    return
  from hns.report import pictures  # matplotlib takes long to import

  picture = io.BytesIO()
  figure = pictures.one_run(files.read(workdir), title)
  figure.savefig(picture, dpi=130, format='png')
  try:
    durable.replace(path, picture.getvalue())
  except OSError as error:
    raise refused(
      workdir,
      'the run is complete and saved, but accuracy.png cannot be written '
      f'({error.strerror or error}): make room, and the same command draws it',
    ) from error


def load(workdir: pathlib.Path, like: Progress, last: int) -> Progress:
  """The progress of a run after its last round.

  Args:
    workdir: the run's folder.
    like: any progress of the run.
    last: its number of rounds.

  Raises:
    InputError: the run is not finished, or the checkpoint is another run's.
  """
  run_info = files.read_run_info(workdir)
  for path, there in checkpoint.run_infos(checkpoints(workdir)).items():
    differing = ['config.json is missing']
    if run_info:
      differing = identity.differences(there, run_info)
    if differing:
      raise refused(
        workdir,
        f'{path.relative_to(workdir)} is of another run '
        f'({"; ".join(differing)}): remove it',
      )
  progress = checkpoint.restore(checkpoints(workdir), like)
  if progress is None or int(progress.state.round) != last:
    raise refused(workdir, 'the run has not finished')
  return progress
