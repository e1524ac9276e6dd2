"""A run that ended early goes on, and ends as if it never had."""

import errno
import functools
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
import jax
import numpy as np
import pytest
from conftest import DRAW, ONCE, ROOT, small_config

from hns import durable, main
from hns.engine import flops
from hns.errors import InputError
from hns.report import files
from hns.runs import checkpoint, devices, experiment, loop, record, workdir
from hns.runs.interrupt import Interrupted

ROUNDS = 20
METHODS = {
  'hidenseek': {'upload': 'ternary'},  # keeps the errors of its uploads
  'lotteryfl': {'algorithm': 'lotteryfl'},  # prunes on the client
  'local': {'algorithm': 'local'},  # keeps everything
}
KILLED = ('hidenseek',)  # the others go on in process
# So many runs at once, so often, of every method: 8 are killed.
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
  patch.setattr(flops, 'of', ONCE[flops, 'of'])
  patch.setattr(workdir, 'draw', lambda *given: None)


@pytest.fixture(scope='module', params=KILLED)
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
  context.set_forkserver_preload(['test_resume'])
  process = context.Process(target=target, args=given, daemon=True)
  process.start()
  return process


def play(name, folders, seed):
  """Plays a run in every folder, one a thread, until the process is killed."""
  config, draw = config_of(name), random.Random(seed)
  built = experiment.build(config)
  share(pytest.MonkeyPatch(), built, loop.programs(built))
  record._SHARE = 0  # as many checkpoints as the disk takes
  threading.excepthook = lambda failed: os._exit(1)  # rather than never end
  for folder in folders:
    run = threading.Thread(target=experiment.run, args=(config, folder))
    run.start()
    time.sleep(draw.uniform(0, 0.3))
  signal.pause()


def lines(folder):
  """The text of the metrics, but for its seconds."""
  text = (folder / 'metrics.jsonl').read_bytes()
  rows = map(json.loads, text.split(b'\n')[:-1])
  keep = lambda row: {k: v for k, v in row.items() if 'seconds' not in k}
  return [json.dumps(keep(row)) for row in rows]


def assert_same(run, folder):
  """Every metric and every leaf, of the server and of every client."""
  assert lines(folder) == lines(run.folder)
  like = loop.begin(run.built)
  got, expected = (workdir.load(f, like, ROUNDS) for f in (folder, run.folder))
  assert set(got.store.states) == set(expected.store.states)
  chex.assert_trees_all_equal_dtypes(got[:2], expected[:2])
  chex.assert_trees_all_equal(got[:2], expected[:2])
  np.testing.assert_array_equal(got.score, expected.score)
  assert np.all(got.score >= 0)
  assert got.tally._replace(seconds_since=0) == expected.tally._replace(
    seconds_since=0
  )


def test_runs_killed_at_random_moments_end_the_same(whole, tmp_path):
  """Killed twice: what went on goes on."""
  name, draw = whole.config.algorithm, random.Random(whole.config.algorithm)
  folders = [tmp_path / str(n) for n in range(RUNS)]
  rows = lambda: sum(len(files.read(folder)) for folder in folders)
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
  monkeypatch.setattr(record, '_SHARE', 0)
  interrupt_after(monkeypatch, 5, signal.SIGTERM)
  with pytest.raises(Interrupted) as stop:
    experiment.run(config, folder)
  monkeypatch.undo()
  share(monkeypatch, *local)
  return config, folder, stop.value


def interrupt_after(patch, last, number):
  """Sends this process a signal in the middle of a round."""
  keep = loop.client_store.keep

  def kept(store, ids, held):
    keep(store, ids, held)
    kept.rounds += 1
    if kept.rounds == last:
      signal.raise_signal(number)

  kept.rounds = 0
  patch.setattr(loop.client_store, 'keep', kept)


