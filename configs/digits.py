"""HideNseek on scikit-learn's digits: 20 clients of 2 classes, no download.

python -m hns.main

20 s on two cores. Round 30, seeds 0 to 2, mean and sd: personalised 0.987 ±
0.004, global 0.599 ± 0.067; 574 kB up, 2.26 MB down.
"""

from hns.config import base


def get_config():
  return base()
