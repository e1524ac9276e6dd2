"""CIFAR-10 at one bit both ways: 100 clients of two classes.

  python -m hns.main --config=cifar10 --workdir=runs/cifar10

LeNet, cut to 2 % of its weights, 40 training examples a client, 10 clients a
round. Round 80, seeds 0 to 2 (EDEN: 0), mean and sd; EDEN keeps 1 % of the
weights (launch/results/README.md has the other methods, and HideNseek with
2.7 % of the weights, 0.780 for 2.56 MB):

              held              personalised      global            both ways
  hidenseek   0.771 ± 0.005     0.760 ± 0.019     0.282 ± 0.045     1.93 MB
  eden        0.759             0.734             0.248             3.77 MB

Rates were chosen on validation examples (launch/results/tuning.md).
"""

from hns.config import base
from hns.runs.sweeps import cross, grid


def get_config():
  return base(
    dataset='cifar10',
    num_clients=100,
    examples_per_client=40,
    test_examples_per_client=100,
    model='lenet',
    density=0.02,
    rounds=80,
    eval_every=20,
    eval_clients=20,
    local_epochs=10,
    batch_size=20,
    hidenseek=dict(learning_rate=0.02, server_rate=2.0),
    eden=dict(learning_rate=0.001, optimizer='adam', pruned=True),
  )


def sweep():
  methods = grid({'algorithm': ['hidenseek']})
  methods += grid({'algorithm': ['eden'], 'density': [0.01]})
  return cross(grid({'seed': [0, 1, 2]}), methods)
