"""Sweeps: their notation, their plan, and that nothing is run twice."""

import collections
import csv
import functools
import io
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest
from absl import flags
from conftest import ROOT, read_config, small_config

from hns.errors import InputError
from hns.runs import commandline, sweeps

sys.path.append(str(ROOT / 'launch'))
import choose  # noqa: E402
import jobs  # noqa: E402
import sweep  # noqa: E402

NAMES = sorted(path.stem for path in (ROOT / 'configs').glob('*.py'))


@functools.cache
def planned(name):
  """The runs of a config file's sweep."""
  file = str(ROOT / 'configs' / f'{name}.py')
  get_config = functools.partial(sweep.config_of, file, {})
  return sweeps.plan(get_config, sweeps.read(file, {}), pathlib.Path('runs'))


def test_points():
  assert sweeps.grid({'a': [1, 2], 'b': 'xy'}) == [
    {'a': 1, 'b': 'x'},
    {'a': 1, 'b': 'y'},
    {'a': 2, 'b': 'x'},
    {'a': 2, 'b': 'y'},
  ]
  pairs = sweeps.zipped({'a': [1, 2], 'b': 'xy'})
  assert pairs == [{'a': 1, 'b': 'x'}, {'a': 2, 'b': 'y'}]
  with pytest.raises(ValueError):
    sweeps.zipped({'a': [1, 2], 'b': 'x'})
  crossed = sweeps.cross(pairs, sweeps.grid({'c': [0]}) + [{'b': 'z'}])
  assert crossed == [
    {'a': 1, 'b': 'x', 'c': 0},
    {'a': 1, 'b': 'z'},
    {'a': 2, 'b': 'y', 'c': 0},
    {'a': 2, 'b': 'z'},
  ]


@pytest.mark.parametrize('name', NAMES)
def test_every_config_has_a_sweep_of_three_seeds(name):
  runs = planned(name)
  names = [run.folder.name for run in runs]
  assert all(re.fullmatch(r'[\w.,=-]{1,99}', name) for name in names)
  seeds = collections.Counter(run.config['seed'] for run in runs)
  assert set(seeds) == {0, 1, 2} and len(set(seeds.values())) == 1


@pytest.mark.parametrize(
  'name, variant, density',
  [
    ('mnist', 'wide', 0.03),
    ('cifar10', 'wide', 0.02),
    ('femnist', 'wide_ternary', 0.06),
  ],
)
def test_configs_of_pictures_are_rows_of_the_results(name, variant, density):
  """So that the numbers in their docstrings are their own."""
  mine = {run.folder.name: run.config for run in planned(name)}
  assert len(mine) == 2 * 3
  rows = {
    'hidenseek,seed=0': (variant, density, 'hidenseek'),
    'eden,density=0.01,seed=0': ('wide_eden', 0.01, 'eden'),
  }
  file = str(ROOT / 'configs' / 'benchmark.py')
  for folder, (wide, share, method) in rows.items():
    case = f'scarce-{name}-{wide}'
    row = sweep.config_of(file, {'density': share}, case).to_dict()
    own = mine[folder]
    assert own[method] == row[method]
    of_run = lambda config: {
      field: value
      for field, value in config.items()
      # Each method's table has its own `upload`.
      if not isinstance(value, dict) and field not in ('eval_every', 'upload')
    }
    assert of_run(own) == of_run(row)


def test_a_name_is_of_the_point_alone():
  point = {'seed': 3, 'signsgd.pruned': True, 'algorithm': 'signsgd'}
  assert sweeps.name_of(point, 'signsgd') == 'signsgd,pruned=True,seed=3'
  assert sweeps.name_of({'local.learning_rate': 1e-05}, 'fedavg') == (
    'local.learning_rate=1e-05'
  )
  assert sweeps.name_of({'dataset': 'emnist/let ters'}, '') == 'emnist-let-ters'
  backwards = dict(reversed(point.items()))
  assert sweeps.name_of(backwards, 'signsgd') == 'signsgd,pruned=True,seed=3'


@pytest.mark.parametrize(
  'value',
  ['.', '..', '', '/', '../..', 'table.csv', 'a' * 300, 'é' * 200, 'a\0b\n']
  + ['\udcff', '𝔘' * 64 + 'b', ' ', '~', '$(ls)', '\\..\\'],
)
def test_a_name_is_that_of_a_folder_inside(tmp_path, value):
  name = sweeps.name_of({'dataset': value}, '')
  (tmp_path / 'sweep' / name).mkdir(parents=True)
  assert [path.name for path in tmp_path.iterdir()] == ['sweep']
  assert [path.name for path in (tmp_path / 'sweep').iterdir()] == [name]
  assert name not in ('table.csv', 'table.md')


