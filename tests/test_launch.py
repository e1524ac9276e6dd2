"""Launch files, dry: what they would run, and that it is shell."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT


def stubs(folder, *names):
  """An environment in which commands print their arguments, one a line."""
  for name in names:
    path = folder / name
    path.write_text('#!/bin/sh\nprintf "%s\\n" "$0" "$@"\n')
    path.chmod(0o755)
  return {**os.environ, 'PATH': f'{folder}:{os.environ["PATH"]}'}


def dry(name, env, *flags):
  command = ['bash', ROOT / 'launch' / name, *flags]
  return subprocess.run(
    command, env=env, cwd=ROOT, capture_output=True, text=True
  )


@pytest.mark.parametrize('name', ['slurm.sbatch', 'tpu.sh', 'results.sh'])
def test_is_shell(name):
  path = ROOT / 'launch' / name
  assert subprocess.run(['bash', '-n', path]).returncode == 0
  assert 'set -' in path.read_text()


def test_slurm_runs_the_command_on_every_task(tmp_path):
  done = dry('slurm.sbatch', stubs(tmp_path, 'srun'), '--config=a b.py')
  assert done.returncode == 0, done.stderr
  words = done.stdout.splitlines()
  assert words[-5:] == [
    'python',
    '-m',
    'hns.main',
    '--distributed=auto',
    '--config=a b.py',
  ]


def test_tpu_quotes_flags_and_wants_a_pod(tmp_path):
  env = stubs(tmp_path, 'gcloud')
  assert 'POD' in dry('tpu.sh', env).stderr
  env |= {'POD': 'p', 'ZONE': 'z'}
  done = dry('tpu.sh', env, '--config=a b.py')
  assert done.returncode == 0, done.stderr
  last = done.stdout.splitlines()[-1]
  assert last.endswith(r'hns.main --distributed=auto --config=a\ b.py')


def test_the_engine_benchmark_compares_and_names_what_is_missing(tmp_path):
  """A side whose answer is not ours would be named wrong and have no ratio."""
  flags = ('--tasks=mlp:hidenseek', '--sides=jit_loop,nobody', '--repeats=2')
  done = subprocess.run(
    [
      *(sys.executable, ROOT / 'launch' / 'benchmark_engine.py', *flags),
      *(f'--json={tmp_path / "a.json"}', f'--picture={tmp_path / "a.png"}'),
    ],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert 'nobody' in done.stdout and 'wrong' not in done.stdout
  told = json.loads((tmp_path / 'a.json').read_text())
  assert told['hidenseek']['mlp']['jit_loop'] > 0
  assert (tmp_path / 'a.png').exists()
