"""Checkpoints: all that a run needs to go on, on disk.

A checkpoint is a folder named after its round: an uncompressed `.npz` of the
leaves by their paths, what clients keep, and of which run it is. It is written
beside its place, read once more, and moves there at once with the digests of
its files: so it is whole or absent, and what a disk damages later is noticed.
"""

import concurrent.futures
import contextlib
import json
import os
import pathlib
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from hns import durable
from hns.engine import client_store, metrics
from hns.engine.client_store import ClientStore
from hns.engine.context import State
from hns.errors import InputError, invalid, shown
from hns.tree import from_host, to_host

_KEPT = 2
_SHARE = 20  # writing takes at most one part in so many of the time
_DIGESTS, _STATE, _ABOUT = 'digests.json', 'state.npz', 'about.json'
_IDS = 'ids'


class Progress(NamedTuple):
  """Where a run is.

  Attributes:
    state: of the server, `hns.engine.context.State`.
    store: what clients keep.
    tally: what the rounds told.
    num_correct: int32 [clients], right answers of the model that a client ended
      its last round with, -1 before its first.
    unread: what the last rounds told and is still on the devices: of each its
      ids, its `hns.engine.rounds.RoundMetrics` and its seconds.
  """

  state: State
  store: ClientStore
  tally: metrics.Tally
  num_correct: np.ndarray
  unread: tuple[tuple[Any, Any, float], ...] = ()


def read(progress: Progress) -> Progress:
  """The progress with nothing unread, all of it fetched at once."""
  tally, num_correct = progress.tally, progress.num_correct.copy()
  for ids, report, seconds in jax.device_get(progress.unread):
    tally = metrics.add(tally, report, seconds)
    counted = report.took_part & ~report.rejected
    num_correct[ids[counted]] = report.num_correct[counted]
  return progress._replace(tally=tally, num_correct=num_correct, unread=())


def snapshot(progress: Progress) -> Progress:
  """A copy that the next rounds leave alone; no client's state is copied.

  Typed PRNG keys of the server's state are the numbers that make them.
  """
  progress = read(progress)
  state = jax.tree.map(lambda x: np.array(to_host(x)), progress.state)
  # A store replaces a client's arrays and never writes into them.
  frozen = progress.store._replace(states=dict(progress.store.states))
  return progress._replace(state=state, store=frozen)


@contextlib.contextmanager
def writer(
  folder: pathlib.Path, about: dict[str, Any], seconds: float
) -> Iterator[Callable[[Progress, bool], None]]:
  """Yields `save(progress, now)`, which writes in a thread of its own.

  Without `now` it does nothing if the last checkpoint is younger than
  `seconds`, is still being written, or took longer than a twentieth of the time
  since. With it, the checkpoint is on disk when it returns.

  Args:
    folder: where this run's checkpoints are.
    about: of which run they are.
    seconds: at least, between two checkpoints.

  Raises:
    InputError: from `save`, the disk took no more.
  """
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    job, begun = pool.submit(lambda: 0.0), time.monotonic()

    def save(progress, now):
      nonlocal job, begun
      if not now:
        age = time.monotonic() - begun
        if age < seconds or not job.done() or age < _SHARE * job.result():
          return
      job.result()  # raises what the last one raised
      begun = time.monotonic()
      job = pool.submit(write, folder, about, snapshot(progress))
      if now:
        job.result()

    yield save


def write(
  folder: pathlib.Path, about: dict[str, Any], progress: Progress
) -> float:
  """Writes a checkpoint and removes all but the newest; returns the seconds.

  Args:
    folder: where this run's checkpoints are; the one that it is in is there.
    about: of which run it is, for `abouts`.
    progress: with nothing unread.

  Raises:
    InputError: the disk took no more, or gave back something else; older
      checkpoints are still there.
  """
  start = time.monotonic()
  path = folder / str(int(progress.state.round))
  part = path.with_suffix('.part')
  try:
    shutil.rmtree(part, ignore_errors=True)
    folder.mkdir(exist_ok=True)
    part.mkdir()
    _fill(part, about, progress)
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
  for number in numbers(folder)[:-_KEPT]:
    shutil.rmtree(folder / str(number), ignore_errors=True)
  return time.monotonic() - start


def _fill(part: pathlib.Path, about: dict[str, Any], progress: Progress):
  """Writes all files of a checkpoint; `OSError` if they read otherwise."""
  digests = {}

  @contextlib.contextmanager
  def create(name):
    with durable.writing(part / name) as file:
      yield file
    digests[name] = file.sha.hexdigest()

  with create(_STATE) as file:
    np.savez(file, **_arrays(progress))
  with create(_ABOUT) as file:
    file.write(json.dumps(about).encode())
  client_store.write(progress.store, create)
  if not _agree(part, digests):
    raise OSError('what was written reads otherwise')
  with durable.writing(part / _DIGESTS) as file:
    file.write(json.dumps(digests).encode())
  durable.sync_folder(part)