def test_a_name_that_is_cut_keeps_its_point_apart():
  long = [{'dataset': 'x' * 300 + last, 'seed': 1} for last in 'ab']
  names = [sweeps.name_of(point, '') for point in long]
  assert names[0] != names[1] and {len(name) for name in names} == {255}
  assert all(re.fullmatch('x{246}-[0-9a-f]{8}', name) for name in names)
  assert sweeps.name_of({'dataset': 'x' * 255}, '') == 'x' * 255
  assert re.fullmatch(r'\.\.-[0-9a-f]{8}', sweeps.name_of({'a': '..'}, ''))


def test_equal_configs_are_one_run(tmp_path):
  points = [{'upload': 'change'}, {'hidenseek.upload': 'change'}, {}]
  config = read_config('test')
  assert len(sweeps.plan(lambda case: config, points, tmp_path)) == 1
  assert (
    len(sweeps.plan(lambda case: config, [{'seed': 1}, *points], tmp_path)) == 2
  )


@pytest.mark.parametrize(
  'points,said',
  [
    ([{'seeed': 1}], 'config.seeed: no such field; did you mean seed?'),
    ([{'fedper': {}}], 'config.fedper: is a table: change one of its'),
    ([{'seed': 'x'}], "seed='x': must be a whole number"),
    ([{'rounds': 2.0}], 'rounds=2.0: must be a whole number'),
    ([{'density': float('nan')}], 'density=nan: must be finite'),
    ([{}, {'density': 2.0}], r'density=2.0: density=2.0: must be in \(0, 1\]'),
    ([{'dataset': 'a/b'}, {'dataset': 'a-b'}], 'has the same name as'),
  ],
)
def test_nothing_begins_before_every_config_is_valid(tmp_path, points, said):
  with pytest.raises(InputError, match=said):
    sweeps.plan(lambda case: read_config('test'), points, tmp_path)
  assert not list(tmp_path.iterdir())


def test_what_cannot_be_chosen_is_named(tmp_path):
  file = tmp_path / 'a.py'
  file.write_text('def get_config(): pass')
  with pytest.raises(InputError, match='a.py.: it has no sweep'):
    sweeps.read(str(file), {})
  file.write_text("def sweep():\n  return [{'seed': 1}]")
  with pytest.raises(InputError, match='config.seed=2: the sweep sets'):
    sweeps.read(str(file), {'seed': 2, 'rounds': 1})
  file.write_text("def sweep():\n  return {'seed': [1]}")
  with pytest.raises(InputError, match='must be a list of dicts'):
    sweeps.read(str(file), {})
  for points in ("[{'seed': 1}, 5]", '[{1: 2}]', "[{'config': 5}]"):
    file.write_text(f'def sweep():\n  return {points}')
    with pytest.raises(InputError, match='must be a list of dicts'):
      sweeps.read(str(file), {})
  # What goes wrong in a user's own sweep is the user's own.
  file.write_text('def sweep():\n  return list(zip([1], [], strict=True))')
  with pytest.raises(ValueError, match='^zip.* is shorter') as error:
    sweeps.read(str(file), {})
  assert not isinstance(error.value, InputError)
  file.write_text("def sweep():\n  return [{'config': 'b'}]")
  with pytest.raises(InputError, match='a.py:b.: the sweep sets the case'):
    sweeps.read(f'{file}:b', {})
  runs = planned('test')
  chosen = sweeps.choose(runs, 'local.*[01]$', 1)
  assert [run.folder.name for run in chosen] == ['local,seed=1']
  for pattern, index, said in (
    ('(', -1, 'cannot be read'),
    ('fedprox', -1, 'finds no hidenseek,seed=0'),
    ('', 6, 'index=6: the last run is 5'),
  ):
    with pytest.raises(InputError, match=said):
      sweeps.choose(runs, pattern, index)


def stored(folder, **fields):
  """A folder of a run of `small_config` without a row."""
  folder.mkdir()
  config = json.loads(small_config(**fields).to_json())
  about = {'config': config, 'versions': {}, 'weights_downloaded': 1}
  (folder / 'config.json').write_text(json.dumps(about))


def test_a_folder_of_another_config_is_refused(tmp_path):
  stored(tmp_path / 'seed=1', rounds=9)
  with pytest.raises(InputError, match='^seed=1: .*rounds is 9 there and 2'):
    sweeps.plan(
      lambda case: small_config(), [{'seed': 0}, {'seed': 1}], tmp_path
    )


