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
  masked,
  signed,
  spread_cell,
  spread_uniform,
)


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


# What `upload` may be: what a client sends, and how its scores are spread.
UPLOADS = {
  'signs': (uploads.signs(), spread_uniform),
  'change': (
    uploads.delta(uploads.one_bit(), rate=2.0, momentum=0.5, bound=1.0),
    spread_cell,
  ),
  'ternary': (
    uploads.delta(
      uploads.ternary(2.1), rate=2.0, momentum=0.5, bound=1.0, feedback=True
    ),
    spread_cell,
  ),
}
OPTIMIZERS = {'adam': optax.adam, 'sgd': optax.sgd}
GATES = {'sign': signed, 'binary': masked}


def _bits(field: str, value: int) -> None:
  wire.check_bits(value, field)


Rate = Annotated[float, Within(0, math.inf), "of a client's optimiser"]
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
