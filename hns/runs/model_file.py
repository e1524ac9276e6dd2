"""The file of a trained model: a seed, and the signs of the weights it draws.

A file is `HNSM`, the format's version, the length of a JSON text, the text, the
signs (`hns.wire.coding`) and a CRC-32. The text holds the network's name and
shape, what its pictures were, the seed, how it was pruned, and a fingerprint of
the weights that survived: `load` redraws them and refuses if they differ, as
with another version of JAX's generator.

A file may come from anybody: a checksum proves nothing, so every field and the
size of what it asks for are checked before a weight is drawn.
"""

import json
import math
import struct
import zlib
from collections.abc import Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hns import config as configs
from hns.errors import InputError, invalid
from hns.networks import checks, models
from hns.networks.pruning import SCORES
from hns.networks.supermask import Supermask, to_masked
from hns.runs import devices, drawing, limits
from hns.values import fit
from hns.wire import coding

_MAGIC = b'HNSM'
_VERSION = 3
_HEAD = struct.Struct('<4sBI')
_TAIL = struct.Struct('<I')

MOST_BYTES = 2**22  # of a file
_TEXT = 4096  # bytes of its JSON
_CLASSES = 10**6
_PICTURE = 2**20  # values of one
_WEIGHTS = 5 * 10**6  # to redraw them takes less than 1 GB
_PRUNED = 100 * _WEIGHTS  # weights x steps of pruning: about a minute


class Spec(NamedTuple):
  """What a network of random weights is made from, and what it is fed.

  Attributes:
    model: a name of `hns.networks.models.MODELS`.
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
DRAWN = 'model', 'seed', 'density', 'pruning', 'pruning_steps'
_LIKE = Spec('', 0, (0, 0, 0), '', (0.0, 0.0), 0, 0.0, '', 0)


class Model(NamedTuple):
  """A Flax module, its variables, and what they are made from."""

  net: Supermask
  variables: dict[str, Any]
  spec: Spec


class _Size(NamedTuple):
  """Weights of a network, their kernels, and the weights that survive."""

  weights: int
  layers: int
  survivors: int


def redraw(spec: Spec) -> Model:
  """The network before training; all signs are +1.

  Raises `InputError` for a model or a score that is not there, or a network
  that a file cannot hold.
  """
  size, config = _size(spec), _config(spec)
  net = models.create(spec.model, spec.classes)
  memory = devices.enough_memory(
    'model', spec.model, f'{size.weights:,} weights'
  )
  with memory, devices.as_ever():
    inputs = jnp.zeros((1, *spec.image))
    born = drawing.initialize(config, net, inputs, spec.classes)
  frozen = born.initial.frozen
  signs = jax.tree.map(
    lambda w: np.ones(w.shape, np.float32), frozen['weights']
  )
  return Model(Supermask(born.net), {**frozen, 'signs': signs}, spec)


def dump(spec: Spec, variables: dict[str, Any]) -> bytes:
  """The file of a model whose variables are those of `redraw` but for signs.

  Raises `InputError` for a network that a file cannot hold.
  """
  _size(spec)
  about = {**spec._asdict(), 'weights': _fingerprint(variables)}
  text = json.dumps(about, separators=(',', ':')).encode()
  signs = _survivors(variables['signs'], variables['mask'])
  code = coding.encode([(s > 0).astype(np.uint8) for s in signs], 1)
  body = _HEAD.pack(_MAGIC, _VERSION, len(text)) + text + code
  return body + _TAIL.pack(zlib.crc32(body))


def load(content: bytes) -> Model:
  """The model of a file.

  Raises:
    InputError: not such a file, damaged, of another format, its text or its
      signs are none that `dump` writes, or this machine draws other weights
      from its seed.
  """
  about, code = _parts(content)
  expected = fit('model file: weights', about.pop('weights'), 0)
  spec = Spec(**{k: _typed(k, about[k], getattr(_LIKE, k)) for k in about})
  size = _size(spec)
  most = coding.most(size.survivors, 1) + size.layers * coding.most(0, 1)
  if len(code) > most // 8 + 16:
    raise InputError(
      f'model file: {len(code)} bytes of signs are too many for '
      f'{size.survivors} weights'
    )
  model = redraw(spec)
  if _fingerprint(model.variables) != expected:
    raise InputError(
      'the weights drawn from the seed are not those of the model: load it '
      'with the version of jax, the network and the kind of device that '
      'exported it'
    )
  return model._replace(variables=_signed(model.variables, code))


def known(field: str, name: str, names: Collection[str]) -> None:
  """Raises `InputError` for a name that a config file may have to register."""
  if name not in names:
    raise invalid(
      field,
      name,
      'not known here: give --config=FILE, the file that registers it, or '
      f'choose one of {", ".join(names)}',
    )


def _parts(content: bytes) -> tuple[dict[str, Any], bytes]:
  """The text's fields, all there and no others, and the code of the signs."""
  least = _HEAD.size + _TAIL.size
  if content[: len(_MAGIC)] != _MAGIC or not least <= len(content) < MOST_BYTES:
    raise InputError('this is not a model of signs that hns.export wrote')
  body, tail = content[: -_TAIL.size], content[-_TAIL.size :]
  if _TAIL.pack(zlib.crc32(body)) != tail:
    raise InputError('checksum does not match: the model file is damaged')
  _, version, length = _HEAD.unpack_from(body)
  if version != _VERSION:
    raise InputError(f'model format {version}: this hns reads {_VERSION}')
  rest = body[_HEAD.size :]
  if length > min(len(rest), _TEXT):
    raise InputError(f'model file: a text of {length} bytes cannot be')
  try:
    about = json.loads(rest[:length])
  except (ValueError, RecursionError) as error:
    raise InputError('model file: its text is not JSON') from error
  names = *Spec._fields, 'weights'
  if not isinstance(about, dict) or about.keys() != {*names}:
    raise InputError(f'model file: its fields must be {", ".join(names)}')
  return about, rest[length:]