@pytest.mark.parametrize('name', ['config.json', 'metrics.jsonl'])
def test_a_damaged_folder_is_left_out_and_said(
  tmp_path, name, capsys, monkeypatch
):
  """Planned, listed and in the tables; the others are played."""
  stored(tmp_path / 'seed=1')
  (tmp_path / 'seed=1' / name).write_text('{"config": \n')
  points = sweeps.grid({'seed': [0, 1, 2]})
  runs = sweeps.plan(lambda case: small_config(), points, tmp_path)
  assert [run.config['seed'] for run in runs] == [0, 1, 2]
  assert sweeps.incomplete(runs) == [runs[0], runs[2]]
  path = tmp_path / 'seed=1' / name
  text = sweep.describe(runs, 1)
  assert text.startswith('left  seed=0\ndamaged  seed=1\nleft  seed=2\n')
  assert '0 done, 2 left, 1 at a time, 1 damaged and left out\n' in text
  assert f'hns: {path}' in text and 'cannot be read' in text
  monkeypatch.setattr(signal, 'signal', lambda *_: None)
  slots = jobs.share(1, 3, jobs.cores(), [])
  command = lambda run: [sys.executable, '-S', '-c', '0']
  assert sweep.carry_out(runs, runs, command, slots) == 1
  said = capsys.readouterr().out
  assert f'hns: left out: {path}' in said and '0 of 3 runs done' in said
  with open(tmp_path / 'table.csv') as file:
    status = [line['status'] for line in csv.DictReader(file)]
  assert status == ['failed', 'damaged', 'failed']


# A sweep of 12 runs, three at a time, of which seed 5 fails.
DRIVER = """
import json, pathlib, sys
sys.path[:0] = [{launch!r}, {tests!r}]
import jobs, sweep
from conftest import small_config
from hns.runs import commandline, sweeps
folder = pathlib.Path(sys.argv[1])
points = sweeps.grid({{'seed': range(12)}})
runs = sweeps.plan(lambda case: small_config(), points, folder)
command = lambda run: [
  sys.executable, '-S', '-c', {stub!r}, str(run.folder), json.dumps(run.config)
]
slots = jobs.share(3, 12, jobs.cores(), [])
sys.exit(sweep.carry_out(runs, runs, command, slots))
"""
# Writes what a run writes, once its seed is allowed to.
STUB = """
import json, os, pathlib, sys, time
folder, config = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
with open(folder / 'begun', 'a') as file:
  file.write('x')
end = time.monotonic() + 300
while config['seed'] >= max(map(int, os.listdir(folder.parent / 'until'))):
  time.sleep(0.02)
  assert time.monotonic() < end
if config['seed'] == 5:
  sys.exit('OSError: no space left')
about = {'config': config, 'versions': {}, 'weights_downloaded': 1}
(folder / 'config.json').write_text(json.dumps(about))
names = 'personal_accuracy', 'personal_accuracy_p10', 'global_accuracy'
row = {'round': 2, 'uplink_bytes': 9, 'downlink_bytes': 9}
row['client_accuracies'] = [1]
with open(folder / 'metrics.jsonl', 'a') as file:
  file.write(json.dumps(row | dict.fromkeys(names, 0.5)) + '\\n')
"""


def sweep_of_twelve(folder):
  """Begins it in a session of its own."""
  paths = dict(launch=str(ROOT / 'launch'), tests=str(ROOT / 'tests'))
  driver = DRIVER.format(stub=STUB, **paths)
  return subprocess.Popen(
    [sys.executable, '-c', driver, str(folder)],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    start_new_session=True,
  )


def begun(folder):
  """How often each run that is complete was begun."""
  return {
    path.parent.name: len((path.parent / 'begun').read_text())
    for path in folder.glob('*/metrics.jsonl')
  }


def until(folder, seed):
  """Allows runs below this seed to end."""
  (folder / 'until').mkdir(exist_ok=True)
  (folder / 'until' / str(seed)).touch()


def wait_for(folder, count):
  deadline = time.monotonic() + 300
  while len(begun(folder)) < count and time.monotonic() < deadline:
    time.sleep(0.02)
  assert len(begun(folder)) >= count


