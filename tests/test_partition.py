import zlib

import numpy as np
import pytest

from hns.data import partition
from hns.data.partition import Labelled
from hns.data.shares import Scheme, Shares
from hns.errors import InputError

RNG = np.random.RandomState(0)
TRAIN = Labelled(RNG.randint(0, 10, 3000), RNG.randint(0, 40, 3000))
TEST = Labelled(RNG.randint(0, 10, 1000), RNG.randint(0, 40, 1000))
SCHEME = Scheme(
  clients=15, examples=40, classes=2, alpha=0.5, validation=0.2, test=30
)


def divide(name, seed=0, **fields):
  scheme = SCHEME._replace(**fields)
  return partition.divide(seed, name, TRAIN, TEST, scheme)


@pytest.mark.parametrize('name', partition.PARTITIONS)
def test_everybody_has_his_own_examples(name):
  shares = divide(name)
  held = np.concatenate(shares.train + shares.validation)
  assert len(np.unique(held)) == len(held)
  for pools in shares:
    assert len(pools) == SCHEME.clients
    assert all(len(p) for p in pools)
  for test in shares.test:
    assert len(np.unique(test)) == len(test) <= SCHEME.test


@pytest.mark.parametrize('name', partition.PARTITIONS)
def test_same_seed_same_partition(name):
  a, b, c = divide(name), divide(name), divide(name, seed=1)
  flat = lambda s: np.concatenate([np.concatenate(p) for p in s])
  np.testing.assert_array_equal(flat(a), flat(b))
  assert flat(a).tolist() != flat(c).tolist()


def test_partition_of_a_seed_is_the_same_on_any_machine():
  found = {
    name: zlib.crc32(np.concatenate(divide(name).train).astype('<i4').tobytes())
    for name in KNOWN  # config files of other tests may have added some
  }
  assert found == KNOWN


KNOWN = {
  'iid': 1650817037,
  'shards': 852107213,
  'dirichlet': 99093986,
  'natural': 192211678,
}


@pytest.mark.parametrize('name', ['iid', 'shards'])
def test_sizes_are_as_asked(name):
  shares = divide(name)
  assert {len(p) for p in shares.train} == {40}
  assert {len(p) for p in shares.validation} == {10}
  assert {len(p) for p in shares.test} == {30}


def test_shards_have_classes_in_equal_parts():
  shares = divide('shards')
  used = np.zeros(10, int)
  for pool, held_out, test in zip(*shares):
    both = np.concatenate([pool, held_out])
    names, counts = np.unique(TRAIN.labels[both], return_counts=True)
    assert len(names) == 2 and set(counts) == {25}
    used[names] += 1
    _, counts = np.unique(TEST.labels[test], return_counts=True)
    assert set(counts) == {15}
  assert used.max() - used.min() <= 1


def test_all_examples_are_shared_out_when_none_are_asked_for():
  for name in ('iid', 'shards', 'dirichlet'):
    shares = divide(name, examples=0, alpha=5.0)
    assert sum(map(len, shares.train + shares.validation)) == 3000


def test_dirichlet_sizes_and_labels_differ_with_alpha():
  even, uneven = divide('dirichlet', alpha=1000.0), divide('dirichlet')
  spread = lambda s: np.std([len(p) for p in s.train])
  assert spread(uneven) > 3 * spread(even)
  assert sum(map(len, uneven.train + uneven.validation)) == 15 * 50


def test_test_labels_follow_the_clients_own():
  shares = divide('dirichlet', alpha=0.3, examples=150, test=60)
  for pool, held_out, test in zip(*shares):
    both = np.concatenate([pool, held_out])
    client_state = np.bincount(TRAIN.labels[both], minlength=10) / len(both)
    asked = np.bincount(TEST.labels[test], minlength=10) / len(test)
    np.testing.assert_allclose(asked, client_state, atol=1 / len(test) + 1e-9)


