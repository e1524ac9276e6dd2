"""Checkpoints: all that a run needs to go on, on disk.

A checkpoint is a folder named after its round. Orbax writes it beside its
place, but for what clients keep, which it would hold in memory twice more; with
the digests of its files it moves there at once, so that it is whole or absent,
and what a disk damages later is noticed.
"""

import concurrent.futures
import contextlib
import hashlib
import json
import logging
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict, unflatten_dict

from hns import metrics, own, tree
from hns.errors import InputError, invalid
from hns.own import Store

_KEPT = 2
_SHARE = 20  # writing takes at most one part in so many of the time
_DIGESTS = 'digests.json'


class Progress(NamedTuple):
  """Where a run is.

  Attributes:
    state: of the server, `hns.rounds.State`.
    store: what clients keep.
    tally: what the rounds told.
    held: int32 [clients], right answers of the model that a client ended its
      last round with, -1 before its first.
    unread: what the last rounds told and is still on the devices: of each its
      ids, its `hns.rounds.Report` and its seconds.
  """

  state: Any
  store: Store
  tally: metrics.Tally
  held: np.ndarray
  unread: tuple[tuple[Any, Any, float], ...] = ()


def read(progress: Progress) -> Progress:
  """The progress with nothing unread, all of it fetched at once."""
  tally, held = progress.tally, progress.held.copy()
  for ids, report, seconds in jax.device_get(progress.unread):
    tally = metrics.add(tally, report, seconds)
    held[ids] = report.held
  return progress._replace(tally=tally, held=held, unread=())


def snapshot(progress: Progress) -> Progress:
  """A copy that the next rounds leave alone; no client's state is copied."""
  progress = read(progress)
  state = jax.tree.map(np.array, progress.state)
  # A store replaces a client's arrays and never writes into them.
  frozen = progress.store._replace(held=dict(progress.store.held))
  return progress._replace(state=state, store=frozen)


@contextlib.contextmanager
def writer(
  folder: pathlib.Path, seconds: float
) -> Iterator[Callable[[Progress, bool], None]]:
  """Yields `save(progress, now)`, which writes in a thread of its own.

  Without `now` it does nothing if the last checkpoint is younger than
  `seconds`, is still being written, or took longer than a twentieth of the time
  since. With it, the checkpoint is on disk when it returns.

  Args:
    folder: where this run's checkpoints are.
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
      job = pool.submit(write, folder, snapshot(progress))
      if now:
        job.result()

    yield save


def write(folder: pathlib.Path, progress: Progress) -> float:
  """Writes a checkpoint and removes all but the newest; returns the seconds.

  Raises:
    InputError: the disk took no more; older checkpoints are still there.
  """
  start = time.monotonic()
  path = folder / str(int(progress.state.round))
  part = path.with_suffix('.part')
  try:
    with _quiet(), _orbax() as orbax:
      orbax.save(part.absolute(), args=ocp.args.PyTreeSave(_arrays(progress)))
    own.write(progress.store, part)
    (part / _DIGESTS).write_text(json.dumps(_digests(part)))
    os.replace(part, path)
  # Orbax raises ValueError for what the disk says.
  except (OSError, ValueError) as error:
    for left in folder.glob(f'{part.name}*'):
      shutil.rmtree(left, ignore_errors=True)
    raise invalid(
      'workdir',
      str(folder.parent),
      f'round {path.name} could not be saved ({_cause(error)}): make room '
      'there, and the same command goes on from the last checkpoint',
    ) from error
  for number in numbers(folder)[:-_KEPT]:
    shutil.rmtree(folder / str(number), ignore_errors=True)
  return time.monotonic() - start


def numbers(folder: pathlib.Path) -> list[int]:
  """The rounds of which there is a checkpoint, rising."""
  if not folder.exists():
    return []
  return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())


def restore(folder: pathlib.Path, like: Progress) -> Progress | None:
  """The newest whole checkpoint; None without any.

  Damaged ones are named on stderr.

  Args:
    folder: where checkpoints are.
    like: any progress of the run.

  Raises:
    InputError: all are damaged.
  """
  found = numbers(folder)
  for number in reversed(found):
    path = folder / str(number)
    if _is_whole(path):
      return _read(path, like)
    print(f'hns: {path} is damaged and left out', file=sys.stderr)
  if found:
    raise InputError(f'{folder}: all are damaged; remove it to start over')
  return None


def clean(folder: pathlib.Path, last: int) -> None:
  """Removes what is past a round, and what a kill left half written."""
  for path in folder.iterdir() if folder.exists() else ():
    if not path.name.isdigit() or int(path.name) > last:
      shutil.rmtree(path, ignore_errors=True)


def _read(path: pathlib.Path, like: Progress) -> Progress:
  with _orbax() as orbax:
    arrays = flatten_dict(orbax.restore(path.absolute()), sep='/')

  def fill(**like):
    leaf = lambda path, _: arrays[tree.path_name(path)]
    return jax.tree_util.tree_map_with_path(leaf, like)

  got = fill(state=like.state, tally=like.tally, held=like.held)
  store = like.store
  if 'ids' in arrays:
    store = own.read(store.birth, arrays['ids'], path)
  tally = jax.tree.map(lambda x: x.item(), got['tally'])
  return Progress(got['state'], store, tally, np.array(got['held']))


def _arrays(progress: Progress) -> dict[str, Any]:
  """Every leaf by its path, as dicts of dicts; of clients' states the ids."""
  ids = np.array(list(progress.store.held), np.int64)
  parts = progress._asdict() | {'store': None, 'unread': None}
  parts['ids'] = ids if len(ids) else None
  leaves = jax.tree_util.tree_leaves_with_path(parts)
  named = {tree.path_name(path): np.asarray(leaf) for path, leaf in leaves}
  return unflatten_dict(named, sep='/')


def _orbax() -> ocp.Checkpointer:
  """A checkpointer of this process alone, whether it has peers or not."""
  me = jax.process_index()
  alone = ocp.options.MultiprocessingOptions(
    primary_host=me, active_processes={me}, barrier_sync_key_prefix=str(me)
  )
  # Random weights do not shrink; compressing holds them twice.
  handler = ocp.PyTreeCheckpointHandler(
    use_compression=False, multiprocessing_options=alone
  )
  return ocp.Checkpointer(handler, multiprocessing_options=alone)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Orbax logs, with its stack, what it also raises."""
  logger = logging.getLogger('absl')
  level = logger.level
  logger.setLevel(logging.CRITICAL)
  try:
    yield
  finally:
    logger.setLevel(level)


def _digests(path: pathlib.Path) -> dict[str, str]:
  """SHA-256 of every file of a checkpoint."""
  found = {}
  for part in sorted(path.rglob('*')):
    if part.is_file() and part.name != _DIGESTS:
      with part.open('rb') as file:
        digest = hashlib.file_digest(file, 'sha256').hexdigest()
      found[str(part.relative_to(path))] = digest
  return found


def _is_whole(path: pathlib.Path) -> bool:
  try:
    return json.loads((path / _DIGESTS).read_text()) == _digests(path)
  except (OSError, ValueError):
    return False


def _cause(error: Exception) -> str:
  """What the disk said: the end of Orbax's long line."""
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  return str(error).split(' [')[0].split(': ')[-1]
