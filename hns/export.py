"""A trained model as a file.

  python -m hns.export RUN --client=3 --file=model.hns   # or --client=global
  python -m hns.export RUN --client=3 --evaluate=model.hns
  python -m hns.export RUN --client=3 --file=model.npz

The first writes the model that a client has after training from the run's last
state, a model of signs, as a seed and its signs: a few kilobytes
(`hns.runs.model_file`). The second, which trains nothing, prints a file's
accuracy on that client's test pictures. Predictions are those of the model
exported, bit for bit, on the same backend.

The third writes any model, for any program: float32 arrays by their path, such
as `Dense_0/kernel`, as they act (weights x mask x signs, 0 where pruned) in
the shapes of the network that the run's config names, and `scale`: a pixel x
enters as (x - scale[0]) / scale[1].

A run whose model, method or dataset a config file of your own registers needs
that file too: --config=FILE.
"""

import functools
import io
import pathlib
import re
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax.traverse_util import flatten_dict, unflatten_dict

from hns import command, data, durable, tree
from hns import config as configs
from hns.engine import evaluation, rounds
from hns.engine.training import correct
from hns.errors import InputError, invalid, shown
from hns.methods.recipes import RECIPES
from hns.networks import compact, models
from hns.networks.supermask import to_params
from hns.report import files
from hns.runs import (
  commandline,
  devices,
  drawing,
  experiment,
  limits,
  loop,
  workdir,
)
from hns.runs.model_file import (
  DRAWN,
  MOST_BYTES,
  Model,
  Spec,
  dump,
  known,
  load,
  redraw,
)
from hns.values import leaves

__all__ = ['Model', 'Spec', 'arrays', 'dump', 'evaluate', 'from_run', 'load']
__all__ += ['main', 'redraw', 'trained']

Folder = str | pathlib.Path


def from_run(folder: Folder, client: int | None) -> bytes:
  """The file of `trained`."""
  return dump(*trained(folder, client))


def trained(folder: Folder, client: int | None) -> tuple[Spec, dict[str, Any]]:
  """A run's personal model, or with None its global one: `dump` takes it.

  Raises `InputError` if the run is damaged or not finished, its models are not
  signs, or this machine draws other weights from its seed.
  """
  config, run, about = _opened(folder, client)
  variables = _variables(config, run, about, folder, client)
  if variables.keys() != {'weights', 'mask', 'signs', 'params'}:
    raise InputError(
      f'{config.algorithm}: its models are not signs: write one as arrays, '
      'with --file=NAME.npz'
    )
  classes = _logits(run, variables)
  # The shortest decimals that are these float32.
  scale = tuple(
    float(str(x)) for x in np.asarray(run.federation.examples.scale)
  )
  image = run.federation.examples.images.shape[1:]
  fields = {name: config[name] for name in ('dataset', *DRAWN)}
  return Spec(classes=classes, image=image, scale=scale, **fields), variables


def arrays(folder: Folder, client: int | None) -> dict[str, np.ndarray]:
  """Any run's model as it acts: float32 by path, and its pictures' `scale`.

  Args and errors are those of `trained`, but for signs.
  """
  config, run, about = _opened(folder, client)
  variables = _variables(config, run, about, folder, client)
  params = to_params(variables)['params']
  whole = _whole(config, run, params, _logits(run, variables))
  if 'scale' in whole:
    remedy = 'is also the name of the scale of pictures: rename the parameter'
    raise invalid('parameter', 'scale', remedy)
  found = {**whole, 'scale': run.federation.examples.scale}
  return {name: np.asarray(x, np.float32) for name, x in found.items()}


def evaluate(folder: Folder, content: bytes, client: int | None) -> float:
  """A file's accuracy on a client's, or with None all, test pictures."""
  net, variables, spec = load(content)
  config, run, _ = _opened(folder, client)
  federation = run.federation
  image = federation.examples.images.shape[1:]
  for field, here in (('dataset', config.dataset), ('image', image)):
    if getattr(spec, field) != here:
      remedy = f'the run has {here}: evaluate it on a run like its own'
      raise invalid(field, getattr(spec, field), remedy)
  scale = jnp.asarray(spec.scale, jnp.float32)
  examples = federation.examples._replace(scale=scale)
  chosen = jnp.arange(federation.test.size.shape[0])
  chosen = chosen if client is None else chosen[client : client + 1]
  rows = jax.tree.map(lambda x: x[chosen], federation.test)
  right = jax.lax.map(
    lambda r: correct(net.apply, variables, examples, r), rows
  )
  return float(jnp.sum(right) / jnp.sum(rows.size))


def _opened(folder: Folder, client: int | None) -> tuple[Any, Any, Any]:
  """A run's config, the experiment built anew, and all of its config.json."""
  about = files.about(folder)
  if about is None:
    raise InputError(f'{shown(folder)}: holds no run')
  try:
    _check_names(about)
    config = configs.base(**about['config'])
    limits.validate(config)
  except InputError as error:
    path = shown(pathlib.Path(folder) / 'config.json')
    raise InputError(f'{path}: {error}') from error
  if client is not None and client not in range(config.num_clients):
    raise invalid('client', client, f'the run has {config.num_clients}, from 0')
  return config, experiment.build(config), about


