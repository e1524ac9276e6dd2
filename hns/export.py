"""A trained model as a file.

  python -m hns.export RUN --client=3 --file=model.hns   # or --client=global
  python -m hns.export RUN --client=3 --evaluate=model.hns
  python -m hns.export RUN --client=3 --file=model.npz

The first writes the model that a client has after training from the run's last
server state. For methods that train signs, that is a seed and the signs: a few
kilobytes (`hns.runs.model_file`). The second evaluates a file on that client's
test examples, without training. Predictions are those of the exported model,
bit for bit, on the same backend.

The third writes any model for other programs: float32 arrays by path, such as
`Dense_0/kernel`, each weights x mask x signs (0 where pruned) in the shapes of
the network that the run's config names, and `scale`: an input x enters the
network as (x - scale[0]) / scale[1].

If a config file of your own registers the run's model, method or dataset, add
--config=FILE.
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

from hns import command, durable, streams, tree
from hns.data.tasks import CLASSIFICATION
from hns.engine.scoring import score, units
from hns.engine.training import Learner
from hns.errors import InputError, invalid
from hns.networks import compact, models, modes
from hns.networks.modes import STATISTICS
from hns.networks.supermask import has_sign, to_params
from hns.runs import commandline, devices, initialization, loop, run_models
from hns.runs.finished import (
  Folder,
  Run,
  blank_of,
  open_run,
  scale_of,
  variables_of,
)
from hns.runs.model_file import DRAWN as DRAWN
from hns.runs.model_file import MOST_BYTES, Model, Spec, dump, load, redraw
from hns.values import ConfigDict

__all__ = ['Model', 'Spec', 'arrays', 'dump', 'evaluate', 'from_run', 'load']
__all__ += ['main', 'redraw', 'trained']


def from_run(folder: Folder, client: int | None) -> bytes:
  """The file of `trained`."""
  return dump(*trained(folder, client))


def trained(folder: Folder, client: int | None) -> tuple[Spec, dict[str, Any]]:
  """A trained model of signs, as `dump` takes it.

  Args:
    folder: a finished run's.
    client: whose personal model; None for the global one.

  Raises:
    InputError: the run is damaged or not finished, its models are not signs, or
      this machine draws other weights from its seed.
  """
  run = open_run(folder, client)
  variables = variables_of(run, client)
  if variables.keys() != {'weights', 'mask', 'signs', 'params'}:
    raise InputError(
      f'{run.config.algorithm}: its models are not signs alone: write one as '
      'arrays, with --file=NAME.npz'
    )
  _check_floats(run, variables)
  if run.experiment.round_config.learner.task.read is not CLASSIFICATION.read:
    raise InputError(
      'the task reads outputs in units that a file of signs does not hold: '
      'write the model as arrays, with --file=NAME.npz, or load it from its '
      'run with hns.predictor'
    )
  one, classes = _one_array(run), _num_logits(run, variables)
  if not run.config.compact:  # a file is always read as a compact network
    net = models.create(run.config.model, classes)
    variables = compact.compact(net, variables)[1]
  spec = Spec(
    classes=classes,
    shape=one.shape[1:],
    dtype=str(one.dtype),
    scale=scale_of(run.experiment.federation.examples),
    **{name: run.config[name] for name in ('dataset', *DRAWN)},
  )
  return spec, variables


def _check_floats(run: Run, variables: dict[str, Any]) -> None:
  """Raises `InputError` if what has no sign is not what the seed gives."""
  paths = flatten_dict(variables['params'], sep='/')
  start = loop.begin(run.experiment)
  drawn = run_models.global_model(run.experiment, start)['params']
  is_trained = tree.checksum(drawn) != tree.checksum(variables['params'])
  if is_trained or any(has_sign(path, leaf) for path, leaf in paths.items()):
    raise InputError(
      f'{run.config.algorithm}: clients train floats, or kernels have no sign, '
      'which a file of signs does not hold: write one as arrays, with '
      '--file=NAME.npz'
    )


def _one_array(run: Run) -> np.ndarray:
  """One example of zeros; `InputError` for inputs that are several arrays."""
  one = blank_of(run)
  if isinstance(one, dict):
    remedy = 'write the model as arrays, with --file=NAME.npz'
    raise InputError(f'a file of signs has one array of inputs: {remedy}')
  return one


def arrays(folder: Folder, client: int | None) -> dict[str, np.ndarray]:
  """Any trained model as float32 arrays by path, and its inputs' `scale`.

  Args and errors are those of `trained`, except that all models are allowed.
  """
  run = open_run(folder, client)
  variables = variables_of(run, client)
  params = to_params(variables)['params']
  full = _full_size(run, params, _num_logits(run, variables))
  statistics = {STATISTICS: variables.get(STATISTICS, {})}
  full |= flatten_dict(statistics, sep='/')
  if 'scale' in full:
    remedy = 'is also the name of the scale of inputs: rename the parameter'
    raise invalid('parameter', 'scale', remedy)
  full['scale'] = scale_of(run.experiment.federation.examples)
  return {name: np.asarray(x, np.float32) for name, x in full.items()}


def evaluate(folder: Folder, content: bytes, client: int | None) -> float:
  """A model file's accuracy on the test examples of a client; None for all."""
  model = load(content)
  run = open_run(folder, client)
  federation, spec = run.experiment.federation, model.spec
  one = _one_array(run)
  found = dict(
    dataset=run.config.dataset, shape=one.shape[1:], dtype=str(one.dtype)
  )
  for field, here in found.items():
    if getattr(spec, field) != here:
      remedy = f'the run has {here}: evaluate it on a run like its own'
      raise invalid(field, getattr(spec, field), remedy)
  examples = federation.examples
  if not isinstance(examples.scale, tuple):
    scale = jnp.asarray(spec.scale, jnp.float32)
    examples = examples._replace(scale=scale)
  chosen = slice(None) if client is None else slice(client, client + 1)
  rows = jax.tree.map(lambda x: x[chosen], federation.test)
  task = run.experiment.round_config.learner.task
  learner = Learner(modes.apply_of(model.net.unmasked), task)
  total = jax.lax.map(
    lambda r: score(learner, model.variables, examples, r), rows
  )
  return float(jnp.sum(total) / jnp.sum(units(learner, examples, rows)))


