"""Launch files, dry: what they would run, and that it is shell."""

import json
import os
import shutil
import signal
import subprocess
import sys
from typing import NamedTuple

import pytest
from conftest import ROOT, slow_if


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


SHELL = ['slurm.sbatch', 'tpu.sh']


@pytest.mark.parametrize('name', SHELL)
def test_is_shell(name):
  path = ROOT / 'launch' / name
  assert subprocess.run(['bash', '-n', path]).returncode == 0
  assert 'set -' in path.read_text()


@pytest.mark.skipif(
  not shutil.which('shellcheck'), reason='shellcheck is not installed'
)
@pytest.mark.parametrize('name', SHELL)
def test_shellcheck_finds_nothing(name):
  command = ['shellcheck', '--shell=bash', ROOT / 'launch' / name]
  done = subprocess.run(command, capture_output=True, text=True)
  assert done.returncode == 0, done.stdout


def test_slurm_runs_the_command_on_every_task(tmp_path):
  env = stubs(tmp_path, 'srun') | {'SLURM_ARRAY_TASK_ID': ''}
  done = dry('slurm.sbatch', env, '--config=a b.py')
  assert done.returncode == 0, done.stderr
  words = done.stdout.splitlines()
  assert words[-5:] == [
    'python',
    '-m',
    'hns.main',
    '--distributed=auto',
    '--config=a b.py',
  ]


def test_slurm_runs_one_run_of_a_sweep_a_task(tmp_path):
  env = stubs(tmp_path, 'python', 'scontrol')
  env |= {'SLURM_ARRAY_JOB_ID': '12', 'SLURM_ARRAY_TASK_ID': '3'}
  done = dry('slurm.sbatch', env, '--config=a b.py', '--workdir=w')
  assert done.returncode == 0, done.stderr
  assert done.stdout.splitlines()[1:] == [
    'launch/sweep.py',
    '--index=3',
    '--config=a b.py',
    '--workdir=w',
  ]
  text = (ROOT / 'launch' / 'slurm.sbatch').read_text()
  for option in ('requeue', 'signal=B:USR1@120', 'gpus-per-task=1', 'mem-per'):
    assert f'#SBATCH --{option}' in text


def task_of(folder, command, wait, **env):
  """A task in which `command` takes `wait` s, or saves when it is told to."""
  path = folder / command
  path.write_text(
    '#!/bin/sh\ntrap "sleep 0.3; echo saved; exit 143" TERM\necho begun\n'
    f'for i in $(seq {10 * wait}); do sleep 0.1; done; exit 1\n'
  )
  path.chmod(0o755)
  task = subprocess.Popen(
    ['bash', ROOT / 'launch' / 'slurm.sbatch'],
    env=stubs(folder, 'scontrol', 'scancel') | env,
    cwd=ROOT,
    stdout=subprocess.PIPE,
    text=True,
  )
  assert task.stdout.readline() == 'begun\n'
  return task


@pytest.mark.parametrize(
  'number,code,again',
  [
    (signal.SIGUSR1, 143, True),  # its time is up
    (signal.SIGTERM, 143, False),  # cancelled, or queued again by SLURM
    (None, 1, False),
  ],
)
def test_slurm_queues_a_task_again_when_its_time_is_up(
  tmp_path, number, code, again
):
  """The run hears of both signals, and is waited for."""
  env = {'SLURM_ARRAY_JOB_ID': '12', 'SLURM_ARRAY_TASK_ID': '3'}
  task = task_of(tmp_path, 'python', 60 if number else 1, **env)
  if number:
    task.send_signal(number)
  words = task.communicate()[0].splitlines()
  assert ('saved' in words) == bool(number)
  assert (words[-2:] == ['requeue', '12_3']) == again
  assert task.returncode == code


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGUSR1])
def test_slurm_asks_the_tasks_of_several_hosts_itself(tmp_path, number):
  """An srun that hears of a signal would kill them."""
  env = {'SLURM_JOB_ID': '12', 'SLURM_ARRAY_TASK_ID': ''}
  task = task_of(tmp_path, 'srun', 1, **env)
  task.send_signal(number)
  words = task.communicate()[0].splitlines()
  names = f'{tmp_path}/scancel', f'{tmp_path}/scontrol'
  asked = [names[0], '--signal=TERM', '12', names[1], 'requeue', '12']
  assert words == asked * (number == signal.SIGUSR1)
  assert task.returncode == 1


