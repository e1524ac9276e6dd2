"""Clients on devices: the same numbers on any number of them."""

import json
import socket
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import play, slow_if, small, small_config, small_file

from hns.engine import parallel
from hns.errors import InputError
from hns.runs import devices, experiment

SIZES = dict(partition='dirichlet', alpha=0.5, examples_per_client=24)
PRUNED = dict(pruned=True, feedback=True)


def mesh(count):
  return parallel.mesh_of(jax.devices()[:count])


@pytest.mark.parametrize(
  'table,count',
  [
    (dict(algorithm='fedavg'), 8),
    slow_if(True, dict(algorithm='fedavg'), 2),
    slow_if(True, dict(algorithm='signsgd', signsgd=PRUNED), 8),
  ],
)
def test_one_two_and_eight_devices_agree_to_the_bit(optimised, table, count):
  """State, losses and bytes of float methods, without and with a mask.

  HideNseek's are compared by `test_two_processes_are_one_run`.
  """
  fields = dict(num_clients=12, cohort=11, local_epochs=1, **table)
  build = lambda count: small(devices=count, **fields, **SIZES)
  one, start = play(build(1), 2), play(build(1), 0)
  moved = jax.tree.leaves((one.state.server_state, one.client_state))
  still = jax.tree.leaves((start.state.server_state, start.client_state))
  assert any(np.any(a != b) for a, b in zip(moved, still))
  chex.assert_trees_all_equal(one, play(build(count), 2))


@pytest.mark.slow
def test_devices_and_widths_mix():
  fields = dict(num_clients=12, cohort=11, local_epochs=1, **SIZES)
  alone = play(small(**fields)).state.server_state
  other = play(
    small(devices=3, clients_per_step=2, **fields)
  ).state.server_state
  for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(other)):
    assert np.mean(~np.isclose(a, b, atol=1e-6)) < 2e-3


def test_each_client_sums_lists_and_pads():
  ids = jnp.array([4, 0, 3, 1, 2], jnp.int32)
  client_state = 10.0 * ids

  def client(given, index, client_state):
    present = index != parallel.ABSENT
    return present * given * index, (index, client_state)

  for count in (1, 3, 8):
    for width in (1, 2, 9):
      total, listed = parallel.each_client(
        client, jnp.int32(3), ids, client_state, width, mesh(count)
      )
      assert int(total) == 30
      np.testing.assert_array_equal(listed[0], ids)
      np.testing.assert_array_equal(listed[1], client_state)


@pytest.mark.parametrize('width', [1, 3, 32])
@pytest.mark.parametrize('count', [1, 2, 3, 8])
def test_everybody_is_dealt_once(count, width):
  for number in (1, 2, 10, 97, 100):
    plan = parallel.deal(number, width, count)
    assert plan.shape[0] == count and plan.shape[3] <= width
    assert sorted(plan[plan >= 0]) == list(range(number))
    taken = (plan >= 0).sum((1, 2, 3))
    assert taken.max() - taken.min() <= (1 if width == 1 else width)


def test_devices_share_the_work_and_chunks_are_of_a_size():
  """100 clients of Dirichlet sizes, in the order of a cohort."""
  fields = dict(num_clients=100, partition='dirichlet', alpha=0.3)
  federation = small(examples_per_client=10, **fields).federation
  steps = np.sort(np.asarray(federation.train.size))
  assert steps.max() > 3 * steps.mean()
  work = [steps[p[p >= 0]].sum() for p in parallel.deal(100, 1, 2)]
  assert max(work) < 1.05 * np.mean(work)

  def wasted(chunks):
    return (chunks.max(-1, keepdims=True) - chunks).sum() / steps.sum()

  plan = parallel.deal(100, 10, 1)
  mixed = np.random.RandomState(0).permutation(steps).reshape(10, 10)
  assert wasted(np.where(plan < 0, 0, steps[plan])) < 0.3 < wasted(mixed)


def test_a_sample_of_clients_is_evaluated():
  built = small(num_clients=9, cohort=3, eval_clients=4)
  assert (
    len(set(built.eval_client_ids.tolist())) == 4
    and max(built.eval_client_ids) < 9
  )
  again = small(num_clients=9, cohort=3, eval_clients=4)
  np.testing.assert_array_equal(built.eval_client_ids, again.eval_client_ids)
  assert len(small(num_clients=9, cohort=3).eval_client_ids) == 9


def test_bad_devices_are_refused():
  with pytest.raises(InputError, match='devices.*9.*there are 8'):
    devices.choose(9, 10)
  assert len(devices.choose(0, 3)) == 3
  assert len(devices.choose(0, 100)) == 8
  with pytest.raises(InputError, match='distributed.*HOST:PORT'):
    devices.start('here')


def test_two_processes_are_one_run(tmp_path):
  """`jax.distributed` over the loopback, against one process."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  flags = [f'--config={small_file(tmp_path)}', '--config.cohort=5']
  flags += ['--config.devices=0', '--config.upload=change']
  started = [
    subprocess.Popen(
      [sys.executable, '-m', 'hns.main', *flags]
      + [f'--workdir={tmp_path / "two"}']
      + [f'--distributed=localhost:{port},2,{index}'],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for index in range(2)
  ]
  said = [process.communicate(timeout=300) for process in started]
  assert [p.returncode for p in started] == [0, 0], said
  assert ['personalised' in out for out, _ in said] == [True, False]
  config = small_config(cohort=5, upload='change')
  alone = experiment.run(config, tmp_path / 'one')
  about = json.loads((tmp_path / 'two' / 'config.json').read_text())
  assert not about['device'].startswith('1 x ')
  text = (tmp_path / 'two' / 'metrics.jsonl').read_text()
  together = [json.loads(line) for line in text.splitlines()]
  assert len(together) == len(alone) == 2
  for a, b in zip(alone, together):
    assert [k for k in a if 'seconds' not in k and a[k] != b[k]] == []


def test_the_width_follows_the_model_and_how_alike_clients_are():
  alike, mixed = np.full(100, 5), np.repeat([1, 4, 9, 20], 25)
  assert parallel.best_width(alike, 200_000, 1) == 100
  assert parallel.best_width(alike, 200_000, 8) == 13
  assert parallel.best_width(np.full(1000, 5), 100_000, 1) == 250
  # 41 fit: three chunks of 34, two of them for nobody, or four of 25.
  assert parallel.best_width(alike, 2_400_000, 1) == 25
  assert parallel.best_width(alike, 50_000_000, 1) == 2
  assert parallel.best_width(mixed, 600_000, 1) == 25
  assert parallel.best_width(mixed, 10_000, 1) > 25
  assert parallel.best_width(np.array([0, 3]), 600_000, 4) == 1


def test_idle_steps_are_those_spent_on_waiting():
  steps = np.array([1, 2, 3, 10])
  assert parallel.idle_share(steps, 2, 1) == 1 - 16 / (2 * 2 + 2 * 10)
  assert parallel.idle_share(steps, 4, 1) == 1 - 16 / 40


@pytest.mark.parametrize('width', [1, 2])
def test_a_client_is_traced_once(width):
  """Tracing is a tenth of what compiling takes."""
  traced = []

  def client(given, index, client_state):
    traced.append(index)
    return given, client_state

  ids = jnp.arange(4)
  parallel.each_client(client, jnp.float32(1), ids, {'x': ids}, width, mesh(2))
  assert len(traced) == 1
