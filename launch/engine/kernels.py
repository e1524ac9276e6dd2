"""What a GPU runs in a round, from a trace of JAX's profiler."""

import pathlib
import tempfile
from typing import NamedTuple

import jax

_PRODUCTS = ('gemm', 'dot', 'cutlass', 'cublas', 'nvjet')


class Kernels(NamedTuple):
  """A round's kernels, copies among them.

  Attributes:
    count: how many were started; 0 where the profiler may not look.
    busy: seconds in which at least one ran.
    products: seconds in which a matrix product did.
  """

  count: int
  busy: float
  products: float


def traced(play) -> Kernels:
  """Plays a round under the profiler."""
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


def covered(events) -> float:
  """The length of the union of their spans."""
  total, end = 0, 0
  for event in sorted(events, key=lambda e: e.start_ns):
    stop = event.start_ns + event.duration_ns
    total += max(0, stop - max(event.start_ns, end))
    end = max(end, stop)
  return total
