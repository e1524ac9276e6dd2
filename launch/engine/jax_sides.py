"""Sides on JAX: ours, `vmap`, a Python loop, FedJAX; and the matmul peak.

A side is a function of a problem, a workload and a method. It returns a
function that runs the same round in each call and returns the answer.
"""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from engine import workloads

from hns import tree
from hns.engine import client_store, rounds
from hns.engine.context import Stream, client_key
from hns.engine.training import batch, client_rows, shuffled
from hns.networks.supermask import sign
from hns.runs import devices, experiment, loop


def ours(workload, method, width=0, coded=True):
  """Our round: (problem, play, info); `coded`: whether it counts codes."""
  devices.start()
  config = workloads.configure(workload, method, width)
  built = experiment.build(config)
  if not coded:
    built = _packed(built)
  round_config, constants = built.round_config, built.constants
  run, state = loop.programs(built), rounds.begin(built.initial)
  ids = np.asarray(run.cohort(built.key, built.federation, state.round))
  few = workloads.few(workload)
  context = jax.jit(functools.partial(rounds.begin_round, round_config))(
    *constants, state
  )
  small = jax.jit(functools.partial(rounds.run_round, round_config))
  kept = client_store.fetch(loop.begin(built).store, ids)

  def answer(state):
    return np.asarray(tree.flatten(state.server_state.values))

  def play(some=False):
    args = *constants, rounds.begin(built.initial)
    if some and few < len(ids):
      first = jax.tree.map(lambda x: x[:few], kept)
      return answer(small(*args, ids[:few], first)[0])
    return answer(jax.block_until_ready(run.round(*args, ids, kept)[0]))

  info = {
    'devices': round_config.mesh.size,
    'platform': jax.default_backend(),
    'width': round_config.width,
    'few': few,
  }
  return _problem(round_config, context, ids), play, info


def _packed(built):
  """An experiment without the entropy code, whose bytes must be counted."""
  round_config = built.round_config
  codecs = round_config.method.wire
  method = round_config.method.revise(
    wire=dict(
      upload_codec=codecs.upload_codec._replace(coded=False),
      download_codec=codecs.download_codec._replace(coded=False),
    )
  )
  return built._replace(round_config=round_config._replace(method=method))


def _problem(round_config, context, ids):
  """The input of the other sides for the same round."""
  federation, method = context.federation, round_config.method
  examples = federation.examples

  def order(index):
    key = client_key(context, index, Stream.TRAINING)
    key = jax.random.fold_in(key, 0)  # of the first epoch
    rows = client_rows(federation.train, index)
    chosen = shuffled(key, rows, round_config.plan.batch_size)
    return chosen.reshape(-1, round_config.plan.batch_size)

  batches = np.asarray(jax.vmap(order)(ids))
  used, places = np.unique(batches, return_inverse=True)
  images, labels = batch(examples, used)
  problem = {
    'images': np.asarray(images),
    'labels': np.asarray(labels),
    'batches': places.reshape(batches.shape).astype(np.int32),
    **workloads.named('start', context.initial_params),
  }
  if 'signs' in method.client.to_variables(
    context.keys.shared, context.initial.frozen, context.initial_params
  ):
    frozen = context.initial.frozen
    problem |= workloads.named('weights', frozen['weights'])
    problem |= workloads.named('params', frozen['params'])
  return problem


def _local(problem, workload, method):
  """What a JAX user writes: the initial state, a step, and the upload."""
  net = workloads.plain(workload)
  weights = workloads.tree_of(problem, 'weights')
  rest = workloads.tree_of(problem, 'params')
  rate = workloads.RATES[method]
  optimizer = optax.sgd(rate) if method == 'fedavg' else optax.adam(rate)

  def params(trained):
    if method == 'fedavg':
      return trained
    signed = jax.tree.map(lambda w, s: w * sign(s), weights, trained)
    return tree.merge(signed, rest)

  def loss(trained, images, labels):
    logits = net.apply({'params': params(trained)}, images)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean()

  def step(state, images, labels):
    trained, opt_state = state
    grads = jax.grad(loss)(trained, images, labels)
    updates, opt_state = optimizer.update(grads, opt_state, trained)
    return optax.apply_updates(trained, updates), opt_state

  def upload(trained):
    return trained if method == 'fedavg' else jax.tree.map(sign, trained)

  start = jax.tree.map(jnp.asarray, workloads.tree_of(problem, 'start'))
  return (start, optimizer), step, upload


def _on_device(problem, clients):
  """Images, labels, and the batches of the first clients; None for all."""
  arrays = problem['images'], problem['labels'], problem['batches'][:clients]
  return [jnp.asarray(x) for x in arrays]


