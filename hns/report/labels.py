"""Labels of methods: the name, the fields of its table, pruning, network.

And names of settings: the data on which methods are compared.
"""

import collections
from collections.abc import Iterable
from typing import Any, NamedTuple

from hns.data.names import short_of
from hns.fields import Field, fields_of
from hns.methods.recipes import RECIPES


class Word(NamedTuple):
  """What a label says of one field.

  Attributes:
    field: its name.
    text: of its value.
    tuned: whether tuning chooses it, so that it makes no variant of a method.
  """

  field: str
  text: str
  tuned: bool = False


def named(algorithm: str, words: Iterable[Word]) -> str:
  """A method and, in brackets, what is said of it."""
  texts = ', '.join(word.text for word in words)
  return f'{algorithm} ({texts})' if texts else algorithm


def label(config: dict[str, Any], layers: dict[str, list[int]]) -> str:
  """A method and its variant, in a few words; arguments as `label_words`."""
  return named(config['algorithm'], label_words(config, layers))


def label_words(
  config: dict[str, Any], layers: dict[str, list[int]]
) -> list[Word]:
  """What is said of the method's fields, the server's pruning and its rule.

  Args:
    config: of a run.
    layers: by layer, the weights that survived pruning and all weights.
  """
  name = config['algorithm']
  table = config.get(name, {})
  fields = fields_of(RECIPES[name]) if name in RECIPES else {}
  order = [
    *(f for f in fields if f in table),
    *sorted(table.keys() - fields.keys()),
  ]
  words = [_word(f, table[f], fields.get(f)) for f in order]
  if _is_pruned(config, layers):
    words += _pruning_words(config)
  decay = config.get('rate_decay', 1)
  said = '' if decay == 1 else f'decay {decay:g}'
  words.append(Word('rate_decay', said, tuned=True))
  rule = config.get('server_rule', 'mean')
  words.append(Word('server_rule', '' if rule == 'mean' else rule))
  return [word for word in words if word.text]


def _is_pruned(config: dict[str, Any], layers: dict[str, list[int]]) -> bool:
  """Whether the server pruned, also with density 1."""
  is_full = all(left == size for left, size in layers.values())
  return bool(layers) and (not is_full or config['density'] == 1)


def _pruning_words(config: dict[str, Any]) -> list[Word]:
  """Those of the server's pruning; its usual values have none."""
  score, once = config.get('pruning'), config.get('pruning_steps') == 1
  return [
    Word('density', f'density {config["density"]:g}', tuned=True),
    Word('pruning', '' if score in (None, 'synflow') else score),
    Word('pruning_steps', 'single-shot' * once),
  ]


def _word(name: str, value: Any, field: Field | None) -> Word:
  """That of a field's value; of True without a label the field's name."""
  if field is not None and field.label is not None:
    return Word(name, field.label.words(value), field.label.tuned)
  return Word(name, name if value is True else '')


def settings_of(configs: list[dict[str, Any]]) -> list[str]:
  """By config, the data on which methods are compared.

  That is the dataset and the clients, and the partition where some of these
  configs share out the same data otherwise.
  """
  short = short_of(config['dataset'] for config in configs)
  names = [
    f'{short[config["dataset"]]}, {_clients(config)}' for config in configs
  ]
  kinds = [_partition(config) for config in configs]
  by_name = collections.defaultdict(set)
  for name, kind in zip(names, kinds):
    by_name[name].add(kind)
  return [
    f'{name}, {kind}' if len(by_name[name]) > 1 else name
    for name, kind in zip(names, kinds)
  ]


def _clients(config: dict[str, Any]) -> str:
  """How many, what is wrong with some of them, and how private they are.

  Older runs tell nothing of it.
  """
  told = {
    'unseen_clients': '{} unseen',
    'hostile_clients': f'{{}} hostile: {config.get("attack")}',
    'drop_share': '{:.0%} drop'
    + ', the slowest' * bool(config.get('drop_slowest')),
    'sign_epsilon': 'epsilon {:g} a sign',
  }
  words = [text.format(config[f]) for f, text in told.items() if config.get(f)]
  if config.get('secure_aggregation'):
    words.append('summed under masks')
  if config.get('server_rule') == 'private_mean':
    words.append(f'noise {config["noise_multiplier"]:g}')
  return f'{config["num_clients"]} clients' + (
    f' ({", ".join(words)})' if words else ''
  )


def _partition(config: dict[str, Any]) -> str:
  """How examples are shared out, such as dirichlet 0.1."""
  kind = config.get('partition', '')
  return f'{kind} {config.get("alpha")}' if kind == 'dirichlet' else kind