def test_a_signal_saves_and_says_how_to_go_on(stopped, tmp_path):
  config, folder, stop = stopped
  assert stop.signal == signal.SIGTERM
  said = f'{folder}: stopped and saved after round 5 of 8; the same command'
  assert str(stop).startswith(said) and '\n' not in str(stop)
  assert checkpoint.numbers(folder / 'checkpoints')[-1] == 5
  assert [row['round'] for row in files.read(folder)] == [3]
  experiment.run(config, folder)
  experiment.run(config, tmp_path / 'whole')
  assert lines(folder) == lines(tmp_path / 'whole')


def test_a_damaged_checkpoint_is_left_out(stopped, tmp_path, capsys):
  config, folder, _ = stopped
  whole = tmp_path / 'whole'
  shutil.copytree(folder, whole)
  experiment.run(config, whole)
  paths = [p for p in (folder / 'checkpoints' / '5').rglob('*') if p.is_file()]
  largest = max(paths, key=lambda p: p.stat().st_size)
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


ODD = ['lr=[0.03]', 'a\\b', '**', '?x', '~', '%20', 'a\nb', 'é λ', '-x', '{y}']


@pytest.mark.parametrize('name', [*ODD, 'gs:/a', '$HOME', 'a' * 255])
def test_any_name_of_a_folder_goes_on(local, tmp_path, monkeypatch, name):
  config, folder = config_of('local'), tmp_path / name
  config.update(rounds=2)
  share(monkeypatch, *local)
  monkeypatch.chdir(tmp_path)
  experiment.run(config, name)
  config.update(rounds=4)
  rows = experiment.run(config, folder)
  assert [row['round'] for row in rows] == [2, 4]
  like = loop.begin(local[0])
  assert int(workdir.load(folder, like, 4).state.round) == 4


@pytest.mark.parametrize(
  'name,said',
  [
    ('a' * 256, 'cannot be a folder .File name too long'),
    ('b/' + 'é' * 128, 'cannot be a folder .File name too long'),
    ('c/' * 2100, 'cannot be a folder .File name too long'),
    ('d\0', 'cannot be a folder .embedded null'),
    ('e\ud800', 'cannot be a folder .*surrogates not allowed'),
    ('file', 'cannot be written .*file is not a folder'),
    ('file/inside', 'cannot be written .*file is not a folder'),
  ],
)
def test_a_name_that_cannot_be_is_refused_first(
  tmp_path, monkeypatch, name, said
):
  (tmp_path / 'file').write_text('')
  monkeypatch.setattr(experiment, 'build', lambda config: pytest.fail('built'))
  with pytest.raises(InputError, match=said) as error:
    experiment.run(config_of('local'), tmp_path / name)
  assert '\n' not in str(error.value)
  assert [path.name for path in tmp_path.iterdir()] == ['file']


@pytest.mark.parametrize(
  'field,value', [('seed', 1), ('local.learning_rate', 0.7), ('rounds', 4)]
)
def test_without_its_config_a_run_is_still_known(stopped, field, value):
  """By its checkpoints; and nothing of it is touched."""
  config, folder, _ = stopped
  text = (folder / 'metrics.jsonl').read_text()
  (folder / 'config.json').unlink()
  config.update_from_flattened_dict({field: value})
  with pytest.raises(InputError, match=f'{field} is .* there and {value} here'):
    experiment.run(config, folder)
  assert not (folder / 'config.json').exists()
  assert (folder / 'metrics.jsonl').read_text() == text


def test_a_config_that_is_gone_comes_back(stopped):
  config, folder, _ = stopped
  before = (folder / 'config.json').read_text()
  (folder / 'config.json').unlink()
  experiment.run(config, folder)
  assert (folder / 'config.json').read_text() == before


def test_metrics_of_nobody_knows_what_are_refused(stopped):
  config, folder, _ = stopped
  (folder / 'config.json').unlink()
  shutil.rmtree(folder / 'checkpoints')
  text = (folder / 'metrics.jsonl').read_text()
  with pytest.raises(InputError, match='without its config.json'):
    experiment.run(config, folder)
  assert (folder / 'metrics.jsonl').read_text() == text


