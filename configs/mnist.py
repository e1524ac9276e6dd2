"""HideNseek on MNIST: 30 clients of 2 classes, 60 training examples each.

python -m hns.main --config=configs/mnist.py --workdir=runs/mnist
"""

from hns.config import base


def get_config():
  return base(
    dataset='mnist',
    num_clients=30,
    examples_per_client=60,
    local_epochs=10,
    hidenseek=dict(learning_rate=0.06),
    fedavg=dict(learning_rate=0.02),
    local=dict(learning_rate=0.05),
  )
