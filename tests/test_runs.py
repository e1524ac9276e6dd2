"""Runs on disk: damaged files, packed files, and runs that are given twice."""

import errno
import gzip
import json
import pathlib
import re
import shutil

import pytest
from conftest import small_config

from hns.errors import InputError
from hns.report.files import read, read_run_info
from hns.report.groups import group, load, pack


@pytest.fixture
def runs(tmp_path):
  """Two seeds of a method, and another method, as if they had been run."""
  home = tmp_path / 'home'
  for name, fields in (
    ('s0', {}),
    ('s1', {'seed': 1}),
    ('fedavg', {'algorithm': 'fedavg'}),
  ):
    (home / name).mkdir(parents=True)
    config = json.loads(small_config(**fields).to_json())
    held = {'config': config, 'versions': {}, 'weights_downloaded': 9}
    text = json.dumps(held | {'layers': {'Dense_0': [1, 5]}}, indent=2)
    (home / name / 'config.json').write_text(text + '\n')
    rows = [row(number) for number in (1, 2)]
    text = ''.join(json.dumps(row) + '\n' for row in rows)
    (home / name / 'metrics.jsonl').write_text(text)
  return home


def row(number):
  accuracies = 'personal_accuracy', 'global_accuracy', 'held_accuracy'
  return {
    'round': number,
    **dict.fromkeys(accuracies, 0.5),
    'client_accuracies': [0.25, 0.5],
    'train_loss': 0.25,
    'uplink_bytes': 100 * number,
    'downlink_bytes': 200 * number,
    'seconds': 0.5,
  }


def damaged(home, folder, name, change):
  """A copy of a run, one file of which is changed, as bytes; None: a folder."""
  shutil.copytree(home / 's0', folder)
  path = folder / name
  content = change(path.read_bytes())
  path.unlink()
  path.mkdir() if content is None else path.write_bytes(content)
  return path


def edited(**fields):
  """Changes fields of every JSON text of a file, `...` for none."""

  def change(content):
    lines = content.split(b'\n')[:-1] if content[:2] != b'{\n' else [content]
    held = [json.loads(line) | fields for line in lines]
    kept = [{k: v for k, v in x.items() if v is not ...} for x in held]
    return ''.join(json.dumps(x) + '\n' for x in kept).encode()

  return change


def of_config(**fields):
  def change(content):
    about = json.loads(content)
    return json.dumps(about | {'config': about['config'] | fields}).encode()

  return change


ANY = {
  'array': (lambda c: b'[1, 2]\n', r'\[1, 2\] is not a table'),
  'cut': (lambda c: c[:200] + b'\n', 'not JSON'),
  'zeros': (lambda c: b'\0' * 99 + b'\n', 'not JSON'),
  'deep': (lambda c: b'[' * 99999 + b'\n', 'not JSON: maximum recursion'),
  'latin': (lambda c: c.replace(b'a', b'\xe4', 1), 'not UTF-8'),
  'wide': (lambda c: c.decode().encode('utf-16'), 'not UTF-8'),
  'half': (lambda c: b'{"\\ud800": 1}\n', 'not UTF-8'),
  'folder': (lambda c: None, 'not a file'),
}
ROWS = {
  'missing': (edited(round=...), 'round is missing'),
  'accuracy': (edited(global_accuracy=...), 'global_accuracy is missing'),
  'text': (edited(round='1'), 'round is "1", not a whole number'),
  'null': (edited(uplink_bytes=None), 'uplink_bytes is null, not a whole'),
  'truth': (edited(round=True), 'round is true, not a whole number'),
  'table': (edited(seconds={}), "'seconds' is {}, not a number"),
  'list': (
    edited(client_accuracies=['x']),
    '.client_accuracies. is .*not a number',
  ),
  'large': (edited(uplink_bytes=10**400), 'not JSON: 1000.* is too large'),
  'twice': (lambda c: c + c, 'round 1 follows 2'),
  'blank': (lambda c: b'\n' + c, 'empty'),
}
CONFIG = {
  'empty': (lambda c: b'', 'empty'),
  'blank': (lambda c: b' \n', 'empty'),
  'nan': (
    lambda c: c.replace(b'0.2', b'NaN', 1),
    'not JSON: NaN is not finite',
  ),
  'endless': (
    lambda c: c.replace(b'0.2', b'1e999', 1),
    'not JSON: 1e999 is not finite',
  ),
  'more': (lambda c: c + b'}', 'not JSON: Extra data'),
  'missing': (edited(config=...), 'config is missing'),
  'versions': (edited(versions=[]), r'versions is \[\], not a table'),
  'field': (lambda c: c.replace(b'"seed"', b'"sead"'), 'seed is missing'),
  'text': (of_config(seed='x'), 'seed is "x", not a whole number'),
  'null': (of_config(density=None), 'density is null, not a number'),
  'table': (of_config(hidenseek=5), 'hidenseek is 5, not a table'),
  'target': (of_config(hidenseek={'target': ''}), 'target is "", not a number'),
  'layers': (edited(layers={'a': [1]}), "layers.'a' is not two whole numbers"),
}
KINDS = [
  *(('metrics.jsonl', *kind) for kind in [*ANY.values(), *ROWS.values()]),
  *(('config.json', *kind) for kind in [*ANY.values(), *CONFIG.values()]),
]