def _num_logits(run: Run, variables: dict[str, Any]) -> int:
  apply = run.experiment.round_config.learner.apply
  return jax.eval_shape(apply, variables, blank_of(run)).shape[-1]


def _full_size(run: Run, params: dict, classes: int) -> dict[str, Any]:
  """Arrays by path, with zeros for the units that pruning removed."""
  flat = flatten_dict(params, sep='/')
  net, inputs = models.create(run.config.model, classes), blank_of(run)
  like = modes.shapes_of(net, inputs)['params']
  shapes = {k: x.shape for k, x in flatten_dict(like, sep='/').items()}
  if all(flat[name].shape == shape for name, shape in shapes.items()):
    return flat
  for name, place in _positions(run.config, net, inputs).items():
    array = np.zeros(shapes[name], np.float32)
    array.reshape(-1)[place] = flat[name]
    flat[name] = array
  return flat


def _positions(
  config: ConfigDict, net: models.Network, inputs: jax.Array
) -> dict[str, np.ndarray]:
  """By path, the flat indices in a full kernel that `compact` keeps."""
  # `compact` does not compact a network whose full widths are set.
  widths = (*(c[0] for c in net.convs), *net.dense)
  full = net.clone(full=widths)
  initial = initialization.initialize(config, full, inputs, net.classes).initial
  masks = {(k, 'kernel'): m for k, m in compact.masks_of(initial).items()}
  indices = {k: np.arange(m.size).reshape(m.shape) for k, m in masks.items()}
  layout = {'mask': unflatten_dict(masks), 'index': unflatten_dict(indices)}
  return flatten_dict(compact.compact(net, layout)[1]['index'], sep='/')


def _client(word: str) -> int | None:
  """The value of --client: an id, or None for the global model."""
  if word != 'global' and not re.fullmatch('[0-9]{1,18}', word):
    raise invalid('client', word, 'write a number from 0, or global')
  return None if word == 'global' else int(word)


def _write(run: Folder, client: int | None, file: pathlib.Path) -> None:
  """Writes a run's model to a file and prints the file's size."""
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
  streams.show(f'{file}: {len(content):,} bytes')


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
    streams.show(f'accuracy {evaluate(run, content, client):.4f}')


if __name__ == '__main__':
  main(sys.argv)
