"""A trained model as one file of a few kilobytes: a seed and its signs.

  python -m hns.export RUN --client=3 --file=model.hns   # or --client=global
  python -m hns.export RUN --client=3 --evaluate=model.hns

The first writes the model that a client has after training from the run's last
state; the second, which trains nothing, prints a file's accuracy on that
client's test pictures.

A file is `HNSM`, the format's version, the length of a JSON text, the text, the
signs (`hns.coding`) and a CRC-32. The text holds the network's name and shape,
what its pictures were, the seed, how it was pruned, and a fingerprint of the
weights that survived: `load` redraws them and refuses if they differ, as with
another version of JAX's generator. Predictions are those of the model exported,
bit for bit, on the same backend.
"""

import argparse
import json
import pathlib
import struct
import sys
import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hns import (
  coding,
  devices,
  evaluation,
  experiment,
  limits,
  loop,
  models,
  rounds,
  tree,
  workdir,
)
from hns import config as configs
from hns.errors import InputError, invalid
from hns.supermask import Supermask
from hns.training import correct

_MAGIC = b'HNSM'
_VERSION = 3
_HEAD = struct.Struct('<4sBI')
_TAIL = struct.Struct('<I')


class Spec(NamedTuple):
  """What a network of random weights is made from, and what it is fed.

  Attributes:
    model: a name of `hns.models.MODELS`.
    classes: number of logits.
    image: height, width and channels.
    dataset: the name of the pictures it was trained on.
    scale: a pixel x enters the network as (x - scale[0]) / scale[1].
    seed: of the run.
    density, pruning, pruning_steps: as in the run's config.
  """

  model: str
  classes: int
  image: tuple[int, int, int]
  dataset: str
  scale: tuple[float, float]
  seed: int
  density: float
  pruning: str
  pruning_steps: int


# Fields of a run's config from which its network is drawn.
_DRAWN = 'model', 'seed', 'density', 'pruning', 'pruning_steps'


class Model(NamedTuple):
  """A Flax module, its variables, and what they are made from."""

  net: Supermask
  variables: dict[str, Any]
  spec: Spec


def redraw(spec: Spec) -> Model:
  """The network before training; all signs are +1.

  Raises `InputError` for a model or a score that is not there.
  """
  fields = {name: getattr(spec, name) for name in _DRAWN}
  config = configs.base(algorithm='hidenseek', **fields)
  limits.validate(config)
  net = models.create(spec.model, spec.classes)
  born = experiment.conceive(config, net, jnp.zeros((1, *spec.image)))
  fixed = born.birth.fixed
  signs = jax.tree.map(lambda w: np.ones(w.shape, np.float32), fixed['weights'])
  return Model(Supermask(born.net), {**fixed, 'signs': signs}, spec)


def dump(spec: Spec, variables: dict[str, Any]) -> bytes:
  """The file of a model whose variables are those of `redraw` but for signs."""
  about = {**spec._asdict(), 'weights': _fingerprint(variables)}
  text = json.dumps(about, separators=(',', ':')).encode()
  signs = _survivors(variables['signs'], variables['mask'])
  code = coding.encode([(s > 0).astype(np.uint8) for s in signs], 1)
  body = _HEAD.pack(_MAGIC, _VERSION, len(text)) + text + code
  return body + _TAIL.pack(zlib.crc32(body))


def load(content: bytes) -> Model:
  """The model of a file.

  Raises:
    InputError: not such a file, damaged, of another format, or this machine
      draws other weights from its seed.
  """
  if content[: len(_MAGIC)] != _MAGIC or len(content) < _HEAD.size + _TAIL.size:
    raise InputError('this is not a model that hns.export wrote')
  body, tail = content[: -_TAIL.size], content[-_TAIL.size :]
  if _TAIL.pack(zlib.crc32(body)) != tail:
    raise InputError('checksum does not match: the model file is damaged')
  _, version, length = _HEAD.unpack_from(body)
  if version != _VERSION:
    raise InputError(f'model format {version}: this hns reads {_VERSION}')
  about = json.loads(body[_HEAD.size : _HEAD.size + length])
  expected = about.pop('weights')
  about |= {name: tuple(about[name]) for name in ('image', 'scale')}
  model = redraw(Spec(**about))
  if _fingerprint(model.variables) != expected:
    raise InputError(
      'the weights drawn from the seed are not those of the model: load it '
      'with the version of jax, and on the kind of device, that exported it'
    )
  return model._replace(
    variables=_signed(model.variables, body[_HEAD.size + length :])
  )


def _signed(variables: dict[str, Any], code: bytes) -> dict[str, Any]:
  masks, structure = jax.tree.flatten(variables['mask'])
  parts = coding.decode(code, [int(np.sum(m)) for m in masks], 1)
  leaves = []
  for mask, part in zip(masks, parts):
    leaf = np.ones(mask.shape, np.float32)
    leaf[np.asarray(mask)] = 2.0 * part - 1
    leaves.append(leaf)
  return {**variables, 'signs': jax.tree.unflatten(structure, leaves)}


