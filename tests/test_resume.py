"""A run that ended early goes on, and ends as if it never had."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import threading
import time
from typing import Any, NamedTuple

import chex
import numpy as np
import pytest
from conftest import ROOT, small_config

from hns import checkpoint, experiment, loop, main, record, workdir
from hns.errors import InputError
from hns.interrupt import Interrupted

ROUNDS = 20
METHODS = {
  'hidenseek': {'upload': 'ternary'},  # keeps the errors of its uploads
  'local': {'algorithm': 'local'},  # keeps everything
  'lotteryfl': {'algorithm': 'lotteryfl'},  # prunes on the client
}
# So many runs at once, so often, of every method: 24 are killed.
RUNS, LIVES = 4, 2


def config_of(name):
  config = small_config(rounds=ROUNDS, eval_every=2, checkpoint_seconds=0.0)
  config.update_from_flattened_dict(METHODS[name])
  return config


class Whole(NamedTuple):
  """A method's run that nothing interrupted, and what it was made of."""

  config: Any
  folder: Any
  built: Any
  programs: Any


def share(patch, built, programs):
  """Runs are not built, checked and compiled again: once is enough."""
  patch.setattr(experiment, 'build', lambda config: built)
  patch.setattr(loop, 'programs', lambda experiment: programs)
  patch.setattr(loop, 'check_payloads', lambda experiment: None)
  patch.setattr(workdir, 'draw', lambda *given: None)


@pytest.fixture(scope='module', params=METHODS)
def whole(request, tmp_path_factory):
  config = config_of(request.param)
  folder = tmp_path_factory.mktemp('whole')
  built = experiment.build(config)
  run = Whole(config, folder, built, loop.programs(built))
  with pytest.MonkeyPatch.context() as patch:
    share(patch, *run[2:])
    experiment.run(config, folder)
    yield run


def in_a_process(target, *given):
  """Starts it where all is imported and nothing of JAX has started."""
  context = multiprocessing.get_context('forkserver')
  context.set_forkserver_preload(['test_resume', 'sklearn.datasets'])
  process = context.Process(target=target, args=given, daemon=True)
  process.start()
  return process


def play(name, folders, seed):
  """Plays a run in every folder, one a thread, until the process is killed."""
  config, draw = config_of(name), random.Random(seed)
  built = experiment.build(config)
  share(pytest.MonkeyPatch(), built, loop.programs(built))
  checkpoint._SHARE = 0  # as many checkpoints as the disk takes
  threading.excepthook = lambda failed: os._exit(1)  # rather than never end
  for folder in folders:
    run = threading.Thread(target=experiment.run, args=(config, folder))
    run.start()
    time.sleep(draw.uniform(0, 0.3))
  signal.pause()


def lines(folder):
  """The text of the metrics, but for its seconds."""
  text = (folder / 'metrics.jsonl').read_text()
  rows = map(json.loads, text.splitlines())
  keep = lambda row: {k: v for k, v in row.items() if 'seconds' not in k}
  return [json.dumps(keep(row)) for row in rows]


def assert_same(run, folder):
  """Every metric and every leaf, of the server and of every client."""
  assert lines(folder) == lines(run.folder)
  like = loop.begin(run.built)
  got, expected = (workdir.load(f, like, ROUNDS) for f in (folder, run.folder))
  assert set(got.store.held) == set(expected.store.held)
  chex.assert_trees_all_equal_dtypes(got[:2], expected[:2])
  chex.assert_trees_all_equal(got[:2], expected[:2])
  np.testing.assert_array_equal(got.held, expected.held)
  assert np.all(got.held >= 0)
  assert got.tally._replace(seconds_since=0) == expected.tally._replace(
    seconds_since=0
  )


def test_runs_killed_at_random_moments_end_the_same(whole, tmp_path):
  """Killed twice: what went on goes on."""
  name, draw = whole.config.algorithm, random.Random(whole.config.algorithm)
  folders = [tmp_path / str(n) for n in range(RUNS)]
  rows = lambda: sum(len(workdir.rows(folder)) for folder in folders)
  for life in range(LIVES):
    process = in_a_process(play, name, folders, life)
    enough = draw.randrange(10 * life, 10 * life + 10)
    while process.is_alive() and rows() < enough:
      time.sleep(0.05)
    process.join(draw.uniform(0, 0.1))
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
  left = [checkpoint.numbers(folder / 'checkpoints') for folder in folders]
  assert any(left) and rows() < RUNS * ROUNDS / 2
  for folder in folders:
    experiment.run(whole.config, folder)
    assert_same(whole, folder)
    assert checkpoint.numbers(folder / 'checkpoints')[-1] == ROUNDS
    assert len(list((folder / 'checkpoints').iterdir())) <= 2


@pytest.fixture(scope='module')
def local():
  """A run of which one client's state takes a few kilobytes, in no folder."""
  built = experiment.build(config_of('local'))
  return built, loop.programs(built)


