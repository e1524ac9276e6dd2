"""Calls of a network's modules, watched or replaced."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn


@contextlib.contextmanager
def intercepted(function: Callable[..., Any]) -> Iterator[None]:
  """Calls `function(call, args, kwargs, context)` in place of modules' methods.

  As `nn.intercept_methods`, which takes an interceptor off inside an `assert`:
  `python -O` leaves that out, so this one stops acting by itself.
  """
  acting = True

  def act(call, args, kwargs, context):
    if not acting:
      return call(*args, **kwargs)
    return function(call, args, kwargs, context)

  with nn.intercept_methods(act):
    try:
      yield
    finally:
      acting = False
