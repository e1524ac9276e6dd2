"""The README's Python runs as written."""

import re
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT

from hns import report

TEXT = (ROOT / 'README.md').read_text()
BLOCKS = re.findall(r'```python\n(.*?)```', TEXT, re.S)


def test_there_is_a_recipe_for_each_extension():
  for name in ('SCORES', 'RECIPES', 'SOURCES', 'MODELS', 'Supermask'):
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
    monkeypatch.setattr(sys, 'argv', ['report', *shlex.split(words)])
    report.main()
    printed += capsys.readouterr().out
  accurate = {table for table in held if ' ± ' in table}
  assert bool(accurate) == bool(printed)
  assert all(table in printed for table in accurate)


def test_the_convolution_benchmark_runs():
  """It compares its contenders' results before it prints a ratio."""
  script = ROOT / 'launch' / 'benchmark_conv.py'
  flags = ('--clients=2', '--steps=1', '--repeats=1', '--batch_size=2')
  done = subprocess.run(
    [sys.executable, script, *flags], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.count('client-step') == 4
