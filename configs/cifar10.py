"""HideNseek on CIFAR-10: 30 clients of 2 classes, 100 examples each.

python -m hns.main --config=configs/cifar10.py --workdir=runs/cifar10

65 s on two cores. Round 40, seeds 0 to 2, mean and sd, on a JPEG copy of the
pictures: personalised 0.815 ± 0.010, global 0.289 ± 0.012; 4.52 MB up, 15.6 MB
down.
Bytes are of version 0.4: uploads are entropy coded since.

Learning rates were chosen on the clients' validation examples
(--config.eval_split=validation), seed 0: of 0.02, 0.05, 0.1, 0.2 for fedavg and
local; for the others see launch/results/search.md.
"""

from hns.config import base
from hns.runs.sweeps import cross, grid


def get_config():
  return base(
    dataset='cifar10',
    num_clients=30,
    examples_per_client=100,
    density=1.0,
    rounds=40,
    hidenseek=dict(
      learning_rate=0.03, download_bits=4, remember=False, server_rate=2.0
    ),
    fedavg=dict(learning_rate=0.05),
    local=dict(learning_rate=0.02),
    signsgd=dict(learning_rate=0.003),
  )


def sweep():
  return cross(
    grid({'seed': [0, 1, 2]}),
    grid({'algorithm': ['fedavg', 'local', 'signsgd']})
    + grid({'upload': ['signs', 'change']})
    + grid({'upload': ['ternary'], 'hidenseek.learning_rate': [0.02]})
    + grid({'upload': ['change'], 'hidenseek.download_bits': [1]}),
  )
