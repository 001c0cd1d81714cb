"""Sets that TFDS has prepared, as images with captions to train on.

| set | train | validation | test | captions |
|---|---|---|---|---|
| `coco_captions` | `train+restval` | `val` | `test` (Karpathy's splits) | its five |
| one of `benchmarks.BENCHMARKS` | its `train` | its own, or some of `train` | its `test` | the name of its class |
| another with `image` and `label` | `train` | `validation`, or some of `train` | `test`, or else `validation` | the same |

Read as `benchmarks` reads them: at random, without TensorFlow and without the set's
code; what is not there is named with the command that prepares it.
"""

import hashlib
import json
import re
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from contrastive_jax.data import benchmarks, sources
from contrastive_jax.data.text import tokenizer as tokenizer_lib

# Examples whose captions a vocabulary is learned on; their images are read too.
_CAPTIONS_TO_LEARN = 20_000
_LANGUAGE = "en"


class _Plan(NamedTuple):
  """Where a set is in TFDS, and which splits of it are what; "" is none."""

  builder: str
  train: str
  validation: str
  test: str
  prompts: tuple[str, ...] = sources.FOLDER_PROMPTS
  classes: tuple[str, ...] = ()
  named: bool = True
  captioned: bool = False


_COCO = _Plan(
  "coco_captions/2014", "train+restval", "val", "test", captioned=True
)


class _Split(benchmarks.BenchmarkSource):
  """A split whose examples are numbered from `first` on."""

  labels: Collection[str] = ()

  def __init__(self, *args: Any, first: int, **options: Any):
    super().__init__(*args, **options)
    self._first = first

  @property
  def index_bound(self) -> int:
    """One more than the largest index."""
    return self._first + len(self)


class _Classes(_Split):
  """A split whose captions are the names of classes."""

  def __init__(
    self, *args: Any, classes: Sequence[str], shared: bool, **options: Any
  ):
    super().__init__(*args, **options)
    self.labels = self._classes = tuple(classes)
    self._captions = [
      (sources.Caption(name, "name", _LANGUAGE),) for name in classes
    ]
    self._shared = shared

  def _about(self, row: Any) -> int:
    label = int(row["label"])
    if not 0 <= label < len(self._classes):
      raise benchmarks.BenchmarkError(
        f"{self._name} has an example without a class (label {label}): choose a set"
        " whose splits are labelled."
      )
    return label

  def fields(self, index: int) -> dict[str, Any]:
    """The class; no image is decoded."""
    label, number = self.about(index), self._first + int(index)
    return {
      "index": number,
      "concept_id": label if self._shared else number,
      "captions": self._captions[label],
      "label": self._classes[label],
    }


class _Captions(_Split):
  """A split of images with captions of their own."""

  def _about(self, row: Any) -> tuple[sources.Caption, ...]:
    texts = [text.decode(errors="replace") for text in row["captions"]["text"]]
    captions = tuple(
      sources.Caption(" ".join(text.split()), "name", _LANGUAGE)
      for text in texts
      if text.strip()
    )
    if not captions:
      raise benchmarks.BenchmarkError(
        f"{self._name} has an image without a caption: choose another set."
      )
    return captions

  def fields(self, index: int) -> dict[str, Any]:
    """The captions; no image is decoded."""
    number = self._first + int(index)
    return {
      "index": number,
      "concept_id": number,
      "captions": self.about(index),
      "label": "",
    }


