"""The README's Python runs as written."""

import fnmatch
import json
import os
import re
import shlex
import subprocess
import sys

import jax.numpy as jnp
import pytest
from conftest import ROOT, small_config

from hns import report
from hns.networks import models
from hns.report import files
from hns.runs import experiment

sys.path.append(str(ROOT / 'launch'))
import dead_units  # noqa: E402

TEXT = (ROOT / 'README.md').read_text()
BLOCKS = re.findall(r'```python\n(.*?)```', TEXT, re.S)


def test_there_is_a_recipe_for_each_extension():
  for name in ('SCORES', 'METHODS', 'DATASETS', 'MODELS', 'Supermask'):
    assert any(name in block for block in BLOCKS)
  lines = lambda block: [line for line in block.split('\n') if line]
  assert all(len(lines(block)) < 10 for block in BLOCKS)


def test_recipes_run_as_written(tmp_path):
  """One process, so that JAX starts once; each block sees no other's names."""
  lines = [f'exec({block!r}, dict(__name__="block"))' for block in BLOCKS]
  done = subprocess.run(
    [sys.executable, '-c', '\n'.join(lines)],
    cwd=tmp_path,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr


def test_the_two_commands_come_first():
  commands = re.findall(r'```sh\n(.*?)```', TEXT, re.S)[:2]
  assert all(c.startswith('pip install -e') for c in commands)
  assert 'hns.main' in commands[0] and 'pytest' in commands[1]


def test_linked_files_exist():
  for target in re.findall(r'\]\(([^)#]+)\)', TEXT):
    assert target.startswith('https://') or (ROOT / target).exists(), target


def fields_explained(name):
  """The fields that the table headed `name` explains; `*` for any letters."""
  rows = re.search(rf'^\| `{name}` \| \|\n((?:\|.*\n)+)', TEXT, re.M)[1]
  return re.findall(r'`([^`]+)`', ''.join(re.findall(r'^\|[^|]*', rows, re.M)))


def test_every_field_that_a_run_writes_is_explained(tmp_path):
  """And nothing is explained that no run writes."""
  experiment.run(small_config(), tmp_path)
  rows, about = files.read(tmp_path), files.read_run_info(tmp_path)
  for name, written in (('metrics.jsonl', rows[-1]), ('config.json', about)):
    known = fields_explained(name)
    matching = {
      field: [k for k in known if fnmatch.fnmatch(field, k)]
      for field in written
    }
    assert [f for f, found in matching.items() if not found] == []
    assert set(known) == {k for found in matching.values() for k in found}


PAGES = [ROOT / 'README.md', *(ROOT / 'launch' / 'results').glob('*.md')]
STORED = re.compile(r'python -m hns\.report (launch/results/\S+\.gz[^`\n#]*)')


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_tables_are_what_their_commands_print(page, monkeypatch, capsys):
  """A command that reads stored results; its page holds some of its tables."""
  monkeypatch.chdir(ROOT)
  text = page.read_text()
  held = set(re.findall(r'(?:^\|.*\n)+', text, re.M))
  printed = ''
  for words in STORED.findall(text):
    report.main(['report', *shlex.split(words)])
    printed += capsys.readouterr().out
  accurate = {table for table in held if ' ± ' in table}
  assert bool(accurate) == bool(printed)
  assert all(table in printed for table in accurate)


def test_ratios_of_speed_are_those_stored():
  """One line a peer, one column a task, two cores · one, where it was run."""
  results = ROOT / 'launch' / 'results'
  names = 'benchmark_engine.json', 'benchmark_engine_core.json'
  found = [json.loads((results / name).read_text()) for name in names]
  brief = lambda x: f'{x:.1f}' if x >= 10 else f'{x:.2f}'

  def cell(method, workload, peer):
    ratios = (told[method].get(workload, {}).get(peer) for told in found)
    return ' · '.join(brief(ratio) for ratio in ratios if ratio)

  tasks = [(m, w) for w in ('lenet', 'mlp') for m in ('ratio', 'hidenseek')]
  tasks.append(('ratio', 'pfl_cifar10'))
  lines = [
    ' | '.join(cell(method, workload, peer) for method, workload in tasks)
    for peer in found[0]['ratio']['lenet']
  ]
  table = re.search(r'\| seconds of a round .*\n(?:\|.*\n)+', TEXT)[0]
  assert table.splitlines()[2:] == [
    f'| {row.split(" | ")[0][2:]} | {line} |'
    for row, line in zip(table.splitlines()[2:], lines, strict=True)
  ]


def test_dead_units_are_shares_and_removing_them_changes_nothing():
  """`measure` compares logits."""
  net, inputs = models.create('mlp', 10), jnp.zeros((1, 8, 8, 1))
  *dead, left, exact = dead_units.measure(net, inputs, 0.05, 0)
  assert len(dead) == 2 and 0.3 < dead[0] < 1
  assert 0 < left <= exact < 1


def test_the_convolution_benchmark_runs():
  """It compares its contenders' results before it prints a ratio."""
  script = ROOT / 'launch' / 'benchmark_conv.py'
  flags = ('--clients=2', '--steps=1', '--repeats=1', '--batch_size=2')
  done = subprocess.run(
    [sys.executable, script, *flags], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.count('client-step') == 4


def test_what_a_wheel_holds_runs_in_an_empty_folder(tmp_path):
  """Its configs too, by name, and what these read beside them."""
  pytest.importorskip('setuptools')
  build = ['-q', 'egg_info', '--egg-base', tmp_path, 'build', '--build-base']
  subprocess.run(
    [sys.executable, 'setup.py', *build, tmp_path],
    cwd=ROOT,
    check=True,
    capture_output=True,
  )
  (tmp_path / 'empty').mkdir()
  case = '--config=benchmark:scarce-cifar10-fedpm'
  lines = ['import contextlib', 'from hns import main']
  for words in (['hns', '--help'], ['hns', '--help', case]):
    lines += ['with contextlib.suppress(SystemExit):', f'  main.main({words})']
  done = subprocess.run(
    [sys.executable, '-c', '\n'.join(lines)],
    cwd=tmp_path / 'empty',
    env=os.environ | {'PYTHONPATH': str(tmp_path / 'lib')},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  folder = tmp_path / 'lib' / 'hns' / 'configs'
  assert f'\n{folder}/digits.py:\n' in done.stdout
  assert f'\n{folder}/benchmark.py{case[18:]}:\n' in done.stdout
  tuned = json.loads((ROOT / 'configs' / 'tuned.json').read_text())
  rate = tuned['scarce-cifar10-fedpm']['learning_rate']
  of_case = done.stdout.rpartition('benchmark.py')[2]
  said = r'--config.fedpm.learning_rate: [^-]*default:\s'
  assert re.search(f'{said}{rate}[)]', of_case)
