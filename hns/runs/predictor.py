"""A trained model of any method, ready for inputs as the dataset has them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from hns.data.labels import cast
from hns.data.tasks import CLASSIFICATION
from hns.errors import invalid
from hns.networks.modes import Apply, Variables
from hns.tree import Tree


class Predictor(NamedTuple):
  """A model and how it is given inputs.

  Attributes:
    apply: how its network computes.
    variables: of the network.
    blank: one example of zeros, as the network sees it.
    scale: an input x enters the network as (x - scale[0]) / scale[1].
    read: outputs to predictions in the user's own units.
  """

  apply: Apply
  variables: Variables
  blank: Tree
  scale: tuple[float, float]
  read: Callable[[jax.Array], jax.Array] = CLASSIFICATION.read

  def predict(self, inputs: Any) -> jax.Array:
    """Predictions of inputs [n, ...] as the dataset has them.

    Of classes: logits, float32 [n, classes]. Of a regression: numbers in the
    units of the labels. Pixels are standardised as in training. Raises
    `InputError` for numbers that the network's dtype cannot hold, and for
    inputs of another shape.
    """
    mean, deviation = self.scale

    def ready(blank, given):
      given = cast('inputs', np.asarray(given), blank.dtype)
      if given.ndim != blank.ndim or given.shape[1:] != blank.shape[1:]:
        wanted = ', '.join(['n', *map(str, blank.shape[1:])])
        remedy = f'must have the shape [{wanted}]'
        raise invalid('inputs', list(given.shape), remedy)
      is_scaled = blank.dtype == np.float32
      return (given - mean) / deviation if is_scaled else given

    kinds = [
      sorted(x) if isinstance(x, dict) else 'an array'
      for x in (inputs, self.blank)
    ]
    if kinds[0] != kinds[1]:
      raise invalid('inputs', kinds[0], f'must be {kinds[1]}')
    inputs = jax.tree.map(ready, self.blank, inputs)
    return self.read(self.apply(self.variables, inputs))
