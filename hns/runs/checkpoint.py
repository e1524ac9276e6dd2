"""Checkpoints: a run's progress on disk.

A checkpoint is a folder named after its round. It holds an uncompressed `.npz`
of the leaves by their paths, the clients' states, the run's description, and
the SHA-256 digests of these files. It is written under another name, read back,
and renamed, so that it is complete or absent; the digests show later damage.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import sys
import time
from typing import Any

import jax
import numpy as np

from hns import durable
from hns.engine import client_store
from hns.errors import InputError, invalid, shown
from hns.report.files import RunInfo
from hns.runs.progress import Progress
from hns.tree import Tree, from_host, to_host

_NUM_KEPT = 2
_DIGESTS, _STATE, _RUN_INFO = 'digests.json', 'state.npz', 'about.json'
_IDS = 'ids'


def write(folder: pathlib.Path, run_info: RunInfo, progress: Progress) -> float:
  """Writes a checkpoint and removes all but the newest two.

  Args:
    folder: of this run's checkpoints; its parent exists.
    run_info: identifies the run, see `run_infos`.
    progress: without pending rounds.

  Returns:
    The seconds that it took.

  Raises:
    InputError: the disk is full, or what it returned differs from what was
      written; older checkpoints are still there.
  """
  start = time.monotonic()
  path = folder / str(int(progress.state.round))
  part = path.with_suffix('.part')
  try:
    shutil.rmtree(part, ignore_errors=True)
    folder.mkdir(exist_ok=True)
    part.mkdir()
    _write_files(part, run_info, progress)
    os.replace(part, path)
    durable.sync_folder(folder)
  except OSError as error:
    shutil.rmtree(part, ignore_errors=True)
    raise invalid(
      'workdir',
      str(folder.parent),
      f'round {path.name} could not be saved ({error.strerror or error}): make '
      'room there, and the same command goes on from the last checkpoint',
    ) from error
  for number in numbers(folder)[:-_NUM_KEPT]:
    shutil.rmtree(folder / str(number), ignore_errors=True)
  return time.monotonic() - start


def _write_files(
  part: pathlib.Path, run_info: RunInfo, progress: Progress
) -> None:
  """Writes a checkpoint's files; raises `OSError` if they read differently."""
  digests = {}

  @contextlib.contextmanager
  def create(name):
    with durable.writing(part / name) as file:
      yield file
    digests[name] = file.sha.hexdigest()

  with create(_STATE) as file:
    np.savez(file, **_arrays(progress))
  with create(_RUN_INFO) as file:
    file.write(json.dumps(run_info).encode())
  client_store.write(progress.store, create)
  if not _have_digests(part, digests):
    raise OSError('the files read differently from what was written')
  with durable.writing(part / _DIGESTS) as file:
    file.write(json.dumps(digests).encode())
  durable.sync_folder(part)


def longest(folder: pathlib.Path, last: int) -> pathlib.Path:
  """The longest path of a checkpoint's file, up to round `last`."""
  return folder / f'{last}.part' / _DIGESTS


def numbers(folder: pathlib.Path) -> list[int]:
  """The rounds that have a checkpoint, in ascending order."""
  return sorted(int(p.name) for p in _folders(folder) if p.name.isdigit())


def _folders(folder: pathlib.Path) -> list[pathlib.Path]:
  """Folders with a checkpoint's name, complete or partly written."""
  if not folder.is_dir():
    return []
  pattern = re.compile(r'(0|[1-9][0-9]*)([.]part)?')
  named = [p for p in folder.iterdir() if pattern.fullmatch(p.name)]
  return [p for p in named if p.is_dir() and not p.is_symlink()]


