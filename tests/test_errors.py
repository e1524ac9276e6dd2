"""What a tired user types, and the one line that it ends in."""

import contextlib
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from absl import flags
from conftest import ROOT, read_config, small_config

from hns import config as configs
from hns import main
from hns.errors import InputError
from hns.report import files
from hns.runs import commandline, devices, experiment, record

FILES = {
  'none.py': 'x = 1\n',
  'empty.py': 'def get_config():\n  pass\n',
  'table.py': 'from hns.config import base\n\ndef get_config():\n'
  "  return base(hidenseek=dict(learning_rate='fast'))\n",
  'field.py': 'from hns.config import base\n\ndef get_config():\n'
  '  return base(densty=1.0)\n',
  'typo.py': 'from hns.config import base\n\ndef get_config():\n'
  '  config = base()\n  config.rouds = 3\n  return config\n',
  'null.py': 'from hns.config import base\n\ndef get_config():\n'
  '  config = base()\n  config.dataset = None\n  return config\n',
  'deep.py': 'from hns.config import base\n\ndef get_config():\n'
  '  return base(fedavg=dict(rate=1))\n',
  'frozen.py': 'from hns.config import base\n'
  'from ml_collections import FrozenConfigDict\n\n'
  'def get_config():\n  return FrozenConfigDict(base())\n',
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
    (
      '--config.rounds',
      'Missing value for flag --config.rounds',
    ),
    (
      '--config.density --workdir=x',
      "config.density='--workdir=x': must be a number",
    ),
    ('--config.rounds=', "config.rounds='': must be a whole number"),
    ('--config.rounds=²', "config.rounds='²': must be a whole number"),
    ('--config.rounds=٣', "config.rounds='٣': must be a whole number"),
    ('--config.rounds=1e3', "config.rounds='1e3': must be a whole number"),
    ('--config.rounds=1_000', "config.rounds='1_000': must be a whole"),
    ('--config.rounds=0x10', "config.rounds='0x10': must be a whole"),
    ('--config.rounds=' + '9' * 5000, 'config.rounds=.*: must be a whole'),
    ('--config.density=٠', "config.density='٠': must be a number"),
    ('--config.density=0_1', "config.density='0_1': must be a number"),
    ('--config.density=nan', 'config.density=nan: must be finite'),
    ('--config.alpha=1e400', 'config.alpha=inf: must be finite'),
    ('--config.fedavg.learning_rate=-inf', '.*learning_rate=-inf: must be'),
    # A value that no run can have.
    ('--config.rounds=2147483648', 'rounds=2147483648: must be below 21474'),
    ('--config.batch_size=-3', 'batch_size=-3: must be at least 1'),
    ('--config.checkpoint_seconds=-1', 'checkpoint_seconds=-1.0: must be in'),
    ('--config.eval_clients=21', 'eval_clients=21: .* num_clients=20'),
    # A flag that is not there.
    ('--workdr=x', "Unknown .* flag 'workdr'. Did you mean: workdir ?"),
    ('--rounds=5', '--rounds: no such flag; did you mean --config.rounds?'),
    ('--xyz', "Unknown command line flag 'xyz'"),
    ('rounds=5', "'rounds=5' is not a flag: write --FLAG=VALUE"),
    ('--workdir', 'Missing value for flag --workdir'),
    ('--flagfile=x', '.*Unable to open flagfile: .* No such file .*x'),
    ('--helpfull', "Unknown command line flag 'helpfull'"),
    ('--help=maybe', 'flag --help=maybe: .*Non-boolean'),
    ('--peers_seconds=x', 'flag --peers_seconds=x: invalid literal for int'),
    ('--noconfig.rounds', "Unknown .* 'noconfig.rounds'. .* config.rounds ?"),
    ('--config.=5', 'config.: no such field; --help lists all'),
    ('--config..x=5', 'config..x: no such field; --help lists all'),
    ('--config.' + 'x' * 100 + '=5', 'config.xxx.*: no such field; --help'),
    ('--config.a\x00b=5', r"config.'a\\x00b': no such field; --help"),
    ('--' + 'x' * 100, "Unknown command line flag 'xxx.*'"),
    ('-', "'-' is not a flag"),
    # A file that is no config.
    ('--config=no.py', "config='no.py': no such file; .*digits.py"),
    ('--config=', "config='': no such file"),
    ('--config', 'Missing value for flag --config'),
    ('--config=.', "config='.': no such file"),
    ('--config=' + 'x' * 300, "config='xxx.*': no such file"),
    (
      '--config=nine',
      "config='nine': no such file; write a path, or a name from .*digits.py",
    ),
    ('--config=mnist --config=none.py', "config='none.py': needs a get"),
    ('--config=none.py', "config='none.py': needs a get_config()"),
    ('--config=empty.py', "config='empty.py': needs a get_config()"),
    (
      '--config=table.py',
      "config='table.py': hidenseek.learning_rate='fast': must be a number",
    ),
    ('--config=field.py', '.*config.densty: no such field; did you mean dens'),
    ('--config=typo.py', '.*config.rouds: no such field; did you mean rounds'),
    ('--config=null.py --help', "config='null.py': dataset=None: must be a t"),
    (
      '--config=deep.py',
      ".*fedavg={'rate': 1}: no such field; fedavg takes lea",
    ),
    ('--config=frozen.py', "config='frozen.py': needs a get_config()"),
  ],
)
def test_bad_words_end_in_one_line(tmp_path, monkeypatch, words, said):
  monkeypatch.chdir(tmp_path)
  for name, text in FILES.items():
    (tmp_path / name).write_text(text, 'latin-1')
  pattern = '^hns: ' + said.replace('(', r'\(').replace('?', r'\?')
  with pytest.raises(SystemExit, match=pattern.replace(')', r'\)')) as error:
    main.main(['hns', *words.split()])
  assert '\n' not in str(error.value)
  assert {path.name for path in tmp_path.iterdir()} == set(FILES)


