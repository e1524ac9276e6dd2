"""The notebook runs top to bottom, and is committed as it ran."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

PATH = ROOT / 'launch' / 'explore.ipynb'
TINY = 'lambda classes: models.Network(classes, dense=(200,))'
SMALL = {  # and programs that other tests have compiled
  'config.devices = 1': "config.update({'devices': 1, 'upload': 'signs'})\n"
  'config.hidenseek.update(remember=False, download_bits=4)\n'
  f"models.MODELS['mlp'] = {TINY}",
  'digits.py': 'test.py',
  'DENSITIES = (0.01, 0.02, 0.05, 0.2, 1.0)': 'DENSITIES = (0.2,)',
  'SEEDS = 4': 'SEEDS = 2',
  'rounds=10': 'rounds=2',
  'range(10)': 'range(2)',
}


@pytest.fixture(scope='module')
def cells():
  notebook = json.loads(PATH.read_text())
  assert notebook['nbformat'] == 4
  return [c for c in notebook['cells'] if c['cell_type'] == 'code']


def test_it_runs_top_to_bottom(cells):
  """On a smaller federation; as Python, so without Jupyter's own display."""
  text = '\n'.join(''.join(cell['source']) for cell in cells)
  for whole, part in SMALL.items():
    assert text.count(whole) == 1
    text = text.replace(whole, part)
  done = subprocess.run(
    [sys.executable, '-W', 'ignore', '-c', text],
    cwd=PATH.parent,
    env={**os.environ, 'MPLBACKEND': 'agg'},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert 'personalised' in done.stdout


def test_it_is_committed_as_it_ran(cells):
  """Top to bottom in one go, with pictures, and small enough to read."""
  assert [c['execution_count'] for c in cells] == list(range(1, len(cells) + 1))
  outputs = [output for cell in cells for output in cell['outputs']]
  assert {output['output_type'] for output in outputs} <= {
    *('stream', 'display_data', 'execute_result')
  }
  assert all(output.get('name') != 'stderr' for output in outputs)
  pictures = [o for o in outputs if 'image/png' in o.get('data', {})]
  assert len(pictures) == 4 and PATH.stat().st_size < 1_000_000


def test_cells_are_short(cells):
  """What takes more lines belongs into the package."""
  for cell in cells[1:]:  # the first imports
    lines = [line for line in cell['source'] if line.strip()]
    assert len(lines) <= 15, ''.join(lines)