def plain_vmap(problem, workload, method):
  """One program: `jax.vmap` of a client's training, for the first few."""
  (start, optimizer), step, upload = _local(problem, workload, method)
  arrays = _on_device(problem, workloads.few(workload))

  def train(start, images, labels, rows):
    def move(state, chosen):
      return step(state, images[chosen], labels[chosen]), None

    state = jax.lax.scan(move, (start, optimizer.init(start)), rows)[0]
    return upload(state[0])

  @jax.jit
  def round_(*args):
    uploads = jax.vmap(train, (None, None, None, 0))(*args)
    return tree.flatten(jax.tree.map(lambda x: x.mean(0), uploads))

  return lambda: np.asarray(round_(start, *arrays))


def vmap_steps(problem, workload, method):
  """As `plain_vmap`, with a Python loop over steps."""
  (start, optimizer), step, upload = _local(problem, workload, method)
  images, labels, batches = _on_device(problem, workloads.few(workload))

  @functools.partial(jax.jit, donate_argnums=0)
  def move(state, images, labels, chosen):
    return jax.vmap(step)(state, images[chosen], labels[chosen])

  @jax.jit
  def begin(start):
    spread = lambda x: jnp.broadcast_to(x, (len(batches), *x.shape))
    trained = jax.tree.map(spread, start)
    return trained, jax.vmap(optimizer.init)(trained)

  mean = jax.jit(lambda t: tree.flatten(jax.tree.map(lambda x: x.mean(0), t)))

  def play():
    state = begin(start)
    for number in range(batches.shape[1]):
      state = move(state, images, labels, batches[:, number])
    return np.asarray(mean(upload(state[0])))

  return play


def jit_loop(problem, workload, method):
  """A Python loop over clients and jitted steps."""
  (start, optimizer), step, upload = _local(problem, workload, method)
  images, labels, batches = _on_device(problem, None)

  @functools.partial(jax.jit, donate_argnums=0)
  def move(state, images, labels, batches, client, number):
    chosen = batches[client, number]
    return step(state, images[chosen], labels[chosen])

  begin = jax.jit(
    lambda start: jax.tree.map(jnp.copy, (start, optimizer.init(start)))
  )
  add = jax.jit(
    lambda total, t: jax.tree.map(jnp.add, total, upload(t)), donate_argnums=0
  )

  def play():
    total = jax.tree.map(jnp.zeros_like, start)
    for client in range(len(batches)):
      state = begin(start)
      for number in range(batches.shape[1]):
        state = move(state, images, labels, batches, client, number)
      total = add(total, state[0])
    return np.asarray(tree.flatten(total)) / len(batches)

  return play


def fedjax(problem, workload, method):
  """`fedjax.for_each_client` and its tree utilities."""
  import fedjax as library

  if not hasattr(jax, 'tree_map'):  # removed since FedJAX 0.0.17
    jax.tree_map = jax.tree.map
  (start, optimizer), step, upload = _local(problem, workload, method)
  images, labels = problem['images'], problem['labels']

  def client_init(shared, client_input):
    del client_input
    return shared, optimizer.init(shared)

  def client_step(state, batch):
    return step(state, batch['x'], batch['y'])

  def client_final(shared, state):
    del shared
    return upload(state[0])

  train = library.for_each_client(client_init, client_step, client_final)

  def play():
    clients = [
      (k, [{'x': images[b], 'y': labels[b]} for b in rows], None)
      for k, rows in enumerate(problem['batches'])
    ]
    total, count = library.tree_util.tree_zeros_like(start), 0.0
    for _, trained in train(start, clients):
      examples = workload.examples
      weighted = library.tree_util.tree_weight(trained, examples)
      total = library.tree_util.tree_add(total, weighted)
      count += examples
    mean = library.tree_util.tree_inverse_weight(total, count)
    return np.asarray(tree.flatten(mean))

  return play


def peak():
  """Square matrix products on all cores or one GPU: (play, info)."""
  devices.start()
  size, times = 1024 if jax.default_backend() == 'cpu' else 8192, 20
  x = jax.random.normal(jax.random.key(0), (size, size)) / size**0.5

  @jax.jit
  def product(x):
    return jax.lax.fori_loop(0, times, lambda i, y: x @ y, x)

  def play():
    jax.block_until_ready(product(x))

  info = {'flops': 2 * size**3 * times, 'bytes_a_second': bandwidth()}
  return play, info


def bandwidth() -> float:
  """Bytes a second, read and written, of an array larger than any cache."""
  size = 2**26 if jax.default_backend() == 'cpu' else 2**28
  x, seconds = jnp.zeros(size), []
  in_place = jax.jit(lambda x: x + 1, donate_argnums=0)
  for _ in range(5):
    start = time.perf_counter()
    x = in_place(x).block_until_ready()
    seconds.append(time.perf_counter() - start)
  return 2 * x.nbytes / min(seconds)


def device_bytes() -> int:
  """The peak memory of this process on an accelerator; 0 on a CPU."""
  stats = jax.local_devices()[0].memory_stats() or {}
  return stats.get('peak_bytes_in_use', 0)


SIDES = {
  'plain_vmap': plain_vmap,
  'vmap_steps': vmap_steps,
  'jit_loop': jit_loop,
  'fedjax': fedjax,
}
