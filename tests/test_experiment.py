"""The command, its files, and what it says to bad input."""

import errno
import io
import json
import os
import subprocess
import sys

import jax
import pytest
from conftest import (
  DRAW,
  ONCE,
  ROOT,
  build_once,
  read_config,
  sharing,
  small_config,
  small_file,
)

from hns import wire
from hns.engine import rounds
from hns.errors import InputError
from hns.networks import models
from hns.report import files
from hns.runs import experiment, limits, loop, workdir

FIELDS = {
  'round',
  'personal_accuracy',
  'personal_accuracy_std',
  'personal_accuracy_p10',
  'global_accuracy',
  'held_accuracy',
  'held_accuracy_std',
  'held_accuracy_p10',
  'held_clients',
  'client_steps',
  'client_flops',
  'train_loss',
  'rejected_clients',
  'dropped_clients',
  'skipped_rounds',
  'diverged_clients',
  'uplink_bytes',
  'downlink_bytes',
  'uplink_bits_per_weight',
  'flip_rate',
  'client_accuracies',
  'agree_with_server',
  'agree_with_clients',
  'seconds',
  'eval_seconds',
  'compile_seconds',
}


def command(*flags):
  return [sys.executable, '-m', 'hns.main', *map(str, flags)]


def test_the_command_leaves_metrics_config_and_picture(shared, tmp_path):
  """Those of a run here: without asserts, and asked for double precision."""
  folder = tmp_path / 'run'
  flags = [f'--config={small_file(tmp_path)}', f'--workdir={folder}']
  flags += ['--config.rounds=3', '--config.upload=change']
  done = subprocess.run(
    command(*flags),
    capture_output=True,
    text=True,
    cwd=tmp_path,
    env=os.environ | {'PYTHONOPTIMIZE': '1', 'JAX_ENABLE_X64': '1'},
  )
  assert done.returncode == 0, done.stderr
  assert 'personalised' in done.stdout and 'hidenseek on digits' in done.stdout
  assert '3/3' not in done.stderr
  rows = files.read(folder)
  assert [row['round'] for row in rows] == [1, 2, 3]
  assert all(set(row) == FIELDS for row in rows)
  # Of all rounds so far; an entropy code makes each a little shorter.
  sent = [row['uplink_bytes'] for row in rows]
  assert all(
    0.9 * n < total / sent[0] < 1.1 * n for n, total in zip((1, 2, 3), sent)
  )
  assert 0.6 < rows[0]['uplink_bits_per_weight'] < 1
  assert (folder / 'accuracy.png').read_bytes()[:4] == b'\x89PNG'
  about = json.loads((folder / 'config.json').read_text())
  assert about['config']['rounds'] == 3
  assert {'jax', 'flax', 'hns', 'python'} <= set(about['versions'])
  here = small_config(upload='change', rounds=3)
  plain = experiment.run(here, tmp_path / 'plain')
  assert steady(plain, ['seconds']) == steady(rows, ['seconds'])
  assert json.loads((tmp_path / 'plain' / 'config.json').read_text()) == about


def steady(rows, drop=('seconds', 'bits_per_weight')):
  """Rows without what the clock says, or how often one looked."""
  return [
    {k: v for k, v in row.items() if not any(d in k for d in drop)}
    for row in rows
  ]


def test_a_terminal_sees_a_bar(shared, tmp_path, monkeypatch):
  terminal = io.StringIO()
  terminal.isatty = lambda: True
  monkeypatch.setattr('sys.stderr', terminal)
  experiment.run(small_config(), tmp_path)
  last = terminal.getvalue().split('\r')[-1]
  assert '2/2' in last and '00:00' in last  # what is left
  assert 'personalised' in last and 'global' in last and ' kB' in last


def test_a_terminal_that_is_gone_does_not_end_a_run(
  shared, tmp_path, monkeypatch
):
  class Gone(io.StringIO):
    def isatty(self):
      return True

    def write(self, text):
      raise OSError(errno.EPIPE, 'Broken pipe')

  monkeypatch.setattr('sys.stderr', Gone())
  assert len(experiment.run(small_config(), tmp_path)) == 2
  assert len(experiment.run(small_config(), tmp_path)) == 2


def test_a_seed_repeats_every_number(tmp_path):
  apart = experiment.run(small_config(), tmp_path / 'apart')
  with sharing():
    again, other = (
      experiment.run(small_config(seed=seed), tmp_path / f'{seed}')
      for seed in (0, 1)
    )
  assert steady(apart) == steady(again) != steady(other)


