"""Builds an `Experiment` from a config, and runs it in a folder."""

import json
import pathlib
import sys
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from hns import data, streams, tree
from hns.data import names
from hns.engine import client_store, parallel
from hns.engine.attacks import ATTACKS, Attack
from hns.engine.context import RoundConfig
from hns.engine.metrics import trouble
from hns.engine.training import (
  Examples,
  FederatedData,
  Plan,
  blank,
  steps_of,
)
from hns.errors import InputError, invalid, shown
from hns.networks import checks, models, modes
from hns.report import files
from hns.report.files import Row, RunInfo
from hns.runs import (
  conditions,
  devices,
  identity,
  initialization,
  limits,
  paths,
  workdir,
)
from hns.runs.federation import attacked, federate
from hns.runs.loop import OnRow, Players, simulated
from hns.runs.programs import Experiment
from hns.runs.record import Schedule, record
from hns.tree import Tree
from hns.values import ConfigDict
from hns.wire import Envelope


def build(config: ConfigDict) -> Experiment:
  """Builds an experiment.

  Raises:
    InputError: the config cannot run; before anything is compiled.
  """
  _check_is_config(config)
  limits.validate(config)
  mesh = parallel.mesh_of(devices.choose(config.devices, config.cohort))
  dataset = data.load(
    config.dataset, config.group, config.inputs, config.labels
  )
  remedy = "all clients' examples and the model: lower it, or model"
  memory = devices.enough_memory('num_clients', config.num_clients, remedy)
  with memory, devices.standard_settings():
    return _assemble(config, mesh, dataset)


def _check_is_config(config: Any) -> None:
  """Raises `InputError` unless it is a config."""
  if not isinstance(config, ConfigDict):
    kind = type(config).__name__
    remedy = 'use hns.base_config(field=value)'
    raise InputError(f'config: must be a ConfigDict, not {kind}: {remedy}')


def _assemble(
  config: ConfigDict, mesh: Mesh, dataset: data.Dataset
) -> Experiment:
  federation = federate(config, dataset)
  net = models.create(config.model, dataset.classes)
  inputs = blank(federation.examples)
  _check_network(config.model, net, inputs, federation.examples, dataset)
  ready = initialization.initialize(config, net, inputs, dataset.classes)
  frozen = tree.checksum(ready.initial.frozen)
  ready, packing = initialization.pack(config, ready, inputs)
  sizes = np.asarray(federation.train.size)
  plan, roles = _plan(config, sizes), conditions.roles(config, sizes)
  cohort = config.cohort + config.extra_clients
  round_config = RoundConfig(
    ready.method,
    initialization.learner(ready.net, packing, inputs, dataset),
    plan,
    cohort,
    config.clients_per_step
    or _width(ready.net, inputs, mesh, cohort, plan, federation),
    mesh,
    config.eval_split if config.eval_held else '',
    tuple(roles.unseen.tolist()),
    conditions.failures(config),
    Attack(tuple(roles.hostile.tolist()), ATTACKS[config.attack]),
    conditions.rule(config),
    conditions.secure(config, ready, sizes),
  )
  federation = attacked(config, federation, roles.hostile, dataset)
  key, initial, federation = parallel.replicate(
    (ready.key, ready.initial, federation), mesh
  )
  return Experiment(
    round_config,
    key,
    initial,
    federation,
    roles.evaluated,
    config.eval_split,
    ready.layers,
    ready.head,
    conditions.privacy(config, ready),
    frozen,
    Envelope(0, 0, config.seed, config.density),
  )


def _check_network(
  name: str,
  net: nn.Module,
  inputs: Tree,
  examples: Examples,
  dataset: data.Dataset,
) -> None:
  """Raises `InputError` for a network that does not fit the data."""
  labels = examples.labels
  one = jax.ShapeDtypeStruct((1, *labels.shape[1:]), labels.dtype)
  checks.check(name, net, inputs, dataset.classes, dataset.task, one)
  checks.check_tokens(name, net, inputs, *_ends(examples))


def _ends(examples: Examples) -> tuple[Tree, Tree]:
  """The least and the largest of whole numbers that the network is given."""

  def end(choose):
    # Pixels of uint8 are scaled: the network sees floats.
    is_scaled = not isinstance(examples.scale, tuple)
    whole = lambda x: x.dtype.kind in 'iu' and not is_scaled
    return jax.tree.map(
      lambda x: choose(x) if whole(x) else None, examples.inputs
    )

  return end(np.min), end(np.max)


