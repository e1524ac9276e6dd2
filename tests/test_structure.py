"""The architecture: what may import what, as `hns/__init__.py` lists it."""

import ast
import graphlib
import pathlib
import re

import pytest

import hns

HNS = pathlib.Path(hns.__file__).parent
FILES = sorted(HNS.rglob('*.py'))
# In the order of the list: folders, and files beside them.
ORDER = re.findall(r'^  (\w+)(?:/|\.py) ', hns.__doc__, re.M)


def place(path):
  """The folder, or the file beside folders, that a file belongs to."""
  return path.relative_to(HNS).parts[0].removesuffix('.py')


def imports(path):
  """Dotted names of what a file imports of hns, inside functions too."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom) and node.module == 'hns':
      yield from (f'hns.{alias.name}' for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and (node.module or '')[:4] == 'hns.':
      yield node.module
      yield from (f'{node.module}.{alias.name}' for alias in node.names)


def test_the_list_names_all_there_is():
  there = {place(path) for path in FILES} - {'__init__'}
  assert set(ORDER) == there and len(ORDER) == len(there)
  folders = {place(path) for path in FILES if path.parent != HNS}
  assert len(folders) <= 8


@pytest.mark.parametrize(
  'path', FILES, ids=lambda path: str(path.relative_to(HNS))
)
def test_imports_go_up_the_list(path):
  if place(path) == '__init__':
    return
  allowed = ORDER[: ORDER.index(place(path)) + 1]
  for name in imports(path):
    assert name.split('.')[1] in (*allowed, '__version__'), name


def test_no_files_import_each_other():
  names = {
    '.'.join(('hns', *path.relative_to(HNS).with_suffix('').parts)): path
    for path in FILES
  }
  graph = {
    name: {found for found in imports(path) if found in names} - {name}
    for name, path in names.items()
  }
  list(graphlib.TopologicalSorter(graph).static_order())  # else CycleError


def test_few_files_see_a_config_or_flags():
  for path in FILES:
    packages = imported(path)
    assert ('ml_collections' in packages) <= (
      path.stem in ('config', 'commandline', 'values')
    )
    assert ('absl' in packages) <= (
      path.stem in ('command', 'commandline') or 'def main(' in path.read_text()
    )


def test_commands_take_absl_flags_of_their_own():
  """Not global ones, which a process could define only once."""
  for path in [*FILES, *(HNS.parent / 'launch').glob('*.py')]:
    assert 'argparse' not in imported(path)
    assert not re.search(r'^\S.*flags\.DEFINE', path.read_text(), re.M), path


def test_training_never_imports_tensorflow():
  for path in FILES:
    assert 'tensorflow' not in imported(path)


def imported(path):
  """Names of the packages that a file imports, inside functions too."""
  return re.findall(r'^\s*(?:import|from) (\w+)', path.read_text(), re.M)


def test_no_transport_is_known_here():
  """A federation's messages travel by what `launch/flower` brings."""
  assert not [path for path in FILES if 'flwr' in imported(path)]
