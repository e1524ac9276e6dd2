"""Intercepts the method calls of a network's modules."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn


@contextlib.contextmanager
def intercepted(function: Callable[..., Any]) -> Iterator[None]:
  """Calls `function(call, args, kwargs, context)` in place of modules' methods.

  `nn.intercept_methods` removes an interceptor inside an `assert`, which
  `python -O` skips, so this one disables itself.
  """
  is_active = True

  def intercept(call, args, kwargs, context):
    if not is_active:
      return call(*args, **kwargs)
    return function(call, args, kwargs, context)

  with nn.intercept_methods(intercept):
    try:
      yield
    finally:
      is_active = False