def test_tpu_quotes_flags_and_wants_a_pod(tmp_path):
  env = stubs(tmp_path, 'gcloud')
  assert 'POD' in dry('tpu.sh', env).stderr
  env |= {'POD': 'p', 'ZONE': 'z'}
  done = dry('tpu.sh', env, '--config=a b.py')
  assert done.returncode == 0, done.stderr
  last = done.stdout.splitlines()[-1]
  assert last.endswith(r'hns.main --distributed=auto --config=a\ b.py')
  last = dry('tpu.sh', env).stdout.splitlines()[-1]
  assert last.endswith('hns.main --distributed=auto')


@pytest.mark.parametrize('side', ['ours_whole', slow_if(True, 'plain_vmap')])
def test_the_engine_benchmark_compares_and_names_what_is_missing(
  tmp_path, side
):
  """A side whose answer is not ours would be named wrong and have no ratio.

  By the script for a GPU, on a CPU.
  """
  flags = f'--folder={tmp_path}', '--tasks=trial:hidenseek', '--repeats=2'
  flags += (f'--sides={side},nobody',)
  done = subprocess.run(
    [sys.executable, ROOT / 'launch' / 'benchmark_gpu.py', *flags],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert 'nobody' in done.stdout and 'wrong' not in done.stdout
  told = json.loads((tmp_path / 'engine.json').read_text())
  assert told['hidenseek']['trial'][side] > 0
  assert (tmp_path / 'engine.txt').read_text() == done.stdout


def test_no_task_is_begun_that_would_end_too_late(tmp_path, capsys, launch):
  import benchmark_gpu

  benchmark_gpu.main(['', f'--folder={tmp_path}', '--seconds=0'])
  said = capsys.readouterr().out.splitlines()
  assert said == [f'{task}: left out, no time' for task in benchmark_gpu.TASKS]


def test_the_engine_benchmark_writes_ratios_and_a_picture(tmp_path, launch):
  import benchmark_engine

  paths = tmp_path / 'a.json', tmp_path / 'a.png'
  flags = f'--json={paths[0]}', f'--picture={paths[1]}'
  benchmark_engine.main(['', '--tasks=', *flags])
  assert json.loads(paths[0].read_text())['ratio'] == {}
  assert paths[1].exists()


@pytest.mark.slow
def test_seconds_before_a_first_round_are_told(launch, capsys):
  import benchmark_compile

  benchmark_compile.main(['', '--methods=fedavg', '--networks='])
  row = capsys.readouterr().out.splitlines()[-1].strip('| ').split(' | ')
  assert row[0] == 'fedavg, cnn' and len(row) == 7
  assert all(float(cell) > 0 for cell in row[1:])


@pytest.mark.slow
def test_seeds_together_are_timed_beside_one(launch):
  from engine import seeds

  told = seeds.measure('trial', 'hidenseek', count=2, repeats=1)
  assert told['seeds'] == 2 and 0 < told['one'] and 0 < told['together']


@pytest.fixture
def launch(monkeypatch):
  monkeypatch.syspath_prepend(ROOT / 'launch')


def test_kernels_that_overlap_are_busy_once(launch):
  from engine import kernels

  class Event(NamedTuple):
    start_ns: int
    duration_ns: int

  events = [Event(30, 5), Event(0, 10), Event(8, 4), Event(2, 3)]
  assert kernels.covered(events) == 12 + 5
