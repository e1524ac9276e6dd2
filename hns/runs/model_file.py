"""Files of trained models: a seed and the signs of the weights drawn from it.

A file is `HNSM`, the format's version, the length of a JSON text, the text, the
signs (`hns.wire.coding`) and a CRC-32. The text holds the network's name, its
input shape, its dataset, the seed, how it was pruned, and a fingerprint of the
weights that survived. `load` redraws the weights and raises an error if they
differ, as with another version of JAX's generator.

A file may come from an untrusted source, and a checksum does not protect from
that. So every field and the sizes that follow from it are checked before a
weight is drawn.
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
from hns.networks import checks, models, modes
from hns.networks.pruning import SCORES
from hns.networks.supermask import Supermask, to_masked
from hns.runs import devices, initialization, limits
from hns.runs.predictor import Predictor
from hns.tree import Tree
from hns.values import ConfigDict, fit
from hns.wire import coding, lengths

_MAGIC = b'HNSM'
_VERSION = 4
_HEAD = struct.Struct('<4sBI')
_TAIL = struct.Struct('<I')

MOST_BYTES = 2**22  # of a file
_MAX_TEXT = 4096  # bytes of its JSON
_MAX_CLASSES = 10**6
_MAX_VALUES = 2**20  # of one example
_MAX_WEIGHTS = 5 * 10**6  # to redraw them takes less than 1 GB
_MAX_PRUNING = 100 * _MAX_WEIGHTS  # weights x pruning steps: about a minute


class Spec(NamedTuple):
  """What determines a network's random weights, and its input.

  Attributes:
    model: a name of `hns.networks.models.MODELS`.
    classes: number of logits.
    shape: of one example, such as height, width and channels.
    dtype: of inputs, float32 or int32, as the network sees them.
    dataset: the name of the dataset it was trained on.
    scale: an input x enters the network as (x - scale[0]) / scale[1].
    seed: of the run.
    density, pruning, pruning_steps: as in the run's config.
  """

  model: str
  classes: int
  shape: tuple[int, ...]
  dtype: str
  dataset: str
  scale: tuple[float, float]
  seed: int
  density: float
  pruning: str
  pruning_steps: int


# Fields of a run's config that determine its network's random weights.
DRAWN = 'model', 'seed', 'density', 'pruning', 'pruning_steps'
_LIKE = Spec('', 0, (0,), '', '', (0.0, 0.0), 0, 0.0, '', 0)


class Model(NamedTuple):
  """A Flax module, its variables, and its `Spec`."""

  net: Supermask
  variables: dict[str, Any]
  spec: Spec

  def predict(self, inputs: Any) -> jax.Array:
    """See `Predictor.predict`."""
    apply, spec = modes.apply_of(self.net.unmasked), self.spec
    blank = jnp.zeros((1, *spec.shape), spec.dtype)
    ready = Predictor(apply, self.variables, blank, spec.scale)
    return ready.predict(inputs)


class _Size(NamedTuple):
  """Numbers of weights, of kernels, and of weights that survive pruning."""

  weights: int
  layers: int
  survivors: int


def redraw(spec: Spec) -> Model:
  """The network before training; all signs are +1.

  Raises `InputError` for an unknown model or pruning score, or a network that
  is too large for a file.
  """
  size, config = _size(spec), _config(spec)
  net = models.create(spec.model, spec.classes)
  memory = devices.enough_memory(
    'model', spec.model, f'{size.weights:,} weights'
  )
  with memory, devices.standard_settings():
    inputs = jnp.zeros((1, *spec.shape), spec.dtype)
    ready = initialization.initialize(config, net, inputs, spec.classes)
  frozen = ready.initial.frozen
  signs = jax.tree.map(
    lambda w: np.ones(w.shape, np.float32), frozen['weights']
  )
  return Model(Supermask(ready.net), {**frozen, 'signs': signs}, spec)


def dump(spec: Spec, variables: dict[str, Any]) -> bytes:
  """The file of a model.

  Args:
    spec: what determines its random weights.
    variables: those of `redraw(spec)`, with other signs.

  Raises:
    InputError: the network is too large for a file.
  """
  _size(spec)
  fields = {**spec._asdict(), 'weights': _fingerprint(variables)}
  text = json.dumps(fields, separators=(',', ':')).encode()
  signs = _survivors(variables['signs'], variables['mask'])
  code = coding.encode([(s > 0).astype(np.uint8) for s in signs], 1)
  body = _HEAD.pack(_MAGIC, _VERSION, len(text)) + text + code
  return body + _TAIL.pack(zlib.crc32(body))


def load(content: bytes) -> Model:
  """The model of a file.

  Raises:
    InputError: another kind of file, a damaged one, another format, a text or
      signs that `dump` does not write, or this machine draws other weights
      from its seed.
  """
  fields, code = _parts(content)
  expected = fit('model file: weights', fields.pop('weights'), 0)
  spec = Spec(**{k: _typed(k, fields[k], getattr(_LIKE, k)) for k in fields})
  size = _size(spec)
  most = lengths.most(size.survivors, 1) + size.layers * lengths.most(0, 1)
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


def check_known(field: str, name: str, names: Collection[str]) -> None:
  """Raises `InputError` for a name that is not registered in this process."""
  if name not in names:
    raise invalid(
      field,
      name,
      'not known here: give --config=FILE, the file that registers it, or '
      f'choose one of {", ".join(names)}',
    )


def _parts(content: bytes) -> tuple[dict[str, Any], bytes]:
  """The fields of the text, checked to be complete, and the signs' code."""
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
  if length > min(len(rest), _MAX_TEXT):
    raise InputError(f'model file: its text has {length} bytes, too many')
  try:
    fields = json.loads(rest[:length])
  except (ValueError, RecursionError) as error:
    raise InputError('model file: its text is not JSON') from error
  names = *Spec._fields, 'weights'
  if not isinstance(fields, dict) or fields.keys() != {*names}:
    raise InputError(f'model file: its fields must be {", ".join(names)}')
  return fields, rest[length:]