@pytest.mark.parametrize('name,change,said', KINDS)
def test_a_damaged_file_is_named_and_the_other_runs_are_shown(
  runs, tmp_path, name, change, said
):
  path = damaged(runs, tmp_path / 'run', name, change)
  found, left_out = load([str(path.parent), str(runs / 's1')])
  assert [run.folder.name for run in found] == ['s1']
  (line,) = left_out
  assert re.match(f'{path}(, line .)?: cannot be read \\({said}', line), line
  assert '\n' not in line
  reader = {'metrics.jsonl': read, 'config.json': read_run_info}[name]
  with pytest.raises(InputError) as error:
    reader(tmp_path / 'run')
  assert str(error.value) == line


@pytest.mark.parametrize('name', ['config.json', 'metrics.jsonl'])
def test_what_may_not_be_read_is_named(runs, monkeypatch, name):
  """A root user may read everything."""
  content = pathlib.Path.read_bytes

  def refuse(path):
    if path.name == name and path.parent.name == 's0':
      raise PermissionError(errno.EACCES, 'Permission denied', str(path))
    return content(path)

  monkeypatch.setattr(pathlib.Path, 'read_bytes', refuse)
  found, (line,) = load([str(runs)])
  assert [run.folder.name for run in found] == ['fedavg', 's1']
  assert line.startswith(f'{runs}/s0/{name}: cannot be read (Permission den')


@pytest.mark.parametrize(
  'change',
  [
    lambda c: c.replace(b'\n', b'\r\n'),
    lambda c: b'\xef\xbb\xbf' + c,
    lambda c: c + b'\n\n',
  ],
)
def test_what_an_editor_adds_is_read(runs, tmp_path, change):
  expected = read(runs / 's0'), read_run_info(runs / 's0')
  damaged(runs, tmp_path / 'a', 'metrics.jsonl', change)
  damaged(runs, tmp_path / 'b', 'config.json', change)
  assert (read(tmp_path / 'a'), read_run_info(tmp_path / 'b')) == expected


@pytest.mark.parametrize('value', ['NaN', '-Infinity', '1e999', 'null'])
def test_a_number_that_is_not_finite_is_none(runs, tmp_path, value):
  change = lambda c: c.replace(b'0.25', value.encode())
  damaged(runs, tmp_path / 'a', 'metrics.jsonl', change)
  row = read(tmp_path / 'a')[0]
  assert row['train_loss'] is None and row['client_accuracies'] == [None, 0.5]
  assert row['global_accuracy'] == 0.5


def test_a_half_last_line_is_left_out(runs, tmp_path):
  damaged(runs, tmp_path / 'a', 'metrics.jsonl', lambda c: c[:-3])
  assert read(tmp_path / 'a') == read(runs / 's0')[:1]
  assert read(tmp_path) == [] and read_run_info(tmp_path) is None