def test_test_labels_follow_even_where_a_class_is_scarce():
  """Asked for more than there is: fewer, in the same proportions."""
  rng = np.random.RandomState(0)
  labels = np.repeat([0, 1], 100)
  pools = [np.concatenate([np.arange(75), np.arange(100, 125)])]
  tests = partition.matching_test_examples(
    rng, pools, labels, np.array([0] * 30 + [1] * 90), 80
  )
  assert np.bincount(np.array([0] * 30 + [1] * 90)[tests[0]]).tolist() == [
    30,
    10,
  ]


@pytest.mark.parametrize(
  'examples,validation', [(1, 0.2), (40, 0.01), (60, 0.2)]
)
def test_training_examples_are_exactly_as_many_as_asked(examples, validation):
  shares = divide('iid', clients=5, examples=examples, validation=validation)
  assert {len(p) for p in shares.train} == {examples}
  assert min(len(p) for p in shares.validation) >= 1
  shares = divide('iid', clients=5, examples=examples, validation=0.0)
  assert {len(p) for p in shares.train} == {examples}


def test_natural_clients_are_writers():
  shares = divide('natural', examples=0, test=100)
  seen = set()
  for pool, held_out, test in zip(*shares):
    writers = set(TRAIN.groups[np.concatenate([pool, held_out])])
    assert len(writers) == 1 and set(TEST.groups[test]) == writers
    seen |= writers
  assert len(seen) == SCHEME.clients


@pytest.mark.parametrize(
  'name,fields,said',
  [
    ('shards', dict(classes=11), 'classes_per_client=11: the data has 10'),
    ('shards', dict(examples=400), 'examples_per_client=.*class'),
    ('iid', dict(examples=1000), 'examples_per_client=.*3000'),
    ('natural', dict(clients=41), 'num_clients=41: the data has 40'),
    ('dirichlet', dict(alpha=0.0), 'alpha=0.0'),
    ('dirichlet', dict(alpha=1e-3), 'left without'),
    ('iid', dict(clients=4000, examples=0), 'left without'),
  ],
)
def test_bad_schemes_name_field_and_value(name, fields, said):
  with pytest.raises(InputError, match=said):
    divide(name, **fields)


SIZES = [300, 5, 2, 30, 1, 200]
OWN = np.split(np.random.RandomState(0).permutation(538), np.cumsum(SIZES)[:-1])


