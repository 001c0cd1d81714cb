"""Image-text data as random-access sources, one a split.

A record is a dict of `image` (uint8 [S, S, 3]), `index` (stable number of the
example in its data set), `concept_id` (what it shows: records of one concept
are positives of each other), `captions` (a tuple of `Caption`) and `label` (its
class, for the classification evaluations).
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from contrastive_jax.data.files import prepare
from contrastive_jax.data.sets.fashion_mnist import files as fashion_mnist
from contrastive_jax.data.sets.folder import reading
from contrastive_jax.data.text import tokenizer as tokenizer_lib

# Splits with these names get their own evaluations; see training.evaluators.
TRAIN, VALIDATION, TEST = "train", "validation", "test"
ANY_LANGUAGE = ""
# Examples of a large data set whose captions a vocabulary is learned on.
_CAPTIONS_TO_LEARN = 200_000

# What a prompt says around a name, for each data set. `{}` is the name.
EMOJI_PROMPTS = (
  "{}",
  "a drawing of {}",
  "an icon of {}",
  "a picture showing {}",
  "{} emoji",
)
# A user's captions are mostly sentences about photos: "an icon of two dogs on a
# beach" would be wrong about them.
FOLDER_PROMPTS = ("{}", "a photo of {}")
FASHION_MNIST_PROMPTS = (
  "{}",
  "a photo of {}",
  "a grey photo of {}",
  "{}, an article of clothing",
)


class Caption(NamedTuple):
  """One text of an example."""

  text: str
  kind: str  # "name" or "keyword".
  language: str  # BCP 47, or ANY_LANGUAGE.


class Source(Protocol):
  """Random access to records."""

  def __len__(self) -> int:
    """Number of records."""
    ...

  def __getitem__(self, index: int) -> Mapping[str, Any]:
    """One record."""
    ...

  def fields(self, index: int) -> Mapping[str, Any]:
    """One record without its image, which may be dear to decode."""
    ...


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
  tokenizer: tokenizer_lib.Tokenizer
  fingerprint: str = ""
  prompts: tuple[str, ...] = ("{}",)


class ArraySource:
  """Records held in memory: images in one array, the rest in lists."""

  def __init__(self, images: np.ndarray, records: Sequence[Mapping[str, Any]]):
    """Takes uint8 [N, S, S, 3] images and their N other fields."""
    if len(images) != len(records):
      raise ValueError(
        f"images and records must be as many; got {len(images)} and"
        f" {len(records)}."
      )
    self.images = images
    self.records = records

  def __len__(self) -> int:
    """Number of records."""
    return len(self.records)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """One record."""
    return {"image": self.images[index], **self.records[index]}

  def fields(self, index: int) -> Mapping[str, Any]:
    """One record without its image."""
    return self.records[index]


def index_bound(source: Source) -> int:
  """The largest `index` of a split, plus 1: entries of a table of it."""
  known = getattr(source, "index_bound", None)
  if known is not None:  # Of millions of records not all are read for it.
    return known
  return 1 + max(
    (int(source.fields(i)["index"]) for i in range(len(source))), default=-1
  )


def load_emoji(
  data_dir: str | None = None,
  *,
  languages: Sequence[str] = ("en",),
  report: Callable[[str], None] = print,
) -> PairData:
  """Prepares (once) and opens the embedded emoji data.

  Args:
    data_dir: where the prepared records are kept, in a folder a fingerprint;
      None is the user's cache.
    languages: languages of the captions that the records carry.
    report: receives a line when something takes a while.

  Returns:
    The data set, with the splits that its TFDS builder names. Drawings of the
    few concepts that have a name in none of the languages are left out.

  Raises:
    ValueError: if a language is not one of the data set's.
  """
  # TFDS takes seconds to import: only who opens a data set pays for it.
  from contrastive_jax.data.sets.emoji import emoji_dataset_builder as emoji

  unknown = sorted(set(languages) - set(emoji.LANGUAGES))
  if unknown or not languages:
    raise ValueError(
      f"languages must be some of {', '.join(emoji.LANGUAGES)}; got"
      f" {', '.join(unknown) or 'none'}."
    )
  # A package with other drawings or names must not open what an earlier one
  # prepared: TFDS knows its version alone.
  folder_name = f"emoji-{emoji.fingerprint()}"
  builder = prepare.prepared(
    functools.partial(
      emoji.Emoji,
      config="images",
      data_dir=str(
        pathlib.Path(data_dir or prepare.default_data_dir()) / folder_name
      ),
      file_format="array_record",
    ),
    "the emoji data",
    report=report,
  )
  captions = {
    c["concept_id"]: _emoji_captions(c, languages) for c in emoji.concepts()
  }
  splits = {}
  for split in builder.info.splits:
    rows = sorted(
      (
        row
        for row in builder.as_data_source(split=split)
        if captions[int(row["concept_id"])]
      ),
      key=lambda row: int(row["index"]),
    )
    splits[split] = ArraySource(
      np.stack([row["image"] for row in rows]),
      [
        {
          "index": int(row["index"]),
          "concept_id": int(row["concept_id"]),
          "captions": captions[int(row["concept_id"])],
          "label": row["subcategory"].decode()
          if isinstance(row["subcategory"], bytes)
          else str(row["subcategory"]),
        }
        for row in rows
      ],
    )
  path = pathlib.Path(emoji.__file__).parent / "tokenizer.json"
  return PairData(
    name="emoji",
    splits=splits,
    languages=tuple(languages),
    tokenizer=tokenizer_lib.Tokenizer.load(path),
    fingerprint=emoji.fingerprint(),
    prompts=EMOJI_PROMPTS,
  )


def load_fashion_mnist(
  path: str = "", *, class_concepts: bool = False
) -> PairData:
  """Opens Fashion-MNIST; see `contrastive_jax.data.sets.fashion_mnist`.

  Of the 8,000 images that ship, 6,000 are for training, 1,000 for validation
  and 1,000 for test; all of them are training images of the full data. Of that,
  the last twelfth of the training file (5,000) is for validation, and the test
  file for test. The caption of an image is the name of its class.

  Args:
    path: the folder with the four idx.gz files; "" is what ships.
    class_concepts: whether all images of a class show one concept, as
      image-text training needs, where they share their captions; otherwise
      each image is a concept of its own, and labels are for evaluation alone.

  Returns:
    The data set.

  Raises:
    folder.DataError: if a file is missing or wrong.
  """
  if path:
    first, test = fashion_mnist.read_folder(path)
    held_out = len(first.labels) // 12
    sizes = [len(first.labels) - held_out, held_out, len(test.labels)]
    everything = [first, test]
  else:
    everything = [fashion_mnist.embedded()]
    sizes = [6000, 1000, 1000]
  images = np.concatenate([part.images for part in everything])
  labels = np.concatenate([part.labels for part in everything])
  names = fashion_mnist.CLASSES
  splits, start = {}, 0
  for split, size in zip((TRAIN, VALIDATION, TEST), sizes):
    stop = start + size
    splits[split] = ArraySource(
      # Three channels without three copies.
      np.broadcast_to(
        images[start:stop, ..., None], (size, *images.shape[1:], 3)
      ),
      [
        {
          "index": index,
          "concept_id": int(labels[index]) if class_concepts else index,
          "captions": (Caption(names[labels[index]], "name", "en"),),
          "label": names[labels[index]],
        }
        for index in range(start, stop)
      ],
    )
    start = stop
  train = fashion_mnist.Drawings(images[: sizes[0]], labels[: sizes[0]])
  return PairData(
    name="fashion_mnist",
    splits=splits,
    languages=("en",),
    tokenizer=tokenizer_lib.Tokenizer.train(
      [text.format(name) for name in names for text in FASHION_MNIST_PROMPTS],
      vocab_size=512,
    ),
    fingerprint=train.fingerprint,
    prompts=FASHION_MNIST_PROMPTS,
  )


def _emoji_captions(
  concept: Mapping[str, Any], languages: Sequence[str]
) -> tuple[Caption, ...]:
  captions = []
  for language in languages:
    if language in concept["names"]:
      captions.append(Caption(concept["names"][language], "name", language))
      captions.extend(
        Caption(keyword, "keyword", language)
        for keyword in concept["keywords"][language]
      )
  return tuple(captions)


class _FolderSplit:
  """A folder's split with its captions as `Caption`s."""

  def __init__(self, source: reading.FolderSource):
    self._source = source

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> dict[str, Any]:
    return {**self._source[index], **self.fields(index)}

  def fields(self, index: int) -> dict[str, Any]:
    record = self._source.fields(index)
    captions = tuple(
      Caption(text, "name", ANY_LANGUAGE) for text in record["captions"]
    )
    return {**record, "captions": captions}

  def __repr__(self) -> str:
    return repr(self._source)

  @property
  def fingerprint(self) -> str:
    """Changes when the split's images, captions or concepts do."""
    return self._source.fingerprint

  def captions(self) -> list[str]:
    """All captions, without decoding an image."""
    return self._source.captions()