def _plan(config: ConfigDict, sizes: np.ndarray) -> Plan:
  """How long clients of these sizes train; raises `InputError` if too long.

  Batches are at most as large as the largest client: more would be padding.
  """
  largest = int(sizes.max())
  batch_size = min(config.batch_size, largest)
  field = 'local_steps' if config.local_steps else 'local_epochs'
  passes = -(-largest // batch_size) if field == 'local_epochs' else 1
  most = (2**31 - 1) // (passes * batch_size)
  if config[field] > most:
    remedy = f'a client of {largest} examples can take at most {most}'
    raise invalid(field, config[field], remedy)
  return Plan(
    batch_size, config.local_epochs, config.local_steps, config.rate_decay
  )


def run(
  config: ConfigDict,
  folder: str | pathlib.Path,
  on_row: OnRow = lambda row, moment: None,
  players: Players | None = None,
) -> list[Row]:
  """Trains, writing metrics after each evaluation; returns all rows.

  A run that was killed continues from its last checkpoint, to the same numbers,
  and so does a complete run that is given more rounds. A complete run is left
  as it is, which is reported on stderr, and its rows are returned. Divergence
  is reported on stderr. Of several processes only the first writes.

  Args:
    config: see `hns.config`.
    folder: where the run's files go.
    on_row: called with every row and a `hns.runs.loop.Moment`, for metrics of
      your own, which it returns as a dict, and to tell other programs.
    players: who plays the rounds; None: all clients are simulated.

  Raises:
    InputError: the config cannot run, or differs from that of the run's other
      processes, or the folder is another run's, cannot be written, or was
      removed.
    Interrupted: ctrl-C, SIGTERM or SIGHUP came; the run was saved.
  """
  _check_is_config(config)
  folder = pathlib.Path(folder)
  if not callable(on_row):
    kind = type(on_row).__name__
    raise InputError(
      f'on_row: must be a function of row and moment, not {kind}'
    )
  with streams.lenient(), devices.standard_settings():
    fields = json.loads(config.to_json())
    run_info = identity.run_info(fields)
    identity.check_same_in_all(run_info)
    with devices.fail_together():
      limits.validate(config)
      workdir.check(fields, folder)
      is_complete = workdir.is_complete(config.rounds, folder)
    workdir.check_same_for_all(is_complete, folder)
    if is_complete:
      rows = files.read(folder)
    else:
      rows = _train(config, run_info, folder, on_row, players or simulated())
    if devices.is_first():
      if is_complete:
        message = f'hns: {shown(folder)} was complete: nothing was run'
        print(message, file=sys.stderr)
      workdir.draw(title(config), folder, not is_complete)
      if trouble(rows):
        print(f'hns: {trouble(rows)}', file=sys.stderr)
  return rows


def _train(
  config: ConfigDict,
  run_info: RunInfo,
  folder: pathlib.Path,
  on_row: OnRow,
  players: Players,
) -> list[Row]:
  """Builds the experiment and runs the remaining rounds; returns all rows."""
  with devices.fail_together():
    paths.check_writable(folder)
  experiment = build(config)
  run_info = run_info | _built_info(config, experiment)
  identity.check_same_in_all(run_info)
  schedule = Schedule(*(config[name] for name in Schedule._fields))
  width = experiment.round_config.width
  remedy = 'lower it' if width > 1 else 'lower batch_size'
  with workdir.claim(folder) as file:
    with devices.fail_together():
      workdir.write_run_info(run_info, folder)
    with devices.enough_memory(
      'clients_per_step', width, f'so many clients at once: {remedy}'
    ):
      return record(
        experiment, schedule, folder, file, run_info, on_row, players
      )


def _built_info(config: ConfigDict, experiment: Experiment) -> RunInfo:
  """What is known of a run once it is built: checksums, device, sizes."""
  initial, round_config = experiment.initial, experiment.round_config
  method, mesh = round_config.method, round_config.mesh
  return {
    'frozen': experiment.frozen,
    'born': tree.checksum(initial),
    'examples': tree.checksum(experiment.federation),
    'dataset_version': data.version(config.dataset),
    'device': f'{mesh.size} x {mesh.devices[0].device_kind}',
    'clients_per_step': round_config.width,
    'weights_downloaded': conditions.weights_downloaded(
      method, experiment.key, initial
    ),
    'bytes_kept_a_client': client_store.bytes_each(initial.client_state),
    'layers': experiment.layers,
    'head': experiment.head,
  }


def title(config: ConfigDict) -> str:
  """One line that describes a run."""
  return (
    f'{config.algorithm} on {names.short(config.dataset)}: '
    f'{config.num_clients} clients, '
    f'{config.partition}, {config.model}, seed {config.seed}'
  )


def _width(
  net: nn.Module,
  inputs: jax.Array,
  mesh: Mesh,
  cohort: int,
  plan: Plan,
  federation: FederatedData,
) -> int:
  """Clients per step of a device: one on a CPU core, which it fills.

  On accelerators an estimate, for a cohort of clients of all sizes.
  """
  if jax.default_backend() == 'cpu':
    return 1
  params = modes.shapes_of(net, inputs)['params']
  steps = np.sort(steps_of(plan, federation.train.size)[0])
  typical = steps[np.linspace(0, len(steps) - 1, cohort).astype(int)]
  weights = sum(w.size for w in jax.tree.leaves(params))
  return parallel.best_width(typical, weights, mesh.size)
