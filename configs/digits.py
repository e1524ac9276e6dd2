"""HideNseek on scikit-learn's digits: 20 clients of 2 classes, no download.

python -m hns.main

Half a minute on two cores. README.md says what it ends with, and that another
kind of processor ends with other numbers, because rounding flips signs.
"""

from hns.config import base
from hns.runs.sweeps import cross, grid


def get_config():
  return base()


def sweep():
  return cross(
    grid({'seed': [0, 1, 2]}),
    grid({'algorithm': ['fedavg', 'local']})
    + grid({'upload': ['signs', 'change', 'ternary']}),
  )
