"""What a server accepts of its clients, which may be broken or lie."""

import numpy as np

from hns import wire
from hns.engine.halves import TOLD
from hns.remote.client import envelope
from hns.remote.messages import Left, Reply
from hns.runs.programs import Experiment
from hns.wire import Message

_LARGEST = 1e30  # that a client may tell of itself


def known(experiment: Experiment, about: dict[str, int]) -> str:
  """Why a client with these facts cannot take part; '' if it can.

  Args:
    experiment: the server's.
    about: as `hns.remote.client.about` tells.
  """
  index = about.get('client', -1)
  sizes = np.asarray(experiment.federation.train.size)
  if not 0 <= index < len(sizes):
    return f'client {index} is not one of {len(sizes)}'
  here = {
    'frozen': experiment.frozen,
    'examples': int(sizes[index]),
    'units': int(experiment.units[index]),
  }
  names = dict(
    frozen='checksum of the network',
    examples='number of training examples',
    units='number of examples to evaluate',
  )
  for name, expected in here.items():
    if about.get(name) != expected:
      return (
        f'client {index}: its {names[name]} is {about.get(name)}, here '
        f'{expected}: give it the same config, versions and data'
      )
  return ''


def upload(
  experiment: Experiment, like: Message, number: int, reply: Reply
) -> Message:
  """What a client sent, a message like `like`; raises `WireError` or `Left`."""
  if reply.error:
    raise Left(reply.error)
  if reply.told.get('rejected'):
    raise Left('its update was not finite')
  missing = _untold(reply)
  if missing:
    raise Left(f'it tells no {missing} that can be')
  return wire.decode(
    experiment.round_config.method.wire.upload_codec,
    reply.payload,
    like,
    envelope(experiment, number, 'upload'),
  )


def told(reply: Reply) -> dict[str, float]:
  """What a client tells, if all of it can be; else nothing."""
  return {} if _untold(reply) else reply.told


def _untold(reply: Reply) -> str:
  """The first number that a client had to tell and did not; '' if none.

  A client's word is all there is for them; they must fit in a float32.
  """
  for name in TOLD:
    value = reply.told.get(name)
    if not isinstance(value, float) or not abs(value) < _LARGEST:
      return name
  return ''


def tells_scores(experiment: Experiment, index: int, reply: Reply) -> bool:
  """Whether a client tells scores that can be."""
  most = np.inf
  if experiment.round_config.learner.task.has_classes:
    most = float(experiment.units[index])
  scores = [reply.told.get(name) for name in ('score', 'score_global')]
  return not reply.error and all(
    isinstance(x, float) and abs(x) < min(_LARGEST, most + 1) for x in scores
  )
