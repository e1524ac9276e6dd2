"""Built-in networks that are no chains: pruned, and trained in a federation."""

import jax
import numpy as np
import pytest
from conftest import play, slow_if, small_config

import hns
from hns import data
from hns.networks import models, residual, sequences
from hns.runs import experiment

RNG = np.random.RandomState(0)
# A small one of each kind, and the shape of an example.
SMALL = {
  'resnet': (lambda c: residual.ResNet(c, (8, 16), 1), (8, 8, 1)),
  'lstm': (lambda c: sequences.CharLstm(c, 8, 1, 4), (6,)),
  'characters': (lambda c: sequences.CharTransformer(c, 8, 2, 1), (6,)),
}


def clients(shape, count):
  """Two clients, whose inputs tell the class."""
  labels = RNG.randint(0, 2, count)
  if len(shape) == 1:
    inputs = RNG.randint(0, 60, (count, *shape)) + 60 * labels[:, None]
  else:
    lift = labels.reshape(-1, *(1 for _ in shape))
    inputs = RNG.normal(size=(count, *shape)) + 2 * lift
  return inputs, labels


# `test_kinds` has a recurrent one, and one with attention.
@pytest.mark.parametrize(
  'kind', [slow_if(kind != 'resnet', kind) for kind in SMALL]
)
def test_two_rounds_of_signs(monkeypatch, kind):
  model, shape = SMALL[kind]
  made = [[clients(shape, n) for _ in range(3)] for n in (24, 12)]
  dataset, partition = data.from_clients(*made, 2, standardise=False)
  monkeypatch.setitem(hns.DATASETS, 'mine', lambda: dataset)
  monkeypatch.setitem(hns.PARTITIONS, 'mine', partition)
  monkeypatch.setitem(models.MODELS, 'mine', model)
  fields = dict(dataset='mine', partition='mine', model='mine', num_clients=3)
  config = small_config(**fields, cohort=2, density=0.4)
  built = experiment.build(config)
  total = sum(whole for _, whole in built.layers.values())
  assert sum(kept for kept, _ in built.layers.values()) == round(total * 0.4)
  report = play(built, 2).report
  assert np.isfinite(report.train_loss) and not np.any(report.rejected)


@pytest.mark.parametrize(
  'name,shape,least,most',
  [
    ('resnet8', (32, 32, 3), 77_000, 79_000),
    ('resnet18', (32, 32, 3), 11_100_000, 11_200_000),
    ('vit_tiny', (32, 32, 3), 440_000, 460_000),
    ('conv1d', (128, 6), 120_000, 130_000),
    ('char_lstm', (80,), 790_000, 830_000),
    ('char_transformer', (80,), 110_000, 120_000),
  ],
)
def test_networks_have_as_many_weights_as_they_say(name, shape, least, most):
  kind = np.int32 if len(shape) == 1 else np.float32
  net, x = models.create(name, 10), jax.ShapeDtypeStruct((1, *shape), kind)
  params = jax.eval_shape(net.init, jax.random.key(0), x)['params']
  assert least < sum(w.size for w in jax.tree.leaves(params)) < most