def test_a_finished_run_is_left_alone_and_that_is_said(
  shared, tmp_path, capsys
):
  first = experiment.run(small_config(seed=1), tmp_path)
  written = (tmp_path / 'metrics.jsonl').stat().st_mtime_ns
  assert capsys.readouterr().err == ''
  again = small_config(seed=1, checkpoint_seconds=5.0)
  assert experiment.run(again, tmp_path) == first
  assert (tmp_path / 'metrics.jsonl').stat().st_mtime_ns == written
  said = f'hns: {tmp_path} was complete: nothing was run\n'
  assert capsys.readouterr().err == said


def test_a_finished_run_may_have_more_rounds(shared, tmp_path, monkeypatch):
  """To the numbers of one that had them from the start; never fewer."""
  monkeypatch.setattr(workdir, 'draw', DRAW)
  experiment.run(small_config(), tmp_path / 'run')
  picture = (tmp_path / 'run' / 'accuracy.png').read_bytes()
  longer = small_config(rounds=4)
  more = experiment.run(longer, tmp_path / 'run')
  assert steady(more) == steady(experiment.run(longer, tmp_path / 'at_once'))
  assert (tmp_path / 'run' / 'accuracy.png').read_bytes() != picture
  with pytest.raises(InputError, match='rounds is 4 there and 2 here'):
    experiment.run(small_config(), tmp_path / 'run')


def test_rows_that_were_lost_after_the_last_checkpoint_come_back(
  shared, tmp_path
):
  experiment.run(small_config(), tmp_path)
  path = tmp_path / 'metrics.jsonl'
  whole = files.read(tmp_path)
  path.write_text(path.read_text().split('\n')[0] + '\n{"round": 2, "per')
  assert [row['round'] for row in files.read(tmp_path)] == [1]
  again = experiment.run(small_config(), tmp_path)
  assert steady(again) == steady(whole) == steady(files.read(tmp_path))


def test_metrics_count_rounds_between_evaluations(shared, tmp_path):
  often = experiment.run(small_config(rounds=5, eval_every=1), tmp_path / 'a')
  seldom = experiment.run(small_config(rounds=5, eval_every=3), tmp_path / 'b')
  assert [row['round'] for row in seldom] == [3, 5]
  chosen = [steady(often)[2], steady(often)[4]]
  assert steady(seldom) == chosen


@pytest.mark.parametrize(
  'fields,said',
  [
    (dict(density=0.0), r'density=0.0: must be in \(0, 1\]'),
    (dict(density=1.5), r'density=1.5: must be in \(0, 1\]'),
    (dict(density=1e-5), 'density=1e-05: pruning leaves no weight in'),
    (dict(classes_per_client=11), 'classes_per_client=11: the data has 10'),
    (dict(cohort=7), 'cohort=7: .*num_clients=6'),
    (dict(algorithm='fedsgd'), "algorithm='fedsgd': choose one of hidenseek"),
    (dict(model='resnet'), "model='resnet': choose one of mlp"),
    (dict(partition='random'), "partition='random': choose one of iid"),
    (dict(pruning='snip'), "pruning='snip': choose one of synflow"),
    (dict(dataset='nothing'), "dataset='nothing': nothing prepared"),
    (dict(eval_split='train'), "eval_split='train'"),
    (dict(seed=2**32), 'seed=4294967296: must be below'),
    (dict(hidenseek={'lr': 1.0}), "hidenseek=.*'lr'"),
    (dict(partition='natural', group='writer'), "partition='natural': this"),
    (dict(batch_size=0), 'batch_size=0: must be at least 1'),
    (dict(examples_per_client=1000), 'examples_per_client=1000: class'),
    (dict(num_clients=2000, examples_per_client=0), 'num_clients=2000'),
    (dict(partition='natural', dataset='mnist'), "group=''"),
    (dict(model='lenet'), r"model='lenet': examples of shape \(8, 8, 1\)"),
    (dict(hidenseek={'download_bits': 9}), 'download_bits=9: must be 1 to 8'),
    (
      dict(algorithm='fedavg_quantized', fedavg_quantized={'upload_bits': 16}),
      'fedavg_quantized.upload_bits=16: must be 1 to 8, or 32',
    ),
    (dict(upload='vote'), "upload='vote': choose one of signs, votes, change"),
    (dict(hidenseek={'gate': 'x'}), "hidenseek.gate='x': choose one of sign"),
    (
      dict(algorithm='local', local={'optimizer': 'rmsprop'}),
      "local.optimizer='rmsprop': choose one of adam, sgd",
    ),
    (dict(alpha=-1.0), r'alpha=-1.0: must be in \(0, inf\)'),
    (
      dict(algorithm='fedavg', fedavg={'learning_rate': 0.0}),
      'fedavg.learning_rate=0.0',
    ),
    (
      dict(algorithm='fedmask', fedmask={'target': 0.0}),
      r'fedmask.target=0.0: must be in \(0, 1\]',
    ),
    (
      dict(algorithm='hermes', hermes={'share': 1.0}),
      r'hermes.share=1.0: must be in \(0, 1\)',
    ),
    (
      dict(algorithm='lotteryfl', validation_fraction=0.0),
      'validation_fraction=0: lotteryfl.threshold needs some examples',
    ),
    (
      dict(algorithm='ditto', ditto={'pull': -1.0}),
      r'ditto.pull=-1.0: must be in \[0, inf\)',
    ),
  ],
)
def test_bad_input_names_field_value_and_remedy(tmp_path, fields, said):
  with pytest.raises(InputError, match=said) as error:
    experiment.run(small_config(**fields), tmp_path / 'run')
  assert '\n' not in str(error.value)
  assert not (tmp_path / 'run').exists()


