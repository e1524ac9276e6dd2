"""HideNseek on FEMNIST: 30 writers, at most 100 training examples each.

  python -m hns.main --config=configs/femnist.py --workdir=runs/femnist

TFDS has no FEMNIST: any dataset of that name prepared as array_record will do
that has the features image, label and writer and the splits train and test.
"""

from hns.config import base


def get_config():
  return base(
    dataset='femnist',
    partition='natural',
    group='writer',
    num_clients=30,
    examples_per_client=100,
    density=1.0,
    rounds=40,
    hidenseek=dict(learning_rate=0.03),
    fedavg=dict(learning_rate=0.1),
    local=dict(learning_rate=0.2),
  )
