"""What the pages of the repository say: their code runs as written."""

import contextlib
import fnmatch
import importlib
import io
import json
import os
import re
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT, slow_if, small_config

from hns import config, report, wire
from hns.data.partition import PARTITIONS
from hns.methods import contract, lift
from hns.methods.recipes import RECIPES
from hns.networks import models
from hns.networks.pruning import SCORES
from hns.report import files
from hns.runs import experiment

sys.path.append(str(ROOT / 'launch'))
import benchmark_conv  # noqa: E402

PAGES = [
  ROOT / 'README.md',
  *sorted(ROOT.glob('hns/*/README.md')),
  ROOT / 'launch' / 'flower' / 'README.md',
  *sorted(ROOT.glob('launch/results/*.md')),
]
TEXTS = {str(page.relative_to(ROOT)): page.read_text() for page in PAGES}
FENCE = r'^```{}\n(.*?)^```$'


def fenced(language, text):
  """The blocks of a page in one language."""
  return re.findall(FENCE.format(language), text, re.S | re.M)


# By page and place on it, such as `hns/data/README.md 0`.
BLOCKS = {
  f'{page} {place}': block
  for page, text in TEXTS.items()
  for place, block in enumerate(fenced('python', text))
}


def test_there_is_a_recipe_for_each_extension():
  for name in ('SCORES', 'METHODS', 'DATASETS', 'PARTITIONS', 'MODELS'):
    assert any(f'hns.{name}[' in block for block in BLOCKS.values())
  for name in ('Supermask', 'read_upload', 'sweep()'):
    assert any(name in block for block in BLOCKS.values())
  lines = lambda block: [line for line in block.split('\n') if line]
  assert all(len(lines(block)) < 35 for block in BLOCKS.values())


# Blocks of a page share most of what they compute.
FIRST = [name for name in BLOCKS if name.endswith(' 0')]
OTHERS = [name for name in BLOCKS if name not in FIRST]


