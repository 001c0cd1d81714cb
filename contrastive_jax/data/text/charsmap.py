"""SentencePiece's table of characters: what replaces which, longest match first.

`tokenizers` applies such a table to whole graphemes and loses marks that follow a
replaced character, so that ids would differ from SentencePiece's own.
"""

import base64
import functools
import json

import numpy as np
from tokenizers import normalizers

_ASCII = range(0x20, 0x7F)


class Charsmap:
  """A table as it is stored: a double array of bytes, and the replacements.

  The array is that of Darts-clone: a unit has the byte that leads to it, the way to
  its children, and whether one of them is the end of a key.
  """

  def __init__(self, blob: bytes):
    """Takes a model's `precompiled_charsmap`.

    Raises:
      ValueError: if its sizes contradict each other.
    """
    size = int.from_bytes(blob[:4], "little")
    if size % 4 or not 4 <= size <= len(blob) - 4:
      raise ValueError(
        f"The table of characters must have an array of {size} bytes; it has"
        f" {len(blob)} bytes in all."
      )
    self._units = np.frombuffer(blob, "<u4", size // 4, 4).tolist()
    self._texts = blob[4 + size :]
    self._plain_ascii = not self._touches_ascii()

  def __call__(self, text: str) -> str:
    """`text` with its replacements."""
    if self._plain_ascii and text.isascii() and text.isprintable():
      return text
    data, out, at = text.encode(), [], 0
    while at < len(data):
      length, end = self._longest(data, at)
      if length:
        stop = self._texts.find(b"\0", end)
        out.append(self._texts[end : stop if stop >= 0 else None])
      else:
        length = 1
        while at + length < len(data) and data[at + length] & 0xC0 == 0x80:
          length += 1
        out.append(data[at : at + length])
      at += length
    return b"".join(out).decode(errors="replace")

  def _child(self, place: int, byte: int) -> int | None:
    """Where a byte leads from the place of a unit's children."""
    place ^= byte
    if place >= len(self._units) or self._units[place] & 0x800000FF != byte:
      return None
    return place

  def _children(self, place: int) -> int:
    unit = self._units[place]
    return place ^ (unit >> 10) << ((unit & 0x200) >> 6)

  def _longest(self, data: bytes, at: int) -> tuple[int, int]:
    """The length of the longest key in bytes, and where its replacement is."""
    found, start = (0, 0), at
    place = self._children(0)
    while at < len(data):
      child = self._child(place, data[at])
      if child is None:
        break
      at += 1
      place = self._children(child)
      if self._units[child] & 0x100 and place < len(self._units):
        found = at - start, self._units[place] & 0x7FFFFFFF
    return found

  def _touches_ascii(self) -> bool:
    """Whether a key may consist of printable ASCII."""
    root = self._children(0)
    for first in _ASCII:
      child = self._child(root, first)
      if child is None:
        continue
      if self._units[child] & 0x100:
        return True
      place = self._children(child)
      if any(self._child(place, second) is not None for second in _ASCII):
        return True
    return False


def split(
  normalizer: normalizers.Normalizer | None,
) -> tuple[Charsmap | None, normalizers.Normalizer | None]:
  """The table that a normaliser begins with, and what is left of the normaliser."""
  if not isinstance(normalizer, normalizers.Sequence) or not len(normalizer):
    return None, normalizer
  first = normalizer[0]
  if not isinstance(first, normalizers.Precompiled):
    return None, normalizer
  rest = [normalizer[i] for i in range(1, len(normalizer))]
  return _stored(first.__getstate__()), normalizers.Sequence(rest)


@functools.lru_cache(maxsize=4)
def _stored(state: bytes) -> Charsmap:
  """The table of a normaliser that is stored as JSON."""
  return Charsmap(base64.b64decode(json.loads(state)["precompiled_charsmap"]))
