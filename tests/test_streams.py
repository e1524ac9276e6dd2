"""Signals and standard streams that are closed, broken or full."""

import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import slow_if, small_file

from hns import streams
from hns.errors import InputError
from hns.runs import checkpoint

# What each does to the descriptor 2 of a process.
STDERR = {
  'closed': 'os.close(2)',
  'broken': 'r, w = os.pipe(); os.dup2(w, 2); os.close(r)',
  'full': 'os.dup2(os.open("/dev/full", os.O_WRONLY), 2)',
  'stuck': 'r, w = os.pipe(); os.set_blocking(w, False)\n'
  'try:\n  while os.write(w, b"x" * 4096): pass\n'
  'except BlockingIOError: pass\n'
  'os.set_blocking(w, True); os.dup2(w, 2)',
}
CAUGHT = """
import os, signal, sys
from hns.runs import interrupt
{stderr}
with interrupt.caught() as got:
  signal.raise_signal({number})
sys.stdout.write(str(got))
"""


def python(code, **given):
  """What a process prints that runs the code."""
  command = [sys.executable, '-c', code]
  return subprocess.run(command, stdout=subprocess.PIPE, text=True, **given)


@pytest.mark.parametrize('stderr', STDERR)
def test_a_signal_is_caught_whatever_happens_to_stderr(stderr):
  for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    code = CAUGHT.format(stderr=STDERR[stderr], number=int(number))
    done = python(code, timeout=60)
    assert (done.returncode, done.stdout) == (0, f'[{int(number)}]')


def test_a_signal_is_answered_on_stderr():
  code = CAUGHT.format(stderr='', number=int(signal.SIGTERM))
  done = python(code, stderr=subprocess.PIPE)
  said = '\nhns: stopping after this round; again stops at once\n'
  assert done.stderr == said


def test_a_hangup_that_was_ignored_stays_ignored():
  ignored = 'signal.signal(signal.SIGHUP, signal.SIG_IGN)'
  code = CAUGHT.format(stderr=ignored, number=int(signal.SIGHUP))
  assert python(code).stdout == '[]'


def test_closed_streams_are_not_taken_by_files(tmp_path):
  """What is said on one would be written into a run's metrics."""
  path = tmp_path / 'metrics.jsonl'
  code = f"""
import os, sys
from hns import streams
streams.open_closed()
with open({str(path)!r}, 'w') as file:
  assert file.fileno() > 2
  os.write(1, b'out'), os.write(2, b'err')
  print('said', file=sys.stderr)
  print('said')
"""
  shell = f'{sys.executable} -c "$0" <&- >&- 2>&-'
  done = subprocess.run(['bash', '-c', shell, code])
  assert done.returncode == 0 and path.read_text() == ''


class Broken(io.StringIO):
  """A terminal that is gone."""

  def write(self, text):
    raise BrokenPipeError(32, 'Broken pipe')

  def flush(self):
    self.write('')

  def isatty(self):
    return True


def test_what_cannot_be_said_is_lost(monkeypatch):
  monkeypatch.setattr('sys.stderr', Broken())
  with streams.lenient():
    print('lost', file=sys.stderr, flush=True)
    assert sys.stderr.isatty()
  with pytest.raises(BrokenPipeError):
    print('lost', file=sys.stderr)


def test_results_that_cannot_be_printed_are_an_error():
  code = """
from hns import errors
from hns import streams
try:
  streams.show('table')
except errors.InputError as error:
  raise SystemExit(f'hns: {error}')
"""
  with open('/dev/full', 'w') as full:
    done = subprocess.run(
      [sys.executable, '-c', code], stdout=full, stderr=subprocess.PIPE
    )
  assert done.returncode == 1
  said = 'hns: stdout: cannot be written (No space left on device); results of '
  assert done.stderr.decode() == f'{said}a run are in its folder\n'


def test_what_an_encoding_lacks_is_escaped():
  code = "from hns import streams; streams.show('± \\udcff')"
  done = python(code, env=os.environ | {'PYTHONIOENCODING': 'ascii'})
  assert (done.returncode, done.stdout) == (0, '\\xb1 \\udcff\n')


@pytest.mark.parametrize(
  'number,redirect',
  [(signal.SIGINT, '2>&-'), slow_if(True, signal.SIGHUP, '')],
)
def test_a_run_whose_reader_died_is_saved(tmp_path, number, redirect):
  """As of `2>&1 | tee log`, to which ctrl-C goes too."""
  config = small_file(tmp_path)
  command = (
    f'exec {sys.executable} -m hns.main --config={config} --workdir=run '
    f'--config.rounds=1000000 {redirect}'
  )
  reader, writer = os.pipe()
  run = subprocess.Popen(
    ['bash', '-c', command], stdout=writer, stderr=writer, cwd=tmp_path
  )
  os.close(writer)
  os.close(reader)
  metrics = tmp_path / 'run' / 'metrics.jsonl'
  while run.poll() is None and not (metrics.exists() and metrics.read_text()):
    time.sleep(0.1)
  run.send_signal(number)
  assert run.wait(timeout=300) == 128 + number
  done = checkpoint.numbers(tmp_path / 'run' / 'checkpoints')[-1]
  rows = [json.loads(row) for row in metrics.read_text().splitlines()]
  assert 0 < rows[-1]['round'] <= done


def test_show_names_the_stream(monkeypatch):
  monkeypatch.setattr('sys.stdout', Broken())
  monkeypatch.setattr(os, 'dup2', lambda *given: None)
  with pytest.raises(InputError, match='stdout: cannot be written .Broken'):
    streams.show('table')