@pytest.mark.parametrize('names', [FIRST, slow_if(True, OTHERS)])
def test_recipes_run_as_written(tmp_path, names):
  """One process, so that JAX starts once.

  Each block sees no other's names, and has a folder of its own. The networks
  that they name have fewer layers here, to compile in less time, and their
  runs draw nothing.
  """
  less = 'lambda classes: models.Network(classes, dense=(64,))'
  lines = ['import os', 'from hns.networks import models']
  lines += [
    'from hns.runs import workdir',
    'workdir.draw = lambda *given: None',
  ]
  lines += [f'models.MODELS[{name!r}] = {less}' for name in ('mlp', 'cnn')]
  for place, name in enumerate(names):
    folder = tmp_path / str(place)
    folder.mkdir()
    lines += [
      f'os.chdir({str(folder)!r})',
      f'exec(compile({BLOCKS[name]!r}, {name!r}, "exec"), '
      'dict(__name__="block"))',
    ]
  done = subprocess.run(
    [sys.executable, '-c', '\n'.join(lines)],
    cwd=tmp_path,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr


def test_the_two_commands_come_first():
  commands = fenced('sh', TEXTS['README.md'])[:2]
  assert all(c.startswith('pip install -e') for c in commands)
  assert 'hns.main' in commands[0] and 'pytest' in commands[1]


def anchors(text):
  """What a link to a heading of a page may say behind its `#`."""
  headings = re.findall(r'^#+ (.*)$', text, re.M)
  plain = (re.sub(r'[^\w\- ]', '', heading.lower()) for heading in headings)
  return {heading.replace(' ', '-') for heading in plain}


@pytest.mark.parametrize('page', TEXTS)
def test_links_lead_somewhere(page):
  for target in re.findall(r'\]\(([^) ]+)\)', TEXTS[page]):
    if target.startswith('https://'):
      continue
    path, _, heading = target.partition('#')
    there = (ROOT / page).parent / path if path else ROOT / page
    assert there.exists(), target
    assert not heading or heading in anchors(there.read_text()), target


# A command of ours, in a block of sh or indented; there may be several a line.
COMMAND = re.compile(r'\bpython (?:-m (hns[.\w]*)|launch/(\w+)\.py)(.*)')


def commands_on(page):
  """By page and command, its module and its words."""
  text = TEXTS[page].replace('\\\n', ' ')
  indented = re.findall(r'^    (.*)$', text, re.M)
  # An & in quotes is taken for one between commands: nothing here has any.
  parts = re.split(r'[&\n]', '\n'.join([*fenced('sh', text), *indented]))
  return {
    f'{page}: {part.strip()}': (
      name or script,
      shlex.split(words, comments=True),
    )
    for part in parts
    for name, script, words in COMMAND.findall(part)
  }


COMMANDS = {k: v for page in TEXTS for k, v in commands_on(page).items()}


@pytest.mark.parametrize('command', COMMANDS)
def test_commands_know_the_flags_that_are_shown(command, monkeypatch):
  """--help, of which their other words are read too, lists them all."""
  monkeypatch.chdir(ROOT)
  module, words = COMMANDS[command]
  with (
    contextlib.redirect_stdout(io.StringIO()) as said,
    contextlib.suppress(SystemExit),
  ):
    importlib.import_module(module).main([module, *words, '--help'])
  known = re.findall(
    r'^  (?:-\w,)?--(?:\[no\])?([\w.]+):', said.getvalue(), re.M
  )
  shown = [w[2:].partition('=')[0] for w in words if w.startswith('--')]
  assert 'help' in known and set(shown) <= set(known)


@pytest.mark.parametrize('page', [page for page in TEXTS if 'hns/' in page])
def test_fields_that_are_named_are_there(page):
  named = re.findall(r'--config\.([\w.]*\w)', TEXTS[page])
  assert set(named) <= config.fields().keys()


def test_the_table_of_questions_is_the_contract():
  row = r'^\| `(\w+)\.(\w+)`[^|]*\|[^|]*\| `([^`]*)`'
  rows = re.findall(row, TEXTS['hns/methods/README.md'], re.M)
  parts = contract.Client, contract.Server, contract.Wire
  asked = {
    (part.__name__.lower(), name): ', '.join(arguments)
    for part in parts
    for name, arguments in lift.arguments_of(part).items()
  }
  assert {(part, name): given for part, name, given in rows} == asked


def test_the_table_of_the_header_adds_up():
  text = TEXTS['hns/wire/README.md']
  table = re.search(r'^\| header field .*\n((?:\|.*\n)+)', text, re.M)[1]
  sizes = [
    re.findall(r'\d+', row.split('|')[2]) for row in table.split('\n')[1:-1]
  ]
  assert sum(int(n) for row in sizes for n in row) == wire.HEADER_BYTES
  assert f'a header of {wire.HEADER_BYTES} bytes' in text


@pytest.mark.parametrize(
  'folder,names',
  [
    ('methods', RECIPES),
    ('engine', RECIPES),  # what a client keeps
    ('networks', SCORES),
    ('networks', models.MODELS.keys() - {'tiny'}),  # which only tests have
    ('data', PARTITIONS),
  ],
)
def test_tables_have_every_name(folder, names):
  rows = re.findall(r'^\|([^|]*)\|', TEXTS[f'hns/{folder}/README.md'], re.M)
  assert set(names) <= set(re.findall(r'`([^`]+)`', ''.join(rows)))


def fields_explained(name):
  """The fields that the table headed `name` explains; `*` for any letters."""
  text = TEXTS['hns/runs/README.md']
  rows = re.search(rf'^\| `{name}` \| \|\n((?:\|.*\n)+)', text, re.M)[1]
  return re.findall(r'`([^`]+)`', ''.join(re.findall(r'^\|[^|]*', rows, re.M)))


def test_every_field_that_a_run_writes_is_explained(shared, tmp_path):
  """And nothing is explained that no run writes."""
  private = dict(upload='votes', sign_epsilon=1.0, server_rule='private_mean')
  experiment.run(small_config(unseen_clients=1, **private), tmp_path)
  rows, about = files.read(tmp_path), files.read_run_info(tmp_path)
  for name, written in (('metrics.jsonl', rows[-1]), ('config.json', about)):
    known = fields_explained(name)
    matching = {
      field: [k for k in known if fnmatch.fnmatch(field, k)]
      for field in written
    }
    assert [f for f, found in matching.items() if not found] == []
    assert set(known) == {k for found in matching.values() for k in found}


STORED = re.compile(r'python -m hns\.report (launch/results/\S+\.gz[^`\n#]*)')


@pytest.mark.parametrize('page', TEXTS)
def test_tables_are_what_their_commands_print(page, monkeypatch, capsys):
  """A command that reads stored results; its page holds some of its tables."""
  monkeypatch.chdir(ROOT)
  text = TEXTS[page]
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
  of_speed = re.compile(r'^\| seconds of a round .*\n(?:\|.*\n)+', re.M)
  (table,) = (t for text in TEXTS.values() for t in of_speed.findall(text))
  assert table.splitlines()[2:] == [
    f'| {row.split(" | ")[0][2:]} | {line} |'
    for row, line in zip(table.splitlines()[2:], lines, strict=True)
  ]


def test_the_convolution_benchmark_runs(capsys):
  """It compares its contenders' results before it prints a ratio."""
  flags = ('--clients=2', '--steps=1', '--repeats=1', '--batch_size=2')
  benchmark_conv.main(['benchmark_conv', *flags])
  assert capsys.readouterr().out.count('client-step') == 4


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
