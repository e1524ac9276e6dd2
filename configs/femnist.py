"""HideNseek on FEMNIST: 30 writers, at most 100 training examples each.

  python -m hns.main --config=configs/femnist.py --workdir=runs/femnist

Two minutes on one core. Round 40, seeds 0 to 2, mean and sd, 105 writers to
draw from: personalised 0.732 ± 0.026, global 0.743 ± 0.016; 6.1 MB up, 20.6 MB
down.
Bytes are of version 0.4: uploads are entropy coded since.
LeNet at density 0.2 sends fewer weights than the `cnn` at density 1, and is
four points better (launch/results/search.md).

TFDS has no FEMNIST: python -m hns.data.femnist --json=FOLDER prepares it from
LEAF's files. Any dataset of that name prepared as array_record will do that has
the features image, label and writer and the splits train and test.

Learning rates were chosen on the clients' validation examples
(--config.eval_split=validation), seed 0, as launch/results/search.md says.
"""

from hns.config import base
from hns.runs.sweeps import cross, grid


def get_config():
  return base(
    dataset='femnist',
    partition='natural',
    group='writer',
    num_clients=30,
    examples_per_client=100,
    model='lenet',
    density=0.2,
    rounds=40,
    hidenseek=dict(
      learning_rate=0.03, download_bits=4, remember=False, server_rate=2.0
    ),
    fedavg=dict(learning_rate=0.05),
    local=dict(learning_rate=0.1),
    signsgd=dict(learning_rate=0.1, optimizer='sgd'),
  )


def sweep():
  return cross(
    grid({'seed': [0, 1, 2]}),
    grid({'algorithm': ['fedavg', 'local']})
    + grid({'algorithm': ['signsgd'], 'signsgd.pruned': [False, True]})
    + grid({'upload': ['signs', 'change', 'ternary']})
    + grid(
      {
        'upload': ['change'],
        'hidenseek.download_bits': [1],
        'hidenseek.learning_rate': [0.015],
      }
    ),
  )
