"""A finished run, opened again: its models."""

import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

import hns
from hns import config as configs
from hns import data
from hns.engine import client_store, evaluation, explore, rounds
from hns.engine.scoring import with_statistics
from hns.engine.training import Examples, blank
from hns.errors import InputError, invalid, shown
from hns.methods.recipes import RECIPES
from hns.report import files
from hns.report.files import RunInfo
from hns.runs import experiment, limits, loop, run_models, workdir
from hns.runs.model_file import check_known
from hns.runs.predictor import Predictor
from hns.runs.programs import Experiment
from hns.values import ConfigDict, leaves

Folder = str | pathlib.Path


class Run(NamedTuple):
  """A finished run: its folder, config, experiment, and config.json."""

  folder: pathlib.Path
  config: ConfigDict
  experiment: Experiment
  run_info: RunInfo


def open_run(folder: Folder, client: int | None) -> Run:
  """Builds a run's experiment again; raises `InputError` if it cannot be."""
  run_info = files.read_run_info(folder)
  if run_info is None:
    raise InputError(f'{shown(folder)}: holds no run')
  try:
    _check_names(run_info)
    config = configs.base(**run_info['config'])
    limits.validate(config)
  except InputError as error:
    path = shown(pathlib.Path(folder) / 'config.json')
    raise InputError(f'{path}: {error}') from error
  if client is not None and client not in range(config.num_clients):
    raise invalid('client', client, f'the run has {config.num_clients}, from 0')
  return Run(pathlib.Path(folder), config, experiment.build(config), run_info)


def _check_names(run_info: RunInfo) -> None:
  """Raises `InputError` for a name of the run that is not registered here."""
  config = run_info['config']
  for name, value in config.items():
    if isinstance(value, dict):
      check_known('algorithm', name, RECIPES)
  values = leaves(config)
  for name, field in configs.fields().items():
    table, _, last = name.rpartition('.')
    is_used = table in ('', config['algorithm'])
    is_name = isinstance(values.get(name), str)  # else `validate` names it
    if is_used and is_name and isinstance(field.names(), dict):
      check_known(last, values[name], field.names())
  if run_info.get('dataset_version') == 'built in':
    check_known('dataset', config['dataset'], data.SOURCES)


def variables_of(run: Run, client: int | None) -> dict[str, Any]:
  """A client's model after training, or with None the global one.

  Raises `InputError` if this machine draws other weights, or the run is damaged
  or not finished.
  """
  round_config = run.experiment.round_config
  if run.run_info.get('frozen') != run.experiment.frozen:
    made = run.run_info.get('versions', {}).get('hns')
    other = '' if made == hns.__version__ else f', and version {made} made it'
    remedy = (
      f'other weights are drawn here{other}: export it where it was trained'
    )
    raise invalid('run', str(run.folder), remedy)
  progress = workdir.load(
    run.folder, loop.begin(run.experiment), run.config.rounds
  )
  if client is None:
    return _with_statistics(
      run, run_models.global_model(run.experiment, progress)
    )
  context = rounds.begin_round(
    round_config, *run.experiment.constants, progress.state
  )
  fetched = client_store.fetch(progress.store, [client])
  client_state = jax.tree.map(lambda x: x[0], fetched)
  model = evaluation.personal_model(round_config, context, client, client_state)
  return round_config.learner.unpack(model)


def _with_statistics(run: Run, variables: dict[str, Any]) -> dict[str, Any]:
  """The global model; its batch norms' statistics are of all clients."""
  federation = run.experiment.federation
  learner = run.experiment.round_config.learner
  rows = explore.pool(federation.train)
  return with_statistics(learner, variables, federation.examples, rows)


def blank_of(run: Run) -> jax.Array:
  """One example of zeros, as the network sees it."""
  return blank(run.experiment.federation.examples)


def scale_of(examples: Examples) -> tuple[float, float]:
  """(0, 1) where inputs are not scaled; the shortest decimals of float32."""
  return tuple(float(str(x)) for x in np.asarray(examples.scale)) or (0.0, 1.0)


def predictor(folder: Folder, client: int | None = None) -> Predictor:
  """Any trained model, ready to predict; args as of `hns.export.arrays`."""
  run = open_run(folder, client)
  experiment = run.experiment
  return Predictor(
    experiment.round_config.learner.apply,
    variables_of(run, client),
    blank_of(run),
    scale_of(experiment.federation.examples),
    experiment.round_config.learner.task.read,
  )
