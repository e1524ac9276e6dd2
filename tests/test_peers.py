"""Processes of one run: who is there, and whether all ask for the same."""

import concurrent.futures
import socket
import subprocess
import sys

import pytest
from conftest import ROOT

from hns.errors import InputError
from hns.runs import devices, identity, peers
from hns.runs.peers import Peers


def free_port():
  with socket.socket() as free:
    free.bind(('localhost', 0))
    return free.getsockname()[1]


@pytest.mark.parametrize(
  'text,found',
  [
    ('localhost:12,2,1', Peers('localhost', 12, 2, 1)),
    ('10.0.0.1:65535,1,0', Peers('10.0.0.1', 65535, 1, 0)),
    ('[::1]:12,2,0', Peers('::1', 12, 2, 0)),
  ],
)
def test_peers_are_read(text, found):
  assert peers.parse(text) == found
  assert text.startswith(f'{found.address},')


@pytest.mark.parametrize(
  'text,said',
  [
    ('localhost,2,0', 'HOST:PORT,PROCESSES,INDEX'),
    ('localhost:x,2,0', 'HOST:PORT,PROCESSES,INDEX'),
    ('localhost:-1,2,0', 'HOST:PORT,PROCESSES,INDEX'),
    ('localhost:12,2', 'HOST:PORT,PROCESSES,INDEX'),
    ('localhost:12,2,0,0', 'HOST:PORT,PROCESSES,INDEX'),
    ('localhost:12,2,²', 'HOST:PORT,PROCESSES,INDEX'),
    ('local host:12,2,0', 'HOST:PORT,PROCESSES,INDEX'),
    (':12,2,0', 'HOST:PORT,PROCESSES,INDEX'),
    ('::1:12,2,0', 'HOST:PORT,PROCESSES,INDEX'),
    ('localhost:0,2,0', 'port must be 1 to 65535'),
    ('localhost:65536,2,0', 'port must be 1 to 65535'),
    ('localhost:12,0,0', 'at least 1 process'),
    ('localhost:12,2,2', 'index of 2 processes is 0 to 1'),
  ],
)
def test_peers_that_cannot_be_are_refused(text, said):
  with pytest.raises(InputError, match=f'distributed=.*{said}'):
    devices.start(text)


@pytest.mark.parametrize('seconds', [0, -1, 86401])
def test_a_time_to_wait_that_cannot_be_is_refused(seconds):
  with pytest.raises(InputError, match=f'peers_seconds={seconds}: must be 1'):
    devices.start('', seconds)


def met(asked, seconds, port):
  """What each process is told, '' if it may go on."""

  def one(asked):
    try:
      peers.meet(Peers('localhost', port, *asked), seconds)
    except InputError as error:
      return str(error)
    return ''

  with concurrent.futures.ThreadPoolExecutor(len(asked)) as pool:
    return list(pool.map(one, asked))


def test_all_there_go_on():
  port = free_port()
  for _ in range(3):  # and leave the port free
    assert met([(3, 1), (3, 2), (3, 0)], 60, port) == ['', '', '']
  peers.meet(Peers('localhost', port, 1, 0), 1)


@pytest.mark.parametrize(
  'asked,said',
  [
    ([(2, 0)], '1 did not connect within 1 seconds, those with the index 1:'),
    ([(2, 1)], '1 did not connect within 1 seconds, those with the index 0:'),
    ([(5, 3), (5, 0)], 'of 5 processes 3 did not .* the index 1, 2, 4:'),
    ([(3, 1), (3, 1), (3, 0)], 'two processes have the index 1'),
    (
      [(2, 0), (3, 1)],
      'process 1 was started as one of 3 processes, process 0 as one of 2',
    ),
  ],
)
def test_who_is_missing_or_does_not_fit_is_said_to_all(asked, said):
  told = met(asked, 1, free_port())
  with pytest.raises(InputError, match=said):
    raise InputError(told[0])
  assert len(set(told)) == 1 and '\n' not in told[0]


