"""Splits of sets that TFDS has prepared; see the package."""

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from contrastive_jax.data import benchmarks, sources
from contrastive_jax.data.files import stores
from contrastive_jax.data.sets.choices import Request
from contrastive_jax.data.sets.tfds_pairs import Tfds

# Examples whose captions a vocabulary is learned on; their images are read too.
_CAPTIONS_TO_LEARN = 20_000
_LANGUAGE = "en"


_COCO = benchmarks.Benchmark(
  "coco_captions/2014",
  test="test",
  train="train+restval",
  validation="val",
  prompts=sources.PHOTO_PROMPTS,
)


class _Split(benchmarks.BenchmarkSource):
  """A split whose captions are names of classes, or its own without these."""

  def __init__(
    self,
    *args: Any,
    first: int,
    classes: Sequence[str],
    shared: bool,
    **options: Any,
  ):
    """Takes the first example's number, and whether a class is a concept."""
    super().__init__(*args, **options)
    self._first = first
    self._classes = [
      {"captions": sources.name_captions([name], _LANGUAGE), "label": name}
      | ({"concept_id": label} if shared else {})
      for label, name in enumerate(classes)
    ]

  @property
  def index_bound(self) -> int:
    """One more than the largest index."""
    return self._first + len(self)

  @property
  def labels(self) -> set[str]:
    """The names of the classes; no record is read."""
    return {str(known["label"]) for known in self._classes}

  def fields(self, index: int) -> dict[str, Any]:
    """One record; no image is decoded."""
    number = self._first + int(index)
    return {"index": number, "concept_id": number, **self.about(index)}

  def _about(self, row: Any) -> dict[str, Any]:
    if not self._classes:
      return {"captions": self._captions(row), "label": ""}
    label = int(row["label"])
    if not 0 <= label < len(self._classes):
      raise benchmarks.BenchmarkError(
        f"{self._name} has an example without a class (label {label}): choose a set"
        " whose splits are labelled."
      )
    return self._classes[label]

  def _captions(self, row: Any) -> tuple[sources.Caption, ...]:
    texts = [text.decode(errors="replace") for text in row["captions"]["text"]]
    captions = sources.name_captions(
      (" ".join(text.split()) for text in texts if text.strip()), _LANGUAGE
    )
    if not captions:
      raise benchmarks.BenchmarkError(
        f"{self._name} has an image without a caption: choose another set."
      )
    return captions


def load(tfds: Tfds, request: Request) -> sources.PairData:
  """Opens a prepared set; see `Tfds.open`."""
  name, texts = tfds.dataset, request.task != "images"
  # A random crop makes a whole image of a part of one.
  stored_size = request.image_size * (1 + request.random_crops)
  plan = _known(name)
  prepared = benchmarks.Prepared(
    plan.builder if plan else name, stores.local(tfds.data_dir, request.report)
  )
  plan = plan or _usual(name, prepared)
  if not plan.train:
    raise benchmarks.BenchmarkError(
      f"{name} has no split to train on: choose another set (a run is scored on"
      " those of config.evaluation.benchmarks.sets)."
    )
  if texts and not plan.prompts:
    raise benchmarks.BenchmarkError(
      f"TFDS's form of {name} does not name its classes, so that there are no texts:"
      " choose another set, or config.objective=simclr or moco_v3."
    )
  parts = _parts(plan, prepared, tfds.validation_share)
  classes = () if plan is _COCO else prepared.classes(plan.classes)
  splits: dict[str, sources.Source] = {}
  first = 0
  for split, wanted in parts.items():
    if not wanted:
      empty = np.zeros((0, stored_size, stored_size, 3), np.uint8)
      splits[split] = sources.ArraySource(empty, [])
      continue
    splits[split] = _Split(
      prepared.rows(wanted),
      stored_size,
      f"{name}'s split {wanted}",
      tfds.fit,
      first=first,
      classes=classes,
      shared=texts,
    )
    first += len(splits[split])
    # Some tests have no labels: not to be found out when all is trained.
    splits[split].fields(0)
  prompts = plan.prompts or ("{}",)
  if classes:
    learn = (text.format(name) for name in classes for text in prompts)
  else:
    learn = sources.caption_texts(splits[sources.TRAIN], _CAPTIONS_TO_LEARN)
  return sources.PairData(
    name=f"tfds:{name}",
    splits=splits,
    languages=(_LANGUAGE,),
    tokenizer=request.learned(learn, tfds.vocab_size),
    fingerprint=_fingerprint(prepared, parts[sources.TRAIN], classes),
    prompts=prompts,
  )


def _known(name: str) -> benchmarks.Benchmark | None:
  """A set that is known here; "" are the splits that it has not."""
  if name in ("coco_captions", _COCO.builder):
    return _COCO
  for key, benchmark in benchmarks.BENCHMARKS.items():
    if name in (key, benchmark.builder):
      if benchmark.multi_label:
        raise benchmarks.BenchmarkError(
          f"Images of {name} show several classes each: choose another set (a run"
          " is scored on those of config.evaluation.benchmarks.sets)."
        )
      return benchmark
  return None


def _usual(name: str, prepared: benchmarks.Prepared) -> benchmarks.Benchmark:
  """Another set, by the names of its splits."""
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
  return benchmarks.Benchmark(
    name, test, train, validation, sources.PHOTO_PROMPTS
  )


def _parts(
  plan: benchmarks.Benchmark, prepared: benchmarks.Prepared, share: float
) -> dict[str, str]:
  """TFDS's expression for each of our splits; "" if there is none."""
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


def _fingerprint(
  prepared: benchmarks.Prepared, train: str, classes: Sequence[str]
) -> str:
  """Digest of TFDS's facts on the training files; reading them takes hours."""
  info = prepared.builder.info
  sizes = {
    split: [info.splits[split].num_bytes, info.splits[split].shard_lengths]
    for split in re.findall(r"[a-z_]\w*", train)
  }
  text = json.dumps([info.full_name, train, sizes, list(classes)])
  return hashlib.sha256(text.encode()).hexdigest()[:16]