def load_folder(
  path: str,
  *,
  image_size: int,
  report_path: pathlib.Path,
  tokenizer_path: pathlib.Path,
  vocab_size: int,
  max_bad_share: float,
  fit: str = "pad",
  report: Callable[[str], None] = print,
  progress: Callable[[int, int], None] | None = None,
) -> PairData:
  """Opens a user's own folder; see `contrastive_jax.data.sets.folder.reading`.

  The tokenizer is learned on the training captions the first time, and read
  from `tokenizer_path` from then on.

  Args:
    path: the folder with `captions.jsonl` or `captions.csv`.
    image_size: side of the model's images.
    report_path: receives a line for each row that cannot be used.
    tokenizer_path: where the vocabulary is kept.
    vocab_size: its size at most.
    max_bad_share: of the rows; more of them stop the run.
    fit: how images become squares, see `folder_images.decode`.
    report: receives lines for the user.
    progress: called with (images checked, images).

  Returns:
    The data set.

  Raises:
    folder.DataError: if the folder cannot be used.
  """
  records = reading.scan_folder(
    path,
    image_size=image_size,
    report_path=report_path,
    max_bad_share=max_bad_share,
    fit=fit,
    progress=progress,
  )
  for warning in records.warnings:
    report(f"Note: {warning}")
  if records.num_skipped:
    report(
      f"Note: {records.num_skipped:,} of {records.num_rows:,} rows cannot be"
      f" used; {report_path} lists them."
    )
  splits = {
    name: _FolderSplit(getattr(records, name))
    for name in (TRAIN, VALIDATION, TEST)
  }
  if tokenizer_path.exists():
    tokenizer = tokenizer_lib.Tokenizer.load(tokenizer_path)
  else:
    tokenizer = tokenizer_lib.Tokenizer.train(
      splits[TRAIN].captions(), vocab_size=vocab_size
    )
    tokenizer.save(tokenizer_path)
  return PairData(
    name="folder",
    splits=splits,
    languages=(ANY_LANGUAGE,),
    tokenizer=tokenizer,
    fingerprint=splits[TRAIN].fingerprint,
    prompts=FOLDER_PROMPTS,
  )


