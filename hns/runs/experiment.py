"""A config to an `Experiment`, and an `Experiment` to a run's folder."""

import json
import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hns import data, streams, tree, wire
from hns.data import partition
from hns.engine import client_store, parallel
from hns.engine.context import RoundConfig
from hns.engine.metrics import trouble
from hns.engine.training import (
  ClientIndices,
  Examples,
  FederatedData,
  Plan,
  steps_of,
)
from hns.errors import invalid, shown
from hns.networks import checks, models
from hns.networks.supermask import Supermask
from hns.runs import devices, drawing, identity, limits, workdir
from hns.runs.loop import Experiment
from hns.runs.record import Schedule, record
from hns.wire import Envelope


def build(config: Any) -> Experiment:
  """Makes an experiment; raises `InputError` before anything is compiled."""
  limits.validate(config)
  mesh = parallel.mesh_of(devices.choose(config.devices, config.cohort))
  dataset = data.load(config.dataset, config.group)
  remedy = "all clients' pictures and the model: lower it, or model"
  memory = devices.enough_memory('num_clients', config.num_clients, remedy)
  with memory, devices.as_ever():
    return _assemble(config, mesh, dataset)


def _assemble(config, mesh, dataset) -> Experiment:
  federation = federate(config, dataset)
  net = models.create(config.model, dataset.classes)
  inputs = jnp.zeros((1, *dataset.train_images.shape[1:]))
  checks.check(config.model, net, inputs, dataset.classes)
  conceived = drawing.initialize(config, net, inputs, dataset.classes)
  net, initial, key = conceived.net, conceived.initial, conceived.key
  plan = _plan(config, np.asarray(federation.train.size))
  round_config = RoundConfig(
    conceived.method,
    Supermask(net).apply,
    plan,
    config.cohort,
    config.clients_per_step
    or _width(net, inputs, mesh, config.cohort, plan, federation),
    mesh,
    config.eval_split if config.eval_held else '',
    dataset.classes,
  )
  eval_client_ids = _drawn_clients(
    config.seed, config.eval_clients, federation.train.size
  )
  key, initial, federation = parallel.replicate(
    (key, initial, federation), mesh
  )
  return Experiment(
    round_config,
    key,
    initial,
    federation,
    eval_client_ids,
    config.eval_split,
    conceived.layers,
    conceived.head,
    Envelope(0, 0, config.seed, config.density),
  )


