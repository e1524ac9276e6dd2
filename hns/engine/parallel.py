"""Many clients on whatever devices there are: the only `vmap` that trains them.

Clients are spread over the devices of a mesh; each device loops over its share
and takes `width` of them at a time. One at a time is best on a CPU core: it
fills the core, and a small client then takes no more steps than it has.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hns.tree import Tree, from_host, to_host

AXIS = 'clients'
ABSENT = np.iinfo(np.int32).max  # an id past every client
_LANES = 8  # partial sums of clients that are taken one at a time
# On an H100 (launch/results/benchmark_gpu.txt) a step of all clients side by
# side cost, beside its work, about as much as one client's step on so many
# weights. 25 and 50 clients of conv4, 60 and 120 million weights, took 4.8 and
# 9.4 GB; from 100 to 500 clients side by side LeNet's rounds gained 4 %.
_START = 3_000_000
_WEIGHTS = 100_000_000
_WIDEST = 256


def mesh_of(devices: list[jax.Device]) -> Mesh:
  """A mesh with one axis of clients."""
  return Mesh(np.array(devices), (AXIS,))


def everywhere(mesh: Mesh) -> NamedSharding:
  """The sharding of arrays that every device of a mesh holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def replicate(tree: Tree, mesh: Mesh) -> Tree:
  """Arrays that every process has, as arrays whole on every device."""

  def put(x):
    return from_host(jax.device_put(to_host(x), everywhere(mesh)), x)

  return jax.tree.map(put, tree)


def absent_if_unknown(ids: jax.Array, clients: int) -> jax.Array:
  """The ids, `ABSENT` for any that none of so many clients has."""
  return jnp.where((ids >= 0) & (ids < clients), ids, ABSENT)


def each_client(
  function: Callable[[Tree, jax.Array, Tree], tuple[Tree, Tree]],
  given: Tree,
  ids: jax.Array,
  client_state: Tree,
  width: int,
  mesh: Mesh,
) -> tuple[Tree, Tree]:
  """Runs `function(given, id, client_state) -> (summed, listed)` for clients.

  Each device loops over its share, `width` clients at a time. Memory grows with
  the width and with what is listed, not with the number of clients.

  Args:
    function: must give zeros to sum for the id `ABSENT`, which is padding.
    given: arrays that all clients see, the only ones `function` may use.
    ids: int32 [ids].
    client_state: what belongs to each id, leaves [ids, ...].
    width: clients side by side under `vmap`.
    mesh: devices, with the one axis `AXIS`.

  Returns:
    The sum of all `summed`, and `listed` with a leading axis of ids.
  """
  plan = deal(ids.shape[0], width, mesh.size)
  turns = plan.reshape(mesh.size, -1, plan.shape[-1])
  client_state = jax.tree.map(lambda x: x[turns], client_state)
  dealt = jnp.where(turns < 0, ABSENT, ids[turns]), client_state
  one_device = functools.partial(_one_device, function, *plan.shape[:2])
  total, listed = _on_all_devices(one_device, mesh)(given, dealt)
  places = np.argsort(plan, axis=None)[-ids.shape[0] :]
  listed = jax.tree.map(
    lambda x: x.reshape(-1, *x.shape[turns.ndim :])[places], listed
  )
  return total, listed


def _on_all_devices(one_device: Callable, mesh: Mesh) -> Callable:
  """`(given, dealt) -> (total, listed)`: dealt and listed are spread."""
  spread, whole = PartitionSpec(AXIS), PartitionSpec()
  return jax.jit(
    jax.shard_map(
      one_device,
      mesh=mesh,
      in_specs=(whole, spread),
      out_specs=(whole, spread),
      check_vma=False,
    )
  )


