"""HideNseek in JAX: federated learning where only signs travel.

What is here; each imports only from itself and from what stands above it:

  errors.py   the one error that a user's input can raise
  streams.py  standard streams that may be closed, broken or full
  command.py  what all commands share: flags, one line for a mistake
  tree.py     pytrees of arrays
  once.py     programs that a run needs once, compiled quickly
  values.py   what the value of a config's field may be
  durable.py  files that are whole or absent
  fields.py   fields of a config, read off signatures
  wire/       messages as bytes: codecs, packing, entropy code
  data/       datasets, and who holds which examples
  networks/   models, supermasks, pruning, fast convolutions
  methods/    the contract of a method, and the methods
  engine/     a round, a client's training, many clients side by side
  config.py   every field of a run
  report/     runs compared: tables and pictures
  runs/       a config to a run: loop, folder, checkpoints, sweeps, devices
  remote/     server and clients as machines of their own
  export.py   a trained model as a file
  main.py     the command line

For a notebook or a script, each imported when it is first used:

  base_config(**fields)            a config
  run(config, folder)              trains; the rows of metrics.jsonl
  build(config)                    an experiment, to play by hand:
  programs(experiment)             its compiled programs
  begin(experiment)                the progress before round 1
  step(experiment, programs, progress)      the progress after one more round
  global_model, personal_models             variables, at a progress
  evaluate(experiment, programs, progress)  personal and global models
  together(config, seeds)          several seeds as one program:
  step_together(many, progresses)  the progress of each after one more round
  export_model(folder, client)     a trained model as bytes
  predictor(folder, client)        any trained model, to predict with
  load_model(content)              the network and its variables again
  METHODS, MODELS, SCORES, DATASETS, PARTITIONS   what a config can name
"""

import importlib
import importlib.util
from typing import Any

__version__ = '0.12.0'

_FRONT = {
  'base_config': ('config', 'base'),
  'build': ('runs.experiment', 'build'),
  'run': ('runs.experiment', 'run'),
  'programs': ('runs.programs', 'programs'),
  'begin': ('runs.loop', 'begin'),
  'step': ('runs.loop', 'step'),
  'global_model': ('runs.run_models', 'global_model'),
  'personal_models': ('runs.run_models', 'personal_models'),
  'evaluate': ('runs.loop', 'evaluate'),
  'together': ('runs.together', 'together'),
  'step_together': ('runs.together', 'step_together'),
  'export_model': ('export', 'from_run'),
  'predictor': ('runs.finished', 'predictor'),
  'load_model': ('runs.model_file', 'load'),
  'METHODS': ('methods.recipes', 'RECIPES'),
  'MODELS': ('networks.models', 'MODELS'),
  'SCORES': ('networks.pruning', 'SCORES'),
  'DATASETS': ('data', 'SOURCES'),
  'PARTITIONS': ('data.partition', 'PARTITIONS'),
}


def __getattr__(name: str) -> Any:
  if name in _FRONT:
    module, attribute = _FRONT[name]
    return getattr(importlib.import_module(f'{__name__}.{module}'), attribute)
  whole = f'{__name__}.{name}'
  if name.startswith('_') or importlib.util.find_spec(whole) is None:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return importlib.import_module(whole)  # such as hns.data


def __dir__() -> list[str]:
  return sorted([*globals(), *_FRONT])
