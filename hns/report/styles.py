"""How a method looks: alike in every panel and in every picture.

Colour tells the method, marker what it sends, dash the bits of its download
and its optimiser, a hollow marker a network that is pruned to less than half.
All follow from the name alone; names that are not known here draw theirs from
a checksum of it. Colours are Okabe and Ito's, for the colour-blind, and a few
more that a marker tells from them.
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
# What a word of a variant changes. The last one counts.
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
  '4 bits up': {},
  'pruned': {},
}
_PRUNED = r'(?:density|keeps) ([\d.e-]+)'
_PRUNERS = {
  'synflow': '#0072b2',
  'magnitude': '#e69f00',
  'random': '#999999',
}
_DENSITIES = {'density 0.2': '', 'density 1': '///'}
_HATCHES = '...', 'xxx', '\\\\\\', '+++', 'ooo', '---'


def style(name: str) -> dict[str, Any]:
  """How a method's line is drawn, as keywords of `axes.plot`."""
  method, *words = _parts(name)
  known = _pick(method, _COLORS), _pick(method, _MARKERS)
  color, marker = _METHODS.get(method, known)
  look = dict(color=color, marker=marker, linestyle='-')
  look |= dict(markerfacecolor=color, markeredgecolor=color)
  for word in words:
    share = re.fullmatch(_PRUNED, word)
    if share is None:
      look |= _WORDS.get(word, _drawn(word))
    elif float(share[1]) < 0.5:
      look['markerfacecolor'] = 'white'
  return look


def bar(name: str) -> dict[str, Any]:
  """How bars of a pruning are drawn: colour and hatch, by its name."""
  method, *words = _parts(name)
  words = ', '.join(words)
  color = _PRUNERS.get(method, _pick(method, _COLORS))
  hatch = _DENSITIES.get(words, _pick(words, _HATCHES))
  return dict(color=color, hatch=hatch, edgecolor='black', alpha=0.6)


def _parts(name: str) -> list[str]:
  """A method and the words of its variant: 'a (b, c), d=1' is a, b, c, d=1."""
  found = re.findall(r'\{[^}]*\}|[^,(){}]+', name)
  return [part.strip() for part in found if part.strip()] or ['']


def _drawn(word: str) -> dict[str, Any]:
  """Marker and dash of a word that nobody knows."""
  return dict(
    marker=_pick(word, _MARKERS), linestyle=_pick(f'{word} ', _DASHES)
  )


def _pick(name: str, choices: tuple[str, ...]) -> str:
  return choices[zlib.crc32(name.encode()) % len(choices)]
