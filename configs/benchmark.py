"""Every method in two settings on three datasets: the field side by side.

  python launch/sweep.py --config=configs/benchmark.py --workdir=runs/benchmark
  python -m hns.main --config=configs/benchmark.py:scarce-mnist-fedmask

A case is SETTING-DATASET-VARIANT. `scarce` is LotteryFL's setting made smaller:
100 clients, 10 a round, 2 classes of 20 pictures each (FEMNIST: a writer's 36).
`moderate` has the 30 clients of configs/mnist.py, cifar10.py and femnist.py.
`large` is `scarce` for an accelerator: 400 clients, LeNet or Conv4, 400 rounds;
its sweep is --sweep=large. --sweep=ablation tells what each choice in HideNseek
is worth. A run has taken 55 to 130 s of a core in `scarce` and 25 to 55 s in
`moderate`: on two cores one and a half to three and a half hours for the one,
about one for the other, about as long as for `scarce` for the tuning.
--filter=REGEX plays a part.

What configs/tuned.json holds was chosen on validation examples in `scarce`, for
all settings (launch/results/tuning.md), by

  python launch/sweep.py --config=configs/benchmark.py --sweep=tuning
  python launch/choose.py runs/benchmark-tuning/table.csv configs/tuned.json
"""

import json
import pathlib

from hns.config import base
from hns.errors import invalid
from hns.fields import fields_of
from hns.methods.recipes import RECIPES
from hns.runs.sweeps import cross, grid

_DEFAULT = ['scarce', 'mnist', 'hidenseek']

_SHARDS = dict(classes_per_client=2)
_WRITERS = dict(partition='natural', group='writer')
_SCARCE = dict(
  num_clients=100,
  examples_per_client=40,
  test_examples_per_client=100,
  rounds=80,
  eval_every=10,
  eval_clients=20,
  local_epochs=10,
  batch_size=20,
  density=0.2,
)
_MODERATE = dict(num_clients=30, rounds=20, eval_every=10, density=0.2)
_LARGE = dict(_SCARCE, num_clients=400, cohort=20, rounds=400, eval_every=20)

DATASETS = {
  'mnist': dict(_SHARDS, dataset='mnist'),
  'cifar10': dict(_SHARDS, dataset='cifar10'),
  'femnist': dict(_WRITERS, dataset='femnist'),
}
SETTINGS = {
  'scarce': {
    'mnist': _SCARCE,
    'cifar10': _SCARCE,
    'femnist': dict(_SCARCE, examples_per_client=36, batch_size=18),
  },
  'moderate': {
    'mnist': dict(_MODERATE, examples_per_client=60, local_epochs=10),
    'cifar10': dict(_MODERATE, examples_per_client=100),
    'femnist': dict(_MODERATE, examples_per_client=100),
  },
  'large': {
    'mnist': dict(_LARGE, model='lenet'),
    'cifar10': dict(_LARGE, model='conv4'),
    'femnist': dict(
      _LARGE, model='lenet', examples_per_client=36, batch_size=18
    ),
  },
}
# What a variant changes: its algorithm, then fields of that one's table.
VARIANTS = {
  # Trained as `fedavg_finetuned`, `fedavg` has the same global model.
  **{name: (name, {}) for name in RECIPES if name != 'fedavg'},
  'hidenseek': ('hidenseek', dict(upload='change')),
  'hidenseek_paper': ('hidenseek', dict(upload='signs')),
  'hidenseek_ternary': ('hidenseek', dict(upload='ternary')),
  'hidenseek_binary': ('hidenseek', dict(upload='change', gate='binary')),
  'hidenseek_personal': ('hidenseek_personal', dict(upload='change')),
  'signsgd_pruned': ('signsgd', dict(pruned=True)),
  'fedmask_sparse': ('fedmask', dict(target=0.2)),
  'fedmask_change': ('fedmask', dict(target=0.2, upload='change')),
}
# Four trials a variant, of float weights with both optimisers; LotteryFL and
# FedMask have more, because the best of four lay at an edge.
_SIGNS = [dict(learning_rate=rate) for rate in (0.01, 0.02, 0.03, 0.06)]
_FLOATS = [
  dict(learning_rate=rate, optimizer=name)
  for name, rates in (('adam', (0.001, 0.003)), ('sgd', (0.05, 0.1)))
  for rate in rates
]
_BOTH = _FLOATS[1::2]  # the higher rate of each
_PULLED = [trial | dict(pull=pull) for trial in _BOTH for pull in (0.01, 0.3)]
_CUT = [
  trial | dict(threshold=share) for trial in _BOTH for share in (0.2, 0.5)
]
# Its own paper's targets are 0.1 (MNIST) and 0.5 (CIFAR-10).
_REWOUND = [
  trial | dict(threshold=0.5, target=share)
  for trial in _BOTH
  for share in (0.1, 0.5)
]
_REWOUND += [trial | dict(threshold=0.5, target=0.5) for trial in _FLOATS[::2]]
_SPARSE = [dict(learning_rate=rate) for rate in (0.06, 0.1, 0.2, 0.4)]
TRIALS = {
  **{
    variant: _FLOATS if 'optimizer' in fields_of(RECIPES[name]) else _SIGNS
    for variant, (name, _) in VARIANTS.items()
  },
  **dict.fromkeys(['fedprox', 'ditto'], _PULLED),
  'lotteryfl': _REWOUND,
  'hermes': _CUT,
  **dict.fromkeys(['fedmask_sparse', 'fedmask_change'], _SPARSE),
  'fedmask': [
    trial | dict(target=target)
    for target in (0.5, 0.8, 0.95)
    for trial in _SIGNS
  ],
  'fedpm': [dict(learning_rate=rate) for rate in (0.03, 0.1, 0.3, 1.0)],
}
# What was chosen on the second serves the first.
_LIKE = {'mnist': 'cifar10'}
_FILE = pathlib.Path(__file__).with_name('tuned.json')
TUNED = json.loads(_FILE.read_text()) if _FILE.exists() else {}


