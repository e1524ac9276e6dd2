"""Families of methods: what travels, and the look that they share."""

from typing import Any, NamedTuple


class Family(NamedTuple):
  """What the methods of a family send, for a legend, and how they look."""

  name: str
  color: str
  marker: str


# In the order of a legend. Colours are Okabe and Ito's, for the colour-blind.
FAMILIES = {
  'signs': Family('signs of random weights (HideNseek)', '#0072b2', 'o'),
  'masks': Family('masks {0, 1} of random weights', '#009e73', 's'),
  'bits': Family('floats in one or few bits', '#e69f00', 'D'),
  'floats': Family('floats of 32 bits', '#7f7f7f', 'P'),
  'local': Family('nothing (every client alone)', '#000000', 'X'),
  'other': Family('other methods', '#cc79a7', '^'),
}
FAMILY_OF = {
  **dict.fromkeys(('hidenseek', 'hidenseek_personal'), 'signs'),
  **dict.fromkeys(('fedmask', 'fedpm'), 'masks'),
  **dict.fromkeys(('fedavg_quantized', 'signsgd', 'eden'), 'bits'),
  **dict.fromkeys(('fedmrn', 'fedbat', 'fedbif', 'pfed1bs'), 'bits'),
  **dict.fromkeys(('majority_vote', 'doublesqueeze'), 'bits'),
  **dict.fromkeys(('fedavg', 'fedavg_finetuned', 'fedprox'), 'floats'),
  **dict.fromkeys(('ditto', 'fedper', 'hermes', 'lotteryfl'), 'floats'),
  **dict.fromkeys(('ssfl',), 'floats'),
  'local': 'local',
}


def family_of(config: dict[str, Any]) -> Family:
  """The family of a run's method; `other` for one that has none here."""
  name = config['algorithm']
  found = FAMILY_OF.get(name, 'other')
  if found == 'signs' and config.get(name, {}).get('gate') == 'binary':
    found = 'masks'
  return FAMILIES[found]
