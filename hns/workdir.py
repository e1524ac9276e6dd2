"""A run's folder: its config, its metrics, its checkpoints, its picture.

Nothing that was written is lost: a folder of another config is refused, an
unfinished run goes on, and one process at a time writes.
"""

import contextlib
import fcntl
import importlib.metadata
import json
import os
import pathlib
import platform
from collections.abc import Iterator
from typing import Any, TextIO

from hns import checkpoint, devices, pictures, runs
from hns.checkpoint import Progress
from hns.config import differences
from hns.errors import invalid

_PACKAGES = (
  'hns',
  'jax',
  'jaxlib',
  'flax',
  'optax',
  'numpy',
  'ml_collections',
  'scikit-learn',
  'tensorflow-datasets',
)


def check(config: dict[str, Any], workdir: pathlib.Path) -> None:
  """Raises `InputError` if the folder holds a run of another config."""
  path = workdir / 'config.json'
  if not path.exists():
    return
  differing = _differing(json.loads(path.read_text())['config'], config)
  if differing:
    raise invalid(
      'workdir',
      str(workdir),
      f'holds a run of another config ({"; ".join(differing)}): give another '
      'folder',
    )


def _differing(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
  """Differences of two configs but for those that change no round's numbers."""
  alike = {'checkpoint_seconds': here['checkpoint_seconds']}
  if there['rounds'] < here['rounds']:
    alike['rounds'] = here['rounds']
  return differences(there | alike, here)


def check_shared(found: int, workdir: pathlib.Path) -> None:
  """Raises `InputError` unless all processes of a run found the same there."""
  if len(set(devices.gather(found))) > 1:
    remedy = 'is not one folder for all processes'
    raise invalid('workdir', str(workdir), remedy)


def rows(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """The metrics written so far; [] for a new folder."""
  with contextlib.suppress(FileNotFoundError, NotADirectoryError):
    return runs.read(workdir)
  return []


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
    InputError: another run is writing there, or the folder cannot be written.
  """
  if not devices.is_first():
    with open(os.devnull, 'a') as file:
      yield file
    return
  with writing(workdir):
    workdir.mkdir(parents=True, exist_ok=True)
    file = (workdir / 'metrics.jsonl').open('a')
  # Closing writes what a full disk did not take, and fails once more.
  with writing(workdir), file:
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


def start(
  config: dict[str, Any], about: dict[str, Any], workdir: pathlib.Path
) -> None:
  """Writes `config.json`, versions included, in the first process.

  Raises:
    InputError: the folder holds an unfinished run that would go on with other
      numbers: of another config, version, dataset or device, or whose frozen
      weights would be drawn otherwise.
  """
  versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
  held = {
    'config': config,
    'versions': {'python': platform.python_version(), **versions},
    **about,
  }
  path = workdir / 'config.json'
  if path.exists() and (
    rows(workdir) or checkpoint.numbers(checkpoints(workdir))
  ):
    there = json.loads(path.read_text())
    there['versions']['python'] = held['versions']['python']
    differing = _differing(there.pop('config'), config)
    differing += differences(there, {**held, 'config': None})
    if differing:
      raise invalid(
        'workdir',
        str(workdir),
        f'holds an unfinished run, which cannot go on exactly: '
        f'{"; ".join(differing)}; go back to that, or give another folder',
      )
  if devices.is_first():
    part = workdir / 'config.json.part'
    with writing(workdir):
      part.write_text(json.dumps(held, indent=2) + '\n')
      os.replace(part, path)


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
    lines = (workdir / 'metrics.jsonl').read_bytes().splitlines(keepends=True)
    file.truncate(sum(map(len, lines[: len(kept)])))
  return kept


def draw(title: str, workdir: pathlib.Path, anew: bool) -> None:
  """Draws `accuracy.png` from the metrics, `anew` or if it is not there."""
  path = workdir / 'accuracy.png'
  if anew or not path.exists():
    with writing(workdir):
      pictures.one_run(rows(workdir), title).savefig(path, dpi=130)


def load(workdir: pathlib.Path, like: Progress, last: int) -> Progress:
  """Where a run is after its last round.

  Args:
    workdir: the run's folder.
    like: any progress of the run.
    last: its number of rounds.

  Raises:
    InputError: the run is not finished.
  """
  found = checkpoint.restore(checkpoints(workdir), like)
  if found is None or int(found.state.round) != last:
    raise invalid('workdir', str(workdir), 'the run has not finished')
  return found