def _check_names(about: dict[str, Any]) -> None:
  """Raises `InputError` for a name that the run had and this process lacks."""
  config = about['config']
  for name, value in config.items():
    if isinstance(value, dict) and name not in RECIPES:
      known('algorithm', name, RECIPES)
  values = leaves(config)
  for name, field in configs.fields().items():
    table, _, last = name.rpartition('.')
    used = table in ('', config['algorithm'])
    is_name = used and isinstance(values.get(name), str)
    if is_name and isinstance(field.names(), dict):
      known(last, values[name], field.names())
  if about.get('dataset_version') == 'built in':
    known('dataset', config['dataset'], data.SOURCES)


def _variables(config, run, about, folder, client) -> dict[str, Any]:
  """The model that a client has after training, or with None the global one."""
  round_config, initial = run.round_config, run.initial
  if about.get('frozen') != tree.checksum(initial.frozen):
    remedy = 'other weights are drawn here: export it where it was trained'
    raise invalid('run', str(folder), remedy)
  progress = workdir.load(pathlib.Path(folder), loop.begin(run), config.rounds)
  context = rounds.begin_round(round_config, *run.constants, progress.state)
  if client is None:
    return evaluation.global_model(round_config, context)
  client_state = progress.store.states.get(client, initial.client_state)
  return evaluation.personal_model(round_config, context, client, client_state)


def _logits(run, variables) -> int:
  picture = jnp.zeros((1, *run.federation.examples.images.shape[1:]))
  return jax.eval_shape(run.round_config.apply, variables, picture).shape[-1]


def _whole(config, run, params, classes: int) -> dict[str, Any]:
  """Arrays by path, with zeros for the units that pruning has cut off."""
  flat = flatten_dict(params, sep='/')
  net = models.create(config.model, classes)
  inputs = jnp.zeros((1, *run.federation.examples.images.shape[1:]))
  like = jax.eval_shape(net.init, jax.random.key(0), inputs)['params']
  shapes = {k: x.shape for k, x in flatten_dict(like, sep='/').items()}
  if all(flat[name].shape == shape for name, shape in shapes.items()):
    return flat
  places = _places(config, net, inputs)
  for name, place in places.items():
    array = np.zeros(shapes[name], np.float32)
    array.reshape(-1)[place] = flat[name]
    flat[name] = array
  return flat


def _places(config, net, inputs) -> dict[str, np.ndarray]:
  """By path, where in a whole kernel the weights lie that `compact` left."""
  # A network that knows its widths is taken for one that was cut already.
  widths = (*(c[0] for c in net.convs), *net.dense)
  whole = net.clone(full=widths)
  born = drawing.initialize(config, whole, inputs, net.classes).initial
  masks = {(k, 'kernel'): m for k, m in compact.masks_of(born).items()}
  places = {k: np.arange(m.size).reshape(m.shape) for k, m in masks.items()}
  layout = {'mask': unflatten_dict(masks), 'place': unflatten_dict(places)}
  return flatten_dict(compact.compact(net, layout)[1]['place'], sep='/')


def _client(word: str) -> int | None:
  if word != 'global' and not re.fullmatch('[0-9]{1,18}', word):
    raise invalid('client', word, 'write a number from 0, or global')
  return None if word == 'global' else int(word)


def _write(run: Folder, client: int | None, file: pathlib.Path) -> None:
  """Writes a run's model, and says so."""
  usable = file.is_file() or not file.exists()
  if not usable or not file.parent.is_dir():
    raise invalid('file', str(file), 'must be a file, in a folder that exists')
  if file.suffix.lower() == '.npz':
    packed = io.BytesIO()
    np.savez(packed, **arrays(run, client))
    content = packed.getvalue()
  else:
    content = from_run(run, client)
  durable.replace(file, content)
  print(f'{file}: {len(content):,} bytes')


def _flags() -> flags.FlagValues:
  values = flags.FlagValues()
  text = functools.partial(flags.DEFINE_string, flag_values=values)
  text('client', 'global', 'a number from 0, or global')
  text('file', '', 'where the model goes: NAME.npz as arrays, else as signs')
  text('evaluate', '', 'a model file to evaluate')
  text('config', '', 'the config file that registers names of your own')
  return values


def main(words: list[str]) -> None:
  values = _flags()
  with command.one_line():
    (run,) = command.parse(words, values, __doc__, count=1)
    if not (values.file or values.evaluate):
      raise InputError('give --file, --evaluate or both')
    client = _client(values.client)
    if values.config:
      commandline.read(values.config)
    with command.one_line(OSError):
      _export(run, client, values.file, values.evaluate)


def _export(run: Folder, client: int | None, file: str, model: str) -> None:
  """Writes a run's model to `file`, and evaluates `model`, where given."""
  devices.start()
  if file:
    _write(run, client, pathlib.Path(file))
  if model:
    with open(model, 'rb') as opened:
      content = opened.read(MOST_BYTES)
    print(f'accuracy {evaluate(run, content, client):.4f}')


if __name__ == '__main__':
  main(sys.argv)
