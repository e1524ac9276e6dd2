"""Picture files as arrays."""

import pathlib
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from hns.errors import InputError


def pixels(
  place: str, source: pathlib.Path | BinaryIO, mode: str | None = None
) -> np.ndarray:
  """The pixels of a picture as it is seen, uint8 [h, w, 1] or [h, w, 3].

  Args:
    place: what it is called in errors.
    source: the file.
    mode: of Pillow, which it is converted to; None: it is L or RGB already.

  Raises:
    InputError: it cannot be decoded, or is neither grey (L) nor RGB.
  """
  try:
    with Image.open(source) as picture:
      ImageOps.exif_transpose(picture, in_place=True)
      found = picture.convert(mode) if mode else picture
      found.load()
      array, kind = np.asarray(found), found.mode
  except MemoryError:
    raise
  except Exception as error:  # each format has its own errors
    cause = ' '.join(f'{type(error).__name__} {error}'.split())[:200]
    problem = f'is no picture that can be read ({cause}): remove it'
    raise InputError(f'{place}: {problem}') from error
  if kind not in ('L', 'RGB'):
    remedy = f'is of mode {kind}: convert it to L (grey) or RGB'
    raise InputError(f'{place}: {remedy}')
  return array[..., None] if kind == 'L' else array
