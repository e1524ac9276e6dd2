"""Fashion-MNIST at one bit both ways: 100 clients of two classes.

  python -m hns.main --config=fashion_mnist --workdir=runs/fashion

Two minutes on one core. LeNet, cut to 3 % of its weights, 40 training examples
a client. Round 80, seeds 0 to 2, mean and sd (launch/results/own.md); FedAvg's
and `local`'s rates are those of CIFAR-10:

              held              personalised      global    bytes both ways
  hidenseek   0.941 ± 0.003     0.947 ± 0.024     0.683     1.8 MB
  eden        0.948 ± 0.003     0.949 ± 0.030     0.650     7.2 MB
  fedavg      0.957 ± 0.004     0.958 ± 0.021     0.689     3.7 GB
  local       0.940 ± 0.006     0.943 ± 0.033     0.100     0
"""

from hns.config import base
from hns.runs.sweeps import cross, grid


def get_config():
  return base(
    dataset='fashion_mnist',
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
    hidenseek=dict(learning_rate=0.01, server_rate=4.0),
    fedavg=dict(learning_rate=0.001, optimizer='adam'),
    local=dict(learning_rate=0.001, optimizer='adam'),
    eden=dict(learning_rate=0.001, optimizer='adam', pruned=True),
  )


def sweep():
  names = ['hidenseek', 'fedavg', 'local', 'eden']
  return cross(grid({'seed': [0, 1, 2]}), grid({'algorithm': names}))
