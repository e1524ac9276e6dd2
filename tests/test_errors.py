"""What a tired user types, and the one line that it ends in."""

import contextlib
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from conftest import ROOT, read_config, small_config

from hns import commandline, devices, experiment, main, record, runs
from hns import config as configs
from hns.errors import InputError

FILES = {
  'none.py': 'x = 1\n',
  'empty.py': 'def get_config():\n  pass\n',
  'syntax.py': 'def get_config(:\n',
  'name.py': 'def get_config():\n  return foo\n',
  'table.py': 'from hns.config import base\n\ndef get_config():\n'
  "  return base(hidenseek=dict(learning_rate='fast'))\n",
  'field.py': 'from hns.config import base\n\ndef get_config():\n'
  '  return base(densty=1.0)\n',
}


@pytest.mark.parametrize(
  'words,said',
  [
    # A field that is not there.
    (
      '--config.densty=0.1',
      'config.densty: no such field; did you mean density?',
    ),
    ('--config.learning_rate=1', '.*did you mean hidenseek.learning_rate?'),
    (
      '--config.algorithm=fedavg --config.fedavg.learnin_rate=1',
      '.*did you mean fedavg.learning_rate?',
    ),
    ('--config.hidensek.upload=x', '.*did you mean hidenseek.upload?'),
    ('--config.hidenseek.upload.x=3', '.*upload.x: no such field; --help'),
    ('--noconfig.hidenseek.rember', '.*did you mean hidenseek.remember?'),
    # A value of another type.
    ('--config.rounds=many', "config.rounds='many': must be a whole number"),
    ('--config.rounds=2.5', "config.rounds='2.5': must be a whole number"),
    ('--config.density=high', "config.density='high': must be a number"),
    (
      '--config.hidenseek.remember=maybe',
      "config.hidenseek.remember='maybe': must be True or False",
    ),
    (
      '--config.fedavg.learning_rate=fast',
      "config.fedavg.learning_rate='fast': must be a number",
    ),
    ('--config.hidenseek=5', 'config.hidenseek: is a table: change one of'),
    ('--config.rounds', 'Missing value for flag --config.rounds'),
    # A flag that is not there.
    ('--workdr=x', '--workdr: no such flag; did you mean --workdir?'),
    ('--rounds=5', '--rounds: no such flag; did you mean --config.rounds?'),
    ('--xyz', '--xyz: no such flag; --help lists all'),
    ('rounds=5', "'rounds=5' is not a flag: write --config.FIELD=VALUE"),
    ('--workdir', 'Missing value for flag --workdir'),
    # A file that is no config.
    ('--config=no.py', "config='no.py': no such file; .*digits.py"),
    ('--config=none.py', "config='none.py': needs a get_config()"),
    ('--config=empty.py', "config='empty.py': needs a get_config()"),
    ('--config=syntax.py', "config='syntax.py': SyntaxError: .*line 1"),
    ('--config=name.py', "config='name.py': line 2: NameError: .*foo"),
    (
      '--config=table.py',
      "config='table.py': hidenseek.learning_rate='fast': must be a number",
    ),
    ('--config=field.py', '.*config.densty: no such field; did you mean dens'),
  ],
)
def test_bad_words_end_in_one_line(tmp_path, monkeypatch, words, said):
  monkeypatch.chdir(tmp_path)
  for name, text in FILES.items():
    (tmp_path / name).write_text(text)
  pattern = '^hns: ' + said.replace('(', r'\(').replace('?', r'\?')
  with pytest.raises(SystemExit, match=pattern.replace(')', r'\)')) as error:
    main.main(['hns', *words.split()])
  assert '\n' not in str(error.value)
  assert {path.name for path in tmp_path.iterdir()} == set(FILES)


def test_words_change_a_config():
  words = '--config.rounds 7 --config.hidenseek.remember --workdir=a -h'
  given = commandline.parse(
    ['hns', f'--config={ROOT}/configs/mnist.py', *words.split()]
    + ['--config.download_bits=8', '--config.group=a b'],
    {'workdir': ('', ''), 'jobs': (3, '')},
  )
  assert given.flags == {'workdir': 'a', 'jobs': 3} and given.help
  want = read_config('mnist')
  want.update(rounds=7, download_bits=8, group='a b')
  want.hidenseek.remember = True
  assert given.config.to_dict() == want.to_dict()
  assert given.config.signsgd.download_bits == 8  # a reference


