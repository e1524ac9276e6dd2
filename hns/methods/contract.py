"""The contract of a method: questions about its clients, its server, its wire.

The engine (`hns.engine`) asks these questions, and never which method it runs.
An answer is a pure function of one client's arguments; the engine vectorises it
over the cohort. Each question is a Protocol that says when it is asked, with
which arguments, and why it exists.

Arguments have one meaning everywhere:

  key             the client's own, of seed, round and client id, unless a
                  Protocol says that it is the round's, equal for all clients
  frozen          what never changes: `Initial.frozen`
  server_state    a `ServerState`
  message         the download that the clients of the round are given
  client_state    what one client keeps between rounds
  initial_params  what `ClientInit` gave
  params          what is trained: a tree of floats

Any state may hold typed PRNG keys beside numbers.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import optax

from hns.tree import Tree
from hns.wire import Codecs, Message

# Their structure is the method's own affair.
Params = Tree
Frozen = Tree
ClientState = Tree
Variables = dict[str, Tree]  # of `apply`, by collection


class Initial(NamedTuple):
  """What exists before the first round.

  Attributes:
    frozen: what never changes, known to server and clients.
    server_state: the server's state, a `ServerState`.
    client_state: one client's state, the same for all at first; () for none.
  """

  frozen: Frozen
  server_state: 'ServerState'
  client_state: ClientState


class ServerState(NamedTuple):
  """The server's state.

  Attributes:
    values: what clients are to start from, the tree of the clients' messages.
    memory: what the server keeps beside it, such as momentum; where it is of
      the weights, a tree with the paths of `values`; () for nothing.
  """

  values: Params
  memory: Tree = ()


class ClientInit(Protocol):
  """What does a client start from?

  Asked before a client trains, with the round's key, so that all clients can
  draw the same numbers. Where the answer does not depend on `client_state`, it
  is asked once a round, for all of them.
  """

  def __call__(
    self,
    key: jax.Array,
    frozen: Frozen,
    message: Message,
    client_state: ClientState,
  ) -> Params: ...


class ToVariables(Protocol):
  """Which variables does the network see?

  Asked in every training step, with a key of that step, and for every model
  that is evaluated. Differentiable in `params`: this is where a sign supermask
  is made of real scores.
  """

  def __call__(
    self, key: jax.Array, frozen: Frozen, params: Params
  ) -> Variables: ...


class ClientUpdate(Protocol):
  """What does a client upload after training, and what does it keep?

  The upload's leaves have the shapes of the download's, or are None in both its
  trees where nothing travels. To weigh a coordinate as the download does, hand
  on the very arrays of `message.weight`: they are then not summed (`weigh`).
  """

  def __call__(
    self,
    key: jax.Array,
    frozen: Frozen,
    message: Message,
    client_state: ClientState,
    initial_params: Params,
    params: Params,
  ) -> tuple[Message, ClientState]: ...


class BeforeTraining(Protocol):
  """What does a client of the cohort look at before it trains?

  `score(variables)` is a model's accuracy on its validation examples, float32
  []. Exists for clients that prune. The key is that of `ClientUpdate`.
  """

  def __call__(
    self,
    key: jax.Array,
    frozen: Frozen,
    message: Message,
    client_state: ClientState,
    score: Callable[[Variables], jax.Array],
  ) -> ClientState: ...


class Objective(Protocol):
  """What does a training step minimise, float32 []?

  `forward(variables)` is the mean loss of the batch, `to_variables(params)`
  gives the variables. `key` is the step's; `progress`, float32 [], is the share
  of the round's steps that were taken before it, in [0, 1). Exists for what is
  added to the loss, such as a pull, and for weights that training sees rounded.
  """

  def __call__(
    self,
    key: jax.Array,
    progress: jax.Array,
    forward: Callable[[Variables], jax.Array],
    to_variables: Callable[[Params], Variables],
    initial_params: Params,
    params: Params,
  ) -> jax.Array: ...


class AfterTraining(Protocol):
  """What does a client measure of the model that it trained?

  `observe(variables)` gives the statistics of the network's batch norms on its
  training examples. Exists for methods that send them. The key is that of
  `ClientUpdate`.
  """

  def __call__(
    self,
    key: jax.Array,
    frozen: Frozen,
    client_state: ClientState,
    params: Params,
    observe: Callable[[Variables], Tree],
  ) -> Params: ...


class Finalize(Protocol):
  """Which params does a client end the round with?

  Asked with what it keeps after the round: it may have pruned after training.
  The model *as held* is made of them.
  """

  def __call__(self, client_state: ClientState, params: Params) -> Params: ...


def plain_loss(
  key, progress, forward, to_variables, initial_params, params
) -> jax.Array:
  """The `Objective` that is the loss of what the network sees."""
  del key, progress, initial_params
  return forward(to_variables(params))


def as_trained(client_state, params) -> Params:
  """The `Finalize` that leaves what was trained as it is."""
  del client_state
  return params


class Client(NamedTuple):
  """What one client does; `optimizer` starts anew every round."""

  init: ClientInit
  to_variables: ToVariables
  update: ClientUpdate
  optimizer: optax.GradientTransformation
  before_training: BeforeTraining | None = None
  objective: Objective = plain_loss
  after_training: AfterTraining | None = None
  finalize: Finalize = as_trained


class ServerInit(Protocol):
  """What exists before the first round?

  Asked once, with a key of the seed and the network's parameters as drawn.
  """

  def __call__(self, key: jax.Array, drawn: Params) -> Initial: ...


class Broadcast(Protocol):
  """What reaches every client of the round?

  Asked at the beginning of a round, with the round's key.
  """

  def __call__(
    self, key: jax.Array, frozen: Frozen, server_state: ServerState
  ) -> Message: ...


class ReadUpload(Protocol):
  """What does the server make of one upload, before the mean?

  Asked once a client, with the key that its `ClientUpdate` had, and vectorised
  as that is. Exists for uploads that only make sense with what the client drew:
  seeded noise, a random rotation, a subtracted dither. Bytes are those of the
  upload; the mean is that of what this gives.
  """

  def __call__(
    self, key: jax.Array, frozen: Frozen, message: Message, upload: Message
  ) -> Message: ...


class ServerUpdate(Protocol):
  """What does the server make of the mean of a round?

  Asked at the end of a round, with the round's key. `mean` and `total` are
  trees like the uploads' values: of each coordinate the weighted mean, and the
  summed weight, examples x `Message.weight`, 0 where nobody sent.
  """

  def __call__(
    self,
    key: jax.Array,
    frozen: Frozen,
    server_state: ServerState,
    mean: Params,
    total: Tree,
  ) -> ServerState: ...


class Center(Protocol):
  """What would a client upload, as the server reads it, that learned nothing?

  A tree like the values of the upload. Exists for rules that bound how far from
  it an upload may be; without it that is 0, as for changes and votes.
  """

  def __call__(self, frozen: Frozen, message: Message) -> Tree: ...


class Server(NamedTuple):
  """What the server does; without `read_upload` it reads what was sent."""

  init: ServerInit
  broadcast: Broadcast
  update: ServerUpdate
  read_upload: ReadUpload | None = None
  center: Center | None = None


class DownloadFor(Protocol):
  """What of the download must be sent to a client that keeps this state?

  Bytes are counted of it. Exists for clients that use a part of the download,
  or remember the last one and are sent what changed.
  """

  def __call__(
    self, frozen: Frozen, message: Message, client_state: ClientState
  ) -> Message: ...


class Received(Protocol):
  """What is the download for a client with this state that was sent `message`?

  The inverse of `DownloadFor`. Exists for clients on machines of their own,
  that are sent what changed.
  """

  def __call__(
    self, frozen: Frozen, message: Message, client_state: ClientState
  ) -> Message: ...


class KeptMask(Protocol):
  """Which coordinates does a client use that chose them itself?

  A tree of bool. It is sent, and counted, when it changes.
  """

  def __call__(self, client_state: ClientState) -> Tree: ...


class Wire(NamedTuple):
  """How messages travel.

  Without `download_for` every client is sent the whole download; without
  `received` a client takes what it is sent for the download; without
  `kept_mask` all clients use the same coordinates.
  """

  upload_codec: Codecs
  download_codec: Codecs
  download_for: DownloadFor | None = None
  received: Received | None = None
  kept_mask: KeptMask | None = None


class Method(NamedTuple):
  """A federated method: answers to questions about clients, server and wire."""

  client: Client
  server: Server
  wire: Wire

  def revise(
    self,
    client: dict[str, Any] | None = None,
    server: dict[str, Any] | None = None,
    wire: dict[str, Any] | None = None,
  ) -> 'Method':
    """This method with other answers to the questions named."""
    return Method(
      self.client._replace(**client or {}),
      self.server._replace(**server or {}),
      self.wire._replace(**wire or {}),
    )
