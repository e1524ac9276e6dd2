"""A run's folder: its config, its metrics, its picture.

Nothing that was written is lost: a folder of another config is refused, the
metrics of an unfinished run are set aside.
"""

import contextlib
import importlib.metadata
import json
import os
import pathlib
import platform
from typing import Any

from flax import serialization

from hns import pictures, report
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
  there = json.loads(path.read_text())['config']
  differing = differences(there, config)
  if differing:
    raise invalid(
      'workdir',
      str(workdir),
      f'holds a run of another config ({"; ".join(differing)}): give another '
      'folder',
    )


def rows(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """The metrics written so far; [] for a new folder."""
  with contextlib.suppress(FileNotFoundError):
    return report.read(workdir)
  return []


def start(
  config: dict[str, Any], about: dict[str, Any], workdir: pathlib.Path
) -> pathlib.Path:
  """Writes `config.json`, versions included; returns the metrics' path.

  The metrics of an unfinished run become `metrics.previous.jsonl`.
  """
  workdir.mkdir(parents=True, exist_ok=True)
  versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
  held = {
    'config': config,
    'versions': {'python': platform.python_version(), **versions},
    **about,
  }
  part = workdir / 'config.json.part'
  part.write_text(json.dumps(held, indent=2) + '\n')
  os.replace(part, workdir / 'config.json')
  metrics = workdir / 'metrics.jsonl'
  with contextlib.suppress(FileNotFoundError):
    os.replace(metrics, workdir / 'metrics.previous.jsonl')
  return metrics


def draw(title: str, workdir: pathlib.Path) -> None:
  """Draws `accuracy.png` from the metrics, unless it is there."""
  path = workdir / 'accuracy.png'
  if not path.exists():
    pictures.one_run(rows(workdir), title).savefig(path, dpi=130)


def save(workdir: pathlib.Path, state: Any) -> None:
  """Writes `state.msgpack`, whole or not at all."""
  part = workdir / 'state.msgpack.part'
  part.write_bytes(serialization.to_bytes(state))
  os.replace(part, workdir / 'state.msgpack')


def load(workdir: pathlib.Path, like: Any) -> Any:
  """The state after a run's last round and what clients keep, by id.

  Args:
    workdir: the run's folder.
    like: a state, and what one client keeps.

  Raises:
    InputError: the run is not finished.
  """
  path = workdir / 'state.msgpack'
  if not path.exists():
    raise invalid('workdir', str(workdir), 'the run has not finished')
  held = serialization.msgpack_restore(path.read_bytes())
  restore = serialization.from_state_dict
  state, own = like
  clients = {i: restore(own, held['1'][i]) for i in held['1']}
  return restore(state, held['0']), clients
