"""Runs side by side: tables, pictures, event files."""

import csv
import json
import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, sharing, small_config

from hns import report
from hns.engine import metrics
from hns.report import pictures, versus
from hns.report.files import read
from hns.report.groups import group, load, pack
from hns.report.labels import label
from hns.runs import experiment

RESULTS = ROOT / 'launch' / 'results'


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """Two seeds of a method of signs, and one run as a method without them."""
  home = tmp_path_factory.mktemp('runs')
  for seed in (1, 2):
    with sharing():
      experiment.run(small_config(seed=seed), home / f's{seed - 1}')
  shutil.copytree(home / 's0', home / 'fedavg')
  path = home / 'fedavg' / 'config.json'
  about = json.loads(path.read_text())
  about['config']['algorithm'], about['layers'] = 'fedavg', {}
  path.write_text(json.dumps(about))
  path = home / 'fedavg' / 'metrics.jsonl'
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  drop = lambda row: {k: v for k, v in row.items() if 'agree' not in k}
  path.write_text(''.join(json.dumps(drop(row)) + '\n' for row in rows))
  (home / 'empty').mkdir()
  return home


def test_seeds_share_a_line_and_what_holds_no_run_is_named(runs):
  names = [str(runs / name) for name in ('s1', 'fedavg', 's0', 'empty')]
  found, skipped = load(names)
  groups = group(found)
  assert skipped == [f'{runs / "empty"}: no evaluated round']
  assert [group.seeds for group in groups] == [(1, 2), (1,)]
  titles, _, first, second = report.compare(groups).splitlines()
  assert titles.endswith('| global | bytes (up + down) |')
  sent = f'{round(sum(groups[0].weights) / 2):,}'
  assert (
    f'| hidenseek (paper, 4 down, density 0.2) | {sent} | 2 | 1 2 |' in first
  )
  assert '±' in first and '| fedavg |' in second and '±' not in second
  assert first.endswith(f'| {versus.sum_of_bytes(last_rows(groups[0]))} |')


def last_rows(group):
  return [rows[-1] for rows in group.rows]


def test_groups_of_one_label_say_how_they_differ(runs):
  (saved,) = load([str(runs / 's0')])[0]
  about = json.loads(json.dumps(saved.run_info))
  about['config']['hidenseek']['learning_rate'] = 0.5
  pair = group([saved, saved._replace(run_info=about)])
  assert [g.label.split(', hidenseek.')[1] for g in pair] == [
    *('learning_rate=0.03)', 'learning_rate=0.5)'),
  ]


def test_a_run_from_before_a_field_is_one_with_its_default(runs):
  """A seed made later, and the stored results, stand in one line.

  Also where another method has come, or a field of its own.
  """
  old, new, _ = load([str(runs / name) for name in ('s0', 's1', 'fedavg')])[0]
  config = json.loads(json.dumps(old.run_info['config']))
  for field in 'drop_share', 'secure_aggregation', 'unseen_clients', 'fedpm':
    del config[field]
  del config['hidenseek']['floats'], config['fedbat']['rho']
  old = old._replace(run_info=old.run_info | {'config': config})
  (one,) = group([old, new])
  assert one.seeds == (1, 2) and 'drop_share' not in one.label
  own = group(load([str(RESULTS / 'own.jsonl.gz')])[0])
  assert all(g.seeds == (0, 1, 2) for g in own) and len(own) == 16


def test_words_and_numbers():
  table = {'pruned': True, 'feedback': True}
  rival = {'algorithm': 'signsgd', 'density': 0.5, 'signsgd': table}
  found = label(rival, {'a': [1, 2]})
  assert found == 'signsgd (feedback, pruned, density 0.5)'
  assert metrics.mean_sd([0.5, 0.7]) == '0.600 ± 0.141'
  assert metrics.size(1_500_000) == '1.5 MB'
  assert metrics.size(999_600) == '1 MB' and metrics.size(999.4) == '999 B'


