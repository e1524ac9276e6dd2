"""Protocols of other papers, so that numbers can stand beside theirs.

  python -m hns.main --config=configs/published.py:fedmrn-dirichlet-fedbat
  python launch/sweep.py --config=configs/published.py --workdir=runs/published

A case is PROTOCOL-METHOD. `fedmrn-dirichlet` and `fedmrn-labels` are of FedMRN
and FedBAT (arXiv 2408.03220, 2408.03215): Fashion-MNIST, 100 clients, 10 a
round, 10 epochs of batches of 64, 100 rounds, Dirichlet 0.3 or 3 labels a
client; SGD at 0.1 (FedAvg's at 0.03, as in FedMRN's published scripts),
downloads of 32 bits. FedMRN's noise is as large as weights are drawn. Their
network has BatchNorm, biasless convolutions of 32, 64, 128 and 256 channels and
weights drawn with a deviation of 0.01; ours has the same widths, RMS norm and
He's draw, and 2x2 pooling leaves out odd rows. `pfed1bs` is of pFed1BS (arXiv
2511.13144): 20 clients by label, all in every round, a multilayer perceptron on
MNIST. Ours, as its text was not to be had in full: examples, epochs, batches
and rounds. What these papers report is the global model's accuracy, for pFed1BS
the personal models'.

Of these, one seed each was played: of `pfed1bs` all; of `fedmrn-dirichlet`
FedMRN, 100 rounds, and FedAvg, EDEN and FedBAT, 25 (launch/results/README.md).
A round of the latter takes a minute of a core.
"""

from hns.config import base
from hns.errors import invalid
from hns.networks import models
from hns.runs.sweeps import grid


def cnn4(classes):
  """Four 3x3 convolutions, each with pooling, as FedMRN's and FedBAT's CNN."""
  convs = tuple((width, 3, 1, True) for width in (32, 64, 128, 256))
  return models.Network(classes, convs)


models.MODELS['cnn4'] = cnn4

_FEDMRN = dict(
  dataset='fashion_mnist',
  model='cnn4',
  num_clients=100,
  examples_per_client=600,
  validation_fraction=0.0,
  rounds=100,
  local_epochs=10,
  batch_size=64,
  eval_every=10,
  eval_clients=20,
  eval_held=False,
  download_bits=32,
)
PROTOCOLS = {
  'fedmrn-dirichlet': dict(_FEDMRN, partition='dirichlet', alpha=0.3),
  'fedmrn-labels': dict(_FEDMRN, partition='shards', classes_per_client=3),
  'pfed1bs': dict(
    dataset='mnist',
    model='mlp',
    num_clients=20,
    cohort=20,
    examples_per_client=1000,
    validation_fraction=0.0,
    rounds=100,
    local_epochs=1,
    batch_size=64,
    eval_every=10,
  ),
}
_RATE = dict(learning_rate=0.1)
METHODS = {
  'fedavg': dict(learning_rate=0.03),
  'signsgd': dict(_RATE, optimizer='sgd', feedback=False),
  'eden': _RATE,
  'fedmrn': dict(_RATE, noise=1.0),
  'fedbat': _RATE,
  'hidenseek': dict(learning_rate=0.01),
  'pfed1bs': _RATE,
}


def get_config(case='fedmrn-dirichlet-fedmrn'):
  protocol, _, method = case.rpartition('-')
  if protocol not in PROTOCOLS or method not in METHODS:
    known = ', '.join([*PROTOCOLS, *METHODS])
    raise invalid('case', case, f'must be PROTOCOL-METHOD, of {known}')
  table = {method: METHODS[method]}
  return base(algorithm=method, **PROTOCOLS[protocol], **table)


def sweep():
  cases = [f'{p}-{m}' for p in PROTOCOLS for m in METHODS]
  return grid({'config': cases, 'seed': [0, 1, 2]})