def _survivors(values: Any, mask: Any) -> list[np.ndarray]:
  pairs = zip(jax.tree.leaves(values), jax.tree.leaves(mask))
  return [np.asarray(v)[np.asarray(m)] for v, m in pairs]


def _fingerprint(variables: dict[str, Any]) -> int:
  """CRC-32 of the mask and of the weights that survived."""
  checksum = 0
  for mask in jax.tree.leaves(variables['mask']):
    checksum = zlib.crc32(np.packbits(mask).tobytes(), checksum)
  for kept in _survivors(variables['weights'], variables['mask']):
    checksum = zlib.crc32(kept.astype('<f4').tobytes(), checksum)
  return checksum


def from_run(folder: pathlib.Path, client: int | None) -> bytes:
  """The file of `trained`."""
  return dump(*trained(folder, client))


def trained(
  folder: pathlib.Path, client: int | None
) -> tuple[Spec, dict[str, Any]]:
  """A run's personal model, or with None its global one: `dump` takes it.

  Raises `InputError` if the run is not finished, its models are not signs, or
  this machine draws other weights from its seed.
  """
  config, run, about = _opened(folder, client)
  engine, key, birth, federation, *_ = run
  if about.get('frozen') != tree.checksum(birth.fixed):
    remedy = 'other weights are drawn here: export it where it was trained'
    raise invalid('run', str(folder), remedy)
  state, store, *_ = workdir.load(folder, loop.begin(run), config.rounds)
  opening = rounds.open_round(engine, key, birth, federation, state)
  variables = evaluation.global_model(engine, opening)
  if client is not None:
    own = store.held.get(client, birth.own)
    variables = evaluation.personal_model(engine, opening, client, own)
  if set(variables) != {'weights', 'mask', 'signs', 'params'}:
    raise InputError(f'{config.algorithm}: only a model of signs is exported')
  image = federation.examples.images.shape[1:]
  picture = jnp.zeros((1, *image))
  classes = jax.eval_shape(engine.apply, variables, picture).shape[-1]
  # The shortest decimals that are these float32.
  scale = tuple(float(str(x)) for x in np.asarray(federation.examples.scale))
  fields = {name: config[name] for name in ('dataset', *_DRAWN)}
  spec = Spec(classes=classes, image=image, scale=scale, **fields)
  return spec, variables


def evaluate(folder: pathlib.Path, content: bytes, client: int | None) -> float:
  """A file's accuracy on a client's, or with None all, test pictures."""
  net, variables, spec = load(content)
  config, run, _ = _opened(folder, client)
  if config.dataset != spec.dataset:
    remedy = f'the run has {config.dataset}: evaluate it on a run like its own'
    raise invalid('dataset', spec.dataset, remedy)
  federation = run.federation
  scale = jnp.asarray(spec.scale, jnp.float32)
  examples = federation.examples._replace(scale=scale)
  chosen = jnp.arange(federation.test.size.shape[0])
  chosen = chosen if client is None else chosen[client : client + 1]
  rows = jax.tree.map(lambda x: x[chosen], federation.test)
  right = jax.lax.map(
    lambda r: correct(net.apply, variables, examples, r), rows
  )
  return float(jnp.sum(right) / jnp.sum(rows.size))


def _opened(folder: pathlib.Path, client: int | None) -> tuple[Any, Any, Any]:
  """A run's config, the experiment built anew, and all of its config.json."""
  path = folder / 'config.json'
  if not path.exists():
    raise InputError(f'{folder}: holds no run')
  about = json.loads(path.read_text())
  config = configs.base(**about['config'])
  if client is not None and client >= config.num_clients:
    raise invalid('client', client, f'the run has {config.num_clients}, from 0')
  return config, experiment.build(config), about


def _client(word: str) -> int | None:
  if word != 'global' and not word.isdigit():
    raise invalid('client', word, 'write a number from 0, or global')
  return None if word == 'global' else int(word)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  add = parser.add_argument
  add('run', type=pathlib.Path, help='the work folder of a finished run')
  add('--client', default='global', help='a number from 0, or global')
  add('--file', type=pathlib.Path, help='where to write the model')
  add('--evaluate', type=pathlib.Path, help='a model file to evaluate')
  flags = parser.parse_args()
  if not (flags.file or flags.evaluate):
    parser.error('give --file, --evaluate or both')
  try:
    devices.start()
    client = _client(flags.client)
    if flags.file:
      content = from_run(flags.run, client)
      flags.file.write_bytes(content)
      print(f'{flags.file}: {len(content):,} bytes')
    if flags.evaluate:
      accuracy = evaluate(flags.run, flags.evaluate.read_bytes(), client)
      print(f'accuracy {accuracy:.4f}')
  except (InputError, OSError) as error:
    sys.exit(f'hns: {error}')


if __name__ == '__main__':
  main()
