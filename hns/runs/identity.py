"""Whether a folder, a checkpoint and a process belong to the same run."""

import importlib.metadata
import json
import platform
from typing import Any

import jax

import hns
from hns import config as configs
from hns.errors import InputError
from hns.report.files import RunInfo
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


def config_differences(
  there: dict[str, Any], here: dict[str, Any]
) -> list[str]:
  """Differences of two configs that change the numbers of a round.

  Checkpoints may be more or less frequent, and a run may get more rounds. A
  field that an older version did not have counts as its default. Tables of
  methods other than the run's own do not count.

  Args:
    there: the config of a folder.
    here: that of a command.
  """
  there = configs.base().to_dict() | there
  there |= {'checkpoint_seconds': here['checkpoint_seconds']}
  there['rounds'] = max(there['rounds'], here['rounds'])
  return configs.differences(_without_others(there), _without_others(here))


def _without_others(config: dict[str, Any]) -> dict[str, Any]:
  """A config without the tables of methods that it does not run."""
  own = config['algorithm']
  is_table = lambda value: isinstance(value, dict)
  return {k: v for k, v in config.items() if k == own or not is_table(v)}


def differences(there: RunInfo, here: RunInfo) -> list[str]:
  """`config_differences` and those of all else but Python's version."""
  changed = config_differences(there['config'], here['config'])
  versions = there['versions'] | {'python': here['versions']['python']}
  rest = {**there, 'versions': versions, 'config': None}
  return changed + configs.differences(rest, {**here, 'config': None})


def run_info(config: dict[str, Any]) -> RunInfo:
  """What is known of a run before it is built: config, versions, JAX."""
  versions = {'python': platform.python_version(), 'hns': hns.__version__}
  versions |= {name: importlib.metadata.version(name) for name in _PACKAGES}
  return {
    'config': config,
    'versions': versions,
    'matmul_precision': jax.config.jax_default_matmul_precision,
    'numerics': devices.numerics(),
  }


def check_same_in_all(run_info: RunInfo) -> None:
  """Raises `InputError`, in all processes of a run, unless it is the same."""
  texts = devices.gather_texts(json.dumps(run_info, sort_keys=True))
  processes = [leaves(json.loads(text)) for text in texts]
  differing = []
  for name in sorted(set().union(*processes)):
    values = [fields.get(name) for fields in processes]
    other = next((i for i, x in enumerate(values) if x != values[0]), 0)
    if other:
      differing.append(
        f'{name} is {values[0]!r} in process 0 and {values[other]!r} in '
        f'process {other}'
      )
  if differing:
    raise InputError(
      f'distributed: all processes of a run must have the same config and '
      f'environment ({"; ".join(differing)}): start them all alike'
    )
