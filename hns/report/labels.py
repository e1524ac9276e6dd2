"""Labels of methods: the name, the fields of its table, the pruning."""

from typing import Any

from hns.fields import Field, fields_of
from hns.methods.recipes import RECIPES


def label(
  config: dict[str, Any], layers: dict[str, list[int]], tuned: bool = True
) -> str:
  """A method and its variant, in a few words.

  Args:
    config: of a run.
    layers: by layer, the weights that survived pruning and all weights.
    tuned: whether to include tuned fields.
  """
  name, words = config['algorithm'], label_words(config, layers, tuned)
  return f'{name} ({", ".join(words)})' if words else name


def label_words(
  config: dict[str, Any], layers: dict[str, list[int]], tuned: bool = True
) -> list[str]:
  """The labels of the method's fields and of the server's pruning."""
  name = config['algorithm']
  table = config.get(name, {})
  fields = fields_of(RECIPES[name]) if name in RECIPES else {}
  order = [
    *(f for f in fields if f in table),
    *sorted(table.keys() - fields.keys()),
  ]
  words = [_word(f, table[f], fields.get(f), tuned) for f in order]
  if _is_pruned(config, layers):
    words.append(f'density {config["density"]:g}')
    words += [p for p in [config.get('pruning')] if p not in (None, 'synflow')]
    words += ['single-shot'] * (config.get('pruning_steps') == 1)
  return [word for word in words if word]


def _is_pruned(config: dict[str, Any], layers: dict[str, list[int]]) -> bool:
  """Whether the server pruned, also with density 1."""
  is_full = all(left == size for left, size in layers.values())
  return bool(layers) and (not is_full or config['density'] == 1)


def _word(name: str, value: Any, field: Field | None, tuned: bool) -> str:
  """The label of a field's value; of True without a label the field's name."""
  if field is not None and field.label is not None:
    return field.label.words(value) if tuned or not field.label.tuned else ''
  return name if value is True else ''
