"""A trained model of any method, ready for inputs as the dataset has them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from hns.data.labels import cast
from hns.data.tasks import CLASSIFICATION
from hns.networks.modes import Apply, Variables


class Predictor(NamedTuple):
  """A model and how it is given inputs.

  Attributes:
    apply: how its network computes.
    variables: of the network.
    dtype: of inputs, as the network sees them.
    scale: an input x enters the network as (x - scale[0]) / scale[1].
    read: outputs to predictions in the user's own units.
  """

  apply: Apply
  variables: Variables
  dtype: str
  scale: tuple[float, float]
  read: Callable[[jax.Array], jax.Array] = CLASSIFICATION.read

  def predict(self, inputs: Any) -> jax.Array:
    """Predictions of inputs [n, ...] as the dataset has them.

    Of classes: logits, float32 [n, classes]. Of a regression: numbers in the
    units of the labels. Pixels are standardised as in training. Raises
    `InputError` for numbers that the network's dtype cannot hold.
    """
    inputs = cast('inputs', np.asarray(inputs), self.dtype)
    mean, deviation = self.scale
    if self.dtype == 'float32':
      inputs = (inputs - mean) / deviation
    return self.read(self.apply(self.variables, inputs))