def deal(count: int, width: int, devices: int) -> np.ndarray:
  """Which of `count` clients each device takes when, -1 for nobody.

  Clients ordered by size are dealt to and fro, so that devices get equal work
  and clients side by side are of a size. One client at a time, a sum is made
  of the same partial sums on 1, 2, 4 or 8 devices, in the same order: floats
  are summed to the same bits.

  Returns:
    int [devices, lanes, steps, width]; a lane is one partial sum.
  """
  lanes = _LANES if width == 1 and _LANES % devices == 0 else devices
  steps = -(-count // (lanes * width))
  width = -(-count // (lanes * steps))
  places = np.arange(steps * lanes * width) - (steps * lanes * width - count)
  places = np.maximum(places, -1).reshape(steps, lanes, width)
  places[1::2] = places[1::2, ::-1].copy()
  places = places.reshape(steps, -1, devices, width)
  return places.transpose(2, 1, 0, 3)


def best_width(steps: np.ndarray, weights: int, devices: int) -> int:
  """Clients side by side on an accelerator: an estimate of what is fastest.

  Wide chunks start fewer steps, narrow ones wait less for their largest client.

  Args:
    steps: int [clients of a round], what each takes, in ascending order.
    weights: of the model.
    devices: how many.
  """

  def cost(width):
    turns = _turns(steps, width, devices)
    each = turns.sum(1).max()  # of the device that takes longest
    return each * (-(-len(steps) // turns.size) + _START / weights)

  most = min(_WEIGHTS // weights, _WIDEST, -(-len(steps) // devices))
  return min(range(1, max(most, 1) + 1), key=cost)


def idle_share(steps: np.ndarray, width: int, devices: int) -> float:
  """Share of the steps computed that a client waits, side by side with larger.

  As for `best_width`; for a width above 1.
  """
  turns = _turns(steps, width, devices)
  return 1 - steps.sum() / (turns.sum() * -(-len(steps) // turns.size))


def _turns(steps, width, devices) -> np.ndarray:
  """Steps of each chunk of clients, int [devices, chunks]."""
  plan = deal(len(steps), width, devices)
  return np.where(plan < 0, 0, steps[plan]).max(-1).reshape(devices, -1)


def _one_device(
  function, devices: int, lanes: int, given, dealt
) -> tuple[Tree, Tree]:
  """Sums over all devices, and lists, of this device's clients.

  Leaves of `dealt` are [1, turns, width, ...], lane after lane. A loop over
  lanes around one over their clients would compile slower, and on a CPU let
  XLA keep more memory for every step.
  """
  # With arrays, not their shapes, the trace is kept and the loop takes it.
  function = jax.jit(functools.partial(function, given), inline=True)
  dealt = jax.tree.map(lambda x: x[0], dealt)
  shapes = jax.eval_shape(function, *jax.tree.map(lambda x: x[0, 0], dealt))
  nothing = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

  def turn(totals, now):
    lane, chunk = now
    if chunk[0].shape[0] == 1:
      index, client_state = jax.tree.map(lambda x: x[0], chunk)
      summed, listed = jax.lax.cond(
        index == ABSENT, lambda *_: nothing, function, index, client_state
      )
      listed = jax.tree.map(lambda x: x[None], listed)
    else:
      summed, listed = jax.vmap(function)(*chunk)
      summed = jax.tree.map(lambda x: jnp.sum(x, 0, dtype=x.dtype), summed)

    def add(total, x):
      x += jax.lax.dynamic_index_in_dim(total, lane, keepdims=False)
      return jax.lax.dynamic_update_index_in_dim(total, x, lane, 0)

    return jax.tree.map(add, totals, summed), listed

  totals = jax.tree.map(
    lambda x: jnp.zeros((lanes, *x.shape), x.dtype), nothing[0]
  )
  lane_of = jnp.repeat(jnp.arange(lanes), dealt[0].shape[0] // lanes)
  totals, listed = jax.lax.scan(turn, totals, (lane_of, dealt))
  total = jax.tree.map(lambda x: _over_all_lanes(x, devices), totals)
  return total, jax.tree.map(lambda x: x[None], listed)


def _over_all_lanes(x: jax.Array, devices: int) -> jax.Array:
  """The sum of this device's partial sums, [lanes, ...], and all others'."""
  if x.shape[0] * devices > _LANES:
    return jax.lax.psum(jnp.sum(x, 0, dtype=x.dtype), AXIS)
  if devices > 1:
    x = jax.lax.all_gather(x, AXIS, axis=1).reshape(-1, *x.shape[1:])
  return functools.reduce(jnp.add, x)