def _plan(config, sizes: np.ndarray) -> Plan:
  """How long clients of these sizes train; raises `InputError` if too long.

  No batch is larger than the largest client, which would be padding.
  """
  largest = int(sizes.max())
  batch_size = min(config.batch_size, largest)
  field = 'local_steps' if config.local_steps else 'local_epochs'
  passes = -(-largest // batch_size) if field == 'local_epochs' else 1
  most = (2**31 - 1) // (passes * batch_size)
  if config[field] > most:
    remedy = f'a client of {largest} examples can take at most {most}'
    raise invalid(field, config[field], remedy)
  return Plan(batch_size, config.local_epochs, config.local_steps)


def _drawn_clients(seed: int, count: int, sizes: Any) -> np.ndarray:
  """The clients that are evaluated, ordered by size as cohorts are."""
  clients = len(sizes)
  draw = np.random.RandomState(seed).permutation(clients)
  ids = np.sort(draw[: count or clients])
  return ids[np.argsort(np.asarray(sizes)[ids], kind='stable')]


def federate(config: Any, dataset: data.Dataset) -> FederatedData:
  """Shares a dataset out and keeps the examples that somebody holds."""
  shares = partition.divide(
    config.seed,
    config.partition,
    partition.Labelled(dataset.train_labels, dataset.train_groups),
    partition.Labelled(dataset.test_labels, dataset.test_groups),
    partition.Scheme(
      config.num_clients,
      config.examples_per_client,
      config.classes_per_client,
      config.alpha,
      config.validation_fraction,
      config.test_examples_per_client,
      limits.asks_validation(config),
    ),
  )
  train = np.unique(np.concatenate(shares.train + shares.validation))
  test = np.unique(np.concatenate(shares.test))
  images = [dataset.train_images[train], dataset.test_images[test]]
  labels = [dataset.train_labels[train], dataset.test_labels[test]]

  def rows(pools, kept, offset):
    places = [np.searchsorted(kept, pool) + offset for pool in pools]
    return ClientIndices(*map(jnp.asarray, partition.pad(places)))

  return FederatedData(
    Examples(
      jnp.asarray(np.concatenate(images)),
      jnp.asarray(np.concatenate(labels)),
      jnp.asarray(_pixel_scale(dataset.train_images), jnp.float32),
    ),
    rows(shares.train, train, 0),
    rows(shares.validation, train, 0),
    rows(shares.test, test, len(train)),
  )


def _pixel_scale(images: np.ndarray) -> tuple[float, float]:
  """Mean and standard deviation of pixels; of uint8 from their histogram."""
  parts = np.array_split(images, 100)
  if images.dtype != np.uint8:
    mean = sum(part.sum(dtype=np.float64) for part in parts) / images.size
    squares = sum(np.sum((part - mean) ** 2) for part in parts)
    return mean, np.sqrt(squares / images.size)
  counts = sum(np.bincount(part.ravel(), minlength=256) for part in parts)
  values = np.arange(256)
  mean = np.average(values, weights=counts)
  return mean, np.sqrt(np.average((values - mean) ** 2, weights=counts))


def run(config: Any, folder: str | pathlib.Path) -> list[dict[str, Any]]:
  """Trains, writing metrics as they come; returns the rows of the metrics.

  A run that was killed goes on from its last checkpoint, to the same numbers,
  and so does a complete one that is to have more rounds. A folder that holds
  this run complete is left as it is, which is said, and its rows are returned.
  That training diverged is said on stderr. Of several processes the first alone
  writes.

  Raises:
    InputError: the config cannot run, or is not that of the run's other
      processes, or the folder is another run's, cannot be written, or was
      taken away.
    Interrupted: ctrl-C, SIGTERM or SIGHUP came; the run was saved.
  """
  folder = pathlib.Path(folder)
  with streams.lenient(), devices.as_ever():
    fields = json.loads(config.to_json())
    about = identity.about(fields)
    identity.agree(about)
    with devices.together():
      limits.validate(config)
      workdir.check(fields, folder)
      finished = workdir.complete(config.rounds, folder)
    workdir.check_shared(finished, folder)
    if finished:
      rows = workdir.rows(folder)
    else:
      rows = _train(config, about, folder)
    if devices.is_first():
      if finished:
        said = f'hns: {shown(folder)} was complete: nothing was run'
        print(said, file=sys.stderr)
      workdir.draw(title(config), folder, not finished)
      if trouble(rows):
        print(f'hns: {trouble(rows)}', file=sys.stderr)
  return rows


def _train(config, about, folder) -> list[dict[str, Any]]:
  """Plays the rounds that are left; returns the rows of all."""
  with devices.together():
    workdir.check_writable(folder)
  experiment = build(config)
  about = about | _about(config, experiment)
  identity.agree(about)
  schedule = Schedule(*(config[name] for name in Schedule._fields))
  width = experiment.round_config.width
  remedy = 'lower it' if width > 1 else 'lower batch_size'
  with workdir.claim(folder) as file:
    with devices.together():
      workdir.start(about, folder)
    with devices.enough_memory(
      'clients_per_step', width, f'so many clients at once: {remedy}'
    ):
      return record(experiment, schedule, folder, file, about)


def _about(config, experiment) -> dict[str, Any]:
  """What a run depends on beside its config, the versions and JAX."""
  initial, round_config = experiment.initial, experiment.round_config
  broadcast, mesh = round_config.method.server.broadcast, round_config.mesh

  @jax.jit
  def weights_downloaded(key, frozen, server_state):
    return wire.coordinates(broadcast(key, frozen, server_state))

  return {
    'frozen': tree.checksum(initial.frozen),
    'born': tree.checksum(initial),
    'examples': tree.checksum(experiment.federation),
    'dataset_version': data.version(config.dataset),
    'device': f'{mesh.size} x {mesh.devices[0].device_kind}',
    'clients_per_step': round_config.width,
    'weights_downloaded': int(
      weights_downloaded(experiment.key, initial.frozen, initial.server_state)
    ),
    'bytes_kept_a_client': client_store.bytes_each(initial.client_state),
    'layers': experiment.layers,
    'head': experiment.head,
  }


def title(config: Any) -> str:
  """One line that names a run."""
  return (
    f'{config.algorithm} on {config.dataset}: {config.num_clients} clients, '
    f'{config.partition}, {config.model}, seed {config.seed}'
  )


def _width(net, inputs, mesh, cohort, plan, federation) -> int:
  """Clients side by side on a device: one on a CPU core, which it fills.

  Elsewhere an estimate for a cohort of all sizes alike.
  """
  if jax.default_backend() == 'cpu':
    return 1
  params = jax.eval_shape(net.init, jax.random.key(0), inputs)['params']
  steps = np.sort(steps_of(plan, federation.train.size)[0])
  typical = steps[np.linspace(0, len(steps) - 1, cohort).astype(int)]
  weights = sum(w.size for w in jax.tree.leaves(params))
  return parallel.best_width(typical, weights, mesh.size)
