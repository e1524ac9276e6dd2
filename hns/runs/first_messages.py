"""The first messages of a run, encoded and decoded before round 1."""

import functools

import jax

from hns import tree, wire
from hns.engine import payloads, rounds
from hns.engine.context import RoundConfig
from hns.engine.training import FederatedData
from hns.errors import InputError
from hns.methods.contract import Initial
from hns.once import once
from hns.runs.programs import Experiment


def check_payloads(experiment: Experiment) -> None:
  """Encodes first messages of a client and decodes them again.

  Its params are moved by noise in place of training: bytes are counted rightly
  and messages can be encoded whatever was trained.

  Raises:
    InputError: the client leaves out coordinates without telling which, or a
      message cannot be encoded, or decodes to something else.
    RuntimeError: the number of bytes counted is not that of the payload.
  """
  method = experiment.round_config.method
  codecs = (  # in the order of wire.DIRECTIONS
    method.wire.download_codec,
    method.wire.upload_codec,
    payloads.MASK_CODEC,
  )
  sent, is_silent = once(
    functools.partial(_first_messages, experiment.round_config, codecs)
  )(*experiment.constants)
  if is_silent:
    raise InputError(
      'the upload leaves out coordinates that the download has: give the '
      'method a wire.kept_mask that tells which, or their places travel free'
    )
  for direction, (codec, (message, size)) in enumerate(zip(codecs, sent)):
    if not jax.tree.leaves(message.value):
      continue
    envelope = experiment.envelope._replace(direction=direction)
    payload = wire.encode(codec, message, envelope)
    wire.decode(codec, payload, message, envelope)
    if len(payload) != size:
      name = wire.DIRECTIONS[direction]
      raise RuntimeError(
        f'the {name} has {len(payload)} bytes, but {size} are counted'
      )


def _first_messages(
  round_config: RoundConfig,
  codecs: tuple[wire.Codec, ...],
  key: jax.Array,
  initial: Initial,
  federation: FederatedData,
) -> tuple[list[tuple[wire.Message, jax.Array]], jax.Array]:
  """A client's first download, upload and mask, each with its bytes.

  And whether the upload leaves out coordinates without a mask, bool [].
  """
  method, frozen = round_config.method, initial.frozen
  client_state = initial.client_state
  state = rounds.begin(initial)
  context = rounds.begin_round(round_config, key, initial, federation, state)
  message = context.message
  start = method.client.init(key, frozen, message, client_state)
  down = payloads.download_for(method, frozen, message, client_state)
  noise = tree.uniform(key, start, -1.0)
  params = jax.tree.map(lambda x, n: (x + n).astype(x.dtype), start, noise)
  up, client_state = method.client.update(
    key, frozen, message, client_state, start, params
  )
  sent = down, up, payloads.mask_message(method, client_state)
  fewer = wire.coordinates(up) < wire.coordinates(message)
  is_silent = fewer & (method.wire.kept_mask is None)
  return [(m, wire.size(codec, m)) for m, codec in zip(sent, codecs)], is_silent