@pytest.mark.parametrize(
  'field,there',
  [
    ('config.seed', 7),
    ('config.local.learning_rate', 0.7),
    ('born', 3),
    ('examples', 3),
    ('versions.jax', '0.1'),
    ('numerics.jax_default_prng_impl', 'rbg'),
  ],
)
def test_a_checkpoint_of_another_run_is_refused(stopped, field, there):
  """Copied in, beside this run's config.json."""
  config, folder, _ = stopped
  checkpoints = folder / 'checkpoints'
  like = loop.begin(experiment.build(config))
  held = checkpoint.restore(checkpoints, like)
  about = json.loads((folder / 'config.json').read_text())
  *tables, name = field.split('.')
  functools.reduce(lambda held, name: held[name], tables, about)[name] = there
  held = held._replace(state=held.state._replace(round=np.int32(6)))
  checkpoint.write(checkpoints, about, held)
  text = (folder / 'config.json').read_text()
  name = field.removeprefix('config.')
  with pytest.raises(InputError, match=f'{name} is .* there .*checkpoints/6'):
    experiment.run(config, folder)
  with pytest.raises(InputError, match=f'6 is of another run .*{name} is'):
    workdir.load(folder, like, 6)
  assert (folder / 'config.json').read_text() == text


@pytest.mark.parametrize(
  'setting,value,said',
  [
    ('jax_default_prng_impl', 'rbg', 'numerics.jax_default_prng_impl'),
    ('jax_threefry_partitionable', False, 'numerics.jax_threefry_partition'),
    ('jax_default_matmul_precision', 'highest', 'matmul_precision'),
    ('jax_disable_most_optimizations', False, 'numerics.jax_disable_most'),
  ],
)
def test_a_run_keeps_the_settings_it_began_with(stopped, setting, value, said):
  config, folder, _ = stopped
  before = jax.config.values[setting]
  jax.config.update(setting, value)
  try:
    with pytest.raises(InputError, match=f'{said}.* is .* there and'):
      experiment.run(config, folder)
  finally:
    jax.config.update(setting, before)


@pytest.mark.parametrize(
  'flags,alike',
  [
    ('--xla_force_host_platform_device_count=3', True),
    ('--xla_dump_to=x', True),
    ('--xla_allow_excess_precision=false', False),
    ('@file', False),
  ],
)
def test_only_flags_that_change_numbers_are_told(
  tmp_path, monkeypatch, flags, alike
):
  (tmp_path / 'flags').write_text('--xla_cpu_enable_fast_math=true\n')
  monkeypatch.setenv('XLA_FLAGS', '--xla_a=1 --xla_b=2')
  before = devices.numerics()
  monkeypatch.setenv('XLA_FLAGS', f'--xla_b=1 --xla_b=2 --xla_a=1 {flags}')
  if flags == '@file':
    monkeypatch.setenv('XLA_FLAGS', str(tmp_path / 'flags'))
  assert (devices.numerics() == before) is alike
  assert json.loads(json.dumps(before)) == before


def removed(folder):
  shutil.rmtree(folder)


def renamed(folder):
  folder.rename(folder.with_name('elsewhere'))


def replaced(folder):
  renamed(folder)
  folder.mkdir()
  (folder / 'metrics.jsonl').write_text('')


@pytest.mark.parametrize('take', [removed, renamed, replaced])
@pytest.mark.parametrize('when', [3, 8])
def test_a_folder_taken_away_is_an_error(
  local, tmp_path, monkeypatch, take, when
):
  config, folder = config_of('local'), tmp_path / 'run'
  config.update(rounds=8, eval_every=8, checkpoint_seconds=1e9)
  share(monkeypatch, *local)
  keep, calls = loop.client_store.keep, []

  def kept(*given):
    keep(*given)
    calls.append(given)
    if len(calls) == when:
      take(folder)

  monkeypatch.setattr(loop.client_store, 'keep', kept)
  with pytest.raises(InputError, match='was removed, renamed or replaced'):
    experiment.run(config, folder)
  assert len(calls) == when
  left = [path.name for path in folder.rglob('*')]
  assert left == ['metrics.jsonl'] * (take is replaced)


