"""TFDS builder of the embedded emoji data; needs no TensorFlow, no network.

The config `images` has one record a drawing and these splits:

| split | concepts | artists |
|---|---|---|
| train | training | noto, noto-v1, fxemoji, twemoji |
| validation | 100 others | the same |
| test | 200 others (unseen concepts) | the same |
| unseen_style | training | fluent-emoji-flat, never trained on |
| validation_unseen_style | validation | fluent-emoji-flat |
| test_unseen_style | test | fluent-emoji-flat |

Concepts are split stratified by category and subcategory. The configs
`captions_en`, `captions_de`, ... have one record a concept, its name and
keywords, in the splits train, validation and test.
"""

import functools
import gzip
import hashlib
import importlib.resources
import io
import json
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

CONCEPT_SPLITS = ("train", "validation", "test")
VENDORS = ("noto", "noto-v1", "fluent-emoji-flat", "fxemoji", "twemoji")
UNSEEN_STYLE = "fluent-emoji-flat"
LANGUAGES = tuple(
  "en ar bn cs de el es fa fr he hi id it ja ko nl pl pt ru sv th tr uk vi"
  " zh".split()
)
_FOLDER = importlib.resources.files("contrastive_jax.data.sets.emoji")
_CONCEPTS, _IMAGES = _FOLDER / "concepts.json.gz", _FOLDER / "images.zip"


@functools.cache
def concepts() -> list[dict[str, Any]]:
  """The embedded table of concepts: names, keywords, categories, drawings."""
  return json.loads(gzip.decompress(_CONCEPTS.read_bytes()))


@functools.cache
def fingerprint() -> str:
  """Digest of the embedded table and drawings: another is another data set."""
  digest = hashlib.sha256(_CONCEPTS.read_bytes())
  with _IMAGES.open("rb") as file, zipfile.ZipFile(file) as images:
    # The checksums in the archive's directory stand for the drawings, which
    # are not read.
    for info in images.infolist():
      digest.update(f"{info.filename} {info.CRC:08x}\n".encode())
  return digest.hexdigest()[:16]


def split_name(concept_split: str, vendor: str) -> str:
  """The split that a drawing belongs to."""
  if vendor != UNSEEN_STYLE:
    return concept_split
  if concept_split == "train":
    return "unseen_style"
  return f"{concept_split}_unseen_style"


class Emoji(tfds.core.GeneratorBasedBuilder):
  """Emoji drawings and their names; see the module's docstring."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "CLDR 48, five artists, 64 pixels."}
  BUILDER_CONFIGS = [
    tfds.core.BuilderConfig(
      name="images", description="One record a drawing, English text."
    ),
    *(
      tfds.core.BuilderConfig(
        name=f"captions_{language}",
        description=f"One record a concept, language {language}.",
      )
      for language in LANGUAGES
    ),
  ]

  def _info(self) -> tfds.core.DatasetInfo:
    text = tfds.features.Text()
    features: dict[str, Any] = {
      "concept_id": np.int64,
      "name": text,
      "keywords": tfds.features.Sequence(tfds.features.Text()),
    }
    if self.builder_config.name == "images":
      features |= {
        "index": np.int64,
        "image": tfds.features.Image(shape=(64, 64, 3), encoding_format="png"),
        **dict.fromkeys(
          ("vendor", "character", "category", "subcategory"), text
        ),
      }
    return tfds.core.DatasetInfo(
      builder=self,
      description=__doc__,
      features=tfds.features.FeaturesDict(features),
      license="Apache-2.0 AND MIT AND CC-BY-4.0 AND Unicode-3.0: NOTICE.md",
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[Any]]:
    del dl_manager  # Everything ships with the package.
    if self.builder_config.name != "images":
      language = self.builder_config.name.removeprefix("captions_")
      return {name: self._captions(language, name) for name in CONCEPT_SPLITS}
    names = {
      split_name(part, vendor)
      for part in CONCEPT_SPLITS
      for vendor in ("noto", UNSEEN_STYLE)
    }
    return {name: self._images(name) for name in sorted(names)}

  def _generate_examples(self) -> Iterator[Any]:
    for split in self._split_generators(None).values():
      yield from split

  def _captions(self, language: str, split: str) -> Iterator[Any]:
    for concept in concepts():
      if concept["split"] == split and language in concept["names"]:
        yield (
          concept["concept_id"],
          {
            "concept_id": concept["concept_id"],
            "name": concept["names"][language],
            "keywords": concept["keywords"][language],
          },
        )

  def _images(self, split: str) -> Iterator[Any]:
    with _IMAGES.open("rb") as file, zipfile.ZipFile(file) as images:
      for concept in concepts():
        for drawing in concept["drawings"]:
          vendor = drawing["vendor"]
          if split_name(concept["split"], vendor) != split:
            continue
          webp = images.read(f"{vendor}/{concept['codepoints']}.webp")
          png = io.BytesIO()
          Image.open(io.BytesIO(webp)).convert("RGB").save(png, "png")
          png.seek(0)
          copied = ("concept_id", "character", "category", "subcategory")
          yield (
            drawing["index"],
            {
              **drawing,
              **{name: concept[name] for name in copied},
              "image": png,
              "name": concept["names"]["en"],
              "keywords": concept["keywords"]["en"],
            },
          )
