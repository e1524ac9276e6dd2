"""A method inside another whose states or messages hold more than its own.

Written once for all questions of the contract: one that it gets later is lifted
as well.
"""

import inspect
import typing
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from hns.methods.contract import Client, ClientState, Method

View = Callable[[dict[str, Any]], Any]


class Beside(NamedTuple):
  """A client's state with something beside it.

  Attributes:
    inner: what the method inside keeps.
    extra: what the method around it keeps.
  """

  inner: ClientState
  extra: Any


def beside(base: Method) -> Method:
  """`base`, whose clients keep more: a `Beside`, or another state with `inner`.

  What is beside `inner` stays as it is.
  """
  return lift(
    base,
    keep=lambda client_state, inner: client_state._replace(inner=inner),
    client_state=lambda given: given['client_state'].inner,
  )


def lift(
  base: Method,
  keep: Callable[[ClientState, ClientState], ClientState] | None = None,
  **views: View,
) -> Method:
  """`base`, given `views[name](given)` in place of its argument of that name.

  `given` holds all arguments of the question by name. Questions without such an
  argument stay the very functions they were.

  Args:
    base: any method.
    keep: `(client_state, inner) -> client_state`: what a client keeps when
      `base` keeps `inner`; needed with a view of `client_state`.
    **views: by an argument's name, what `base` gets in its place.
  """
  lifted = Method(*(_lift_part(part, views) for part in base))
  if keep is None:
    return lifted
  return lifted.revise(client=_keeping(lifted.client, keep))


def arguments_of(part: type) -> dict[str, tuple[str, ...]]:
  """The names of the arguments of each question of a part of the contract."""
  hints = typing.get_type_hints(part).items()
  protocols = {
    name: kind
    for name, hint in hints
    for kind in typing.get_args(hint) or [hint]
    if inspect.isclass(kind) and Protocol in kind.__mro__
  }
  return {
    name: tuple(inspect.signature(kind.__call__).parameters)[1:]
    for name, kind in protocols.items()
  }


def _lift_part(part, views):
  changed = {
    name: names
    for name, names in arguments_of(type(part)).items()
    if views.keys() & set(names) and getattr(part, name) is not None
  }
  lifted = {
    name: _viewed(getattr(part, name), names, views)
    for name, names in changed.items()
  }
  return part._replace(**lifted)


def _viewed(answer, names, views):
  """`answer`, with the views applied to its arguments."""

  def viewed(*arguments):
    given = dict(zip(names, arguments, strict=True))
    return answer(*(views[n](given) if n in views else given[n] for n in names))

  return viewed


def _keeping(client: Client, keep) -> dict[str, Callable]:
  """The questions whose answer holds a client's state, with `keep` on it."""

  def update(key, frozen, message, client_state, initial_params, params):
    upload, inner = client.update(
      key, frozen, message, client_state, initial_params, params
    )
    return upload, keep(client_state, inner)

  def before_training(key, frozen, message, client_state, score):
    inner = client.before_training(key, frozen, message, client_state, score)
    return keep(client_state, inner)

  if client.before_training is None:
    return dict(update=update)
  return dict(update=update, before_training=before_training)