class _RecordSplit:
  """A split of converted pairs with its captions as `Caption`s."""

  def __init__(self, source: Any):
    self._source = source
    self.index_bound = source.index_bound
    self.fingerprint = source.fingerprint
    self.weights = getattr(source, "weights", None)
    self.bounds = getattr(source, "bounds", (0, len(source)))

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> dict[str, Any]:
    return self._converted(self._source[index])

  def fields(self, index: int) -> dict[str, Any]:
    return self._converted(self._source.fields(index))

  def _converted(self, record: dict[str, Any]) -> dict[str, Any]:
    captions = tuple(
      Caption(text, "name", ANY_LANGUAGE) for text in record["captions"]
    )
    return record | {"captions": captions}

  def __repr__(self) -> str:
    return repr(self._source)


def load_records(
  paths: Sequence[str],
  *,
  image_size: int,
  weights: Sequence[float] = (),
  fit: str = "pad",
  tokenizer: tokenizer_lib.Tokenizer | None = None,
  vocab_size: int = 8192,
) -> PairData:
  """Opens converted pairs; see `contrastive_jax.data.sets.records`.

  Args:
    paths: folders that `experiments.convert_pairs` wrote, at least one.
    image_size: side of the images, pixels.
    weights: how often each folder is drawn from in training; none is by size.
      Validation and test have all examples of all folders.
    fit: how images become squares, see `folder_images.decode`.
    tokenizer: None learns one on the captions of at most 200,000 training examples.
    vocab_size: its size at most.

  Returns:
    The data set.

  Raises:
    folder.DataError: if a folder cannot be used.
  """
  from contrastive_jax.data.sets import records

  found = [records.load(p, image_size=image_size, fit=fit) for p in paths]
  splits = {}
  for name in (TRAIN, VALIDATION, TEST):
    parts = [splits_of[name] for splits_of in found]
    if name == TRAIN and (empty := [p for p, s in zip(paths, parts) if not s]):
      raise reading.DataError(
        f"{empty[0]} has no training examples; convert some, or leave it out."
      )
    ours = weights if weights and name == TRAIN else None
    splits[name] = _RecordSplit(
      parts[0] if len(parts) == 1 else records.Mixture(parts, ours)
    )
  train = splits[TRAIN]
  if tokenizer is None:
    stride = -(-len(train) // _CAPTIONS_TO_LEARN)
    tokenizer = tokenizer_lib.Tokenizer.train(
      (
        caption.text
        for row in range(0, len(train), stride)
        for caption in train.fields(row)["captions"]
      ),
      vocab_size=vocab_size,
    )
  return PairData(
    name="records",
    splits=splits,
    languages=(ANY_LANGUAGE,),
    tokenizer=tokenizer,
    fingerprint=train.fingerprint,
    prompts=FOLDER_PROMPTS,
  )
