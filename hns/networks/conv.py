"""Convolution that stays fast when every client has its own kernel.

On XLA:CPU, `jax.vmap` and `lax.scan` over clients are slow for two reasons. The
derived gradients of a convolution are many times slower inside a loop body than
outside, so both gradients are written here by hand. And a vmapped kernel makes
the convolution a grouped one, so under `vmap` the forward pass and the kernel's
gradient are batched matrix products over patches. On a CPU, a convolution of
stride 1 uses `hns.networks.winograd` if that takes fewer products and no
precision is set (by the argument of `nn.Conv` or by JAX's
`jax_default_matmul_precision`). `launch/benchmark_conv.py` measures the speed.

Shapes: images [n, h, w, c], kernels [kh, kw, c, o] (NHWC, HWIO).
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap

from hns.networks import winograd

_LAYOUT = ('NHWC', 'HWIO', 'NHWC')
_ROOM = 2**23  # numbers of patches that are held at once; see `_in_turns`


class Window(NamedTuple):
  """Strides (h, w), padding ((low, high), ...), and precision of `lax`."""

  strides: tuple[int, int]
  padding: winograd.Padding
  precision: lax.PrecisionLike = None


def conv(
  lhs: jax.Array,
  rhs: jax.Array,
  window_strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  **options: Any,
) -> jax.Array:
  """Replaces `lax.conv_general_dilated` in `nn.Conv` for plain kernels.

  Of one or two dimensions; others, dilated and grouped convolutions are passed
  on to `lax`.
  """
  plain = (
    lhs.ndim in (3, 4)
    and options.get('feature_group_count', 1) == 1
    and not any(
      d != 1
      for name in ('lhs_dilation', 'rhs_dilation')
      for d in options.get(name) or ()
    )
  )
  if not plain:
    return lax.conv_general_dilated(
      lhs, rhs, window_strides, padding, **options
    )
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(
      lhs.shape[1:-1], rhs.shape[:-2], window_strides, padding
    )
  if lhs.ndim == 3:  # a picture of height 1
    strides, padding = (1, *window_strides), ((0, 0), *padding)
    y = conv(lhs[:, None], rhs[None], strides, padding, **options)
    return y[:, 0]
  pads = tuple((int(low), int(high)) for low, high in padding)
  window = Window(tuple(window_strides), pads, options.get('precision'))
  if _fewer_products(window, lhs, rhs):
    return winograd.conv(lhs, rhs, pads)
  return _conv(window, lhs, rhs)


def _fewer_products(window: Window, x: jax.Array, kernel: jax.Array) -> bool:
  """Whether to use `winograd`; accelerators round products too much for it."""
  precision = window.precision or jax.config.jax_default_matmul_precision
  return (
    not precision
    and jax.default_backend() == 'cpu'
    and x.dtype in (jnp.float32, jnp.float64)
    and window.strides == (1, 1)
    and winograd.pays(x.shape, kernel.shape, window.padding)
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _conv(window: Window, x: jax.Array, kernel: jax.Array) -> jax.Array:
  return _forward(window)(x, kernel)


def _conv_fwd(window, x, kernel):
  return _conv(window, x, kernel), (x, kernel)


def _conv_bwd(window, saved, grad):
  x, kernel = saved
  dx = _input_gradient(window, x.shape, kernel, grad)
  return dx, _kernel_gradient(window, kernel.shape)(x, grad)


_conv.defvjp(_conv_fwd, _conv_bwd)


def _batched_rule(function: Callable[..., jax.Array]) -> Callable:
  """A vmap rule that gives all arguments of `function` a leading axis."""

  def rule(axis_size, is_batched, *args):
    full = [
      a if b else jnp.broadcast_to(a, (axis_size, *a.shape))
      for a, b in zip(args, is_batched)
    ]
    return function(*full), True

  return rule


def _slow_in_xla(kernel: tuple[int, ...]) -> bool:
  """Whether XLA:CPU takes up to three times as long as a product of `_rows`.

  It does for pictures of three colours and few outputs, not for two or four.
  """
  return kernel[2] == 3 and kernel[3] <= 32 and jax.default_backend() == 'cpu'


def _forward(window: Window) -> Callable[..., jax.Array]:
  """x [n, h, w, c], kernel -> y [n, h', w', o]."""

  @custom_vmap
  def forward(x, kernel):
    if _slow_in_xla(kernel.shape):
      rows = _rows(window, x, kernel.shape[:2])
      flat = kernel.reshape(-1, kernel.shape[3])
      return jnp.einsum('knhw,ko->nhwo', rows, flat, precision=window.precision)
    return lax.conv_general_dilated(
      x,
      kernel,
      window.strides,
      window.padding,
      dimension_numbers=_LAYOUT,
      precision=window.precision,
    )

  @forward.def_vmap
  def _(axis_size, is_batched, xs, kernels):
    if not is_batched[1]:
      y = forward(xs.reshape(-1, *xs.shape[2:]), kernels)
      return y.reshape(axis_size, -1, *y.shape[1:]), True
    return each_kernel(axis_size, is_batched, xs, kernels)

  @_batched_rule
  def each_kernel(xs, kernels):
    def one(x, kernel):
      patches = _patches(window, x, kernel.shape[:2])
      flat = kernel.reshape(-1, kernel.shape[-1])
      return jnp.matmul(patches, flat, precision=window.precision)

    return _in_turns(one, window, kernels.shape[1:3], xs, kernels)

  return forward


def _kernel_gradient(
  window: Window, shape: tuple[int, ...]
) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """x [n, h, w, c], dy [n, h', w', o] -> dw [kh, kw, c, o].

  A convolution of x with dy in which examples are the channels and the strides
  are the dilation. For few channels (pictures) a matrix product is faster.
  """

  @custom_vmap
  def gradient(x, dy):
    if shape[2] < 4:
      rows = _rows(window, x, shape[:2]).reshape(-1, dy.size // shape[3])
      dw = jnp.matmul(
        rows, dy.reshape(-1, shape[3]), precision=window.precision
      )
      return dw.reshape(shape)
    dw = lax.conv_general_dilated(
      x.transpose(3, 1, 2, 0),
      dy.transpose(1, 2, 0, 3),
      (1, 1),
      window.padding,
      rhs_dilation=window.strides,
      dimension_numbers=_LAYOUT,
      precision=window.precision,
    )
    return dw[:, : shape[0], : shape[1]].transpose(1, 2, 0, 3)

  @gradient.def_vmap
  @_batched_rule
  def _(xs, dys):
    def one(x, dy):
      patches = _patches(window, x, shape[:2]).reshape(-1, math.prod(shape[:3]))
      rows = dy.reshape(-1, shape[3])
      dw = jnp.matmul(patches.T, rows, precision=window.precision)
      return dw.reshape(shape)

    return _in_turns(one, window, shape[:2], xs, dys)

  return gradient


def _input_gradient(
  window: Window, shape: tuple[int, ...], kernel: jax.Array, dy: jax.Array
) -> jax.Array:
  """dy @ kernel^T, with each column added to the pixels that it came from.

  On a CPU this takes one row of the kernel at a time, so that its columns are
  still in the cache when they are added. An H100 is twice as fast with all rows
  at once.
  """
  kh, kw, c, o = kernel.shape
  size = tuple(n + sum(pads) for n, pads in zip(shape[1:3], window.padding))
  together = 1 if jax.default_backend() == 'cpu' else kh
  total = jnp.zeros((shape[0], *size, c), dy.dtype)
  for first in range(0, kh, together):
    rows = kernel[first : first + together].reshape(-1, o)
    columns = jnp.einsum('nhwo,ko->nhwk', dy, rows, precision=window.precision)
    columns = columns.reshape(*dy.shape[:3], together, kw, c)
    for i in range(together):
      total += sum(
        _spread(window, size, (first + i, j), columns[:, :, :, i, j])
        for j in range(kw)
      )
  (top, _), (left, _) = window.padding
  return total[:, top : top + shape[1], left : left + shape[2]]


def _spread(
  window: Window,
  size: tuple[int, ...],
  place: tuple[int, int],
  column: jax.Array,
) -> jax.Array:
  """A column on the pixels under that place of the kernel; 0 elsewhere."""
  pads = [
    (first, whole - first - (count - 1) * stride - 1, stride - 1)
    for first, whole, count, stride in zip(
      place, size, column.shape[1:3], window.strides
    )
  ]
  zero = jnp.zeros((), column.dtype)
  return lax.pad(column, zero, ((0, 0, 0), *pads, (0, 0, 0)))


def _in_turns(
  function: Callable[[jax.Array, jax.Array], jax.Array],
  window: Window,
  kernel: tuple[int, int],
  xs: jax.Array,
  others: jax.Array,
) -> jax.Array:
  """`function(x, other)` for all clients, as many at a time as have room.

  Patches repeat a picture for every place of the kernel, so those of all
  clients together would need more memory than all else of a step. An
  accelerator is given four times a CPU's room, as its products want more work.
  """
  room = _ROOM if jax.default_backend() == 'cpu' else 4 * _ROOM
  patches = xs.size * math.prod(kernel) // math.prod(window.strides)
  turns = min(-(-patches // room), len(xs))
  if turns <= 1:
    return jax.vmap(function)(xs, others)
  both = lambda given: function(*given)
  return lax.map(both, (xs, others), batch_size=-(-len(xs) // turns))


def _patches(
  window: Window, x: jax.Array, kernel: tuple[int, int]
) -> jax.Array:
  """The patch under the kernel at every position, [n, h', w', kh * kw * c].

  One gather is faster than concatenated slices, on an H100 up to four times.
  """
  x = jnp.pad(x, ((0, 0), *window.padding, (0, 0)))
  rows, cols = (
    np.arange(0, size - taps + 1, stride)[:, None] + np.arange(taps)
    for size, taps, stride in zip(x.shape[1:3], kernel, window.strides)
  )
  patches = x[:, rows[:, None, :, None], cols[None, :, None, :]]
  return patches.reshape(x.shape[0], len(rows), len(cols), -1)


def _rows(window: Window, x: jax.Array, kernel: tuple[int, int]) -> jax.Array:
  """As `_patches`, [kh * kw * c, n, h', w']."""
  x = jnp.pad(x, ((0, 0), *window.padding, (0, 0)))
  (sh, sw), (kh, kw) = window.strides, kernel
  rows = (x.shape[1] - kh) // sh + 1
  cols = (x.shape[2] - kw) // sw + 1
  shifts = [
    x[:, i : i + (rows - 1) * sh + 1 : sh, j : j + (cols - 1) * sw + 1 : sw]
    for i in range(kh)
    for j in range(kw)
  ]
  stacked = jnp.stack([shift.transpose(3, 0, 1, 2) for shift in shifts])
  return stacked.reshape(-1, *stacked.shape[2:])
