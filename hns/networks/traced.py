"""Where a traced function computes what it should not, by module."""

from collections.abc import Iterator

from jax.extend import core

OURS = 'hns_saliency'  # the scope of operations that stand in for others


def find(jaxpr: core.Jaxpr, names: tuple[str, ...]) -> str | None:
  """The module of the first such operation on what is computed, or None.

  Operations in the scope `OURS` do not count.
  """
  return next(_modules(jaxpr, names, set(jaxpr.invars), ''), None)


def _modules(
  jaxpr: core.Jaxpr, names: tuple[str, ...], computed: set, inside: str
) -> Iterator[str]:
  for eqn in jaxpr.eqns:
    place = '/'.join(filter(None, [inside, str(eqn.source_info.name_stack)]))
    inputs = [v for v in eqn.invars if not isinstance(v, core.Literal)]
    if not any(v in computed for v in inputs) or OURS in place:
      continue
    computed |= set(eqn.outvars)
    if eqn.primitive.name in names and _is_by_computed(eqn, computed):
      yield _path(place)
    for inner in _inner(eqn):
      yield from _modules(inner, names, set(inner.invars), place)


def _is_by_computed(eqn, computed: set) -> bool:
  """Whether a quotient's divisor is computed, a power's exponent negative."""
  if eqn.primitive.name == 'div':
    divisor = eqn.invars[1]
    return not isinstance(divisor, core.Literal) and divisor in computed
  return eqn.params.get('y', -1) < 0


def _inner(eqn) -> Iterator[core.Jaxpr]:
  for value in eqn.params.values():
    for item in value if isinstance(value, tuple | list) else [value]:
      if isinstance(item, core.ClosedJaxpr):
        yield item.jaxpr
      elif isinstance(item, core.Jaxpr):
        yield item


def _path(place: str) -> str:
  """A module's path without the network's own name: `Block_0/Norm_0`."""
  parts = [p for p in place.split('/')[1:] if p.isidentifier()]
  return '/'.join(parts) or 'the network'
