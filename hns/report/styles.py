"""The style of a method, the same in all panels and pictures.

The colour shows the method, the marker its upload, the dash the bits of its
download, its optimiser and whether its rate falls, a hollow marker pruning to
less than half, with a thinner edge the fewer weights are left, the half of a
marker in grey its network. Styles depend on the name alone; those of
unknown names on its checksum. Colours are Okabe and Ito's, for the
colour-blind, and a few more with distinct markers.
"""

import re
import zlib
from typing import Any

_METHODS = {
  'hidenseek': ('#0072b2', 'o'),
  'hidenseek_personal': ('#56b4e9', 'o'),
  'fedavg': ('#000000', 'p'),
  'fedavg_finetuned': ('#000000', '*'),
  'fedavg_quantized': ('#e69f00', 'D'),
  'fedprox': ('#6b6b6b', 'P'),
  'signsgd': ('#d55e00', 'd'),
  'fedmask': ('#009e73', 'o'),
  'fedpm': ('#cc79a7', 'h'),
  'fedper': ('#5d3a9b', '<'),
  'ditto': ('#8c564b', 'v'),
  'lotteryfl': ('#999933', '>'),
  'hermes': ('#882255', 'H'),
  'local': ('#999999', 'X'),
}
_COLORS = tuple(dict.fromkeys(color for color, _ in _METHODS.values()))
_MARKERS = tuple('osD^v<>dphHPX*8')
_DASHES = '-', '--', '-.', ':'
# The style of the words of a variant. Later words take precedence.
_WORDS = {
  'paper': dict(marker='o'),
  'change': dict(marker='s'),
  'ternary': dict(marker='^'),
  'dithered': dict(marker='D'),
  'feedback': dict(marker='X'),
  '{0, 1}': dict(marker='P'),
  'carry': dict(marker='v'),
  'magnitude': dict(marker='<'),
  'random': dict(marker='>'),
  'single-shot': dict(marker='*'),
  'adam': dict(linestyle='-.'),
  '1 down': dict(linestyle='--'),
  '2 down': dict(linestyle=':'),
  '4 down': {},
  '32 down': {},
  '4 bits up': {},
  'pruned': {},
  'remember': {},
  'votes': dict(marker='o'),
  'median': dict(marker='^', linestyle='--'),
  'trimmed_mean': dict(marker='v', linestyle='-.'),
  'clipped_mean': dict(marker='>', linestyle=':'),
  'private_mean': dict(marker='h', linestyle=':'),
  'cnn': {},
  'lenet': dict(fillstyle='left', markerfacecoloralt='0.7'),
  'conv4': dict(fillstyle='right', markerfacecoloralt='0.7'),
  'mlp': dict(fillstyle='top', markerfacecoloralt='0.7'),
}
_PRUNED = r'(?:density|keeps) ([\d.e-]+)'
_PRUNERS = {'synflow': '#0072b2', 'magnitude': '#e69f00', 'random': '#999999'}
_DENSITIES = {'density 0.2': '', 'density 1': '///'}
_HATCHES = '...', 'xxx', '\\\\\\', '+++', 'ooo', '---'


def style(name: str) -> dict[str, Any]:
  """The style of a method's line, as keywords of `axes.plot`."""
  method, *words = _parts(name)
  known = _pick(method, _COLORS), _pick(method, _MARKERS)
  color, marker = _METHODS.get(method, known)
  options = dict(color=color, marker=marker, linestyle='-')
  options |= dict(markerfacecolor=color, markeredgecolor=color)
  for word in words:
    share = re.fullmatch(_PRUNED, word)
    if word.startswith('decay '):
      options |= dict(linestyle=':')
    elif share is None:
      options |= _WORDS.get(word, _default_style(method, word))
    elif float(share[1]) < 0.5:
      # Fewer weights, a thinner edge.
      width = round(1.5 * float(share[1]) ** 0.25, 2)
      options |= dict(markerfacecolor='white', markeredgewidth=width)
  return options


def bar(name: str) -> dict[str, Any]:
  """The style of a pruning's bars, as keywords of `axes.bar`."""
  method, *words = _parts(name)
  words = ', '.join(words)
  color = _PRUNERS.get(method, _pick(method, _COLORS))
  hatch = _DENSITIES.get(words, _pick(words, _HATCHES))
  return dict(color=color, hatch=hatch, edgecolor='black', alpha=0.6)


def _parts(name: str) -> list[str]:
  """A method and the words of its variant: 'a (b), c=1' is a, b, c=1."""
  parts = re.findall(r'\{[^}]*\}|[^,(){}]+', name)
  return [part.strip() for part in parts if part.strip()] or ['']


def _default_style(method: str, word: str) -> dict[str, Any]:
  """Marker and dash of an unknown word, such as a network of your own.

  They differ between methods, which may share a colour.
  """
  name = f'{word}, {method}'
  return dict(
    marker=_pick(name, _MARKERS), linestyle=_pick(f'{name} ', _DASHES)
  )


def _pick(name: str, choices: tuple[str, ...]) -> str:
  return choices[zlib.crc32(name.encode()) % len(choices)]
