"""HideNseek on CIFAR-10: 30 clients of 2 classes, 100 examples each.

python -m hns.main --config=configs/cifar10.py --workdir=runs/cifar10
"""

from hns.config import base


def get_config():
  return base(
    dataset='cifar10',
    num_clients=30,
    examples_per_client=100,
    density=1.0,
    rounds=40,
    hidenseek=dict(learning_rate=0.015),
    fedavg=dict(learning_rate=0.05),
    local=dict(learning_rate=0.02),
  )