def test_a_run_given_twice_is_one_seed(runs, tmp_path, monkeypatch):
  s0, copy = runs / 's0', tmp_path / 'copy'
  shutil.copytree(s0, copy)
  (tmp_path / 'link').symlink_to(s0)
  pack(load([str(s0)])[0], tmp_path / 'packed.gz')
  monkeypatch.chdir(runs)
  again = ['s0', './s0/', str(runs), tmp_path / 'link', copy]
  for paths in ([s0, x] for x in [*again, tmp_path / 'packed.gz']):
    found, left_out = load([str(path) for path in paths])
    groups = group([run for run in found if run.folder.name != 'fedavg'])
    (seeds,) = (g.seeds for g in groups)
    assert seeds == ((0, 1) if paths[1] == str(runs) else (0,))
    (line,) = left_out
    assert 'differ' not in line
    twice = paths[1] not in (copy, tmp_path / 'packed.gz')
    assert ('given twice' if twice else f'the same run as {s0}') in line


def test_of_one_run_the_longer_is_kept_and_other_numbers_are_said(
  runs, tmp_path
):
  cut = lambda content: content.split(b'\n')[0] + b'\n'
  damaged(runs, tmp_path / 'short', 'metrics.jsonl', cut)
  found, (line,) = load([str(tmp_path / 'short'), str(runs / 's0')])
  assert [run.folder for run in found] == [runs / 's0']
  assert line.startswith(f'{tmp_path}/short: left out') and 'differ' not in line
  change = edited(global_accuracy=0.125, seconds=9.0)
  damaged(runs, tmp_path / 'other', 'metrics.jsonl', change)
  was = read(runs / 's0')[0]['global_accuracy']
  _, (line,) = load([str(runs / 's0'), str(tmp_path / 'other')])
  said = f'global_accuracy of round 1 is 0.125, in the one kept {was}'
  assert line.endswith(f', but their numbers differ: {said}')


def test_how_often_a_run_is_saved_does_not_make_it_another(runs, tmp_path):
  change = of_config(checkpoint_seconds=1.0)
  damaged(runs, tmp_path / 'run', 'config.json', change)
  found, left_out = load([str(runs / 's0'), str(tmp_path / 'run')])
  assert len(found) == len(left_out) == 1


@pytest.mark.parametrize(
  'change,said',
  [
    (lambda c: c[:-20], 'neither a folder nor a whole file of --pack'),
    (lambda c: c[:99] + b'\0' * 9 + c[108:], 'nor a whole file of --pack'),
    (lambda c: b'', 'holds no run'),
    (lambda c: gzip.compress(b'{{\n'), 'line 1: cannot be read .not JSON'),
    (lambda c: gzip.compress(b'[1, 2]\n'), 'line 1: not a run that --pack'),
    (lambda c: gzip.compress(b'["a", {}, [1]]\n'), 'line 1: .*config is miss'),
    (
      lambda c: gzip.compress(gzip.decompress(c).replace(b'"round"', b'"r"')),
      'line 1, row 1: .*round is missing',
    ),
  ],
)
def test_a_damaged_packed_file_is_named(runs, tmp_path, change, said):
  path = tmp_path / 'a.gz'
  pack(load([str(runs / 's0')])[0], path)
  path.write_bytes(change(path.read_bytes()))
  found, (line,) = load([str(path), str(runs / 's1')])
  assert [run.folder.name for run in found] == ['s1']
  assert re.match(f'{path}.*{said}', line) and '\n' not in line


def test_other_runs_of_a_packed_file_are_read(runs, tmp_path):
  path = tmp_path / 'a.gz'
  pack(load([str(runs)])[0], path)
  lines = gzip.decompress(path.read_bytes()).splitlines()
  path.write_bytes(gzip.compress(b'\n'.join([lines[0], b'{', lines[2]])))
  found, (line,) = load([str(path)])
  assert [run.folder.name for run in found] == ['fedavg', 's1']
  assert line.startswith(f'{path}, line 2: ')


@pytest.mark.parametrize('name', ['personal_accuracy', 'diverged_clients'])
@pytest.mark.parametrize('value', [[], [1], [[1]]])
def test_a_list_where_a_number_is_due_is_named(runs, name, value):
  path = runs / 's0' / 'metrics.jsonl'
  path.write_text(json.dumps(row(1) | {name: value}) + '\n')
  with pytest.raises(InputError, match=rf'line 1: .*{name}'):
    read(runs / 's0')
  found, left_out = load([str(runs)])
  assert len(found) == 2 and len(left_out) == 1