def test_bad_input_is_one_line_on_the_command_line(tmp_path):
  done = subprocess.run(
    command(f'--workdir={tmp_path}/run', '--config.density=2.0'),
    capture_output=True,
    text=True,
    cwd=tmp_path,
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
  )
  assert done.returncode == 1 and done.stdout == ''
  assert done.stderr == 'hns: density=2.0: must be in (0, 1]\n'


def test_a_workdir_of_another_config_is_refused(shared, tmp_path):
  experiment.run(small_config(), tmp_path)
  before = (tmp_path / 'metrics.jsonl').read_text()
  other = small_config(density=0.5, hidenseek={'learning_rate': 0.1})
  with pytest.raises(InputError) as error:
    experiment.run(other, tmp_path)
  said = str(error.value)
  assert 'density is 0.2 there and 0.5 here' in said
  assert 'hidenseek.learning_rate is 0.03 there and 0.1 here' in said
  assert (tmp_path / 'metrics.jsonl').read_text() == before


@pytest.mark.parametrize(
  'name', sorted(p.stem for p in (ROOT / 'configs').glob('*.py'))
)
def test_every_config_is_valid_and_says_how_to_run_it(name):
  limits.validate(read_config(name))
  text = (ROOT / 'configs' / f'{name}.py').read_text()
  header = text.split('"""')[1]
  assert 'python -m hns.main' in header


def test_a_run_consumes_its_state_and_checks_its_payloads(monkeypatch):
  small = build_once(small_config())
  run, state = ONCE[loop, 'programs'](small), rounds.begin(small.initial)
  ids = run.cohort(small.key, small.federation, state.round)
  run.round(*small[1:4], state, ids, ())
  assert all(x.is_deleted() for x in jax.tree.leaves(state.server_state))
  ONCE[loop, 'check_payloads'](small)
  monkeypatch.setattr(wire, 'size', lambda codec, message: 0)
  with pytest.raises(RuntimeError, match='counted'):
    loop.check_payloads(small)


def test_a_picture_is_drawn_again(shared, tmp_path, monkeypatch):
  monkeypatch.setattr(workdir, 'draw', DRAW)
  experiment.run(small_config(), tmp_path)
  (tmp_path / 'accuracy.png').unlink()
  experiment.run(small_config(), tmp_path)
  assert (tmp_path / 'accuracy.png').exists()


def test_stray_arguments_are_refused(tmp_path):
  done = subprocess.run(
    command('rounds=5'), capture_output=True, text=True, cwd=tmp_path
  )
  assert done.returncode == 1 and "'rounds=5' is not a flag" in done.stderr


def test_the_head_is_the_layer_made_last(monkeypatch):
  """Of Dense_0 to Dense_11, whatever their names' order."""
  deep = lambda classes: models.Network(classes, dense=11 * (4,))
  monkeypatch.setitem(models.MODELS, 'deep', deep)
  config = small_config(algorithm='fedper', model='deep')
  mine = experiment.build(config).initial.client_state[1]
  held = [name for name, part in mine.items() if jax.tree.leaves(part)]
  assert held == ['Dense_11']
