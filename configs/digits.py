"""HideNseek on scikit-learn's digits: 20 clients of 2 classes, no download.

python -m hns.main
"""

from hns.config import base


def get_config():
  return base()