def _typed(field: str, value: Any, like: Any) -> Any:
  """A value of the text, checked to have the type of `like`."""
  if not isinstance(like, tuple):
    return fit(f'model file: {field}', value, like)
  sizes = range(1, 9) if field == 'shape' else [len(like)]
  if not isinstance(value, list) or len(value) not in sizes:
    remedy = f'must be {sizes[0]} to {sizes[-1]} numbers'
    raise invalid(f'model file: {field}', value, remedy)
  return tuple(_typed(field, v, like[0]) for v in value)


def _config(spec: Spec) -> ConfigDict:
  """The config of the network; raises `InputError` for a wrong field.

  The upload does not affect the weights; `signs` takes the least memory.
  """
  check_known('model', spec.model, models.MODELS)
  check_known('pruning', spec.pruning, SCORES)
  fields = {name: getattr(spec, name) for name in DRAWN}
  config = configs.base(algorithm='hidenseek', upload='signs', **fields)
  limits.validate(config)
  if not 1 <= spec.classes <= _MAX_CLASSES:
    remedy = f'must be 1 to {_MAX_CLASSES:,}'
    raise invalid('classes', spec.classes, remedy)
  if min(spec.shape) < 1 or math.prod(spec.shape) > _MAX_VALUES:
    remedy = f'must be sides of at least 1, with at most {_MAX_VALUES:,} values'
    raise invalid('shape', spec.shape, remedy)
  if spec.dtype not in ('float32', 'int32'):
    raise invalid('dtype', spec.dtype, 'must be float32 or int32')
  if not _can_scale(*spec.scale):
    remedy = 'must be two finite numbers of 32 bits, the second above 0'
    raise invalid('scale', spec.scale, remedy)
  return config


def _can_scale(mean: float, deviation: float) -> bool:
  single = np.finfo(np.float32)
  most, tiny = float(single.max), float(single.tiny)
  return abs(mean) <= most and tiny <= deviation <= most


def _size(spec: Spec) -> _Size:
  """The size of a network, computed from shapes alone.

  Raises `InputError` if it cannot be built or is too large for a file.
  """
  _config(spec)
  shapes = jax.eval_shape(to_masked, _shapes(spec)['params'])
  layers = [x.size for x in jax.tree.leaves(shapes['weights'])]
  total = sum(layers) + sum(x.size for x in jax.tree.leaves(shapes['params']))
  if total > _MAX_WEIGHTS or total * spec.pruning_steps > _MAX_PRUNING:
    raise invalid(
      'model',
      spec.model,
      f'{total:,} weights and {spec.pruning_steps:,} steps of pruning; a file '
      f'of signs holds at most {_MAX_WEIGHTS:,}, and {_MAX_PRUNING:,} if '
      'multiplied: write the run with --file=NAME.npz',
    )
  return _Size(total, len(layers), round(sum(layers) * spec.density))


def _shapes(spec: Spec) -> dict[str, Tree]:
  """The network's collections, as shapes; `InputError` if it has none."""
  net = models.create(spec.model, spec.classes)
  inputs = jax.ShapeDtypeStruct((1, *spec.shape), spec.dtype)
  try:
    checks.check(spec.model, net, inputs, spec.classes)
    return modes.shapes_of(net, inputs)
  except InputError:
    raise
  except Exception as error:  # a user's network may raise anything
    what = f'{type(error).__name__}: {error}'.split('\n')[0]
    remedy = f'inputs of {spec.shape} do not fit ({what})'
    raise invalid('model', spec.model, remedy) from error


def _signed(variables: dict[str, Any], code: bytes) -> dict[str, Any]:
  """The variables with the signs of a code."""
  masks, structure = jax.tree.flatten(variables['mask'])
  parts = coding.decode(code, [int(np.sum(m)) for m in masks], 1)
  leaves = []
  for mask, part in zip(masks, parts):
    leaf = np.ones(mask.shape, np.float32)
    leaf[np.asarray(mask)] = 2.0 * part - 1
    leaves.append(leaf)
  return {**variables, 'signs': jax.tree.unflatten(structure, leaves)}


def _survivors(values: Tree, mask: Tree) -> list[np.ndarray]:
  """Leaf by leaf, the values that survived pruning, of any tree."""
  pairs = zip(jax.tree.leaves(values), jax.tree.leaves(mask))
  return [np.asarray(v)[np.asarray(m)] for v, m in pairs]


def _fingerprint(variables: dict[str, Any]) -> int:
  """CRC-32 of the mask, the weights that survived, and the other params."""
  checksum = 0
  for mask in jax.tree.leaves(variables['mask']):
    checksum = zlib.crc32(np.packbits(mask).tobytes(), checksum)
  survivors = _survivors(variables['weights'], variables['mask'])
  for values in survivors + jax.tree.leaves(variables['params']):
    values = np.asarray(values).astype('<f4')
    checksum = zlib.crc32(values.tobytes(), checksum)
  return checksum
