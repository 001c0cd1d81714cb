"""Image-text data as random-access sources, one a split.

A record is a dict of `image` (uint8 [S, S, 3]), `index` (stable number of the
example in its data set), `concept_id` (what it shows: records of one concept
are positives of each other), `captions` (a tuple of `Caption`) and `label` (its
class, for the classification evaluations). Records of tasks: see `data.tasks`.
"""

import abc
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
  import numpy as np

  from contrastive_jax.data.text import tokenizer as tokenizer_lib

# Splits with these names get their own evaluations; see training.evaluators.
TRAIN, VALIDATION, TEST = "train", "validation", "test"
ANY_LANGUAGE = ""
# Texts around a name in a caption about a photo: an example's captions are
# mostly sentences, and "an icon of two dogs on a beach" would be wrong.
PHOTO_PROMPTS = ("{}", "a photo of {}")


class Caption(NamedTuple):
  """One text of an example."""

  text: str
  kind: str  # "name" or "keyword".
  language: str  # BCP 47, or ANY_LANGUAGE.


def name_captions(
  texts: Iterable[str], language: str = ANY_LANGUAGE
) -> tuple[Caption, ...]:
  """Texts as captions of the kind "name"."""
  return tuple(Caption(text, "name", language) for text in texts)


class Source(abc.ABC):
  """Random access to the records of a split.

  Attributes:
    fingerprint: changes when the records do; "" if nothing depends on it.
    weights: of a mixture, how often rows of each part are drawn; None draws all
      rows equally often.
  """

  fingerprint: str = ""
  weights: tuple[float, ...] | None = None

  @abc.abstractmethod
  def __len__(self) -> int:
    """Number of records."""

  @abc.abstractmethod
  def __getitem__(self, index: int) -> Mapping[str, Any]:
    """One record."""

  @abc.abstractmethod
  def fields(self, index: int) -> Mapping[str, Any]:
    """One record without its images, which may be dear to decode."""

  @property
  def bounds(self) -> tuple[int, ...]:
    """The first row of each part of a mixture, and the number of all rows."""
    return (0, len(self))

  @property
  def index_bound(self) -> int:
    """The largest `index` of a record, plus 1: entries of a table of it."""
    return 1 + max(
      (int(self.fields(i)["index"]) for i in range(len(self))), default=-1
    )

  @property
  def labels(self) -> set[str]:
    """The labels of the records; "" (no label) is not among them."""
    return {str(self.fields(i)["label"]) for i in range(len(self))} - {""}

  def _checked(self, index: int) -> int:
    """A row, as an int; raises `IndexError` if there is none."""
    if not 0 <= int(index) < len(self):
      raise IndexError(f"index {index} of a source of {len(self)} records")
    return int(index)


@dataclasses.dataclass(frozen=True)
class PairData:
  """A prepared image-text data set.

  Attributes:
    name: of the data set.
    splits: a source a split; "train" is always there.
    languages: the languages of the captions.
    tokenizer: learned on the training captions.
    fingerprint: changes when the training examples or their captions do.
    prompts: texts that go around a name (`{}`) in training captions and in
      zero-shot classification.
  """

  name: str
  splits: Mapping[str, Source]
  languages: tuple[str, ...]
  tokenizer: "tokenizer_lib.Tokenizer"
  fingerprint: str = ""
  prompts: tuple[str, ...] = ("{}",)


class Absent(Source):
  """Records that are not here, of which the largest `index` is known."""

  def __init__(self, index_bound: int):
    """Takes the largest `index` that there was, plus 1."""
    self._index_bound = index_bound

  def __len__(self) -> int:
    """None."""
    return 0

  @property
  def index_bound(self) -> int:
    """The largest `index` that there was, plus 1."""
    return self._index_bound

  def __getitem__(self, index: int) -> Mapping[str, Any]:
    """Raises `IndexError`."""
    return self.fields(index)

  def fields(self, index: int) -> Mapping[str, Any]:
    """Raises `IndexError`."""
    return {"index": self._checked(index)}


class ArraySource(Source):
  """Records held in memory: images in one array, the rest in lists."""

  def __init__(
    self,
    images: "np.ndarray",
    records: Sequence[Mapping[str, Any]],
    *,
    rows: Sequence[int] | None = None,
    second_images: "np.ndarray | None" = None,
  ):
    """Takes images, and what records say of them.

    Args:
      images: uint8 [N, S, S, 3].
      records: the other fields.
      rows: the row of each record's image, of which several may share one; None
        is an image a record.
      second_images: as `images`, of records about two.
    """
    if rows is None and len(images) != len(records):
      raise ValueError(
        f"images and records must be as many; got {len(images)} and"
        f" {len(records)}."
      )
    self.images, self.second_images = images, second_images
    self.records = records
    self._rows = range(len(records)) if rows is None else rows

  def __len__(self) -> int:
    """Number of records."""
    return len(self.records)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """One record; its images are views that cannot be written to."""
    row = self._rows[self._checked(index)]
    record = {"image": _read_only(self.images[row]), **self.records[index]}
    if self.second_images is not None:
      record["second_image"] = _read_only(self.second_images[row])
    return record

  def fields(self, index: int) -> Mapping[str, Any]:
    """One record without its images."""
    return self.records[self._checked(index)]


def caption_texts(source: Source, most: int | None = None) -> Iterator[str]:
  """The captions of a split, to learn a vocabulary on.

  Args:
    source: the records.
    most: examples whose captions they are, at even distances; None is all.
  """
  stride = max(1, -(-len(source) // most)) if most else 1
  for row in range(0, len(source), stride):
    for caption in source.fields(row)["captions"]:
      yield caption.text


def _read_only(image: "np.ndarray") -> "np.ndarray":
  """A view; other records may show the same image."""
  image = image.view()
  image.flags.writeable = False
  return image
