"""A user's own folder: images beside `captions.jsonl` or `captions.csv`.

`scan_folder` reads the captions, looks at every image once, lists what it
cannot use in a report, and gives a random-access source for each split. A line
of `captions.jsonl`:

  {"image": "a.png", "captions": ["a red cup", "une tasse rouge"],
   "label": "cup", "split": "train", "concept_id": "cup-17"}

Only "image" and "captions" (or one "caption") are needed. `captions.csv` has
the same columns; there "caption" is one caption, "captions" several separated
by "|" or a JSON list. Rows of the same image are merged, in either format. Other
usual names of columns, and other forms of folders, are in `layouts`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from contrastive_jax.data import sources
from contrastive_jax.data.sets.folder import (
  folder_images,
  folder_rows,
  layouts,
)
from contrastive_jax.data.sets.folder.folder_rows import (
  SPLITS,
  DataError,
  RowError,
)
from contrastive_jax.data.sets.folder.image_source import ImageSource, digest

_MERGED = ("label", "split", "concept")
_MIN_CONCEPTS = 10  # Fewer make no meaningful validation and test splits.
_FEW_CONCEPTS = 5  # Fewer in a test split are told to the user.


@dataclasses.dataclass
class _Image:
  """Merged rows of one image."""

  name: str  # Path below the folder, links resolved, "/" between the parts.
  rows: list[folder_rows.CaptionRow]
  captions: dict[str, None] = dataclasses.field(default_factory=dict)
  label: str = ""
  split: str = ""
  concept: str = ""


@dataclasses.dataclass(frozen=True)
class FolderRecords:
  """Result of `scan_folder`.

  Attributes:
    train: source of the training images.
    validation: source for choices made during training; may be empty.
    test: source for final scores; may be empty.
    num_rows: rows of the captions file, blank lines not counted.
    num_skipped: rows that could not be used.
    problems: number of rows by kind of problem, harmless kinds included.
    num_concepts: number of concepts.
    warnings: sentences that a user should read before training.
  """

  train: ImageSource
  validation: ImageSource
  test: ImageSource
  num_rows: int
  num_skipped: int
  problems: dict[str, int]
  num_concepts: int
  warnings: tuple[str, ...]

  @property
  def splits(self) -> dict[str, ImageSource]:
    """The sources by the names of their splits."""
    return dict(zip(SPLITS, (self.train, self.validation, self.test)))


def _merge_rows(
  root: pathlib.Path,
  rows: Sequence[folder_rows.CaptionRow],
  report: folder_rows.Report,
  follow_links: bool,
) -> list[_Image]:
  """One `_Image` a file, sorted by name."""
  images: dict[str, _Image] = {}
  located: dict[str, pathlib.Path | RowError] = {}
  for row in rows:
    if row.image not in located:
      try:
        located[row.image] = folder_images.locate(
          root, row.image, follow_links=follow_links
        )
      except RowError as error:
        located[row.image] = error
    path = located[row.image]
    if isinstance(path, RowError):
      report.add(row.line, row.image, path)
      continue
    name = path.as_posix()
    if path.is_relative_to(root):
      name = path.relative_to(root).as_posix()
    image = images.setdefault(name, _Image(name, []))
    differing = [
      f"{field} {new!r} after {old!r}"
      for field in _MERGED
      if (new := getattr(row, field))
      and (old := getattr(image, field))
      and new != old
    ]
    if differing:
      error = RowError("conflicting row", ", ".join(differing))
      report.add(row.line, row.image, error)
      continue
    new_captions = set(row.captions) - set(image.captions)
    if image.rows and not new_captions:
      error = RowError("duplicated row")
      report.add(row.line, row.image, error, skipped=False)
    image.rows.append(row)
    image.captions.update(dict.fromkeys(row.captions))
    for field in _MERGED:
      setattr(image, field, getattr(image, field) or getattr(row, field))
  return [images[name] for name in sorted(images)]


def _concepts(images: Sequence[_Image]) -> list[str]:
  """Each image's concept: as its rows name it, or else what its captions say.

  Images without a name show one concept if their first captions agree (but for
  case, width and spaces), or if their sets of captions do.
  """
  by_set: dict[frozenset[str], str] = {}
  result = []
  for image in images:
    if image.concept:
      result.append(f"id:{image.concept}")
      continue
    captions = [folder_rows.normal(caption) for caption in image.captions]
    if not captions:  # Images alone: each shows a thing of its own.
      result.append(f"image:{image.name}")
      continue
    first = f"caption:{captions[0]}"
    result.append(by_set.setdefault(frozenset(captions), first))
  return result


def _hashed_splits(
  concepts: set[str], fractions: Sequence[float]
) -> dict[str, str]:
  """Concept -> split by the hash of its name: it stays as a folder grows."""

  def place(concept: str) -> float:
    return int.from_bytes(hashlib.sha256(concept.encode()).digest()[:8]) / 2**64

  ordered = sorted(concepts, key=place)
  bounds = np.cumsum(fractions)
  splits = {c: SPLITS[int(np.sum(place(c) >= bounds[:2]))] for c in ordered}
  # By chance a part of a small folder may come out empty: it takes one.
  for place_in_order, part in ((-1, 2), (-2, 1), (0, 0)):
    if fractions[part] > 0 and SPLITS[part] not in splits.values():
      splits[ordered[place_in_order]] = SPLITS[part]
  return splits


def _assign_splits(
  images: Sequence[_Image],
  concepts: Sequence[str],
  fractions: Sequence[float],
  notes: list[str],
  by_image: bool,
) -> dict[str, list[int]]:
  """Positions of the images of each split."""
  if (
    by_image
  ):  # A folder's class is no one thing: its images are in all splits.
    concepts = [image.name for image in images]
  everything = list(range(len(images)))
  if any(image.split for image in images):
    parts: dict[str, list[int]] = {split: [] for split in SPLITS}
    for i in everything:
      parts[images[i].split or "train"].append(i)
    if not parts["train"]:
      raise DataError(
        'No usable row has the split "train": name one, or leave "split" out '
        "to have the images split by concept."
      )
    seen = {concepts[i] for i in parts["train"]}
    for split in SPLITS[1:]:
      both = {concepts[i] for i in parts[split]} & seen
      if both:
        notes.append(
          f"{len(both):,} concepts are both in train and in {split}, as the "
          "captions file says: scores on them are not of unseen concepts."
        )
      if not parts[split]:
        notes.append(f"No usable row has the split {split!r}: it is empty.")
    return parts
  if len(set(concepts)) < _MIN_CONCEPTS:
    notes.append(
      f"Only {len(set(concepts))} different concepts: all images are used "
      "for training and for evaluation, so the scores are of what was "
      f"trained on (at least {_MIN_CONCEPTS} concepts are split)."
    )
    return dict.fromkeys(SPLITS, everything)
  splits = _hashed_splits(set(concepts), fractions)
  parts = {
    split: [i for i in everything if splits[concepts[i]] == split]
    for split in SPLITS
  }
  held_out = {concepts[i] for i in parts[SPLITS[2]]}
  if 0 < len(held_out) < _FEW_CONCEPTS:
    notes.append(
      f"Only {len(held_out)} of {len(splits)} concepts are in test"
      f" ({len(parts[SPLITS[2]])} images), which training never sees: its scores"
      ' are coarse. A "split" in the rows chooses others.'
    )
  return parts


def _question_labels(
  images: Sequence[_Image], parts: Mapping[str, list[int]], notes: list[str]
) -> None:
  """Notes classes of which training sees none."""
  seen = {images[i].label for i in parts[SPLITS[0]]}
  for split in SPLITS[1:]:
    unseen = sorted({images[i].label for i in parts[split]} - seen - {""})
    if unseen:
      notes.append(
        f"{len(unseen):,} labels are in {split} and not in train, such as"
        f" {', '.join(map(repr, unseen[:3]))}: probes leave their images out."
      )


def scan_folder(
  path: str | os.PathLike[str],
  *,
  image_size: int,
  report_path: str | os.PathLike[str] | None = None,
  stored_size: int | None = None,
  max_bad_share: float = 0.05,
  fractions: Sequence[float] = (0.8, 0.1, 0.1),
  images_alone: bool = False,
  follow_links: bool = False,
  cache_bytes: int = 2**29,
  max_pixels: int = folder_images.MAX_PIXELS,
  fit: str = "pad",
  num_threads: int | None = None,
  progress: Callable[[int, int], None] | None = None,
) -> FolderRecords:
  """Reads and checks a folder of captioned images.

  A row is skipped, counted and written to `report_path` (one JSON object
  `{"line", "image", "problem", "skipped"}` each) if it is malformed or no
  UTF-8, has no caption or an unknown split, contradicts an earlier row of its
  image, or if its image is missing, undecodable, too large or outside the
  folder. Duplicated rows and single empty captions are listed as well, but
  nothing is lost by them: their "skipped" is false and they do not count.

  The images of one concept share a `concept_id` and, unless the file says
  otherwise, a split. Rows name their concept in "concept_id"; of rows that do
  not, images whose first captions or whose sets of captions agree show the same.
  If no row has a "split", concepts are split by a hash of their name (fewer than
  10: all three splits are all images, with a warning). If some rows have, the
  file is followed, and rows without one train.

  Args:
    path: the folder, or a file of rows; see `layouts`.
    image_size: side of the images that the model will see.
    report_path: where the problems are written, a file that may stay empty; None
      writes none.
    stored_size: side of the images handed out; by default twice `image_size`,
      so that a random crop of a quarter is still sharp.
    max_bad_share: largest share of skipped rows, 0..1.
    fractions: of concepts in train, validation and test; they add up to 1.
    images_alone: whether images need no caption.
    follow_links: whether images may lie outside of the folder, by absolute paths or
      links.
    cache_bytes: keep all decoded images in memory if they fit into this;
      otherwise they are decoded on access.
    max_pixels: larger images are refused (decompression bombs).
    fit: how images become squares, see `folder_images.decode`.
    num_threads: decoding threads; by default the number of processors, at
      most 16.
    progress: called as `progress(images done, all images)`.

  Returns:
    `FolderRecords`, with an `ImageSource` a split. Images are sorted by path,
    so that their `index` is the same in every run on the same folder.

  Raises:
    DataError: the folder cannot be used, or too many rows are bad.
    ValueError: an argument is out of range.
  """
  stored_size = 2 * image_size if stored_size is None else stored_size
  if min(image_size, stored_size) < 1:
    raise ValueError(
      "scan_folder: image_size and stored_size must be at least 1, got "
      f"{image_size} and {stored_size}."
    )
  if not 0.0 <= max_bad_share <= 1.0:
    raise ValueError(
      f"scan_folder: max_bad_share must be within 0..1, got {max_bad_share}."
    )
  if (
    len(fractions) != 3
    or min(fractions) < 0
    or fractions[0] <= 0
    or not math.isclose(sum(fractions), 1.0, abs_tol=1e-6)
  ):
    raise ValueError(
      "scan_folder: fractions must be three numbers of at least 0 that add "
      f"up to 1, the first above 0; got {tuple(fractions)}."
    )
  report = folder_rows.Report()
  layout = layouts.find(
    pathlib.Path(path).expanduser(), report, images_alone=images_alone
  )
  root, num_rows, where = layout.root, layout.count, layout.where
  notes = list(layout.notes)

  def check_share() -> None:
    listed = ""
    if report_path is not None:
      report.write(pathlib.Path(report_path))
      listed = f"listed in {report_path}"
    if report.skipped > max_bad_share * num_rows:
      raise DataError(
        f"{report.skipped:,} of {num_rows:,} rows of {where} "
        f"cannot be used ({report}), more than the allowed share of "
        f"{max_bad_share:g} (max_bad_share)"
        + (f"; they are {listed}" if listed else "")
        + f". A good line is {layouts.EXAMPLE}"
      )
    if report.skipped == num_rows:
      told = "; ".join(filter(None, (str(report), listed)))
      raise DataError(
        f"{where} has no usable row"
        + (f" ({told})" if num_rows else "")
        + f"; write one line an image, such as {layouts.EXAMPLE}"
      )

  images = _merge_rows(root, layout.rows, report, follow_links)
  check_share()  # Before the long part.
  size = len(images) * stored_size * stored_size * 3
  cache = None
  if size <= cache_bytes:
    cache = np.empty((len(images), stored_size, stored_size, 3), np.uint8)
  usable = []
  errors = folder_images.decode_each(
    [str(root / image.name) for image in images],
    stored_size,
    max_pixels,
    fit,
    into=cache,
    num_threads=num_threads,
  )
  for i, error in enumerate(errors):
    if error is None:
      usable.append(i)
    else:
      for row in images[i].rows:
        report.add(row.line, row.image, error)
    if progress is not None:
      progress(i + 1, len(images))
  check_share()
  images = [images[i] for i in usable]
  concepts = _concepts(images)
  numbers = {name: i for i, name in enumerate(sorted(set(concepts)))}
  parts = _assign_splits(images, concepts, fractions, notes, layout.by_image)
  _question_labels(images, parts, notes)

  def source(split: str) -> ImageSource:
    found = [images[i] for i in parts[split]]
    ids = [numbers[concepts[i]] for i in parts[split]]
    return ImageSource(
      {"image": [str(root / image.name) for image in found]},
      {
        "index": range(len(found)),
        "concept_id": ids,
        "captions": [sources.name_captions(image.captions) for image in found],
        "label": [image.label for image in found],
      },
      stored_size,
      advice="it could be when the folder was scanned: restore it or start a"
      " new run",
      fingerprint=digest(
        [image.name, number, list(image.captions), image.label]
        for image, number in zip(found, ids)
      ),
      max_pixels=max_pixels,
      fit=fit,
      cache=cache,
      cache_rows=[usable[i] for i in parts[split]],
    )

  return FolderRecords(
    *map(source, SPLITS),
    num_rows=num_rows,
    num_skipped=report.skipped,
    problems=dict(report.counts),
    num_concepts=len(numbers),
    warnings=tuple(notes),
  )