def _typed(field: str, value: Any, like: Any) -> Any:
  """A value of the text, with the type of `like`."""
  if not isinstance(like, tuple):
    return fit(f'model file: {field}', value, like)
  if not isinstance(value, list) or len(value) != len(like):
    remedy = f'must be {len(like)} numbers'
    raise invalid(f'model file: {field}', value, remedy)
  return tuple(_typed(field, v, one) for v, one in zip(value, like))


def _config(spec: Spec) -> Any:
  """The config that draws the network; `InputError` for a field out of range.

  What is uploaded changes no weight; `signs` takes the least memory.
  """
  known('model', spec.model, models.MODELS)
  known('pruning', spec.pruning, SCORES)
  fields = {name: getattr(spec, name) for name in DRAWN}
  config = configs.base(algorithm='hidenseek', upload='signs', **fields)
  limits.validate(config)
  if not 1 <= spec.classes <= _CLASSES:
    remedy = f'must be 1 to {_CLASSES:,}'
    raise invalid('classes', spec.classes, remedy)
  if min(spec.image) < 1 or math.prod(spec.image) > _PICTURE:
    remedy = f'must be sides of at least 1, with at most {_PICTURE:,} values'
    raise invalid('image', spec.image, remedy)
  if not _can_scale(*spec.scale):
    remedy = 'must be two finite numbers of 32 bits, the second above 0'
    raise invalid('scale', spec.scale, remedy)
  return config


def _can_scale(mean: float, deviation: float) -> bool:
  single = np.finfo(np.float32)
  most, tiny = float(single.max), float(single.tiny)
  return abs(mean) <= most and tiny <= deviation <= most


def _size(spec: Spec) -> _Size:
  """How large a network is, found without drawing it.

  Raises `InputError` if it cannot be, or is more than a file may ask for.
  """
  _config(spec)
  shapes = jax.eval_shape(to_masked, _shapes(spec)['params'])
  layers = [x.size for x in jax.tree.leaves(shapes['weights'])]
  total = sum(layers) + sum(x.size for x in jax.tree.leaves(shapes['params']))
  if total > _WEIGHTS or total * spec.pruning_steps > _PRUNED:
    raise invalid(
      'model',
      spec.model,
      f'{total:,} weights and {spec.pruning_steps:,} steps of pruning; a file '
      f'of signs holds at most {_WEIGHTS:,}, and {_PRUNED:,} if multiplied: '
      'write the run with --file=NAME.npz',
    )
  return _Size(total, len(layers), round(sum(layers) * spec.density))


def _shapes(spec: Spec) -> Any:
  """The network's collections, as shapes; `InputError` if it cannot be."""
  net = models.create(spec.model, spec.classes)
  image = jax.ShapeDtypeStruct((1, *spec.image), jnp.float32)
  try:
    checks.check(spec.model, net, image, spec.classes)
    return checks.shapes_of(net, image)
  except InputError:
    raise
  except Exception as error:  # a user's own network may raise anything
    what = f'{type(error).__name__}: {error}'.split('\n')[0]
    remedy = f'pictures of {spec.image} do not fit ({what})'
    raise invalid('model', spec.model, remedy) from error


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
  """CRC-32 of the mask, the weights that survived, and what has no sign."""
  checksum = 0
  for mask in jax.tree.leaves(variables['mask']):
    checksum = zlib.crc32(np.packbits(mask).tobytes(), checksum)
  kept = _survivors(variables['weights'], variables['mask'])
  for values in kept + jax.tree.leaves(variables['params']):
    values = np.asarray(values).astype('<f4')
    checksum = zlib.crc32(values.tobytes(), checksum)
  return checksum
