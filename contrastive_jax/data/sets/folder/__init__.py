"""A user's own folder: images with captions, or in classes; see `layouts`."""

import dataclasses
import time
from collections.abc import Callable

from contrastive_jax.data.files import stores
from contrastive_jax.choices import field
from contrastive_jax.data import sources
from contrastive_jax.data.sets.choices import (
  FIT,
  MAX_BAD_SHARE,
  PAIRS,
  VOCAB_SIZE,
  Request,
)

# Seconds between two lines on a folder that is being checked.
_REPORT_EVERY = 5.0


@dataclasses.dataclass(frozen=True)
class Folder:
  """A folder of your images: with captions.jsonl, .txt files, or classes."""

  path: str = field(
    "",
    "Folder of images with captions.jsonl, captions.csv or metadata.jsonl, with a .txt"
    " beside each, or in folders that are classes; or a table (.csv, .tsv, .jsonl).",
    place=True,
  )
  follow_links: bool = field(
    False,
    "Whether images may lie outside of the folder, by absolute paths or links.",
  )
  fit: str = FIT
  max_bad_share: float = MAX_BAD_SHARE
  vocab_size: int = VOCAB_SIZE

  tasks = PAIRS

  def check(self) -> None:
    """Raises if no folder is named."""
    if not self.path:
      raise ValueError(
        "path must be the folder that holds your images and captions.jsonl; got"
        " ''."
      )

  def open(self, request: Request) -> sources.PairData:
    """The splits of `reading.scan_folder`.

    Raises:
      DataError: if the folder cannot be used.
    """
    from contrastive_jax.data.sets.folder import reading

    records = reading.scan_folder(
      stores.local(self.path, request.report),
      image_size=request.image_size,
      report_path=request.skipped_path,
      max_bad_share=self.max_bad_share,
      images_alone=request.task == "images",
      follow_links=self.follow_links,
      fit=self.fit,
      progress=_image_counter(request.report),
    )
    for warning in records.warnings:
      request.report(f"Note: {warning}")
    if records.num_skipped:
      listed = f"; {path} lists them" if (path := request.skipped_path) else ""
      request.report(
        f"Note: {records.num_skipped:,} of {records.num_rows:,} rows cannot be"
        f" used{listed}."
      )
    return sources.PairData(
      name="folder",
      splits=records.splits,
      languages=(sources.ANY_LANGUAGE,),
      tokenizer=request.learned(
        sources.caption_texts(records.train), self.vocab_size
      ),
      fingerprint=records.train.fingerprint,
      prompts=sources.PHOTO_PROMPTS,
    )


def _image_counter(
  report: Callable[[str], None],
) -> Callable[[int, int], None]:
  """Tells every few seconds how many images of a folder are checked."""
  last = time.monotonic()

  def progress(done: int, total: int) -> None:
    nonlocal last
    now = time.monotonic()
    if now - last >= _REPORT_EVERY:
      last = now
      report(f"Checked {done:,} of {total:,} images.")

  return progress