def test_python_gets_the_same_errors():
  with pytest.raises(InputError, match='config.densty: .* mean density'):
    configs.base(densty=1.0)
  with pytest.raises(InputError, match="rounds='many': must be a whole number"):
    configs.base(rounds='many')
  with pytest.raises(InputError, match='hidenseek=5: is a table'):
    configs.base(hidenseek=5)
  config = configs.base(fedavg={'learning_rate': 1, 'depth': 2})
  assert config.fedavg.to_dict() == {
    'learning_rate': 1.0,
    'optimizer': 'sgd',
    'depth': 2,
  }


@pytest.mark.parametrize(
  'name', sorted(p.stem for p in (ROOT / 'configs').glob('*.py'))
)
def test_help_explains_every_field(name, capsys):
  path = ROOT / 'configs' / f'{name}.py'
  main.main(['hns', f'--config={path}', '--help', '--config.rounds=77'])
  said = capsys.readouterr().out
  for flag in ('--config', '--workdir', '--distributed'):
    assert flag in said
  fields = configs.leaves(read_config(name).to_dict())
  for field, value in fields.items():
    line = f'  {field}={77 if field == "rounds" else value} '
    (start,) = [text for text in said.split('\n') if text.startswith(line)]
    assert len(start[len(line) :].strip()) > 5, f'{field} has no comment'
  assert max(map(len, said.split('\n'))) <= max(80, len(str(path)) + 40)


def test_texts_are_the_comments_of_the_defaults():
  texts = configs.texts()
  assert set(configs.base()) - set(texts) == set(configs.RECIPES)
  assert texts['density'] == (
    'share of the weights that survives pruning, (0, 1]'
  )
  assert 'the mean, for natural the most' in texts['examples_per_client']
  assert texts['partition'].endswith(': iid, shards, dirichlet, natural')


def allocate():
  """Asks the device for more than a process can address."""
  jnp.zeros(2**50, jnp.int8).block_until_ready()


def test_too_little_memory_names_the_width_and_keeps_what_is_written(
  tmp_path, monkeypatch
):
  row = {'round': 1, 'personal_accuracy': 0.5, 'global_accuracy': 0.5}

  def short(*_, **__):
    yield {**row, 'uplink_bytes': 1, 'downlink_bytes': 1}
    allocate()

  monkeypatch.setattr(record, 'train', short)
  said = 'clients_per_step=3: .* lower it .*RESOURCE_EXHAUSTED'
  with pytest.raises(InputError, match=said) as error:
    experiment.run(small_config(clients_per_step=3), tmp_path)
  assert '\n' not in str(error.value)
  assert [row['round'] for row in runs.read(tmp_path)] == [1]


def test_what_does_not_fit_at_the_start_is_named(monkeypatch):
  monkeypatch.setattr(experiment, 'federate', lambda *_: allocate())
  with pytest.raises(InputError, match='num_clients=6.*lower it, or model'):
    experiment.build(small_config())


def test_other_errors_of_a_device_are_not_explained():
  other = jax.errors.JaxRuntimeError('INTERNAL: something else')
  with contextlib.suppress(jax.errors.JaxRuntimeError):
    with devices.enough_memory('rounds', 1, ''):
      raise other
    pytest.fail('not ours to explain')


def test_no_gpu_where_one_was_asked_for_is_one_line(tmp_path):
  hidden = {'JAX_PLATFORMS': 'cuda', 'CUDA_VISIBLE_DEVICES': ''}
  done = subprocess.run(
    [sys.executable, '-m', 'hns.main', f'--workdir={tmp_path}/run'],
    capture_output=True,
    text=True,
    cwd=tmp_path,
    env=os.environ | hidden,
  )
  assert done.returncode == 1
  last = done.stderr.strip().split('\n')[-1]
  assert last.startswith("hns: JAX_PLATFORMS='cuda': JAX finds no such device")
  assert 'Traceback' not in done.stderr and not (tmp_path / 'run').exists()
