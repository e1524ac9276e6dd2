"""A dataset, shared out over the clients of a config."""

import jax
import numpy as np

from hns import data
from hns.data import partition
from hns.engine.attacks import FLIPPED_LABELS
from hns.engine.training import ClientIndices, Examples, FederatedData
from hns.errors import invalid
from hns.runs import limits
from hns.values import ConfigDict


def federate(config: ConfigDict, dataset: data.Dataset) -> FederatedData:
  """Partitions a dataset over clients; examples of no client are dropped.

  All arrays are on the host.
  """
  shares = partition.divide(
    config.seed,
    config.partition,
    *_labelled(config.partition, dataset),
    partition.Scheme(
      config.num_clients,
      config.examples_per_client,
      config.classes_per_client,
      config.alpha,
      config.validation_fraction,
      config.test_examples_per_client,
      limits.needs_validation(config),
    ),
  )
  train = np.unique(np.concatenate(shares.train + shares.validation))
  test = np.unique(np.concatenate(shares.test))
  inputs = jax.tree.map(
    lambda a, b: _narrow(np.concatenate([a[train], b[test]])),
    dataset.train_inputs,
    dataset.test_inputs,
  )
  labels = [dataset.train_labels[train], dataset.test_labels[test]]

  def indices(shares, used, offset):
    rows = [np.searchsorted(used, share) + offset for share in shares]
    return ClientIndices(*partition.pad(rows))

  return FederatedData(
    Examples(
      inputs,
      _narrow(np.concatenate(labels)),
      _scale(dataset),
    ),
    indices(shares.train, train, 0),
    indices(shares.validation, train, 0),
    indices(shares.test, test, len(train)),
  )


def attacked(
  config: ConfigDict,
  federation: FederatedData,
  hostile: np.ndarray,
  dataset: data.Dataset,
) -> FederatedData:
  """What clients hold, with false labels where that is their attack."""
  if config.attack == FLIPPED_LABELS and len(hostile):
    return flip_labels(federation, hostile, dataset)
  return federation


def flip_labels(
  federation: FederatedData, ids: np.ndarray, dataset: data.Dataset
) -> FederatedData:
  """Clients `ids` train on wrong labels: class c of C becomes C - 1 - c.

  Their training examples are copied, since others may hold them too. Raises
  `InputError` where labels are no classes.
  """
  if not dataset.task.has_classes:
    remedy = 'needs labels that are classes: choose another attack'
    raise invalid('attack', 'label_flip', remedy)
  train, examples = federation.train, federation.examples
  start = len(examples.labels)
  own = [train.index[i, : train.size[i]] for i in ids]
  index = train.index.copy()
  for i, rows in zip(ids, own):
    index[i, : len(rows)] = start + np.arange(len(rows))
    start += len(rows)
  rows = np.concatenate(own)
  labels = examples.labels[rows]
  # Padding of text is no class.
  flipped = np.where(labels >= 0, dataset.classes - 1 - labels, labels)
  add = lambda whole, more: np.concatenate([whole, more])
  more = Examples(
    jax.tree.map(lambda x: add(x, x[rows]), examples.inputs),
    add(examples.labels, flipped.astype(labels.dtype)),
    examples.scale,
  )
  return federation._replace(examples=more, train=train._replace(index=index))


def _labelled(
  name: str, dataset: data.Dataset
) -> tuple[partition.Labelled, partition.Labelled]:
  """What a partition sees of both splits; one class where there are none."""
  labels = dataset.train_labels, dataset.test_labels
  if not dataset.task.has_classes:
    if name in ('shards', 'dirichlet'):
      remedy = 'needs labels that are classes: choose iid, natural or your own'
      raise invalid('partition', name, remedy)
    labels = [np.zeros(len(x), np.int32) for x in labels]
  groups = dataset.train_groups, dataset.test_groups
  return tuple(map(partition.Labelled, labels, groups))


def _narrow(values: np.ndarray) -> np.ndarray:
  """Values on the host, in the dtype that JAX gives them."""
  return values.astype(jax.dtypes.canonicalize_dtype(values.dtype), copy=False)


def _scale(dataset: data.Dataset) -> np.ndarray | tuple[()]:
  if not dataset.standardise:
    return ()
  return np.asarray(_pixel_scale(dataset.train_inputs), np.float32)


def _pixel_scale(images: np.ndarray) -> tuple[float, float]:
  """Mean and standard deviation of pixels; of uint8 from their histogram."""
  parts = np.array_split(images, 100)
  if images.dtype != np.uint8:
    mean = sum(part.sum(dtype=np.float64) for part in parts) / images.size
    squares = sum(np.sum((part - mean) ** 2) for part in parts)
    return mean, np.sqrt(squares / images.size)
  counts = sum(np.bincount(part.ravel(), minlength=256) for part in parts)
  values = np.arange(256)
  mean = np.average(values, weights=counts)
  return mean, np.sqrt(np.average((values - mean) ** 2, weights=counts))
