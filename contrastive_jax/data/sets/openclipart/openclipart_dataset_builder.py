"""TFDS builder of Open Clip Art; see the package."""

import hashlib
import html
import io
import pathlib
import re
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from contrastive_jax.data import sources
from contrastive_jax.data.sets import openclipart
from contrastive_jax.data.sets.folder.folder_rows import DataError
from contrastive_jax.data.sets.openclipart import INSTALLED, SIDE

# Titles out of 100; all drawings of one title are in one split.
_TEST, _VALIDATION = 15, 8
_THEME = re.compile(
  "collection|theme|various cliparts|^clipart|symbol_signs|gramastar|^card$"
  "|untitled|^part of|^no title|gradient|buculei",
  re.IGNORECASE,
)
_NO_KEYWORDS = frozenset(
  ("icons", "theme", "icon", "unsorted", "clip_art", "clipart", "png")
)
_NOT_PUBLIC_DOMAIN = frozenset(
  ("computer/8port_switch_denco", "computer/firewall_denco_01")
)
# Below this standard deviation of its values a drawing is blank.
_BLANK = 6.0
_WHAT_TO_DO = (
  "config.data.path must be the folder openclipart, with png/ and svg/, of the"
  " Debian packages openclipart-png and openclipart-svg; empty, it is"
  f" {INSTALLED}"
)


class Drawing(NamedTuple):
  """One drawing: its path without suffix, its texts and its pixels."""

  path: str
  title: str
  keywords: tuple[str, ...]
  image: np.ndarray


class OpenClipArt(tfds.core.GeneratorBasedBuilder):
  """The drawings, cleaned, as squares on white."""

  VERSION = tfds.core.Version("1.0.0")

  def __init__(self, *, root: str, side: int = SIDE, **kwargs: Any):
    """Takes the folder with png/ and svg/, and the side of the squares, pixels."""
    self._root, self._side = pathlib.Path(root), side
    super().__init__(**kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    text = tfds.features.Text()
    return tfds.core.DatasetInfo(
      builder=self,
      description=openclipart.__doc__,
      features=tfds.features.FeaturesDict(
        {
          "index": np.int64,
          "concept_id": np.int64,
          "image": tfds.features.Image(
            shape=(self._side, self._side, 3), encoding_format="png"
          ),
          "path": text,
          "title": text,
          "keywords": tfds.features.Sequence(tfds.features.Text()),
        }
      ),
      license="Public domain",
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[Any]]:
    del dl_manager  # Nothing is fetched.
    rows = list(drawings(self._root, self._side))
    return {
      split: self._generate_examples(rows, split)
      for split in (sources.TRAIN, sources.VALIDATION, sources.TEST)
    }

  def _generate_examples(
    self, rows: list[Drawing], split: str
  ) -> Iterator[Any]:
    concepts = sorted({_concept(row.title) for row in rows})
    numbers = {concept: i for i, concept in enumerate(concepts)}
    for index, row in enumerate(rows):
      if split_of(row.title) != split:
        continue
      png = io.BytesIO()
      Image.fromarray(row.image).save(png, "png")
      png.seek(0)
      yield (
        index,
        {
          "index": index,
          "concept_id": numbers[_concept(row.title)],
          "image": png,
          "path": row.path,
          "title": row.title,
          "keywords": list(row.keywords),
        },
      )


def drawings(root: pathlib.Path, side: int = SIDE) -> Iterator[Drawing]:
  """The drawings that are of use, in order of their paths.

  Which are blank or equal is judged at 64 pixels, whatever their side is.
  """
  seen = set()
  for svg in sorted((root / "svg").rglob("*.svg")):
    path = svg.relative_to(root / "svg").with_suffix("").as_posix()
    if path in _NOT_PUBLIC_DOMAIN:
      continue
    title, keywords = texts_of(svg.read_text("utf-8", errors="replace"))
    if not title or _THEME.search(title):
      continue
    png = root / "png" / f"{path}.png"
    image = _picture(png, SIDE)
    if image is None or image.std() < _BLANK:
      continue
    digest = hashlib.sha256(image.tobytes()).digest()
    if digest not in seen:
      seen.add(digest)
      if side != SIDE:
        image = _picture(png, side)
        assert image is not None  # It could be read a moment ago.
      yield Drawing(path, title, keywords, image)


def texts_of(svg: str) -> tuple[str, tuple[str, ...]]:
  """Title and keywords in the metadata of an SVG; "" and () if it has none."""
  metadata = svg[svg.find("<metadata") : svg.find("</metadata>")]
  title = re.search(r"<dc:title[^>]*>(.*?)</dc:title>", metadata, re.DOTALL)
  words = [
    _plain(word).lower()
    for word in re.findall(r"<rdf:li[^>]*>([^<]*)</rdf:li>", metadata)
  ]
  kept = (
    word.replace("_", " ")
    for word in words
    if word and word not in _NO_KEYWORDS and not word.startswith("hash")
  )
  return _plain(title.group(1)) if title else "", tuple(dict.fromkeys(kept))


def split_of(title: str) -> str:
  """The split of a title, by its digest: the same in every version."""
  digest = hashlib.sha256(_concept(title).encode()).digest()
  place = int.from_bytes(digest[:8], "big") % 100
  if place < _TEST:
    return sources.TEST
  return sources.VALIDATION if place < _TEST + _VALIDATION else sources.TRAIN


def _picture(path: pathlib.Path, side: int) -> np.ndarray | None:
  """The PNG as a square on white; None if it cannot be read."""
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("error", Image.DecompressionBombWarning)
      with Image.open(path) as file:
        picture = file.convert("RGBA")
  except (
    OSError,
    ValueError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
  ):
    return None
  picture.thumbnail((side, side), Image.Resampling.LANCZOS)
  canvas = Image.new("RGBA", (side, side), "white")
  canvas.alpha_composite(
    picture, ((side - picture.width) // 2, (side - picture.height) // 2)
  )
  return np.asarray(canvas.convert("RGB"))


def _plain(text: str) -> str:
  """Text without tags, escapes and runs of white space."""
  return " ".join(html.unescape(re.sub("<[^>]+>", " ", text)).split())


def _concept(title: str) -> str:
  return title.casefold()


def fingerprint(root: pathlib.Path) -> str:
  """Digest of the drawings' names and sizes, and of this builder's version."""
  files = sorted((root / "svg").rglob("*.svg"))
  if not files or not (root / "png").is_dir():
    raise DataError(f"{root} has no drawings of Open Clip Art: {_WHAT_TO_DO}.")
  digest = hashlib.sha256(str(OpenClipArt.VERSION).encode())
  for file in files:
    digest.update(f"{file.relative_to(root)} {file.stat().st_size}\n".encode())
  return digest.hexdigest()[:16]