def load(
  name: str,
  data_dir: str,
  *,
  stored_size: int,
  fit: str = "pad",
  validation_share: float = 0.1,
  class_concepts: bool = True,
  need_names: bool = False,
  tokenizer: tokenizer_lib.Tokenizer | None = None,
  vocab_size: int = 8192,
) -> sources.PairData:
  """Opens a prepared set.

  Args:
    name: of the set in TFDS, with its config after a slash if it has several, or
      in `benchmarks.BENCHMARKS`.
    data_dir: TFDS's data directory.
    stored_size: side of the images, pixels; twice the model's keeps random crops
      sharp.
    fit: how images become squares, see `folder_images.decode`.
    validation_share: of `train`, for validation, where the set has no split for it.
    class_concepts: whether all images of a class show one concept, as image-text
      training needs; otherwise each is a concept of its own.
    need_names: whether classes without a name are an error.
    tokenizer: None learns one: of classes on their names in all prompts, otherwise on
      the captions of at most 20,000 training images.
    vocab_size: its size at most.

  Returns:
    The data set; validation and test are empty where it has none.

  Raises:
    BenchmarkError: if it is not prepared, cannot be read at random, has nothing to
      train on, or neither classes nor captions.
  """
  plan = _plan(name)
  prepared = benchmarks.Prepared(plan.builder if plan else name, data_dir)
  plan = plan or _usual(name, prepared)
  if not plan.train:
    raise benchmarks.BenchmarkError(
      f"{name} has no split to train on: choose another set (with"
      " config.evaluation.benchmarks a run is scored on such a one)."
    )
  if need_names and not plan.named:
    raise benchmarks.BenchmarkError(
      f"TFDS's form of {name} does not name its classes, so that there are no texts:"
      " choose another set, or config.objective=simclr or moco_v3."
    )
  parts = _parts(plan, prepared, validation_share)
  classes: tuple[str, ...] = ()
  options: dict[str, Any] = {"fit": fit}
  kind: type[_Split] = _Captions
  if not plan.captioned:
    kind, classes = _Classes, prepared.classes(plan.classes)
    options |= {"classes": classes, "shared": class_concepts}
  splits: dict[str, sources.Source] = {}
  first = 0
  for split, wanted in parts.items():
    if not wanted:
      empty = np.zeros((0, stored_size, stored_size, 3), np.uint8)
      splits[split] = sources.ArraySource(empty, [])
      continue
    splits[split] = kind(
      prepared.rows(wanted),
      stored_size,
      f"{name}'s split {wanted}",
      first=first,
      **options,
    )
    first += len(splits[split])
    # Some tests have no labels: not to be found out when all is trained.
    splits[split].fields(0)
  if tokenizer is None:
    tokenizer = _learned(splits[sources.TRAIN], classes, plan, vocab_size)
  return sources.PairData(
    name=f"tfds:{name}",
    splits=splits,
    languages=(_LANGUAGE,),
    tokenizer=tokenizer,
    fingerprint=_fingerprint(prepared, parts[sources.TRAIN], classes),
    prompts=plan.prompts,
  )


def _plan(name: str) -> _Plan | None:
  """That of a set which is known here."""
  if name in ("coco_captions", _COCO.builder):
    return _COCO
  for key, benchmark in benchmarks.BENCHMARKS.items():
    if name in (key, benchmark.builder):
      if benchmark.multi_label:
        raise benchmarks.BenchmarkError(
          f"Images of {name} show several classes each: choose another set (with"
          " config.evaluation.benchmarks a run is scored on this one)."
        )
      return _Plan(
        benchmark.builder,
        benchmark.train,
        benchmark.validation,
        benchmark.test,
        benchmark.prompts or ("{}",),
        benchmark.classes,
        bool(benchmark.prompts),
      )
  return None


def _usual(name: str, prepared: benchmarks.Prepared) -> _Plan:
  """The plan of another set, by the names of its splits."""
  features, found = prepared.builder.info.features, prepared.builder.info.splits
  if not {"image", "label"} <= set(features) or not hasattr(
    features["label"], "names"
  ):
    raise benchmarks.BenchmarkError(
      f"{name} must have images with classes (features image and label); it has"
      f" {', '.join(sorted(features))}."
    )
  train, validation, test = (
    split if split in found else "" for split in ("train", "validation", "test")
  )
  if not test:
    validation, test = "", validation
  return _Plan(name, train, validation, test)


def _parts(
  plan: _Plan, prepared: benchmarks.Prepared, share: float
) -> dict[str, str]:
  """What each of our splits is in TFDS's words; "" is nothing."""
  train, validation = plan.train, plan.validation
  if not validation:
    count = len(prepared.rows(train))
    held_out = round(share * count)
    if held_out:
      train, validation = f"{train}[{held_out}:]", f"{train}[:{held_out}]"
  return {
    sources.TRAIN: train,
    sources.VALIDATION: validation,
    sources.TEST: plan.test,
  }


def _learned(
  train: sources.Source, classes: Sequence[str], plan: _Plan, vocab_size: int
) -> tokenizer_lib.Tokenizer:
  """A vocabulary of the set's own."""
  if classes:
    texts = (text.format(name) for name in classes for text in plan.prompts)
  else:
    stride = -(-len(train) // _CAPTIONS_TO_LEARN)
    texts = (
      caption.text
      for row in range(0, len(train), stride)
      for caption in train.fields(row)["captions"]
    )
  return tokenizer_lib.Tokenizer.train(texts, vocab_size=vocab_size)


def _fingerprint(
  prepared: benchmarks.Prepared, train: str, classes: Sequence[str]
) -> str:
  """Of what TFDS says of the training files; to read them would take hours."""
  info = prepared.builder.info
  sizes = {
    split: [info.splits[split].num_bytes, info.splits[split].shard_lengths]
    for split in re.findall(r"[a-z_]\w*", train)
  }
  text = json.dumps([info.full_name, train, sizes, list(classes)])
  return hashlib.sha256(text.encode()).hexdigest()[:16]