def test_numbers_that_are_not_finite_are_null(tmp_path):
  row = {'round': 1, 'a': float('nan'), 'b': [1.0, float('-inf')], 'c': 2}
  with (tmp_path / 'metrics.jsonl').open('w') as file:
    record._write(record._finite(row), tmp_path, file)
  text = (tmp_path / 'metrics.jsonl').read_text()
  assert text == '{"round": 1, "a": null, "b": [1.0, null], "c": 2}\n'
  news = dict(uplink_bytes=1, downlink_bytes=2, global_accuracy=0.5)
  said = record._progress_text(news | {'personal_accuracy': None})
  assert said == 'personalised ?, global 0.500, 3 B'


@pytest.mark.parametrize('name', ['config.json', 'accuracy.png'])
def test_a_full_disk_leaves_what_was_there(local, tmp_path, monkeypatch, name):
  config, folder = config_of('local'), tmp_path / 'run'
  config.update(rounds=2)
  share(monkeypatch, *local)
  monkeypatch.setattr(workdir, 'draw', DRAW)
  experiment.run(config, folder)
  before = (folder / name).read_bytes()
  config.update(rounds=3)
  replace = durable.os.replace

  def full(source, target):
    if target.name == name:
      raise OSError(errno.ENOSPC, 'No space left on device')
    replace(source, target)

  monkeypatch.setattr(durable.os, 'replace', full)
  complete = 'the run is complete and saved, but accuracy.png cannot'
  said = {'config.json': 'cannot be written', 'accuracy.png': complete}[name]
  with pytest.raises(InputError, match=f'{said}.*No space left') as error:
    experiment.run(config, folder)
  assert '\n' not in str(error.value)
  assert (folder / name).read_bytes() == before
  assert not list(folder.glob('*.part'))
  done = [row['round'] for row in files.read(folder)][-1]
  assert done == (3 if name == 'accuracy.png' else 2)


def test_the_command_ends_as_a_shell_expects(monkeypatch, capsys):
  def run(config, folder):
    raise Interrupted('saved', signal.SIGTERM)

  monkeypatch.setattr(experiment, 'run', run)
  monkeypatch.setattr(main.devices, 'start', lambda *given: None)
  with pytest.raises(SystemExit) as end:
    main.main(['hns', f'--config={ROOT}/configs/test.py'])
  assert end.value.code == 143
  assert capsys.readouterr().err == 'hns: saved\n'


def test_a_row_with_another_kind_of_blank_keeps_its_place(stopped, tmp_path):
  """A carriage return is white space to JSON, and ends no line."""
  config, folder, _ = stopped
  metrics = folder / 'metrics.jsonl'
  metrics.write_bytes(metrics.read_bytes().replace(b'{', b'{\r', 1))
  experiment.run(config, folder)
  experiment.run(config, tmp_path / 'whole')
  assert lines(folder)[1:] == lines(tmp_path / 'whole')[1:]
  assert metrics.read_bytes().startswith(b'{\r"round": 3')


@pytest.mark.parametrize('name', ['checkpoints', 'accuracy.png', 'config.json'])
@pytest.mark.parametrize('kind', ['file', 'link', 'folder'])
def test_what_stands_in_the_way_is_told_before_anything(tmp_path, name, kind):
  if (name == 'checkpoints') == (kind == 'folder'):
    return
  if kind == 'file' and name != 'checkpoints':
    return
  path = tmp_path / 'run' / name
  path.parent.mkdir()
  if kind == 'file':
    path.write_text('x')
  elif kind == 'folder':
    path.mkdir()
  else:
    path.symlink_to(tmp_path / 'nowhere')
  with pytest.raises(InputError, match=rf"run': .*{name}|{name}: cannot"):
    experiment.run(small_config(), tmp_path / 'run')
  assert [p.name for p in path.parent.iterdir()] == [name]
