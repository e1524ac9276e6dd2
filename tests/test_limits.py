"""What a field takes, from Python: its type, its range, what fits it."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from hns import config as configs
from hns.data import partition
from hns.errors import InputError
from hns.methods import recipes
from hns.runs import experiment, limits, sweeps


def test_python_gets_the_same_errors():
  with pytest.raises(InputError, match='config.densty: .* mean density'):
    configs.base(densty=1.0)
  with pytest.raises(InputError, match="rounds='many': must be a whole number"):
    configs.base(rounds='many')
  with pytest.raises(InputError, match='hidenseek=5: is a table'):
    configs.base(hidenseek=5)
  config = configs.base(fedavg={'learning_rate': 1, 'depth': 2})
  assert config.fedavg.to_dict() == {
    'learning_rate': 1.0,
    'optimizer': 'sgd',
    'depth': 2,
  }
  said = "fedavg={'depth': 2}: no such field; fedavg takes learning_rate, opt"
  with pytest.raises(InputError, match=said):
    limits.validate(config)


FIELDS = configs.leaves(configs.base().to_dict())


@pytest.mark.parametrize('field', FIELDS)
def test_a_field_takes_only_its_type(field):
  """From Python, at once; set later, when it is validated."""
  *table, name = field.split('.')
  like = FIELDS[field]
  wrong = [None, [1], {'a': 1}, np.ones((2, 2)), 3 + 1j]
  wrong += [3 if isinstance(like, str) else 'x']
  wrong += [1 if isinstance(like, bool) else True]
  wrong += [1.5] * (not isinstance(like, float))
  wrong += [float('nan'), 10**400] * isinstance(like, float)
  for value in wrong:
    fields = {table[0]: {name: value}} if table else {name: value}
    said = rf'^(\w+\.)?{name}=.*: must be '
    with pytest.raises(InputError, match=said) as error:
      configs.base(**fields)
    assert '\n' not in str(error.value)
  config = configs.base()
  (config[table[0]] if table else config)[name] = None
  with pytest.raises(InputError, match=rf'^(\w+\.)?{name}=None: must be '):
    limits.validate(config)


COUNTS = [name for name, value in FIELDS.items() if type(value) is int]


@pytest.mark.parametrize('field', COUNTS)
def test_what_does_not_fit_32_bits_is_refused(field):
  *table, name = field.split('.')
  algorithm = table[0] if table else 'hidenseek'
  for value in (-1, 2**32, 2**63, 2**64):
    fields = {table[0]: {name: value}} if table else {name: value}
    with pytest.raises(InputError, match=rf'^(\w+\.)?{name}={value}: must be '):
      limits.validate(configs.base(**fields | {'algorithm': algorithm}))


@pytest.mark.parametrize(
  'fields,said',
  [
    (dict(rounds=2**31), 'rounds=2147483648: must be below 2147483648'),
    (dict(local_epochs=2**30), 'local_epochs=1073741824: .* 53687091200 exam'),
    (dict(local_epochs=42949673), 'local_epochs=42949673: .* 2147483650 exam'),
    (dict(local_steps=2**28), 'local_steps=268435456: .* 2684354560 exampl'),
    (dict(pruning_steps=10**6), 'pruning_steps=1000000: must be below 10000'),
    (dict(num_clients=5), 'cohort=10: cannot be above num_clients=5'),
    (dict(hidenseek={'learning_rate': 1e-50}), '.*=1e-50: .* also in 32 bits'),
    (dict(hidenseek={'learning_rate': 1e50}), '.*=1e.50: .* also in 32 bits'),
    (dict(validation_fraction=1 - 1e-12), '.*=0.99999.*: .* also in 32 bits'),
    (dict(model='a\nb'), r"model='a\\nb': choose one of"),
    (dict(mine={}, algorithm='mine'), 'config.mine.learning_rate: is missing'),
    (dict(mine=3), 'mine=3: is a table'),
    (
      dict(mine={'learning_rate': 1, 'x': 2}),
      "mine={'x': 2}: .* learning_rate$",
    ),
    (
      dict(mine={'learning_rate': None}, algorithm='mine'),
      'mine.learning_rate=None: must be a number',
    ),
    (dict(algorithm='mine'), 'config.mine.learning_rate: is missing'),
  ],
)
def test_what_no_run_can_have_is_named(monkeypatch, fields, said):
  def mine(network, learning_rate: recipes.Rate):
    pytest.fail('is not to be built')

  monkeypatch.setitem(configs.RECIPES, 'mine', mine)
  with pytest.raises(InputError, match='^' + said):
    limits.validate(configs.base(**fields))


def test_a_config_that_lacks_a_field_is_refused():
  config = configs.base()
  del config.rounds
  with pytest.raises(InputError, match='config.rounds: is missing'):
    limits.validate(config)
  config = configs.base()
  del config.lotteryfl.share
  with pytest.raises(InputError, match='lotteryfl.share: is missing'):
    limits.validate(config)


def test_scalars_of_numpy_and_jax_are_numbers():
  config = configs.base(
    rounds=np.int64(3),
    density=np.float32(0.5),
    eval_held=np.bool_(False),
    model=np.str_('mlp'),
    alpha=jnp.float32(2),
    seed=np.array(4),
    fedavg={'learning_rate': np.float64(1)},
  )
  limits.validate(config)
  held = json.loads(config.to_json())
  assert (held['rounds'], held['density'], held['seed']) == (3, 0.5, 4)
  assert held['eval_held'] is False and held['model'] == 'mlp'
  assert held['alpha'] == 2.0 and held['fedavg']['learning_rate'] == 1.0


@pytest.mark.parametrize('name', ['iid', 'shards', 'dirichlet'])
@pytest.mark.parametrize('each', [0, 1])
def test_more_clients_than_examples_end_at_once(name, each):
  """Before anything is drawn for each of them."""
  held = partition.Labelled(np.zeros(9, int), np.zeros(0, int))
  scheme = partition.Scheme(2**31 - 1, each, 1, 0.5, 0.2, 5)
  with pytest.raises(InputError, match='num_clients=2147483647: .* are 9$'):
    partition.divide(0, name, held, held, scheme)


def test_a_sweep_sets_numbers_of_numpy():
  point = {'rounds': np.int64(3), 'eval_held': np.bool_(False)}
  config = sweeps.change(configs.base(), point)
  limits.validate(config)
  assert (config.rounds, config.eval_held) == (3, False)


def test_the_largest_numbers_are_taken():
  limits.validate(configs.base(rounds=2**31 - 1, seed=2**32 - 1))
  limits.validate(configs.base(local_epochs=(2**31 - 1) // 50))
  limits.validate(configs.base(local_epochs=2**31 - 1, local_steps=1))


def test_an_error_inside_a_recipe_is_the_users_own(monkeypatch):
  monkeypatch.setitem(configs.RECIPES, 'mine', lambda given: len(3))
  config = configs.base(algorithm='mine', mine={})
  with pytest.raises(TypeError, match='has no len'):
    experiment.build(config)


def test_setting_a_tables_field_changes_no_other():
  config = configs.base(fedmask=dict(download_bits=8), download_bits=2)
  assert (config.download_bits, config.signsgd.download_bits) == (2, 2)
  assert config.fedmask.download_bits == 8
  config = configs.base(hidenseek=dict(upload='signs'), upload='ternary')
  assert (config.upload, config.hidenseek.upload) == ('ternary', 'signs')
  assert config.hidenseek_personal.upload == 'ternary'
  config.signsgd.download_bits = 32
  assert (config.download_bits, config.fedmask.download_bits) == (4, 4)
  config.download_bits = 2
  assert config.eden.download_bits == 2
  assert config.hidenseek.download_bits == 1  # its own
  assert config.signsgd.download_bits == 32
