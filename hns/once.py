"""Programs that a run needs once, compiled quickly."""

import functools
from collections.abc import Callable
from typing import Any

import jax


def quickly() -> dict[str, Any]:
  """Options of a program that need not be fast, for `compiler_options`.

  On a CPU XLA's lower level of optimising. Whatever is drawn and pruned has the
  same bits, and compiles in a third of the time.
  """
  on_cpu = jax.default_backend() == 'cpu'
  return {'xla_backend_optimization_level': 1} if on_cpu else {}


def once(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
  """`jax.jit`, compiled `quickly`; inside another program `jax.jit` itself.

  Args:
    function: of arrays, and of static arguments that `options` name.
    options: of `jax.jit`.
  """
  inside = jax.jit(function, **options)
  # When it is called: JAX must not start where a module is imported.
  quick = functools.cache(
    lambda: jax.jit(function, compiler_options=quickly(), **options)
  )

  @functools.wraps(function)
  def run(*arguments):
    leaves = jax.tree.leaves(arguments)
    is_inside = any(isinstance(x, jax.core.Tracer) for x in leaves)
    return (inside if is_inside else quick())(*arguments)

  return run
