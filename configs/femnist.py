"""FEMNIST at one bit both ways: 100 writers.

  python -m hns.main --config=femnist --workdir=runs/femnist

LeNet, cut to 6 % of its weights, at most 36 training examples a writer, 10
writers a round. Three values for a change: up, down, none (`ternary`). Clients'
learning rates fall by 2 % a round. Round 80, seeds 0 to 2, mean and sd; EDEN
keeps 1 % of the weights (launch/results/README.md has the other methods):

              held              personalised      global            both ways
  hidenseek   0.661 ± 0.006     0.640 ± 0.056     0.643 ± 0.018     2.34 MB
  eden        0.649 ± 0.028     0.658 ± 0.042     0.633 ± 0.009     2.34 MB

Rates were chosen on validation examples (launch/results/tuning.md).

TFDS has no FEMNIST: python -m hns.data.femnist --json=FOLDER prepares it from
LEAF's files. Any dataset of that name prepared as array_record will do that has
the features image, label and writer and the splits train and test.
"""

from hns.config import base
from hns.runs.sweeps import cross, grid


def get_config():
  return base(
    dataset='femnist',
    partition='natural',
    group='writer',
    num_clients=100,
    examples_per_client=36,
    test_examples_per_client=100,
    model='lenet',
    density=0.06,
    rounds=80,
    eval_every=20,
    eval_clients=20,
    local_epochs=10,
    batch_size=18,
    rate_decay=0.98,
    upload='ternary',
    hidenseek=dict(learning_rate=0.01, server_rate=4.0),
    eden=dict(learning_rate=0.4, pruned=True),
  )


def sweep():
  methods = grid({'algorithm': ['hidenseek']})
  methods += grid({'algorithm': ['eden'], 'density': [0.01]})
  return cross(grid({'seed': [0, 1, 2]}), methods)
