"""The kernels that a GPU runs in a round, from a trace of JAX's profiler."""

import pathlib
import tempfile
from collections.abc import Callable
from typing import NamedTuple

import jax

_PRODUCTS = ('gemm', 'dot', 'cutlass', 'cublas', 'nvjet')


class Kernels(NamedTuple):
  """Statistics of the kernels of a round, including copies.

  Attributes:
    count: number of kernels; 0 where profiling is not permitted.
    busy: seconds in which at least one ran.
    products: seconds in which at least one matrix product ran.
  """

  count: int
  busy: float
  products: float


def traced(play: Callable[[], object]) -> Kernels:
  """Runs a round under the profiler."""
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      play()
    paths = pathlib.Path(folder).rglob('*.xplane.pb')
    traces = [jax.profiler.ProfileData.from_file(str(p)) for p in paths]
  events = [
    event
    for trace in traces
    for plane in trace.planes
    for line in plane.lines
    if line.name.startswith('Stream')
    for event in line.events
  ]
  products = [e for e in events if any(w in e.name for w in _PRODUCTS)]
  return Kernels(len(events), covered(events) / 1e9, covered(products) / 1e9)


def covered(events: list) -> float:
  """Nanoseconds in which at least one event was active."""
  total, end = 0, 0
  for event in sorted(events, key=lambda e: e.start_ns):
    stop = event.start_ns + event.duration_ns
    total += max(0, stop - max(event.start_ns, end))
    end = max(end, stop)
  return total