def test_strangers_are_left_standing():
  """And what answers there is not process 0 unless it says so."""
  port = free_port()
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    soon = pool.submit(met, [(2, 0)], 5, port)
    for said in (b'GET / HTTP/1.1\r\n\r\n', b'\xff\n', b'', b'hns x 2\n'):
      while True:
        try:
          talk = socket.create_connection(('localhost', port))
          break
        except OSError:
          assert not soon.done()
      with talk:
        talk.sendall(said)
    assert met([(2, 1)], 5, port) == [''] == soon.result()


def test_a_port_that_is_taken_is_one_line():
  with socket.create_server(('', 0)) as taken:
    port = taken.getsockname()[1]
    said = met([(2, 0)], 1, port)[0]
  assert f"distributed='localhost:{port}': the port cannot be opened" in said


def test_jax_is_not_waited_for_longer():
  code = """
import time
from hns.runs import devices
with devices._ended_after(1, 'auto'):
  pass
with devices._ended_after(1, 'auto'):
  time.sleep(600)
"""
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True
  )
  assert done.returncode == 1
  said = (
    "hns: distributed='auto': not all processes connected within 1 seconds: "
  )
  assert done.stderr.startswith(said) and done.stderr.count('\n') == 1


def test_differences_of_processes_are_named(monkeypatch):
  texts = [
    '{"a": {"b": 1, "c": 2}}',
    '{"a": {"b": 1, "c": 3}}',
    '{"a": {"b": 1, "c": 2}, "d": null}',
    '{"a": {"b": 1, "c": 2}, "e": "x"}',
  ]
  monkeypatch.setattr(devices, 'gather_texts', lambda text: texts[:1] * 2)
  identity.check_same_in_all({})
  monkeypatch.setattr(devices, 'gather_texts', lambda text: texts)
  with pytest.raises(InputError) as error:
    identity.check_same_in_all({})
  assert 'a.c is 2 in process 0 and 3 in process 1; e is None in' in str(error)


def test_what_ends_one_process_ends_all(monkeypatch):
  monkeypatch.setattr(devices.jax, 'process_count', lambda: 2)
  monkeypatch.setattr(devices, 'gather_texts', lambda said: ['', said])
  with devices.fail_together():
    pass
  with pytest.raises(InputError, match='^process 1: disk full$'):
    with devices.fail_together():
      raise InputError('disk full')
  monkeypatch.setattr(devices, 'gather_texts', lambda said: ['it', said])
  with pytest.raises(InputError, match='^process 0: it$'):
    with devices.fail_together():
      pass


@pytest.mark.parametrize(
  'words,said',
  [
    (
      ['--config.hidenseek.learning_rate=0.1', '--config.rounds=9'],
      'hns: distributed: all processes of a run must have the same config and '
      'environment (config.hidenseek.learning_rate is 0.03 in process 0 and '
      '0.1 in process 1; config.rounds is 2 in process 0 and 9 in process 1): '
      'start them all alike',
    ),
    (
      ['--workdir=other'],
      'hns: process 1: other/metrics.jsonl, line 1: cannot',
    ),
  ],
)
def test_processes_that_differ_stop_together(tmp_path, words, said):
  """Each before anything is compiled or written."""
  (tmp_path / 'other').mkdir()
  (tmp_path / 'other' / 'metrics.jsonl').write_text('damaged\n')
  port = free_port()
  flags = [f'--config={ROOT / "configs" / "test.py"}', '--workdir=run']
  started = [
    subprocess.Popen(
      [sys.executable, '-m', 'hns.main', *flags, *words * index]
      + [f'--distributed=localhost:{port},2,{index}'],
      stderr=subprocess.PIPE,
      text=True,
      cwd=tmp_path,
    )
    for index in range(2)
  ]
  told = [process.communicate(timeout=300)[1] for process in started]
  assert [process.returncode for process in started] == [1, 1], told
  last = [text.splitlines()[-1] for text in told]
  assert last[0] == last[1] and last[0].startswith(said)
  assert not (tmp_path / 'run').exists()