def get_config(case=''):
  words = case.split('-') if case else []
  setting, dataset, variant = words + _DEFAULT[len(words) :]
  try:
    fields = DATASETS[dataset] | SETTINGS[setting][dataset]
    algorithm, table = VARIANTS[variant]
  except KeyError as error:
    known = ', '.join([*SETTINGS, *DATASETS, *VARIANTS])
    remedy = f'there is no {error}: SETTING-DATASET-VARIANT, of {known}'
    raise invalid('case', case, remedy) from error
  tuned = TUNED.get(f'scarce-{_LIKE.get(dataset, dataset)}-{variant}', {})
  table = {**table, **tuned}
  return base(algorithm=algorithm, **fields, **{algorithm: table})


def cases(settings, datasets=DATASETS):
  return [
    f'{setting}-{dataset}-{variant}'
    for setting in settings
    for dataset in datasets
    for variant in VARIANTS
  ]


def runs(*settings):
  return grid({'config': cases(settings), 'seed': [0, 1, 2]})


def tuning():
  """Whole runs, judged at their end on validation examples."""
  datasets = [name for name in DATASETS if name not in _LIKE]
  return [
    {
      'config': case,
      'eval_split': 'validation',
      'eval_every': _SCARCE['rounds'],
      **{f'{algorithm}.{name}': value for name, value in trial.items()},
    }
    for case in cases(['scarce'], datasets)
    for variant in [case.split('-')[2]]
    for algorithm in [VARIANTS[variant][0]]
    for trial in TRIALS[variant]
  ]


def ablation():
  """What each choice is worth: the upload, the gate, restarts, the pruning."""
  names = [name for name in VARIANTS if name.startswith('hidenseek')]
  scores = [{'pruning': 'random'}, {'pruning': 'magnitude'}]
  scores += [{'pruning_steps': 1}]
  sparse = [{'density': 0.05, **score} for score in [{}, *scores]]
  return cross(
    grid({'config': [f'scarce-femnist-{name}' for name in names]})
    + cross([{'config': 'scarce-femnist-hidenseek'}], scores + sparse),
    grid({'seed': [0, 1, 2]}),
  )


def sweep():
  return runs('scarce', 'moderate')


SWEEPS = {
  'tuning': tuning,
  'ablation': ablation,
  'large': lambda: runs('large'),
}
