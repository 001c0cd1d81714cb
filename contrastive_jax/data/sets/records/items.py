"""Results of all readers of pairs: an example, or why there is none."""

import dataclasses
import hashlib
import io
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from contrastive_jax.data.sets.folder import folder_images, folder_rows
from contrastive_jax.data.sets.folder.folder_rows import RowError

# Tokenizers read a few hundred tokens; captions of a megabyte are mistakes.
MAX_CAPTION = 10_000
# Most bytes of an image file; larger ones are no pictures to train on.
MAX_BYTES = 2**28


@dataclasses.dataclass(frozen=True)
class Reading:
  """How examples are read.

  Attributes:
    images_alone: whether an example needs no caption, and has none.
    caption_lines: whether each line of a text is a caption.
    image_member: of tar archives, the extension of the image, such as `seg.png`; ""
      is any usual one.
    caption_member: likewise of the caption, a text.
  """

  images_alone: bool = False
  caption_lines: bool = False
  image_member: str = ""
  caption_member: str = ""


PAIRS = Reading()


class Item(NamedTuple):
  """An example as its input has it.

  Attributes:
    key: its name in the input.
    image: an encoded image.
    captions: of it; none where images alone are read.
    label: its class, or "".
  """

  key: str
  image: bytes
  captions: tuple[str, ...]
  label: str = ""

  @property
  def concept_id(self) -> int:
    """31 bits of a hash of the first caption, but for case, width and spaces.

    Images of one caption are positives of each other; without one it is of the key.
    Two captions share an id by chance in 1 of 2e9 pairs.
    """
    text = folder_rows.normal((*self.captions, self.key)[0])
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:4]) >> 1


class Problem(NamedTuple):
  """Why an example, or the rest of an input, cannot be used.

  Attributes:
    key: what it is about.
    problem: the kind, then the detail.
    lost: how many examples; None where nobody knows, as of what follows in a
      broken archive.
  """

  key: str
  problem: str
  lost: int | None = 1

  @property
  def kind(self) -> str:
    """Its first part."""
    return self.problem.partition(":")[0]


Found = Iterator[Item | Problem]


def text_of(value: Any) -> str:
  """A caption or label as one line of text.

  Raises:
    RowError: if it is no text.
  """
  if isinstance(value, bytes):
    try:
      value = value.decode("utf-8")
    except UnicodeDecodeError as error:
      raise RowError("invalid UTF-8", f"byte {error.start}") from error
  if isinstance(value, bool) or not isinstance(value, str | int | float):
    raise RowError("no caption", f"{type(value).__name__} is no text")
  return folder_rows.clean(str(value)[:MAX_CAPTION])


def _lines(value: Any) -> list[Any]:
  """The lines of a text, or what is none as it is."""
  return value.splitlines() if isinstance(value, (str, bytes)) else [value]


def label_of(value: Any) -> str:
  """A class as text; "" for what is none, by which no pair is lost."""
  if isinstance(value, bool):
    return str(value).lower()
  try:
    return text_of(value)
  except RowError:
    return ""


def make(
  key: str,
  image: bytes | None,
  captions: Iterable[Any],
  label: Any = "",
  how: Reading = PAIRS,
) -> Item | Problem:
  """Checks the parts of an example; the image is not decoded.

  Captions are texts, or bytes of them; a label that is no text or number is none.
  """
  if how.images_alone:
    captions = ()
  try:
    if not image:
      raise RowError("no image", "there is none")
    if len(image) > MAX_BYTES:
      raise RowError("too large", f"{len(image):,} bytes")
    if how.caption_lines:
      captions = (line for text in captions for line in _lines(text))
    texts = tuple(dict.fromkeys(filter(None, map(text_of, captions))))
    if not texts and not how.images_alone:
      raise RowError("no caption", "there is none")
    return Item(key, bytes(image), texts, label_of(label))
  except RowError as error:
    return Problem(key, str(error))


def checked(item: Item, shorter_side: int) -> Item | Problem:
  """Decodes an example's image once, and makes a larger one smaller.

  Its shorter side becomes `shorter_side` pixels, encoded as JPEG anew; 0 keeps
  all bytes as they are.
  """
  try:
    rgb, full_size = folder_images.load(
      io.BytesIO(item.image), shorter_side or 32
    )
  except RowError as error:
    return Problem(item.key, str(error))
  if shorter_side and min(full_size) > shorter_side:
    try:
      return item._replace(image=folder_images.encode(rgb, shorter_side))
    except (OSError, ValueError):  # JPEG has no sides above 65,500 pixels.
      pass
  return item