def test_a_sweep_goes_on_after_failure_interruption_and_kill(tmp_path):
  until(tmp_path, 3)
  first = sweep_of_twelve(tmp_path)
  wait_for(tmp_path, 3)
  first.send_signal(signal.SIGTERM)
  said, warned = first.communicate()
  assert first.returncode == 128 + signal.SIGTERM
  assert '3 of 12 runs done' in said
  assert warned.endswith('hns: stopped; the same command goes on\n')
  earlier = begun(tmp_path)
  assert earlier == {f'seed={i}': 1 for i in range(3)}

  until(tmp_path, 8)
  second = sweep_of_twelve(tmp_path)
  wait_for(tmp_path, 7)
  second.kill()
  second.wait()
  killed = begun(tmp_path)
  assert len(killed) == 7 and earlier.items() <= killed.items()

  until(tmp_path, 12)  # runs that the sweep left alone go on
  last = sweep_of_twelve(tmp_path)
  said, warned = last.communicate()
  assert last.returncode == 1 and warned == ''
  assert 'seed=5 failed: OSError: no space left' in said
  assert '11 of 12 runs done' in said
  assert '| 0 1 2 3 4 6 7 8 9 10 11 |' in (tmp_path / 'table.md').read_text()
  after = begun(tmp_path)
  assert len(after) == 11 and killed.items() <= after.items()
  for path in tmp_path.glob('*/metrics.jsonl'):
    assert path.read_text().count('\n') == 1
  with open(tmp_path / 'table.csv') as file:
    table = {int(line['seed']): line for line in csv.DictReader(file)}
  assert sorted(table) == list(range(12))
  assert {table[i]['status'] for i in table if i != 5} == {'done'}
  assert table[5]['status'] == 'failed' and table[5]['global_accuracy'] == ''
  assert (
    table[7]['global_accuracy'] == '0.5' and 'client_accuracies' not in table[7]
  )


