"""A client on a machine of its own: it answers what a server asks."""

import functools
import io
import pathlib
import re
import zipfile
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hns import durable, tree, wire
from hns.engine import client_store, halves, parallel, payloads, rounds
from hns.engine.context import State
from hns.errors import InputError, invalid, shown
from hns.methods.contract import ClientState
from hns.remote.messages import Order, Reply
from hns.remote.secure import addend
from hns.runs import experiment as experiments
from hns.runs.programs import Experiment
from hns.values import ConfigDict
from hns.wire import DIRECTIONS, Envelope, Message


class Member(NamedTuple):
  """A client of a federation.

  Attributes:
    experiment: built from the federation's config, as the server's.
    index: the client's id.
    folder: where it keeps its state.
    first: the download of round 1, for the shapes and places of all others.
    program: `hns.engine.halves.answer`, compiled when it is first called.
  """

  experiment: Experiment
  index: int
  folder: pathlib.Path
  first: Message
  program: Callable[..., halves.Answer]


def join(config: ConfigDict, index: int, folder: str | pathlib.Path) -> Member:
  """A client, ready to answer.

  Args:
    config: the federation's.
    index: the client's id, below `config.num_clients`.
    folder: its own, where its state survives a restart.

  Raises:
    InputError: the config cannot run, or there is no such client.
  """
  if not 0 <= index < config.num_clients:
    remedy = f'must be in [0, {config.num_clients}), as num_clients says'
    raise invalid('client', index, remedy)
  with config.copy_and_resolve_references().unlocked() as one:
    one.devices = 1
    experiment = experiments.build(one)
  check_method(experiment)
  round_config = experiment.round_config._replace(eval_split=experiment.split)
  everywhere = parallel.everywhere(round_config.mesh)
  program = jax.jit(
    functools.partial(halves.answer, round_config),
    in_shardings=everywhere,
    out_shardings=everywhere,
  )
  return Member(
    experiment,
    index,
    pathlib.Path(folder),
    first_download(experiment),
    program,
  )


def check_method(experiment: Experiment) -> None:
  """Raises `InputError` for what only a simulation can play."""
  round_config = experiment.round_config
  if round_config.method.wire.kept_mask is not None:
    raise InputError(
      'algorithm: clients that choose their own weights can only be simulated: '
      'the server here would not know which they sent'
    )
  simulated = {
    'drop_share or extra_clients': round_config.failures.drops,
    'hostile_clients': round_config.attack.ids,
    'unseen_clients': round_config.unseen,
    # Flips and noise follow from the seed, which server and clients know.
    'sign_epsilon': experiment.privacy.sign_epsilon,
    'server_rule=private_mean': experiment.privacy.is_central,
  }
  for fields, is_set in simulated.items():
    if is_set:
      raise InputError(f'{fields}: can only be simulated: leave it out')


def envelope(experiment: Experiment, number: int, direction: str) -> Envelope:
  """What a payload of round `number` is for, a download or an upload."""
  return experiment.envelope._replace(
    round=number, direction=DIRECTIONS.index(direction)
  )


def first_download(experiment: Experiment) -> Message:
  """What the server broadcasts in round 1."""
  broadcast = experiment.round_config.method.server.broadcast

  @jax.jit
  def first(key, initial, federation):
    keys = rounds.round_keys(key, jnp.int32(0))
    return broadcast(keys.broadcast, initial.frozen, initial.server_state)

  return first(*experiment.constants)


def about(member: Member) -> dict[str, int]:
  """What a client tells of itself at first, for `hns.remote.trust.known`.

  Its program is compiled before: a round is not to wait for that.
  """
  experiment = member.experiment
  state = _kept(member, 0)
  member.program.lower(*_given(member, 1, member.first, state)).compile()
  return {
    'client': member.index,
    'frozen': experiment.frozen,
    'examples': int(experiment.federation.train.size[member.index]),
    'units': int(experiment.units[member.index]),
  }


class StateLost(InputError):
  """What the client kept is missing or damaged."""


def respond(member: Member, order: Order) -> Reply:
  """Answers an order, with an error if it cannot be followed.

  That is where the download is damaged or of another round or network, or what
  the client kept is lost: the server then takes it for a new client.

  What a client keeps is written before it answers. It goes on from it only if
  the server says that it used the upload: `Order.base`.
  """
  try:
    return _respond(member, order)
  except StateLost as error:
    return Reply(error=str(error), told={'lost': 1.0})
  except InputError as error:
    return Reply(error=str(error))


