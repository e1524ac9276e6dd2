"""A config to objects, and the loop over rounds with its files."""

import functools
import json
import pathlib
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from hns import config as configs
from hns import (
  data,
  evaluation,
  metrics,
  models,
  partition,
  pruning,
  report,
  rounds,
  wire,
  workdir,
)
from hns.algorithms import RECIPES
from hns.errors import invalid
from hns.federated import Birth, Method
from hns.rounds import Engine, Federation, State
from hns.supermask import Supermask
from hns.training import Examples, Plan, Rows
from hns.wire import Envelope


class Experiment(NamedTuple):
  """Everything a run needs, made from a config.

  Attributes:
    engine: static functions and sizes.
    key: of all rounds.
    birth: what exists before round 1.
    federation: all clients' examples.
    rows: the examples that accuracies are measured on.
    envelope: what every payload's header says, but for the round.
  """

  engine: Engine
  key: jax.Array
  birth: Birth
  federation: Federation
  rows: Rows
  envelope: Envelope


def build(config: Any) -> Experiment:
  """Makes an experiment; raises `InputError` before anything is compiled."""
  configs.validate(config)
  dataset = data.load(config.dataset, config.group)
  federation = federate(config, dataset)
  net = models.create(config.model, dataset.classes)
  inputs = jnp.zeros((1, *dataset.train_images.shape[1:]))
  _check_model(config, net, inputs)
  weights_key, birth_key, key = jax.random.split(jax.random.key(config.seed), 3)
  method = _method(config, functools.partial(_prune, config, net, inputs))
  params = jax.jit(net.init)(weights_key, inputs)['params']
  engine = Engine(
    method,
    Supermask(net).apply,
    Plan(config.batch_size, config.local_epochs, config.local_steps),
    config.cohort,
    config.clients_per_step or _width(config.cohort),
  )
  return Experiment(
    engine,
    key,
    method.init(birth_key, params),
    federation,
    getattr(federation, config.eval_split),
    Envelope(0, config.seed, config.density),
  )


