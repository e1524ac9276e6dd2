"""The architecture: a file imports only from lower floors."""

import ast
import pathlib
import re

import pytest

HNS = pathlib.Path(__file__).parents[1] / 'hns'
FLOORS = [
  {'errors', 'tree'},
  {'winograd', 'metrics', 'supermask', 'parallel', 'own'}
  | {'cache', 'dealing', 'durable'},
  {'conv', 'coding', 'dataset', 'pools', 'axes', 'peers', 'streams'},
  {'packing', 'models', 'prepared', 'partition', 'versus', 'runs', 'values'}
  | {'interrupt'},
  {'wire', 'data', 'pictures', 'groups'},
  {'report'},
  {'federated', 'pruning', 'devices', 'compact'},
  {'uploads'},
  {'bases', 'wrappers'},
  {'lottery'},
  {'training'},
  {'algorithms', 'client'},
  {'rounds', 'network'},
  {'evaluation', 'config', 'checkpoint', 'explore', 'cost'},
  {'identity'},
  {'workdir', 'loop', 'limits'},
  {'record', 'sweeps'},
  {'experiment', 'commandline'},
  {'model_file'},
  {'main', 'export', 'femnist'},
]


def imports(path):
  """Names of the hns modules that a file imports."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom) and node.module == 'hns':
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
      yield from re.findall(r'^hns\.(\w+)', node.module)


def floor(name):
  return next(i for i, names in enumerate(FLOORS) if name in names)


@pytest.mark.parametrize(
  'path', sorted(HNS.glob('[!_]*.py')), ids=lambda p: p.stem
)
def test_imports_go_down(path):
  for name in imports(path):
    assert floor(name) < floor(path.stem), f'{path.stem} imports {name}'


def test_only_the_top_sees_a_config_and_flags():
  for path in HNS.glob('*.py'):
    names = imported(path)
    assert ('ml_collections' in names) <= (
      path.stem in ('config', 'commandline', 'values')
    )
    assert ('absl' in names) <= (path.stem in ('main', 'commandline'))


def test_training_never_imports_tensorflow():
  for path in HNS.glob('*.py'):
    assert 'tensorflow' not in imported(path)


def imported(path):
  """Names of the packages that a file imports, inside functions too."""
  return re.findall(r'^\s*(?:import|from) (\w+)', path.read_text(), re.M)
