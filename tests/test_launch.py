"""Launch files, dry: what they would run, and that it is shell."""

import os
import subprocess

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