def test_the_command_writes_what_it_prints(runs, tmp_path):
  folders = [runs / name for name in ('s0', 's1', 'fedavg')]
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'hns.report', *folders),
      *(f'--out={tmp_path}/a/b', f'--tensorboard={tmp_path}/events'),
    ],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0 and done.stderr == ''
  out = tmp_path / 'a' / 'b'
  page = (out / 'report.md').read_text()
  assert done.stdout.strip() in page
  for name in ('accuracy', 'clients', 'signs', 'layers'):
    assert f']({name}.png)' in page
    assert (out / f'{name}.png').read_bytes()[:4] == b'\x89PNG'
  with open(out / 'table.csv', newline='') as file:
    lines = list(csv.DictReader(file))
  assert [line['run'] for line in lines] == [str(f) for f in folders]
  last = read(runs / 's1')[-1]
  assert float(lines[1]['personal_accuracy']) == last['personal_accuracy']
  sent = last['uplink_bytes'] + last['downlink_bytes']
  assert int(lines[1]['bytes']) == sent > last['downlink_bytes']
  assert lines[2]['agree_with_server'] == ''
  for folder in folders:
    assert events(tmp_path / 'events' / folder.name) == [
      (row['round'], name, np.float32(value))
      for row in read(folder)
      for name, value in report.scalars(row).items()
    ]


def events(folder):
  """(step, tag, value) of the scalars in a folder's one event file."""
  from tensorboardX.proto.event_pb2 import Event

  (path,) = folder.iterdir()
  content, found = path.read_bytes(), []
  while content:
    (size,) = struct.unpack('<Q', content[:8])
    event = Event.FromString(content[12 : 12 + size])
    found += [
      (event.step, value.tag, value.simple_value)
      for value in event.summary.value
      if value.HasField('simple_value')
    ]
    content = content[16 + size :]
  return found


def test_events_written_again_replace_the_old(runs, tmp_path):
  groups = group(load([str(runs / 's0')])[0])
  for _ in range(2):
    report.tensorboard(groups, tmp_path)
    assert len(events(tmp_path / 's0')) == 2 * len(
      report.scalars(read(runs / 's0')[0])
    )


def test_nothing_to_compare_is_said(tmp_path):
  with pytest.raises(SystemExit, match='none: no evaluated round'):
    report.main(['report', str(tmp_path / 'none')])
  (tmp_path / 'table.csv').write_text('run,seed')
  with pytest.raises(SystemExit, match='table.csv: neither a folder nor'):
    report.main(['report', str(tmp_path / 'table.csv')])
  with pytest.raises(SystemExit, match='hns: give the work folders of runs'):
    report.main(['report', '--filter=x'])


def test_a_filter_chooses_methods(runs, capsys):
  folders = [str(runs / name) for name in ('s0', 's1', 'fedavg')]
  call = lambda pattern: report.main(
    ['report', *folders, f'--filter={pattern}']
  )
  call('fedavg')
  assert len(capsys.readouterr().out.splitlines()) == 3
  for pattern, said in (('none', 'finds no'), ('(', 'cannot be read')):
    with pytest.raises(SystemExit, match=said):
      call(pattern)


def test_pictures_show_what_runs_tell(runs):
  """A method without signs is in the pictures that it can be in."""
  groups = group(load([str(runs / name) for name in ('s0', 's1', 'fedavg')])[0])
  signed, plain = groups
  assert pictures.signs([plain]) is None and pictures.layers([plain]) is None
  rounds, sent, seconds = (
    axes.get_lines() for axes in pictures.accuracy(groups).axes
  )
  assert len(rounds) == len(sent) == len(seconds) == 2
  styles = {(line.get_linestyle(), line.get_marker()) for line in rounds}
  assert len(styles) == 2
  mean = [
    np.mean([rows[i]['personal_accuracy'] for rows in signed.rows])
    for i in range(2)
  ]
  np.testing.assert_allclose(rounds[0].get_ydata(), mean)
  spent = sum(row['seconds'] for row in plain.rows[0])  # a row a round
  np.testing.assert_allclose(seconds[1].get_xdata()[-1], spent)
  bars = pictures.layers(groups).axes[0].containers[0]
  assert len(bars) == 2
  once = signed._replace(config=signed.config | {'pruning_steps': 1})
  drawn = pictures.layers([signed, once]).axes[0].containers
  assert [bars.get_label() for bars in drawn] == [
    'synflow, density 0.2',
    'synflow, single-shot, density 0.2',
  ]
  left, whole = zip(*(layers['Dense_0'] for layers in signed.layers))
  assert bars[0].get_height() == np.mean(np.divide(left, whole)) < 1


