"""Every method in two settings: the field side by side.

  python launch/sweep.py --config=configs/benchmark.py --sweep=frontier
  python launch/sweep.py --config=configs/benchmark.py --workdir=runs/benchmark
  python -m hns.main --config=configs/benchmark.py:scarce-mnist-fedmask

--sweep=frontier has what counts where few bytes may travel: `WIDE` variants,
LeNet pruned to a few percent, and `NARROW` ones, which have the `cnn`. The
other sweeps give all methods one small network and four bits down.

A case is SETTING-DATASET-VARIANT. `scarce` is LotteryFL's setting made smaller:
100 clients, 10 a round, 2 classes of 20 pictures each (FEMNIST: a writer's 36).
`moderate` has 30 clients of 60 to 100 pictures each.
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
# Of the frontier as well: settings as the one named.
MORE_DATASETS = {
  'fashion': (dict(_SHARDS, dataset='fashion_mnist'), 'mnist'),
  'cifar100': (
    dict(dataset='cifar100', partition='shards', classes_per_client=10),
    'cifar10',
  ),
  'uneven01': (
    dict(dataset='cifar10', partition='dirichlet', alpha=0.1),
    'cifar10',
  ),
  'uneven03': (
    dict(dataset='cifar10', partition='dirichlet', alpha=0.3),
    'cifar10',
  ),
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
_FOUR_DOWN = dict(server_rate=2.0, remember=False, download_bits=4)
# What a variant changes: its algorithm, then fields of that one's table.
VARIANTS = {
  # Trained as `fedavg_finetuned`, `fedavg` has the same global model.
  **{name: (name, {}) for name in RECIPES if name != 'fedavg'},
  'hidenseek': ('hidenseek', dict(_FOUR_DOWN, upload='change')),
  'hidenseek_paper': ('hidenseek', dict(_FOUR_DOWN, upload='signs')),
  'hidenseek_ternary': ('hidenseek', dict(_FOUR_DOWN, upload='ternary')),
  'hidenseek_binary': (
    'hidenseek',
    dict(_FOUR_DOWN, upload='change', gate='binary'),
  ),
  'hidenseek_personal': (
    'hidenseek_personal',
    dict(_FOUR_DOWN, upload='change'),
  ),
  'signsgd_pruned': ('signsgd', dict(pruned=True)),
  'fedmask_sparse': ('fedmask', dict(target=0.2)),
  'fedmask_change': ('fedmask', dict(target=0.2, upload='change')),
}
_ONE_BIT = 'eden fedmrn fedbat fedbif'.split()
# LeNet, pruned to a few percent of its weights.
_PRUNED = dict(pruned=True)
WIDE = {
  'wide': ('hidenseek', dict(upload='change')),
  'wide_ternary': ('hidenseek', dict(upload='ternary')),
  'wide_binary': ('hidenseek', dict(upload='change', gate='binary')),
  'wide_personal': ('hidenseek_personal', dict(upload='change')),
  'wide_signsgd': ('signsgd', _PRUNED),
  'wide_doublesqueeze': ('doublesqueeze', _PRUNED),
  'wide_majority_vote': ('majority_vote', _PRUNED),
  'wide_ssfl': ('ssfl', {}),
  **{f'wide_{name}': (name, _PRUNED) for name in _ONE_BIT},
}
# About 0.8 to 8 MB in `scarce`, both ways.
DENSITIES = [0.01, 0.0145, 0.02, 0.03, 0.1]
# Not pruned by the server: on the `cnn`, the smallest network here that learns.
NARROW = ['pfed1bs', 'fedmask']
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
_SERVER = [
  dict(learning_rate=rate, server_rate=server)
  for rate in (0.01, 0.02)
  for server in (2.0, 4.0)
]
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
  **dict.fromkeys(['wide', 'wide_ternary', 'wide_binary'], _SERVER),
  'wide_ssfl': _FLOATS,
  'wide_signsgd': [
    trial | dict(download_bits=bits) for trial in _BOTH for bits in (2, 4)
  ],
  'wide_doublesqueeze': [
    trial | dict(step=step) for trial in _BOTH for step in (0.1, 0.2)
  ]
  + [_BOTH[1] | dict(step=0.4)],
  'wide_majority_vote': [
    trial | dict(step=step) for trial in _BOTH for step in (0.1, 0.3)
  ],
  'fedmrn': [
    trial | dict(noise=size) for trial in _BOTH for size in (0.1, 0.5)
  ],
  'fedbif': [
    dict(learning_rate=rate, optimizer=name)
    for name, rate in (
      *(('adam', 0.001), ('adam', 0.003)),
      *(('sgd', 0.01), ('sgd', 0.03)),
    )
  ],
  'pfed1bs': [
    trial | dict(pull=pull) for trial in _BOTH for pull in (5e-4, 5e-3)
  ],
}
TRIALS |= {f'wide_{name}': TRIALS[name] for name in _ONE_BIT}


def _falling(trial, *factors):
  """From so many times the rate of a trial, falling by 2 % a round."""
  return [
    trial | dict(learning_rate=x * trial['learning_rate'], rate_decay=0.98)
    for x in factors
  ]


_SGD = _BOTH[1]
_HIGHER = _SGD | dict(learning_rate=0.2)
# On FEMNIST also rates that fall, from the best rate and from twice it, from
# higher ones where the best lay at an edge. At a density of 0.03 two of
# `wide_ternary` differ by 0.002. On CIFAR-10 HideNseek was worse by 0.027.
_MORE = {
  'wide': _falling(_SERVER[1], 1, 2),
  'wide_ternary': [
    trial | of_run
    for of_run in ({}, dict(density=0.1))
    for trial in _falling(_SERVER[1], 1, 2)
  ],
  'wide_eden': [*_falling(_SGD, 1, 2, 4, 8), _HIGHER],
  'wide_fedbat': [*_falling(_SGD, 1, 2), _HIGHER],
  'wide_signsgd': _falling(_SGD | dict(download_bits=4), 1, 2),
  'wide_doublesqueeze': _falling(_SGD | dict(step=0.2), 1, 2),
  'fedavg_finetuned': _falling(_SGD, 1, 2, 4),
  'fedprox': _falling(_SGD | dict(pull=0.3), 1, 2),
  'ditto': _falling(_SGD | dict(pull=0.3), 1, 2),
}
# What was chosen on the second serves the first, but for what is tuned there:
# CIFAR-10's values made EDEN worse by 0.04 on CIFAR-100's validation examples.
_LIKE = {
  'mnist': 'cifar10',
  'fashion': 'cifar10',
  **dict.fromkeys(['cifar100', 'uneven01', 'uneven03'], 'cifar10'),
}
_TUNED_THERE = {
  'fashion': ['wide', 'wide_eden'],
  'cifar100': ['wide', 'wide_eden', 'wide_fedbat'],
}
# Not tuned by itself: has the values of the variant named.
_TUNED_AS = {'wide_personal': 'wide'}
# What trials set beside fields of a method's table, and its usual values.
_OF_RUN = {'density': 0.03, 'rate_decay': 1.0}
_FILE = pathlib.Path(__file__).with_name('tuned.json')
TUNED = json.loads(_FILE.read_text()) if _FILE.exists() else {}


def get_config(case=''):
  words = case.split('-') if case else []
  setting, dataset, variant = words + _DEFAULT[len(words) :]
  try:
    fields, like = MORE_DATASETS.get(dataset) or (DATASETS[dataset], dataset)
    fields = fields | SETTINGS[setting][like]
    algorithm, table = (VARIANTS | WIDE)[variant]
  except KeyError as error:
    known = ', '.join([*SETTINGS, *DATASETS, *MORE_DATASETS, *VARIANTS, *WIDE])
    remedy = f'there is no {error}: SETTING-DATASET-VARIANT, of {known}'
    raise invalid('case', case, remedy) from error
  own, other = (
    f'scarce-{name}-{_TUNED_AS.get(variant, variant)}'
    for name in (dataset, _LIKE.get(dataset, dataset))
  )
  if variant in WIDE:
    fields |= dict(model='lenet', density=0.03)
  tuned = TUNED.get(own, TUNED.get(other, {}))
  fields |= {name: tuned[name] for name in _OF_RUN if name in tuned}
  table = table | {k: v for k, v in tuned.items() if k not in _OF_RUN}
  return base(algorithm=algorithm, **fields, **{algorithm: table})


def cases(settings, datasets=DATASETS, variants=VARIANTS):
  return [
    f'{setting}-{dataset}-{variant}'
    for setting in settings
    for dataset in datasets
    for variant in variants
  ]


def runs(*settings):
  return grid({'config': cases(settings), 'seed': [0, 1, 2]})


def frontier():
  """Few bytes both ways: wide networks at several densities, and rivals."""
  datasets = [*DATASETS, *MORE_DATASETS]
  wide = cases(['scarce'], datasets, WIDE)
  narrow = cases(['scarce'], datasets, NARROW)
  return cross(
    grid({'config': wide, 'density': DENSITIES}) + grid({'config': narrow}),
    grid({'seed': [0, 1, 2]}),
  )


def tuning():
  """Whole runs, judged at their end on validation examples."""
  datasets = [name for name in DATASETS if name not in _LIKE]
  tuned = cases(['scarce'], datasets, [*VARIANTS, *WIDE])
  for dataset, variants in _TUNED_THERE.items():
    tuned += cases(['scarce'], [dataset], variants)
  return [
    {
      'config': case,
      'eval_split': 'validation',
      'eval_every': _SCARCE['rounds'],
      **{
        name if name in _OF_RUN else f'{algorithm}.{name}': value
        for name, value in trial.items()
      },
    }
    for case in tuned
    for dataset, variant in [case.split('-')[1:]]
    if variant not in _TUNED_AS
    for algorithm in [(VARIANTS | WIDE)[variant][0]]
    for trial in _trials(dataset, variant)
  ]


def _trials(dataset, variant):
  """What one sets of the run, all do: a case has the tuned values already."""
  more = _MORE.get(variant, []) if dataset == 'femnist' else []
  found = TRIALS[variant] + more
  of_run = [name for name in _OF_RUN if any(name in trial for trial in found)]
  return [{name: _OF_RUN[name] for name in of_run} | trial for trial in found]


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
  'frontier': frontier,
  'tuning': tuning,
  'ablation': ablation,
  'large': lambda: runs('large'),
}
