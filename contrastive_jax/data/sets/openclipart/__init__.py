"""Open Clip Art: some three thousand drawings with the titles people gave them.

A second, noisier source of image-text pairs than the emoji: titles and keywords
are the contributors' own, some of them in French or Italian. It does not ship
here; the Debian packages `openclipart-png` and `openclipart-svg` (0.18) have it,
in the public domain. A drawing is its PNG, its text the metadata of the SVG of the
same name. Left out are titles that are of a theme instead of the drawing, blank
and equal drawings, those over Pillow's limit of pixels, and two that are not in
the public domain.
"""

import dataclasses
import functools
import itertools
import pathlib
from typing import Any

from contrastive_jax.data.files import stores
from contrastive_jax.choices import field
from contrastive_jax.data import sources
from contrastive_jax.data.files import prepare
from contrastive_jax.data.sets import prepared
from contrastive_jax.data.sets.choices import DATA_DIR, PAIRS, Request

INSTALLED = "/usr/share/openclipart"
SIDE = 64
PROMPTS = (
  "{}",
  "a drawing of {}",
  "clip art of {}",
  "an icon of {}",
  "a picture of {}",
)
_VOCABULARY = 4096


@dataclasses.dataclass(frozen=True)
class OpenClipart:
  """Open Clip Art, as Debian's package installs it."""

  path: str = field(
    "",
    "Folder with png/ and svg/; empty is /usr/share/openclipart.",
    place=True,
  )
  data_dir: str = DATA_DIR

  tasks = PAIRS
  licence = "public domain"

  def open(self, request: Request) -> sources.PairData:
    """The splits, prepared once in half a minute.

    Titles are the names, in no known language. Drawings of one title (without
    regard to case) show one concept and are in one split; a drawing's label is
    its top folder, but for those that are not sorted. 77 % of the titles are for
    training, 8 % for validation and 15 % for test, by a digest of the title.
    Drawings are 64 pixels large, for larger images of the model twice that.

    Raises:
      DataError: if the folder is not Open Clip Art's.
    """
    # TFDS takes seconds to import: only who opens a data set pays for it.
    import numpy as np

    from contrastive_jax.data.sets.openclipart import (
      openclipart_dataset_builder as openclipart,
    )

    side = SIDE * (1 + (request.image_size > SIDE))
    root = pathlib.Path(stores.local(self.path) or INSTALLED).expanduser()
    digest = openclipart.fingerprint(root)
    digest += f"-{side}" if side != SIDE else ""
    splits = {}
    for split, rows in prepared.rows(
      functools.partial(openclipart.OpenClipArt, root=str(root), side=side),
      prepare.data_dir(self.data_dir) / f"openclipart-{digest}",
      "Open Clip Art",
      request.report,
    ):
      images = np.zeros((len(rows), side, side, 3), np.uint8)
      for image, row in zip(images, rows):
        image[:] = row["image"]
      splits[split] = sources.ArraySource(images, [*map(_record, rows)])
    texts = itertools.chain(
      sources.caption_texts(splits[sources.TRAIN]),
      (prompt.format("") for prompt in PROMPTS),
    )
    return sources.PairData(
      name="openclipart",
      splits=splits,
      languages=(sources.ANY_LANGUAGE,),
      tokenizer=request.learned(texts, _VOCABULARY),
      fingerprint=digest,
      prompts=PROMPTS,
    )


def _record(row: Any) -> dict[str, Any]:
  """A prepared record's fields, its image apart."""
  folder = row["path"].decode().split("/")[0]
  keywords = [word.decode() for word in row["keywords"]]
  return {
    "index": int(row["index"]),
    "concept_id": int(row["concept_id"]),
    "captions": (
      *sources.name_captions([row["title"].decode()]),
      *(sources.Caption(k, "keyword", sources.ANY_LANGUAGE) for k in keywords),
    ),
    "label": "" if folder == "unsorted" else folder.replace("_", " "),
  }