def _respond(member: Member, order: Order) -> Reply:
  experiment, method = member.experiment, member.experiment.round_config.method
  frozen, state = experiment.initial.frozen, _kept(member, order.base)
  like = payloads.download_for(method, frozen, member.first, state)
  sent = wire.decode(
    method.wire.download_codec,
    order.payload,
    like,
    envelope(experiment, order.number, 'download'),
  )
  message = payloads.received(method, frozen, sent, state)
  answer = _played(member, order.number, message, state)
  told = {name: float(value) for name, value in answer.told.items()}
  if not order.trains or told['rejected']:
    return Reply(told=told)
  _keep(member, order, answer.client_state)
  return Reply(_payload(member, order.number, answer.upload), told)


def _payload(member: Member, number: int, upload: Message) -> bytes:
  """An upload's bytes; what is to be summed under masks as int64, in order."""
  experiment = member.experiment
  codec = experiment.round_config.method.wire.upload_codec
  secure = experiment.round_config.secure
  if secure is None:
    return wire.encode(codec, upload, envelope(experiment, number, 'upload'))
  examples = int(experiment.federation.train.size[member.index])
  return addend(secure, codec, upload, examples).astype('<i8').tobytes()


def _played(
  member: Member, number: int, message: Message, state: ClientState
) -> halves.Answer:
  """The client's half of a round, on the host."""
  answer = member.program(*_given(member, number, message, state))
  return jax.tree.map(lambda x: tree.from_host(tree.to_host(x)[0], x), answer)


def _given(
  member: Member, number: int, message: Message, state: ClientState
) -> tuple:
  """The arguments of the client's program."""
  key, initial, federation = member.experiment.constants
  return (
    key,
    initial,
    federation,
    State(jnp.int32(number - 1), initial.server_state),
    message,
    np.array([member.index], np.int32),
    jax.tree.map(lambda x: x[None], state),
  )


def _kept(member: Member, base: int) -> ClientState:
  """What the client kept in round `base`; at first, what all start with."""
  initial = client_store.create(member.experiment.initial.client_state).initial
  leaves, structure = jax.tree.flatten(initial)
  if not base or not leaves:
    return initial
  path = _path(member, base)
  try:
    with np.load(path) as arrays:
      packed = [arrays[str(place)] for place in range(len(leaves))]
    _check_like(packed, leaves)
  except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
    raise StateLost(
      f'{shown(path)}: what client {member.index} kept in round {base} is '
      f'missing or damaged ({error})'
    ) from None
  unpacked = [
    tree.from_host(client_store.unpack(a, tree.to_host(x)), x)
    for a, x in zip(packed, leaves)
  ]
  return jax.tree.unflatten(structure, unpacked)


def _check_like(packed: list[np.ndarray], leaves: list) -> None:
  """Raises `ValueError` for arrays of other shapes or dtypes."""
  for array, leaf in zip(packed, map(client_store.pack, leaves)):
    if (array.shape, array.dtype) != (leaf.shape, leaf.dtype):
      raise ValueError(f'it holds {array.dtype}{list(array.shape)}')


def _keep(member: Member, order: Order, state: ClientState) -> None:
  """Writes what the client keeps of this round; all but `base` is removed."""
  leaves = jax.tree.leaves(state)
  if not leaves:
    return
  content = io.BytesIO()
  packed = {str(i): client_store.pack(x) for i, x in enumerate(leaves)}
  np.savez(content, **packed)
  member.folder.mkdir(parents=True, exist_ok=True)
  for path in _files(member):
    if path != _path(member, order.base):
      path.unlink()
  durable.replace(_path(member, order.number), content.getvalue())


def forget(member: Member) -> None:
  """Removes what a client kept, and no other file."""
  for path in _files(member):
    path.unlink()


def _files(member: Member) -> list[pathlib.Path]:
  """What the client keeps, by round; its folder may hold other files."""
  found = member.folder.glob('round-*.npz')
  return [path for path in found if re.fullmatch(r'round-\d+', path.stem)]


def _path(member: Member, number: int) -> pathlib.Path:
  return member.folder / f'round-{number}.npz'