@pytest.mark.parametrize(
  'text,kind',
  [
    ('def get_config(:\n', SyntaxError),
    ('x = "\xff"\n', SyntaxError),
    ('def get_config():\n  return foo\n', NameError),
    ('def get_config():\n  return 1 + "a"\n', TypeError),
    ('def get_config():\n  return int("a")\n', ValueError),
    ('def get_config():\n  return open("not there")\n', OSError),
    ('def get_config(case):\n  return {}\n', TypeError),
  ],
)
def test_what_goes_wrong_in_a_config_file_is_the_users_own(
  tmp_path, text, kind
):
  file = tmp_path / 'own.py'
  file.write_text(text, 'latin-1')
  with pytest.raises(kind) as error:
    main.main(['hns', f'--config={file}'])
  assert not isinstance(error.value, InputError) and not error.value.__cause__


def test_a_users_mistake_shows_its_line(tmp_path):
  file = tmp_path / 'own.py'
  file.write_text('def get_config():\n  return 1 + "a"\n')
  done = subprocess.run(
    [sys.executable, '-m', 'hns.main', f'--config={file}'],
    capture_output=True,
    text=True,
  )
  assert f'File "{file}", line 2, in get_config' in done.stderr
  assert done.stderr.splitlines()[-1].startswith('TypeError: unsupported')


def parse(*words, **own):
  """What words say of a config, beside flags of their own."""
  values = flags.FlagValues()
  for name, default in own.items():
    flags.DEFINE_string(name, default, '', values)
  return commandline.parse(['hns', *words], values, ''), values


def test_words_change_a_config():
  words = '--config.rounds 7 --config.hidenseek.remember --workdir=a'
  given, values = parse(
    *(f'--config={ROOT}/configs/mnist.py', *words.split()),
    *('--config.download_bits=8', '--config.group=a b'),
    **dict(workdir='', jobs='3'),
  )
  assert (values.workdir, values.jobs) == ('a', '3')
  want = read_config('mnist')
  want.update(rounds=7, download_bits=8, group='a b')
  want.hidenseek.remember = True
  assert given.config.to_dict() == want.to_dict()
  assert given.config.signsgd.download_bits == 8  # a reference


def test_order_does_not_matter_and_the_last_value_counts():
  words = ['--config.rounds=7', '--noconfig.eval_held', '--config', 'test']
  words += ['--config.upload=signs', '--config.hidenseek.upload=ternary']
  words += ['--config.rounds=8', '--config.upload=ternary', '--nohelp']
  given, _ = parse(*words)
  assert list(given.changed)[-2:] == ['rounds', 'upload']
  config = given.config
  assert (config.rounds, config.model, config.eval_held) == (8, 'mlp', False)
  assert config.hidenseek.upload == 'ternary'


