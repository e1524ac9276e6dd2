"""Of which run a folder, a checkpoint or a process is."""

import importlib.metadata
import json
import platform
from typing import Any

import jax

import hns
from hns.config import base, differences
from hns.errors import InputError
from hns.runs import devices
from hns.values import leaves

_PACKAGES = (
  'jax',
  'jaxlib',
  'flax',
  'optax',
  'numpy',
  'ml_collections',
  'scikit-learn',
  'tensorflow-datasets',
)


def differing(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
  """Differences of two configs but for those that change no round's numbers.

  Checkpoints may come more or less often, and a run may have more rounds. A
  field that an older version did not know had its default.

  Args:
    there: the config of a folder.
    here: that of a command.
  """
  there = base().to_dict() | there
  alike = {'checkpoint_seconds': here['checkpoint_seconds']}
  if there['rounds'] < here['rounds']:
    alike['rounds'] = here['rounds']
  return differences(there | alike, here)


def unlike(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
  """The same of all that two config.json say, but for Python's version."""
  found = differing(there['config'], here['config'])
  versions = there['versions'] | {'python': here['versions']['python']}
  rest = {**there, 'versions': versions, 'config': None}
  return found + differences(rest, {**here, 'config': None})


def about(config: dict[str, Any]) -> dict[str, Any]:
  """What a config.json says before anything is made: config, versions, JAX."""
  versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
  client_state = {'python': platform.python_version(), 'hns': hns.__version__}
  return {
    'config': config,
    'versions': client_state | versions,
    'matmul_precision': jax.config.jax_default_matmul_precision,
    'numerics': devices.numerics(),
  }


def agree(here: dict[str, Any]) -> None:
  """Raises `InputError` in all processes of a run unless all ask with this.

  Args:
    here: fields and tables of fields.
  """
  texts = devices.gather_texts(json.dumps(here, sort_keys=True))
  told = [leaves(json.loads(text)) for text in texts]
  found = []
  for name in sorted(set().union(*told)):
    values = [fields.get(name) for fields in told]
    other = next((i for i, x in enumerate(values) if x != values[0]), 0)
    if other:
      found.append(
        f'{name} is {values[0]!r} in process 0 and {values[other]!r} in '
        f'process {other}'
      )
  if found:
    raise InputError(
      f'distributed: processes of one run must be told the same '
      f'({"; ".join(found)}): start them all alike'
    )