def client_state(lists, **fields):
  """Shares that a user's own lists of examples give."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(partition.PARTITIONS, 'own', lambda *given: lists)
    return divide('own', **{'clients': 6, **fields})


def test_own_lists_of_any_sizes_are_the_clients():
  shares = client_state([OWN[0].tolist(), *OWN[1:]], validation=0.2)
  assert [len(p) for p in shares.validation] == [60, 1, 1, 6, 0, 40]
  for mine, train, held_out in zip(OWN, shares.train, shares.validation):
    both = np.concatenate([train, held_out])
    np.testing.assert_array_equal(np.sort(both), np.sort(mine))
  assert all(1 <= len(test) <= SCHEME.test for test in shares.test)


def test_one_example_is_too_few_where_validation_is_asked_for():
  said = (
    'validation_fraction=0.2: client 4 is left without validation examples, '
    'which eval_split=validation needs: give every client two, or change '
    'eval_split'
  )
  with pytest.raises(InputError) as error:
    client_state(OWN, needed_by='eval_split=validation')
  assert str(error.value) == said
  assert (
    len(client_state(OWN[:4], clients=4, needed_by='lotteryfl.threshold').train)
    == 4
  )


def test_a_writer_of_one_picture_is_a_client():
  train = Labelled(np.array([0, 1, 1]), np.array([3, 8, 8]))
  scheme = SCHEME._replace(clients=2, examples=0)
  shares = partition.divide(0, 'natural', train, train, scheme)
  assert sorted(map(len, shares.train)) == [1, 1]
  assert sorted(map(len, shares.validation)) == [0, 1]
  scheme = scheme._replace(needed_by='lotteryfl.threshold')
  with pytest.raises(InputError, match='validation_fraction.*change lotteryfl'):
    partition.divide(0, 'natural', train, train, scheme)


@pytest.mark.parametrize(
  'lists,said',
  [
    (OWN[:5], "num_clients=6: partition 'own' returned lists for 5"),
    ([*OWN, [1]], "num_clients=6: partition 'own' returned lists for 7"),
    ([*OWN[:5], [7, 3000]], 'client 5: index 1 is 3000: must be in 0..2999'),
    ([[-1], *OWN[1:]], 'client 0: index 0 is -1: must be in 0..2999'),
    ([*OWN[:5], [2**40]], 'client 5: index 0 is 1099511627776: must be'),
    ([[1, 2.5], *OWN[1:]], r'client 0: .* not float64 .*index 1 is 2.5'),
    ([*OWN[:5], [4, 5, 4]], 'client 5: index 2 is 4, which is repeated'),
    ([*OWN[:5], np.ones(3000, bool)], 'client 5: .*np.flatnonzero of a mask'),
    ([*OWN[:5], [[1, 2], [3]]], 'client 5: .*not of lists'),
    ([*OWN[:5], [[1, 2]]], r'client 5: .*not int64 \[1, 2\]'),
    ([*OWN[:5], ['7']], 'client 5: .*not <U1'),
    ([*OWN[:5], None], r'client 5: .*not object \[\]'),
    (dict(enumerate(OWN)), r'client 0: .*not int64 \[\]'),
    (None, "partition='own': must return a list of indices .* NoneType"),
    ([*OWN[:5], []], 'num_clients=6: client 5 is left without examples'),
  ],
)
def test_own_lists_that_cannot_be_are_named(lists, said):
  with pytest.raises(InputError, match=said) as error:
    client_state(lists)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('split', Shares._fields)
def test_own_shares_without_examples_are_named(split, monkeypatch):
  """By the partition: no other field could mend it."""
  whole = [np.array([0]), np.array([1])]
  given = Shares(whole, [np.array([2]), np.array([3])], whole)
  gap = given._replace(**{split: [getattr(given, split)[0], []]})
  monkeypatch.setitem(partition.PARTITIONS, 'own', lambda *given: gap)
  scheme = SCHEME._replace(clients=2, needed_by='eval_split=validation')
  said = f"partition='own': client 1 has no {split} examples"
  with pytest.raises(InputError, match=said):
    partition.divide(0, 'own', TRAIN, TRAIN, scheme)
  if split == 'validation':
    partition.divide(0, 'own', TRAIN, TRAIN, scheme._replace(needed_by=''))


def test_a_client_whose_classes_are_never_tested_is_named():
  train, test = (Labelled(np.array(x), np.zeros(0)) for x in ([0, 1], [0, 0]))
  scheme = SCHEME._replace(clients=2, examples=0)
  with pytest.raises(InputError, match='client . .* test .* none of its class'):
    partition.divide(0, 'iid', train, test, scheme)


def test_scarce_test_examples_are_dealt_again():
  rng = np.random.RandomState(0)
  labels = np.repeat([0, 1], 50)
  pools = [np.arange(10), np.arange(10), np.arange(50, 60)]
  tests = partition.matching_test_examples(
    rng, pools, labels, np.array([0] * 6 + [1] * 9), 5
  )
  assert [len(t) for t in tests] == [5, 5, 5]
  assert len(np.intersect1d(tests[0], tests[1])) == 4
  assert set(tests[2]) <= set(range(6, 15))


def test_pad_makes_a_table():
  table, sizes = partition.pad([np.array([3, 1]), np.array([2]), np.array([])])
  assert table.tolist() == [[3, 1], [2, 0], [0, 0]]
  assert sizes.tolist() == [2, 1, 0]