def federate(config: Any, dataset: data.Dataset) -> Federation:
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
    ),
  )
  train = np.unique(np.concatenate(shares.train + shares.validation))
  test = np.unique(np.concatenate(shares.test))
  images = [dataset.train_images[train], dataset.test_images[test]]
  labels = [dataset.train_labels[train], dataset.test_labels[test]]

  def rows(pools, held, offset):
    places = [np.searchsorted(held, pool) + offset for pool in pools]
    return Rows(*map(jnp.asarray, partition.pad(places)))

  return Federation(
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
  """Mean and standard deviation of uint8 pixels, from their histogram."""
  counts = sum(
    np.bincount(part.ravel(), minlength=256)
    for part in np.array_split(images, 100)
  )
  values = np.arange(256)
  mean = np.average(values, weights=counts)
  return mean, np.sqrt(np.average((values - mean) ** 2, weights=counts))


def run(config: Any, folder: str | pathlib.Path) -> list[dict[str, Any]]:
  """Trains, writing metrics as they come; returns the rows of the metrics.

  A folder that holds this run complete is left as it is and its rows are
  returned.

  Raises:
    InputError: the config cannot run, or the folder is another config's.
  """
  folder = pathlib.Path(folder)
  configs.validate(config)
  held = json.loads(config.to_json())
  workdir.check(held, folder)
  rows = workdir.rows(folder)
  if not rows or rows[-1]['round'] != config.rounds:
    experiment = build(config)
    path = workdir.start(held, _about(config, experiment), folder)
    _write_rows(config, experiment, path)
  workdir.draw(title(config), folder)
  return workdir.rows(folder)


def _write_rows(config, experiment, path: pathlib.Path) -> None:
  with open(path, 'w') as file, _bar(config.rounds) as bar:
    for row in train(experiment, config.rounds, config.eval_every, bar):
      file.write(json.dumps(row) + '\n')
      file.flush()
      bar.set_postfix_str(
        f'personalised {row["personal_accuracy"]:.3f}, '
        f'global {row["global_accuracy"]:.3f}, '
        f'{report.size(row["uplink_bytes"] + row["downlink_bytes"])}'
      )


def _about(config, experiment) -> dict[str, Any]:
  """What a run depends on beside its config and the versions."""
  engine, key, birth, *_ = experiment
  message = engine.method.download(key, birth.fixed, birth.shared)
  return {
    'dataset_version': data.version(config.dataset),
    'device': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
    'clients_per_step': engine.width,
    'weights_downloaded': int(wire.coordinates(message)),
  }


def train(experiment: Experiment, last: int, eval_every: int, bar=None):
  """Yields a row of metrics every `eval_every` rounds and after the last.

  Bytes and rounds count from the first; `seconds` is the last round alone.
  """
  _, key, birth, federation, rows, _ = experiment
  check_payloads(experiment)
  state = rounds.begin(birth, federation.train.size.shape[0])
  start = time.perf_counter()
  step, evaluate = programs(experiment, state)
  compile_seconds = time.perf_counter() - start
  reports, sent = [], {'uplink_bytes': 0, 'downlink_bytes': 0}
  for number in range(1, last + 1):
    start = time.perf_counter()
    state, told = step(key, birth, federation, state)
    jax.block_until_ready(state)
    seconds = time.perf_counter() - start
    reports.append(told)
    if bar is not None:
      bar.update()
    if number % eval_every and number != last:
      continue
    traffic = metrics.traffic(jax.device_get(reports))
    for name in sent:
      sent[name] += traffic[name]
    scores = jax.device_get(evaluate(key, birth, federation, state, rows))
    yield {
      'round': number,
      **metrics.summarise(scores),
      **traffic,
      **sent,
      'seconds': seconds,
      'compile_seconds': compile_seconds,
    }
    reports = []


def programs(experiment: Experiment, state: State) -> tuple[Any, Any]:
  """The compiled round, which consumes its state, and the evaluation."""
  engine, key, birth, federation, rows, _ = experiment
  step = jax.jit(
    functools.partial(rounds.run_round, engine), donate_argnums=3
  ).lower(key, birth, federation, state)
  evaluate = jax.jit(functools.partial(evaluation.evaluate, engine)).lower(
    key, birth, federation, state, rows
  )
  return step.compile(), evaluate.compile()


def check_payloads(experiment: Experiment) -> None:
  """Encodes a first download and upload and decodes what would travel.

  Raises:
    RuntimeError: the bytes counted are not those of the payloads, or the
      receiver would read something else than was sent.
  """
  engine, key, birth, federation, _, envelope = experiment
  method, fixed = engine.method, birth.fixed
  state = rounds.begin(birth, federation.train.size.shape[0])
  opening = rounds.open_round(engine, key, birth, federation, state)
  start = method.join(key, fixed, opening.message, birth.own)
  upload, _ = method.split(key, fixed, opening.message, birth.own, start)
  for way, codec, message in (
    ('download', method.down, opening.message),
    ('upload', method.up, upload),
  ):
    payload = wire.encode(codec, message, envelope)
    got = wire.decode(codec, payload, message, envelope)
    if (
      len(payload) != wire.size(codec, message)
      or wire.encode(codec, got, envelope) != payload
    ):
      raise RuntimeError(f'the bytes of the {way} are counted wrongly')


def title(config: Any) -> str:
  """One line that names a run."""
  return (
    f'{config.algorithm} on {config.dataset}: {config.num_clients} clients, '
    f'{config.partition}, {config.model}, seed {config.seed}'
  )


def _method(config, prune) -> Method:
  """The recipe with the parameters of its table."""
  table = config[config.algorithm]
  try:
    return RECIPES[config.algorithm](prune, **table)
  except TypeError as error:
    raise invalid(config.algorithm, dict(table), str(error)) from error


def _prune(config, net, inputs, key, variables) -> Any:
  total = sum(w.size for w in jax.tree.leaves(variables['weights']))
  mask = pruning.prune(
    key,
    pruning.SCORES[config.pruning],
    net,
    variables,
    inputs,
    pruning.schedule(total, config.density, config.pruning_steps),
  )
  pruning.check_layers(mask, config.density)
  return mask


def _check_model(config, net, inputs) -> None:
  """Traces the model on one image, without computing anything."""
  try:
    shapes = jax.eval_shape(net.init, jax.random.key(0), inputs)
  except (ValueError, TypeError, ZeroDivisionError) as error:
    shapes = None
    cause = str(error).split('\n')[0]
  sizes = [0] if shapes is None else [x.size for x in jax.tree.leaves(shapes)]
  if not all(sizes):
    cause = cause if shapes is None else 'a layer is left without inputs'
    raise invalid(
      'model',
      config.model,
      f'images of {config.dataset}, {inputs.shape[1:]}, do not fit: {cause}; '
      'choose mlp or cnn, which take any size',
    )


def _width(cohort: int) -> int:
  """Clients side by side: one on a CPU, whose cores one client fills.

  On accelerators 32, not measured yet.
  """
  return 1 if jax.default_backend() == 'cpu' else min(cohort, 32)


def _bar(total: int) -> tqdm.tqdm:
  return tqdm.tqdm(total=total, unit='round', dynamic_ncols=True)
