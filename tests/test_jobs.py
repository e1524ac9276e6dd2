"""Processes of a sweep: their shares, what they died of, and who waits."""

import fcntl
import os
import sys

from conftest import ROOT

sys.path.append(str(ROOT / 'launch'))
import jobs  # noqa: E402


def test_a_folder_that_cannot_be_made_does_not_end_the_sweep(tmp_path):
  (tmp_path / 'a').write_text('a file')
  ends = f'open({str(tmp_path / "b" / "complete")!r}, "w")'
  work = [job(tmp_path / 'a', ''), job(tmp_path / 'b', ends)]
  looks = jobs.run_all(work, done, [jobs.Slot((jobs.cores()[0],), {})], [])
  ended = {one.folder.name: said for look in looks for one, said in look}
  assert ended['b'] == '' and ended['a'].startswith('not begun: [Errno 17]')


def test_the_machine_is_shared_out():
  cores = lambda *args: [slot.cores for slot in jobs.share(*args, [])]
  assert cores(2, 9, list(range(4))) == [(0, 1), (2, 3)]
  assert cores(0, 9, [0, 2]) == [(0,), (2,)]
  assert cores(3, 9, [0, 1]) == [(0,), (1,), (0,)]
  assert cores(0, 1, list(range(7))) == [(0, 1, 2, 3)]
  assert cores(0, 0, [5]) == [(5,)]
  slots = jobs.share(3, 9, [0, 1, 2], ['4', '7'])
  assert [slot.env['CUDA_VISIBLE_DEVICES'] for slot in slots] == ['4', '7', '4']
  assert len(jobs.share(0, 9, [0, 1, 2], ['4'])) == 1


def job(folder, command):
  return jobs.Job(folder, [sys.executable, '-S', '-c', command])


def finish(folder):
  (folder / 'complete').touch()


def done(one):
  return (one.folder / 'complete').exists()


def test_jobs_are_pinned_and_say_what_they_died_of(tmp_path):
  core = jobs.cores()[-1]
  say = 'import os, pathlib, sys; sys.stdout.reconfigure(line_buffering=True)\n'
  kill = say + 'print("so far"); os.kill(os.getpid(), 9)'
  finish = say + (
    f'assert os.sched_getaffinity(0) == {{{core}}}, "not pinned"\n'
    'assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"\n'
    f'pathlib.Path({str(tmp_path)!r}, "c", "complete").touch()'
  )
  work = [
    job(tmp_path / 'a', kill),
    job(tmp_path / 'b', 'raise ValueError("no luck")'),
    job(tmp_path / 'c', finish),
    job(tmp_path / 'd', ''),
  ]
  before = jobs.cores()
  slot = jobs.Slot((core,), {})
  looks = jobs.run_all(work, done, [slot], [])
  ended = {one.folder.name: said for look in looks for one, said in look}
  assert ended == {
    'a': 'SIGKILL: so far',
    'b': 'ValueError: no luck',
    'c': '',
    'd': 'it ended before its last round',
  }
  assert jobs.cores() == before


def test_a_signal_to_the_group_reaches_a_job_once(tmp_path):
  """By `stop`: two end a run before it has saved."""
  one = jobs.start(job(tmp_path, ''), jobs.Slot((jobs.cores()[0],), {}))
  assert os.getpgid(one.process.pid) == one.process.pid != os.getpgid(0)
  jobs.stop([one])


def test_a_job_that_another_process_has_is_waited_for(tmp_path):
  """As one whose sweep was killed alone, or that another sweep began."""
  one = job(tmp_path, 'raise SystemExit("run twice")')
  with open(tmp_path / 'log.txt', 'a') as log:
    fcntl.flock(log, fcntl.LOCK_EX)
    looks = jobs.run_all([one], done, [jobs.Slot((0,), {})], [])
    assert next(looks) == next(looks) == []
    finish(tmp_path)
  assert next(looks) == [(one, '')]
  assert list(looks) == []
