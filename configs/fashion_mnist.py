"""Fashion-MNIST at one bit both ways: 100 clients of two classes.

  python -m hns.main --config=fashion_mnist --workdir=runs/fashion

Two minutes on one core. LeNet, cut to 3 % of its weights, 40 training examples
a client. Round 80, seeds 0 to 2, mean and sd (a run whose clients all take
part, with the rates tuned on MNIST: --config=benchmark --sweep=frontier):

  hidenseek                   held 0.944 ± 0.006   2.4 MB both ways
  eden, pruned to 2 %         held 0.948 ± 0.003   4.9 MB
  eden, pruned to 1 %         held 0.942 ± 0.003   2.5 MB
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
    hidenseek=dict(learning_rate=0.02, server_rate=2.0),
    fedavg=dict(learning_rate=0.001, optimizer='adam'),
    local=dict(learning_rate=0.001, optimizer='adam'),
    eden=dict(learning_rate=0.001, optimizer='adam', pruned=True),
  )


def sweep():
  names = ['hidenseek', 'fedavg', 'local', 'eden']
  return cross(grid({'seed': [0, 1, 2]}), grid({'algorithm': names}))