def restore(folder: pathlib.Path, like: Progress) -> Progress | None:
  """The newest undamaged checkpoint; None if there are no checkpoints.

  Damaged ones are reported on stderr.

  Args:
    folder: of this run's checkpoints.
    like: any progress of the run.

  Raises:
    InputError: all are damaged, or of an older version, or hold arrays of
      other names, shapes or dtypes than `like`.
  """
  rounds = numbers(folder)
  for number in reversed(rounds):
    path = folder / str(number)
    if _is_undamaged(path):
      return _read(path, like)
    print(f'hns: {shown(path)} is damaged and left out', file=sys.stderr)
  if rounds:
    raise InputError(
      f'{shown(folder)}: all are damaged; remove it to start over'
    )
  return None


def run_infos(folder: pathlib.Path) -> dict[pathlib.Path, RunInfo]:
  """The run description in each undamaged checkpoint, by its folder.

  Raises:
    InputError: a checkpoint is of an older version.
  """
  paths = [folder / str(number) for number in numbers(folder)]
  return {
    path: json.loads((path / _RUN_INFO).read_bytes())
    for path in paths
    if _is_undamaged(path, _RUN_INFO)
  }


def clean(folder: pathlib.Path, last: int) -> None:
  """Removes checkpoints after round `last` and partly written ones."""
  for path in _folders(folder):
    if not path.name.isdigit() or int(path.name) > last:
      shutil.rmtree(path, ignore_errors=True)


def _read(path: pathlib.Path, like: Progress) -> Progress:
  like_arrays = like._replace(store=None, pending=None)
  try:
    with np.load(path / _STATE) as arrays:
      named = _by_path(like_arrays)
      for name in sorted(named.keys() ^ (set(arrays.files) - {_IDS})):
        raise ValueError(f'{name} is not in both')
      leaves = [_leaf(name, arrays[name], x) for name, x in named.items()]
      ids = arrays[_IDS]
    store = client_store.read(like.store.initial, ids, path)
  except (OSError, ValueError) as error:
    raise InputError(
      f'{shown(path)}: holds other arrays than this run has ({error}): go '
      'back to the code that wrote it, or give another folder'
    ) from error
  progress = jax.tree.unflatten(jax.tree.structure(like_arrays), leaves)
  tally = jax.tree.map(lambda x: x.item(), progress.tally)
  return progress._replace(tally=tally, store=store, pending=())


def _leaf(name: str, array: np.ndarray, like: Any) -> Any:
  """A leaf of the kind of `like` from the array in the file."""
  expected = to_host(like)
  # NumPy stores a dtype that is not its own, such as bfloat16, as bytes.
  array = array.view(expected.dtype) if array.dtype.kind == 'V' else array
  # A Python number may be an int in one round and a float in the next.
  exact = hasattr(like, 'dtype')
  if array.shape != expected.shape or (exact and array.dtype != expected.dtype):
    raise ValueError(f'{name} is {array.dtype}{list(array.shape)}')
  return from_host(array, like)


def _arrays(progress: Progress) -> dict[str, np.ndarray]:
  """Every leaf by its path, and the ids of the clients in the store."""
  ids = np.array(list(progress.store.states), np.int64)
  named = _by_path(progress._replace(store=None, pending=None))
  return {_IDS: ids, **{name: to_host(x) for name, x in named.items()}}


def _by_path(tree: Tree) -> dict[str, Any]:
  """The leaves of any tree by their paths, `.state.server_state['w']`."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def _have_digests(path: pathlib.Path, digests: dict[str, str]) -> bool:
  """Whether the files of a checkpoint have these digests."""
  return all(durable.digest(path / n) == d for n, d in digests.items())


def _is_undamaged(path: pathlib.Path, *names: str) -> bool:
  """Whether these files, by default all, are as they were written.

  Raises:
    InputError: the checkpoint is of an older version.
  """
  try:
    digests = json.loads((path / _DIGESTS).read_bytes())
    if {_RUN_INFO, _STATE} <= digests.keys():
      chosen = {name: digests[name] for name in names or digests}
      return _have_digests(path, chosen)
    is_older = _STATE not in digests and bool(digests)
  except (OSError, ValueError, TypeError, AttributeError):
    return False
  if is_older:
    raise InputError(
      f'{shown(path)}: was written by hns 0.3.0 or older: go on with that '
      'version, or give another folder'
    )
  return False