def longest(folder: pathlib.Path, last: int) -> pathlib.Path:
  """The longest path of a file of checkpoints up to round `last`."""
  return folder / f'{last}.part' / _DIGESTS


def numbers(folder: pathlib.Path) -> list[int]:
  """The rounds of which there is a checkpoint, rising."""
  found = [p.name for p in _ours(folder) if p.name.isdigit()]
  return sorted(map(int, found))


def _ours(folder: pathlib.Path) -> list[pathlib.Path]:
  """Folders with a checkpoint's name, whole or in the making."""
  if not folder.is_dir():
    return []
  pattern = re.compile(r'(0|[1-9][0-9]*)([.]part)?')
  named = [p for p in folder.iterdir() if pattern.fullmatch(p.name)]
  return [p for p in named if p.is_dir() and not p.is_symlink()]


def restore(folder: pathlib.Path, like: Progress) -> Progress | None:
  """The newest whole checkpoint; None without any.

  Damaged ones are named on stderr.

  Args:
    folder: where checkpoints are.
    like: any progress of the run.

  Raises:
    InputError: all are damaged, or of an older version, or hold other arrays
      than the run has.
  """
  found = numbers(folder)
  for number in reversed(found):
    path = folder / str(number)
    if _is_whole(path):
      return _read(path, like)
    print(f'hns: {shown(path)} is damaged and left out', file=sys.stderr)
  if found:
    raise InputError(
      f'{shown(folder)}: all are damaged; remove it to start over'
    )
  return None


def abouts(folder: pathlib.Path) -> dict[pathlib.Path, dict[str, Any]]:
  """What whole checkpoints say of which run they are, by their folders.

  Raises:
    InputError: one is of an older version.
  """
  paths = [folder / str(number) for number in numbers(folder)]
  return {
    path: json.loads((path / _ABOUT).read_bytes())
    for path in paths
    if _is_whole(path, _ABOUT)
  }


def clean(folder: pathlib.Path, last: int) -> None:
  """Removes what is past a round, and what a kill left half written."""
  for path in _ours(folder):
    if not path.name.isdigit() or int(path.name) > last:
      shutil.rmtree(path, ignore_errors=True)


def _read(path: pathlib.Path, like: Progress) -> Progress:
  def fill(name, like):
    got = arrays[name]
    want = to_host(like)
    # Of a dtype that is not NumPy's own, it keeps the bytes.
    got = got.view(want.dtype) if got.dtype.kind == 'V' else got
    # A number of Python's may be whole in one round and not in the next.
    exact = hasattr(like, 'dtype')
    if got.shape != want.shape or (exact and got.dtype != want.dtype):
      raise ValueError(f'{name} is {got.dtype}{list(got.shape)}')
    return from_host(got, like)

  try:
    with np.load(path / _STATE) as arrays:
      names = _named(like._replace(store=None, unread=None))
      other = names.keys() ^ (set(arrays.files) - {_IDS})
      if other:
        raise ValueError(f'{min(other)} is not in both')
      leaves = [fill(name, leaf) for name, leaf in names.items()]
      ids = arrays[_IDS]
    store = client_store.read(like.store.initial, ids, path)
  except (OSError, ValueError) as error:
    raise InputError(
      f'{shown(path)}: holds other arrays than this run has ({error}): go '
      'back to the code that wrote it, or give another folder'
    ) from error
  structure = jax.tree.structure(like._replace(store=None, unread=None))
  got = jax.tree.unflatten(structure, leaves)
  tally = jax.tree.map(lambda x: x.item(), got.tally)
  return Progress(got.state, store, tally, got.num_correct)


def _arrays(progress: Progress) -> dict[str, np.ndarray]:
  """Every leaf by its path; of clients' states the ids."""
  ids = np.array(list(progress.store.states), np.int64)
  named = _named(progress._replace(store=None, unread=None))
  return {_IDS: ids, **{name: to_host(x) for name, x in named.items()}}


def _named(tree: Any) -> dict[str, Any]:
  """Leaves by their paths, `.state.shared['w']`."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def _agree(path: pathlib.Path, digests: dict[str, str]) -> bool:
  """Whether the files of a checkpoint have these digests."""
  return all(durable.digest(path / n) == d for n, d in digests.items())


def _is_whole(path: pathlib.Path, *names: str) -> bool:
  """Whether these files are as they were written; without names all.

  Raises:
    InputError: it is of an older version.
  """
  try:
    digests = json.loads((path / _DIGESTS).read_bytes())
    if {_ABOUT, _STATE} <= digests.keys():
      chosen = {name: digests[name] for name in names or digests}
      return _agree(path, chosen)
    written = _STATE not in digests and bool(digests)
  except (OSError, ValueError, TypeError, AttributeError):
    return False
  if written:
    raise InputError(
      f'{shown(path)}: was written by hns 0.3.0 or older: go on with that '
      'version, or give another folder'
    )
  return False