def test_layers_add_up_to_the_density(runs):
  about = json.loads((runs / 's0' / 'config.json').read_text())
  left, all_of_them = np.sum(list(about['layers'].values()), 0)
  assert left == round(0.2 * all_of_them)


def test_agreement_is_that_of_all_pairs():
  rng = np.random.RandomState(0)
  signs = rng.choice([-1, 1], (5, 40))
  server = rng.choice([-1, 1], 40) * (np.arange(40) < 30)
  signs *= server != 0
  found = metrics.agreement(signs.sum(0), server, 5)
  same = signs[:, None, :30] == signs[None, :, :30]
  pairs = same[~np.eye(5, dtype=bool)].mean()
  assert found['agree_with_clients'] == pytest.approx(pairs)
  vote = (signs[:, :30] == server[:30]).mean()
  assert found['agree_with_server'] == pytest.approx(vote)
  assert 'agree_with_clients' not in metrics.agreement(signs[0], server, 1)
  assert metrics.agreement(None, None, 5) == {}


def test_a_packed_file_tells_the_same(runs, tmp_path):
  """But for what each client did; a folder stands for the runs inside it."""
  found, skipped = load([str(runs)])
  assert [run.folder.name for run in found] == ['fedavg', 's0', 's1']
  pack(found, tmp_path / 'a.gz')
  packed, _ = load([str(tmp_path / 'a.gz')])
  assert report.compare(group(packed)) == report.compare(group(found))
  assert 'client_accuracies' in found[0].rows[0]
  assert 'client_accuracies' not in packed[0].rows[0]
  pack(packed, tmp_path / 'b.gz')
  a, b = (tmp_path / name for name in ('a.gz', 'b.gz'))
  assert a.read_bytes() == b.read_bytes()


def test_labels_tell_variants_apart():
  def named(name, pruning='synflow', steps=100, decay=1.0, **table):
    run = {'pruning': pruning, 'pruning_steps': steps, 'density': 0.2}
    run |= {'algorithm': name, 'rate_decay': decay, name: table}
    return label(run, {'Dense_0': [2 if name == 'hidenseek' else 10, 10]})

  assert named('fedmask', upload='signs', download_bits=4, target=0.5) == (
    'fedmask (paper, 4 down, keeps 0.5)'
  )
  assert named('hidenseek', upload='change', gate='binary', carry=True) == (
    'hidenseek (change, {0, 1}, carry, density 0.2)'
  )
  assert named('hidenseek', 'magnitude') == 'hidenseek (density 0.2, magnitude)'
  assert named('hidenseek', steps=1) == 'hidenseek (density 0.2, single-shot)'
  assert named('fedavg', decay=0.98) == 'fedavg (decay 0.98)'


def test_what_is_not_finite_is_shown_and_said(runs, tmp_path):
  """In the report, its pictures, its table and its event files."""
  shutil.copytree(runs / 's0', tmp_path / 'run')
  rows = read(runs / 's0')
  names = 'train_loss', 'held_accuracy', 'personal_accuracy'
  for row in rows:
    row |= dict.fromkeys(names) | {'client_accuracies': [None, 0.5]}
  text = ''.join(json.dumps(row) + '\n' for row in rows)
  (tmp_path / 'run' / 'metrics.jsonl').write_text(text)
  groups = group(load([str(tmp_path / 'run'), str(runs / 's1')])[0])
  (line,) = report.notes(groups, []).split('\n')
  assert line.startswith(f'{tmp_path}/run: no finite number, from round 1: ')
  assert 'train_loss' in line and 'client_accuracies' in line
  cells = report.compare(groups).splitlines()[2].split(' | ')
  assert cells[4] == '1 2' and cells[5] == cells[7] == '-' != cells[9]
  assert versus.settings(groups) == {} and versus.claims(groups) == ''
  (tmp_path / 'out').mkdir()
  assert 'clients.png' not in pictures.write(groups, tmp_path / 'out')
  assert 'train_loss' not in report.records(groups)[0]
  assert 'train_loss' in report.records(groups)[1]
  report.tensorboard(groups, tmp_path / 'events')
  (folder,) = (tmp_path / 'events').glob('**/run')
  tags = {tag for _, tag, _ in events(folder)}
  assert 'global_accuracy' in tags and 'train_loss' not in tags
  last = report.table(read(tmp_path / 'run')).splitlines()[-1]
  assert 'nan' not in last and last.split()[1] == '-'
  pictures.one_run(read(tmp_path / 'run'), '').savefig(tmp_path / 'a.png')


