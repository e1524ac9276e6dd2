"""Clients that lie, vanish or keep secrets: MNIST, 50 clients.

  python -m hns.main --config=failing --workdir=runs/failing

Dirichlet 1.0, 60 training examples a client, 20 clients a round. Half a minute
on one core. Results and pictures: launch/results/failing.md.
"""

from hns.config import base
from hns.runs.sweeps import cross, grid, zipped


def get_config():
  return base(
    dataset='mnist',
    partition='dirichlet',
    alpha=1.0,
    num_clients=50,
    examples_per_client=60,
    cohort=20,
    local_epochs=5,
    rounds=30,
    eval_every=30,
    eval_clients=20,
    hidenseek=dict(learning_rate=0.06, server_rate=4.0),
    fedavg=dict(learning_rate=0.1),
    signsgd=dict(learning_rate=0.003),
    eden=dict(learning_rate=0.003, optimizer='adam'),
  )


SEEDS = grid({'seed': [0, 1, 2]})
SIGNS = cross(
  grid({'algorithm': ['hidenseek']}),
  zipped({'upload': ['votes', 'change'], 'hidenseek.server_rate': [8.0, 4.0]}),
)


def hostile():
  """Shares of hostile clients, two attacks, with and without a rule."""
  rules = ['mean', 'median', 'clipped_mean']
  methods = (
    SIGNS
    + grid({'algorithm': ['signsgd']})
    + grid({'algorithm': ['fedavg'], 'server_rule': rules})
  )
  lies = grid({'hostile_clients': [5, 10, 20], 'attack': ['scaled', 'collude']})
  return cross(SEEDS, grid({'hostile_clients': [0]}) + lies, methods)


def dropping():
  """Shares of clients that vanish, at random or the slowest."""
  methods = grid({'algorithm': ['hidenseek', 'eden', 'fedavg']})
  shares = grid({'drop_share': [0.3, 0.6, 0.8], 'drop_slowest': [False, True]})
  return cross(SEEDS, grid({'drop_share': [0.0]}) + shares, methods)


def private():
  """Local privacy of signs, and central privacy of signs and of floats."""
  local = cross(SIGNS[:1], grid({'sign_epsilon': [0.25, 0.5, 1.0, 2.0, 4.0]}))
  # About the norms of what clients send in the first rounds.
  norms = cross(SIGNS[:1], grid({'clip_norm': [134.0]})) + grid(
    {'algorithm': ['fedavg'], 'clip_norm': [2.0]}
  )
  noise = grid({'noise_multiplier': [0.0, 0.01, 0.03, 0.1, 0.3]})
  central = cross(grid({'server_rule': ['private_mean']}), norms, noise)
  return cross(SEEDS, local + central)


SWEEPS = {'hostile': hostile, 'dropping': dropping, 'private': private}


def sweep():
  return hostile()