def test_the_command(tmp_path, capsys):
  flags = [
    *(f'--config={ROOT}/configs/test.py', f'--workdir={tmp_path}'),
    *('--filter=local.*0$', '--config.rounds=1', '--jobs=1'),
  ]

  result = subprocess.run(
    [sys.executable, ROOT / 'launch' / 'sweep.py', *flags],
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, result.stdout + result.stderr
  assert '1 runs (0-0)' in result.stdout and '1 left' in result.stdout
  assert 'known when the first run is done' in result.stdout
  assert (
    '| digits, 6 clients | local | 0 | 1 | 0 |' in result.stdout
    and result.stderr == ''
  )
  with open(tmp_path / 'table.csv') as file:
    lines = list(csv.DictReader(file))
  assert [line['status'] for line in lines] == ['left', 'done', *4 * ['left']]
  assert [line['algorithm'] for line in lines] == 3 * ['hidenseek', 'local']
  assert float(lines[1]['personal_accuracy']) > 0.5
  sweep.main(['sweep', *flags, '--dry_run', '--filter=', '--index=2'])
  planned = capsys.readouterr().out
  assert planned.startswith('left  hidenseek,seed=1\n1 runs')


def test_cases_of_a_config_file():
  """A run's command names its case, and that is the config it was planned."""
  runs = planned('benchmark')
  by_name = {run.folder.name: run for run in runs}
  run = by_name['scarce-cifar10-fedmask_sparse,seed=1']
  assert run.config['fedmask']['target'] == 0.2
  assert run.config['dataset'] == 'cifar10' and run.config['seed'] == 1
  file = str(ROOT / 'configs' / 'benchmark.py')
  command = sweep.command_of(file, {'rounds': 3}, run)
  values = flags.FlagValues()
  flags.DEFINE_string('workdir', '', '', values)
  given = commandline.parse(command[2:], values, '')
  assert given.file == f'{file}:scarce-cifar10-fedmask_sparse'
  assert given.config.to_dict() == run.config | {'rounds': 3}
  with pytest.raises(InputError, match="config.algorithm='fedavg': the case"):
    sweep.config_of(file, {'algorithm': 'fedavg'}, 'scarce-mnist-fedpm')


def test_no_rival_is_tuned_with_fewer_trials_than_ours(tmp_path):
  file = str(ROOT / 'configs' / 'benchmark.py')
  points = sweeps.read(file, {}, 'tuning')
  trials = collections.Counter(point['config'] for point in points)
  assert min(trials.values()) == 4
  assert {trials[case] for case in trials if 'hidenseek' in case} == {4}
  for rival in ('eden', 'fedbat', 'signsgd', 'doublesqueeze'):
    case = 'scarce-femnist-wide'
    assert trials[f'{case}_{rival}'] >= trials[case]
  assert all(point['eval_split'] == 'validation' for point in points)
  get_config = functools.partial(sweep.config_of, file, {})
  assert len(sweeps.plan(get_config, points, tmp_path)) == len(points)
  with pytest.raises(InputError, match="no 'nowhere'"):
    commandline.read(f'{file}:scarce-nowhere')
  with pytest.raises(
    InputError, match="sweep='tuned': .* has frontier, tuning"
  ):
    sweeps.read(file, {}, 'tuned')


@pytest.mark.parametrize(
  'word,said',
  [
    ('--config.densty=1', 'config.densty: no such field; did you mean density'),
    ('--config.rounds=many', "config.rounds='many': must be a whole number"),
    ('--filtr=x', "Unknown .* flag 'filtr'. Did you mean: filter ?"),
    ('--jobs=-2', 'flag --jobs=-2: -2 is not a non-negative integer'),
    ('--index=-2', 'flag --index=-2: -2 is not integer >= -1'),
    *(
      (f'--jobs={text}', f'flag --jobs={text}: invalid literal for int')
      for text in ('²', '1e3', '', '1.5', '0x', ' ')
    ),
    ('--index=99999999999999999999', 'index=9+: the last run is 14'),
    ('--config=no.py', "config='no.py': no such file"),
  ],
)
def test_bad_words_end_in_one_line(word, said):
  with pytest.raises(SystemExit, match='^hns: ' + said.replace('?', '.')):
    sweep.main(['sweep', word])


@pytest.mark.parametrize(
  'points,kind',
  [
    ("open('/no/such')", FileNotFoundError),
    ('len(3)', TypeError),
    ("[{'config': '/no/such'}]", FileNotFoundError),
  ],
)
def test_what_goes_wrong_in_a_users_file_is_the_users_own(
  tmp_path, points, kind
):
  file = tmp_path / 'own.py'
  file.write_text(
    'from hns.config import base\n'
    f'def get_config(case=""):\n  return open(case) if case else base()\n'
    f'def sweep():\n  return {points}\n'
  )
  with pytest.raises(kind):
    sweep.main(['sweep', f'--config={file}', f'--workdir={tmp_path}/runs'])
  assert not (tmp_path / 'runs').exists()


def test_the_best_trial_is_chosen(tmp_path, capsys):
  table = tmp_path / 'table.csv'
  rows = [
    'run,config,rate_decay,fedper.learning_rate,fedper.optimizer,ditto.pull,'
    'status,held_accuracy',
    'a,scarce-mnist-fedper,1.0,0.1,sgd,,done,0.8',
    '"b,rate_decay=0.98",scarce-mnist-fedper,0.98,0.2,adam,,done,0.9',
    'c,scarce-mnist-ditto,1.0,,,0.3,done,0.7',
    'd,scarce-mnist-ditto,1.0,,,0.5,done,0.7',
    'e,scarce-mnist-ditto,1.0,,,0.9,failed,',
  ]
  table.write_text('\n'.join(rows) + '\n')
  target = tmp_path / 'tuned.json'
  target.write_text('{"old": {"pull": 1.0}}')
  choose.main(['choose', str(table), str(target)])
  assert json.loads(target.read_text()) == {
    'old': {'pull': 1.0},
    'scarce-mnist-fedper': {
      'rate_decay': 0.98,
      'learning_rate': 0.2,
      'optimizer': 'adam',
    },
    'scarce-mnist-ditto': {'pull': 0.3},
  }
  told = capsys.readouterr().out.splitlines()
  row = '| scarce-mnist-fedper | learning_rate, optimizer, rate_decay | '
  assert told[2] == row + '0.1 sgd: 0.800; **0.2 adam 0.98: 0.900** |'
  assert told[3] == '| scarce-mnist-ditto | pull | **0.3: 0.700**; 0.5: 0.700 |'


def test_tuned_values_are_the_best_of_those_tried():
  results = ROOT / 'launch' / 'results'
  cases = choose.read(results / 'tuning.csv')
  best = {case: choose.values(choose.best(cases[case])) for case in cases}
  assert json.loads((ROOT / 'configs' / 'tuned.json').read_text()) == best
  assert choose.tried(cases) in (results / 'tuning.md').read_text()


def test_a_plan_whose_reader_is_gone_ends_with_one_line(monkeypatch):
  """As of `| head -1`."""
  gone = io.StringIO()
  gone.close()
  monkeypatch.setattr(sys, 'stdout', gone)
  monkeypatch.setattr(os, 'dup2', lambda *given: None)
  words = ['sweep', f'--config={ROOT / "configs" / "digits.py"}', '--dry_run']
  with pytest.raises(SystemExit, match='hns: stdout: cannot be written'):
    sweep.main(words)