def test_a_row_shows_what_it_tells():
  row = {'round': 5, 'personal_accuracy': 0.5}
  row |= {'uplink_bytes': 1200, 'downlink_bytes': 300}
  more = {'train_loss': None, 'diverged_clients': 0.25}
  text = report.table([row | {'round': 4}, row | more])
  assert [line.split() for line in text.splitlines()] == [
    [*'round personalised objective diverged bytes (up + down)'.split()],
    [*'4 0.500 1.5 kB (1.2 kB + 300 B)'.split()],
    [*'5 0.500 - 0.250 1.5 kB (1.2 kB + 300 B)'.split()],
  ]
  row |= {'train_loss': float('nan')}
  assert report.table([row]).split()[-8:-5] == ['-', '1.5', 'kB']


def test_packed_runs_of_one_name_have_event_files_each(runs, tmp_path):
  first, second = load([str(runs / 's0'), str(runs / 's1')])[0]
  pack([first, second._replace(folder=first.folder)], tmp_path / 'a.gz')
  groups = group(load([str(tmp_path / 'a.gz')])[0])
  report.tensorboard(groups, tmp_path / 'events')
  names = sorted(p.name for p in (tmp_path / 'events').iterdir())
  assert names == ['s0', 's0-2']


def test_a_missing_package_is_named(runs, tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'tensorboardX', None)
  words = ['report', str(runs / 's0'), f'--tensorboard={tmp_path}']
  with pytest.raises(
    SystemExit, match='^hns: --tensorboard needs tensorboardX'
  ):
    report.main(words)


@pytest.mark.parametrize('flag', ['out', 'pack', 'tensorboard'])
def test_what_cannot_be_written_is_named(runs, tmp_path, flag):
  (tmp_path / 'file').write_text('kept')
  target = tmp_path / 'file' / 'inside'
  words = ['report', str(runs / 's0'), f'--{flag}={target}']
  said = f"hns: {flag}='{target}': cannot be written .*give another$"
  with pytest.raises(SystemExit, match=said):
    report.main(words)
  words[2] = f'--pack={tmp_path}'
  with pytest.raises(SystemExit, match='cannot be written .Is a directory'):
    report.main(words)
  assert [p.name for p in tmp_path.iterdir()] == ['file']


def test_a_name_cannot_break_a_table(runs):
  (saved,) = load([str(runs / 's0')])[0]
  held = json.loads(json.dumps(saved.run_info))
  held['config']['dataset'] = 'a\nb|c'
  lines = report.compare(group([saved._replace(run_info=held)])).splitlines()
  assert len(lines) == 3 and lines[2].startswith('| a b\\|c, 6 clients |')


def test_the_picture_of_a_run_shows_every_accuracy_that_it_tells(runs):
  rows = read(runs / 's0')
  drawn = pictures.one_run(rows, '').axes[1].get_lines()
  assert len(drawn) == 5
  held = [row['held_accuracy'] for row in rows]
  np.testing.assert_array_equal(drawn[0].get_ydata(), held)
  quiet = [{k: v for k, v in r.items() if 'held' not in k} for r in rows]
  assert len(pictures.one_run(quiet, '').axes[1].get_lines()) == 3
  silent = [r | {'uplink_bytes': 0, 'downlink_bytes': 0} for r in rows]
  ticks = pictures.one_run(silent, '').axes[1].get_xticklabels()
  assert [tick.get_text() for tick in ticks] == ['0 B']
