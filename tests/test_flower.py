"""A federation of processes on the loopback interface, and what breaks it."""

import importlib.util
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time

import chex
import jax
import numpy as np
import pytest
from conftest import ONCE, ROOT, build_once, small_config, small_file

from hns import config as configs
from hns.remote import server as remote_server
from hns.runs import checkpoint, loop, paths

pytest.importorskip('flwr')

FLOWER = ROOT / 'launch' / 'flower'
CLIENTS, ROUNDS = 5, 10


def fields_of(clients, rounds):
  return dict(
    dataset='digits',
    partition='iid',
    model='mlp',
    num_clients=clients,
    cohort=clients,
    examples_per_client=40,
    test_examples_per_client=20,
    rounds=rounds,
    eval_every=rounds,
    checkpoint_seconds=0.0,
  )


# A client whose uploads are damaged: it answers in place of its worker.
ROGUE = """
import sys
from hns.remote import client
from hns_flower import worker

honest = client.respond

def damaged(member, order):
  reply = honest(member, order)
  if not reply.payload:
    return reply
  wrong = reply.payload[-1] ^ 1
  return reply._replace(payload=reply.payload[:-1] + bytes([wrong]))

def listening(*given):
  listen(*given)
  print('listens', flush=True)

client.respond = damaged
listen, worker._listen = worker._listen, listening
worker.main(sys.argv[1:])
"""


def demo():
  spec = importlib.util.spec_from_file_location('demo', FLOWER / 'demo.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def free_port():
  """The first of some ports that nobody listens at."""
  for port in range(18000 + os.getpid() % 1000 * 10, 60000, 10):
    for one in range(port, port + CLIENTS + 1):
      with socket.socket() as there:
        if there.connect_ex(('127.0.0.1', one)) == 0:
          break
    else:
      return port
  raise RuntimeError('no port is free')


def wait_until(condition, what, seconds=300):
  last = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < last, what
    time.sleep(0.1)


def rounds_done(folder):
  return max(checkpoint.numbers(paths.checkpoints(folder)), default=0)


def left_out(text):
  """By round, the clients whose answers were not used when it was played last.

  A killed server plays its last round again.
  """
  found = {}
  for line in re.findall('hns: (.*)', text):
    if ' clients are there' in line:
      played = set()
    told = re.match(r'round (\d+): client (\d) is left out', line)
    if told:
      number, client = map(int, told.groups())
      if number not in played:
        played.add(number)
        found[number] = set()
      found[number].add(client)
  return found


def place_of(flower, folder, file, fields, seconds):
  """Where a federation runs, and a function that gives its log."""
  flags = [f'--config.{name}={value}' for name, value in fields.items()]
  place = flower.Place(
    folder, free_port(), [f'--config={file}', *flags], folder / 'run', seconds
  )
  log = folder / 'run.log'
  return place, lambda: log.read_text() if log.exists() else ''


def test_a_federation_ends_as_its_simulation(tmp_path):
  flower = demo()
  fields = dict(num_clients=2, cohort=2, eval_every=2, checkpoint_seconds=0.0)
  table = dict(remember=True, download_bits=1)
  flags = fields | {f'hidenseek.{name}': value for name, value in table.items()}
  place, text = place_of(flower, tmp_path, small_file(tmp_path), flags, 120)
  with flower.federation(place, 2):
    wait_until(lambda: 'accuracy.png' in text(), text())
  row = json.loads((place.workdir / 'metrics.jsonl').read_text())
  gone = left_out(text())
  assert row['round'] == 2 and row['dropped_clients'] == len(gone) == 0
  check_state(place.workdir, small_config(**fields, hidenseek=table), gone)


@pytest.mark.slow  # it waits for the answers of clients that are gone
def test_a_federation_that_loses_clients_and_its_server(tmp_path):
  flower, fields = demo(), fields_of(CLIENTS, ROUNDS)
  place, text = place_of(flower, tmp_path, 'digits', fields, 40)
  rogue = rogue_client(flower, place, 4)
  try:
    with flower.federation(place, CLIENTS) as processes:
      wait_until(lambda: rounds_done(place.workdir) >= 2, text())
      flower.stop(processes[1])
      wait_until(lambda: rounds_done(place.workdir) >= 4, text())
      flower.stop(processes['server'])
      processes['server'] = flower.start_server(place)
      flower.submit(place)
      wait_until(lambda: rounds_done(place.workdir) >= 5, text())
      processes[1] = flower.start_client(place, 1)
      rows = place.workdir / 'metrics.jsonl'
      wait_until(lambda: rows.exists() and rows.read_text(), text())
      wait_until(lambda: 'accuracy.png' in text(), text())
  finally:
    rogue.send_signal(signal.SIGKILL)
    rogue.wait()
  gone = left_out(text())
  check_events(text(), gone)
  row = json.loads(rows.read_text())
  assert row['round'] == ROUNDS and row['dropped_clients'] == sum(
    map(len, gone.values())
  )
  check_state(place.workdir, configs.base(**fields), gone)


def rogue_client(flower, place, index):
  """Starts the worker that answers for a client, with damaged uploads.

  It listens on return: else an honest one would be started in its place.
  """
  folder = place.folder / f'client-{index}'
  words = [shlex.join(place.flags), str(index), str(folder)]
  environment = os.environ | {'PYTHONPATH': str(FLOWER)}
  rogue = subprocess.Popen(
    [sys.executable, '-c', ROGUE, *words],
    env=environment,
    stdout=subprocess.PIPE,
    text=True,
  )
  assert 'listens\n' in iter(rogue.stdout.readline, '')
  return rogue


def check_events(text, gone):
  """Each event has its line; client 1 was away, client 4 was never used."""
  assert all(4 in clients for clients in gone.values()) and len(gone) == ROUNDS
  assert 'client 4 is left out: checksum does not match' in text
  away = [number for number, clients in gone.items() if 1 in clients]
  assert 3 in away or 4 in away
  assert ROUNDS not in away, text
  assert text.count('clients are there') == 2


def check_state(folder, config, gone):
  """The server's state is that of a simulation of exactly these events."""
  built = build_once(config)
  run, progress = ONCE[loop, 'programs'](built), loop.begin(built)
  for number in range(1, config.rounds + 1):
    ids = sorted(set(range(config.num_clients)) - gone.get(number, set()))
    progress = loop.step(built, run, progress, ids)
  found = checkpoint.restore(
    paths.checkpoints(folder), remote_server.begin(built)
  )
  chex.assert_trees_all_equal(
    jax.tree.map(np.asarray, found.state), jax.device_get(progress.state)
  )
