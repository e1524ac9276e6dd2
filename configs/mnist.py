"""MNIST at one bit both ways: 100 clients of two classes.

  python -m hns.main --config=mnist --workdir=runs/mnist

LeNet, cut to 3 % of its weights, 40 training examples a client, 10 clients a
round. Round 80, seeds 0 to 2, mean and sd; EDEN keeps 1 % of the weights, for a
third more bytes (launch/results/README.md has the other methods):

              held              personalised      global            both ways
  hidenseek   0.985 ± 0.002     0.982 ± 0.003     0.853 ± 0.045     1.94 MB
  eden        0.976 ± 0.003     0.973 ± 0.006     0.753 ± 0.080     2.56 MB

Rates were chosen on CIFAR-10's validation examples (launch/results/tuning.md).
"""

from hns.config import base
from hns.runs.sweeps import cross, grid


def get_config():
  return base(
    dataset='mnist',
    num_clients=100,
    examples_per_client=40,
    test_examples_per_client=100,
    model='lenet',
    density=0.03,
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