def test_a_config_is_found_by_its_name(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for name, case in (('mnist', ''), ('benchmark', ':scarce-mnist-fedpm')):
    path = f'{ROOT}/configs/{name}.py{case}'
    given, _ = parse(f'--config={name}{case}')
    assert given.file == path
    assert commandline.read(path).to_dict() == given.config.to_dict()
  (tmp_path / 'mnist').mkdir()
  assert parse('--config=mnist')[0].config.rounds == 80
  (tmp_path / 'test').write_text(FILES['typo.py'].replace('rouds', 'rounds'))
  assert parse('--config=test')[0].config.rounds == 3


def test_a_config_file_runs_once(tmp_path):
  """It may register a method, or read the clock."""
  file = tmp_path / 'once.py'
  file.write_text(
    'from hns.config import base\n'
    f'open({str(tmp_path / "log")!r}, "a").write("x")\n'
    'def get_config():\n  return base().lock()\n'
  )
  given, _ = parse(f'--config={file}', '--config.rounds=3')
  assert given.config.rounds == 3
  assert (tmp_path / 'log').read_text() == 'x'


def test_a_config_prints_in_lines(monkeypatch, capsys):
  lines = configs.base(group='a\nb\xb1')
  monkeypatch.setattr(commandline, 'read', lambda _: lines)
  assert r"'a\nb\xb1'" in help_of('digits', capsys)


def help_of(config, capsys, *words):
  """What --help says, with what is wrapped in one line each."""
  with pytest.raises(SystemExit) as end:
    main.main(['hns', f'--config={config}', '-h', *words])
  assert end.value.code is None
  said = capsys.readouterr().out
  assert max(map(len, said.split('\n'))) <= max(80, len(str(config)) + 1)
  return re.sub(r'\n {4,}', ' ', said)


def test_fields_of_a_method_of_ones_own_take_what_python_writes(monkeypatch):
  monkeypatch.setitem(configs.RECIPES, 'mine', lambda given, sizes, top: None)
  table = dict(sizes=(1, 2), top=None)
  monkeypatch.setattr(commandline, 'read', lambda _: configs.base(mine=table))
  words = ['--config.mine.sizes=(3,)', '--config.mine.top=[5]']
  config = parse(*words)[0].config
  assert config.mine.sizes == (3,) and config.mine.top == [5]
  with pytest.raises(InputError, match="sizes='3;': must be a tuple"):
    parse('--config.mine.sizes=3;')
  with pytest.raises(InputError, match='sizes=3: must be a tuple'):
    parse('--config.mine.sizes=3')


@pytest.mark.parametrize(
  'name', sorted(p.stem for p in (ROOT / 'configs').glob('*.py'))
)
def test_help_explains_every_field(name, capsys):
  path = ROOT / 'configs' / f'{name}.py'
  said = help_of(path, capsys, '--workdr=x')
  for flag in ('--config:', '--workdir:', '--distributed:'):
    assert f'\n  {flag}' in said
  fields = configs.leaves(read_config(name).to_dict())
  for field, value in fields.items():
    no = '[no]' * isinstance(value, bool)
    line = f'  --{no}config.{field}: '
    (start,) = [text for text in said.split('\n') if text.startswith(line)]
    text, _, default = start[len(line) :].rpartition(' (default: ')
    assert len(text) > 5, f'{field} has no comment'
    assert default == f'{value!r})'


def test_texts_are_those_of_docstrings_and_annotations():
  texts = {name: field.help() for name, field in configs.fields().items()}
  assert set(texts) == set(configs.leaves(configs.base().to_dict()))
  assert texts['density'] == (
    'share of the weights that survives pruning, (0, 1]'
  )
  assert 'the mean, for natural the most' in texts['examples_per_client']
  assert ': iid, shards, dirichlet, natural' in texts['partition']
  assert texts['ditto.pull'] == 'how strongly a model is drawn to the download'
  assert texts['hidenseek.gate'].endswith('a weight: sign, binary')


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
  assert [row['round'] for row in files.read(tmp_path)] == [1]


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