@pytest.fixture
def stopped(local, tmp_path, monkeypatch):
  """A folder in which a signal stopped a run at round 5, and its config."""
  config, folder = config_of('local'), tmp_path / 'run'
  config.update(rounds=8, eval_every=3)
  share(monkeypatch, *local)
  monkeypatch.setattr(checkpoint, '_SHARE', 0)
  interrupt_after(monkeypatch, 5, signal.SIGTERM)
  with pytest.raises(Interrupted) as stop:
    experiment.run(config, folder)
  monkeypatch.undo()
  share(monkeypatch, *local)
  return config, folder, stop.value


def interrupt_after(patch, last, number):
  """Sends this process a signal in the middle of a round."""
  keep = loop.own.keep

  def kept(store, ids, held):
    keep(store, ids, held)
    kept.rounds += 1
    if kept.rounds == last:
      signal.raise_signal(number)

  kept.rounds = 0
  patch.setattr(loop.own, 'keep', kept)


def test_a_signal_saves_and_says_how_to_go_on(stopped, tmp_path):
  config, folder, stop = stopped
  assert stop.signal == signal.SIGTERM
  said = f'{folder}: stopped and saved after round 5 of 8; the same command'
  assert str(stop).startswith(said) and '\n' not in str(stop)
  assert checkpoint.numbers(folder / 'checkpoints')[-1] == 5
  assert [row['round'] for row in workdir.rows(folder)] == [3]
  experiment.run(config, folder)
  experiment.run(config, tmp_path / 'whole')
  assert lines(folder) == lines(tmp_path / 'whole')


def test_a_damaged_checkpoint_is_left_out(stopped, tmp_path, capsys):
  config, folder, _ = stopped
  whole = tmp_path / 'whole'
  shutil.copytree(folder, whole)
  experiment.run(config, whole)
  files = [p for p in (folder / 'checkpoints' / '5').rglob('*') if p.is_file()]
  largest = max(files, key=lambda p: p.stat().st_size)
  content = bytearray(largest.read_bytes())
  content[len(content) // 2] ^= 1
  largest.write_bytes(content)
  capsys.readouterr()
  experiment.run(config, folder)
  damaged = folder / 'checkpoints' / '5'
  said = [x for x in capsys.readouterr().err.splitlines() if 'hns' in x]
  assert said == [f'hns: {damaged} is damaged and left out']
  assert lines(folder) == lines(whole)


def test_without_a_whole_checkpoint_or_its_rows_it_is_refused(stopped):
  config, folder, _ = stopped
  metrics = folder / 'metrics.jsonl'
  text = metrics.read_text()
  metrics.write_text('')
  with pytest.raises(InputError, match='has lost the row of round 3'):
    experiment.run(config, folder)
  metrics.write_text(text)
  for path in (folder / 'checkpoints').glob('*/digests.json'):
    path.unlink()
  with pytest.raises(InputError, match='all are damaged') as error:
    experiment.run(config, folder)
  assert '\n' not in str(error.value) and metrics.read_text() == text


def test_an_unfinished_run_of_another_version_is_refused(stopped):
  config, folder, _ = stopped
  path = folder / 'config.json'
  about = json.loads(path.read_text())
  about['versions'] |= {'jax': '0.1', 'python': '3.0'}
  other = {'device': '1 x abacus', 'frozen': about['frozen'] ^ 1}
  path.write_text(json.dumps(about | other))
  with pytest.raises(InputError) as error:
    experiment.run(config, folder)
  said = str(error.value)
  assert "device is '1 x abacus' there and" in said
  assert f'frozen is {other["frozen"]} there and' in said
  assert "versions.jax is '0.1' there and" in said and 'python' not in said


def test_two_runs_in_one_folder_are_refused(stopped):
  config, folder, _ = stopped
  with workdir.claim(folder):
    with pytest.raises(InputError, match='another run is writing there'):
      experiment.run(config, folder)
  with workdir.claim(folder):
    pass


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(InputError, match='run.*cannot be written') as error:
    experiment.run(config_of('local'), tmp_path / 'file' / 'run')
  assert '\n' not in str(error.value)
  with pytest.raises(InputError, match='cannot be written .No space'):
    with workdir.writing(tmp_path), open('/dev/full', 'a') as full:
      record._write({'round': 1}, tmp_path, full)


def test_the_command_ends_as_a_shell_expects(monkeypatch, capsys):
  def run(config, folder):
    raise Interrupted('saved', signal.SIGTERM)

  monkeypatch.setattr(experiment, 'run', run)
  monkeypatch.setattr(main.devices, 'start', lambda *given: None)
  with pytest.raises(SystemExit) as end:
    main.main(['hns', f'--config={ROOT}/configs/test.py'])
  assert end.value.code == 143
  assert capsys.readouterr().err == 'hns: saved\n'
