"""What the parameters of recipes may be: types with their limits and texts."""

import math
from collections.abc import Callable
from typing import Annotated, NamedTuple

import optax

from hns import wire
from hns.fields import Label, OneOf, ValidationThreshold, Within
from hns.methods import uploads
from hns.methods.bases import (
  Prune,
  Spread,
  masked,
  signed,
  spread_cell,
  spread_uniform,
)
from hns.methods.floats import keep_floats, send_floats
from hns.methods.uploads import Upload

# What a vote counts for of a server's step, about the mean change of a score.
_VOTE = 0.05


class NetworkInfo(NamedTuple):
  """What a recipe may know of the network.

  Attributes:
    prune: `(key, variables) -> mask`, of the config's score and density.
    find_head: gives `head`, or raises `InputError` where it is ambiguous.
    density: the config's.
  """

  prune: Prune
  find_head: Callable[[], str]
  density: float

  @property
  def head(self) -> str:
    """The path of the output layer, such as `Dense_2`."""
    return self.find_head()

  def prune_if(self, pruned: bool) -> Prune | None:
    """`prune`, or None for all weights."""
    return self.prune if pruned else None


def _signs(server_rate: float, momentum: float) -> tuple[Upload, Spread]:
  """The plain vote: the server has no step and no momentum."""
  del server_rate, momentum
  return uploads.signs(), spread_uniform


def _change(server_rate: float, momentum: float) -> tuple[Upload, Spread]:
  one_bit = uploads.one_bit()
  return uploads.delta(one_bit, server_rate, momentum, bound=1.0), spread_cell


def _votes(server_rate: float, momentum: float) -> tuple[Upload, Spread]:
  """As `_change`, without a scale: no client can count for more than one."""
  bit = uploads.one_bit(scaled=False)
  rate = _VOTE * server_rate
  return uploads.delta(bit, rate, momentum, bound=1.0), spread_cell


def _ternary(server_rate: float, momentum: float) -> tuple[Upload, Spread]:
  rule = dict(rate=server_rate, momentum=momentum, bound=1.0, feedback=True)
  return uploads.delta(uploads.ternary(2.1), **rule), spread_cell


# What `upload` may be: `(server_rate, momentum) ->` what a client sends and the
# server makes of it, and how a client's scores are spread.
UPLOADS = {
  'signs': _signs,
  'votes': _votes,
  'change': _change,
  'ternary': _ternary,
}
# What `floats` may be: `(method, rate, has_sign) -> method`.
FLOATS = {
  'frozen': lambda method, rate, has_sign: method,
  'local': keep_floats,
  'sent': send_floats,
}
OPTIMIZERS = {'adam': optax.adam, 'sgd': optax.sgd}
GATES = {'sign': signed, 'binary': masked}


def _bits(field: str, value: int) -> None:
  wire.check_bits(value, field)


Rate = Annotated[float, Within(0, math.inf), "of a client's optimiser"]
ServerRate = Annotated[
  float, Within(0, math.inf), "the server's step, in mean changes of clients"
]
Momentum = Annotated[
  float, Within(0, 1, '[)'), "share of the last step in the server's next"
]
Optimizer = Annotated[
  str,
  OneOf(OPTIMIZERS),
  Label(lambda name: name if name == 'adam' else '', tuned=True),
  "a client's, starting anew every round",
]
UploadName = Annotated[
  str,
  OneOf(UPLOADS),
  Label(lambda name: 'paper' if name == 'signs' else name),
  'what a client sends of its scores',
]
Bits = Annotated[
  int, _bits, Label(lambda bits: f'{bits} down'), 'bits a weight, 1 to 8, or 32'
]
UploadBits = Annotated[
  int, _bits, Label(lambda bits: f'{bits} bits up'), 'bits a weight sent'
]
Gate = Annotated[
  str,
  OneOf(GATES),
  Label(lambda name: '{0, 1}' if name == 'binary' else ''),
  'what a score makes of a weight',
]
Pull = Annotated[
  float,
  Within(0, math.inf, '[)'),
  'how strongly a model is drawn to the download',
]
Pruned = Annotated[
  bool, 'trains the weights alone that survive pruning, as hidenseek'
]
Unsigned = Annotated[
  str,
  Label(lambda paths: f'without signs: {paths}' if paths else ''),
  'a regular expression: kernels whose path (Dense_0/kernel) has a match get '
  'no sign, as biases and gains have none',
]
Floats = Annotated[
  str,
  OneOf(FLOATS),
  Label(lambda kind: '' if kind == 'frozen' else f'{kind} floats'),
  'what has no sign stays as drawn, or clients train it and keep it, or send '
  'it as floats',
]
CutShare = Annotated[
  float, Within(0, 1), 'of what is left, that a client prunes at once'
]
Threshold = Annotated[
  float,
  ValidationThreshold(),
  'accuracy on its validation examples, above which a client prunes; below 0: '
  'always',
]
Kept = Annotated[
  float,
  Within(0, 1, '(]'),
  Label(lambda share: f'keeps {share:g}', tuned=True),
  'share of a layer (hermes: of its units) that a client keeps',
]
