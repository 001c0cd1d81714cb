"""The forms in which people have captioned images: rows of each of them.

* a file of rows: `captions.jsonl`, `captions.csv`, Hugging Face's `metadata.jsonl` or
  `metadata.csv` in the folder, or any `.csv`, `.tsv` or `.jsonl` that is named itself;
* `a.jpg` with its caption in `a.txt`, perhaps below folders that are splits;
* folders that are classes, perhaps below folders that are splits
  (`train/cat/a.jpg`): the class is the label, and its name the caption;
* images alone, for objectives that read no captions.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence

from contrastive_jax.data.sets.folder import folder_images, folder_rows
from contrastive_jax.data.sets.folder.folder_rows import (
  SPLITS,
  CaptionRow,
  DataError,
  RowError,
)

FILES = ("captions.jsonl", "captions.csv", "metadata.jsonl", "metadata.csv")
EXAMPLE = '{"image": "a.png", "captions": ["a red cup"], "label": "cup"}'
_TABLES = (".csv", ".tsv", ".jsonl")
_MAX_TEXT = 2**16  # Bytes of a caption's file.


@dataclasses.dataclass(frozen=True)
class Layout:
  """The rows of a folder.

  Attributes:
    root: the folder, links resolved, below which the images are.
    where: the file or folder that the rows are of, for people.
    rows: those that are well formed.
    count: of all.
    by_image: whether images are split one by one: those of a class are no one thing.
    notes: sentences that a user should read.
  """

  root: pathlib.Path
  where: pathlib.Path
  rows: list[CaptionRow]
  count: int
  by_image: bool = False
  notes: tuple[str, ...] = ()


def find(
  path: pathlib.Path, report: folder_rows.Report, *, images_alone: bool = False
) -> Layout:
  """The rows of a folder, or of a file of rows.

  Args:
    path: of it.
    report: receives what is wrong.
    images_alone: whether images need no caption.

  Raises:
    DataError: if it holds no such rows.
  """
  if path.is_file() and path.suffix.lower() in _TABLES:
    return _table(path, path.parent, report, images_alone)
  if not path.is_dir():
    what = "is not a folder" if path.exists() else "does not exist"
    raise DataError(
      f"{path} {what}; give a folder with images and {FILES[0]} (or {FILES[1]}), a"
      f" line of which is {EXAMPLE}"
    )
  present = [name for name in FILES if (path / name).is_file()]
  if present:
    found = _table(path / present[0], path, report, images_alone)
    if len(present) > 1:
      note = f"{path} holds {' and '.join(present)}; {present[0]} is read."
      found = dataclasses.replace(found, notes=(note,))
    return found
  files = folder_images.files_in(path)
  if any(file.with_suffix(".txt").is_file() for file in files):
    return _texts(path, files, report)
  found = _classes(path, files, images_alone)
  if found is not None:
    return found
  raise DataError(
    f"{path} holds {len(files):,} images, and neither {' nor '.join(FILES)}, nor"
    " captions in .txt files beside them, nor folders that are classes; write one"
    f" line an image into {path / FILES[0]}, such as {EXAMPLE}"
  )


def _table(
  path: pathlib.Path,
  root: pathlib.Path,
  report: folder_rows.Report,
  images_alone: bool,
) -> Layout:
  rows, count = folder_rows.read_rows(path, report, images_alone=images_alone)
  return Layout(root.resolve(), path, rows, count)


def _texts(
  root: pathlib.Path, files: Sequence[pathlib.Path], report: folder_rows.Report
) -> Layout:
  """Images with a text file of their name."""
  rows = []
  for number, file in enumerate(files, start=1):
    name = file.relative_to(root).as_posix()
    try:
      split, _ = _place(root, file)
      rows.append(CaptionRow(number, name, (_caption(file),), split=split))
    except RowError as error:
      report.add(number, name, error)
  return Layout(root.resolve(), root, rows, len(files))


def _place(root: pathlib.Path, file: pathlib.Path) -> tuple[str, str]:
  """The split and the class that the folders of an image say, or ""."""
  *folders, _ = file.relative_to(root).parts
  split = folder_rows.split_name(folders[0].lower()) if folders else ""
  split = split if split in SPLITS else ""
  return split, next(iter(folders[bool(split) :]), "")


def _caption(image: pathlib.Path) -> str:
  """The text beside an image; raises `RowError` if there is none."""
  try:
    with open(image.with_suffix(".txt"), "rb") as file:
      data = file.read(_MAX_TEXT)
  except OSError as error:
    raise RowError("no caption", "there is no .txt of its name") from error
  try:
    text = folder_rows.clean(data.decode("utf-8-sig"))
  except UnicodeDecodeError as error:
    raise RowError("invalid UTF-8") from error
  if not text:
    raise RowError("no caption", "its .txt is empty")
  return text


def _classes(
  root: pathlib.Path, files: Sequence[pathlib.Path], images_alone: bool
) -> Layout | None:
  """Images in folders that are classes, or without any; None if that is too little."""
  rows = []
  for number, file in enumerate(files, start=1):
    split, label = _place(root, file)
    if not label and not images_alone:
      return None
    name = " ".join(label.replace("_", " ").split())
    rows.append(
      CaptionRow(
        number,
        file.relative_to(root).as_posix(),
        (name,) if name else (),
        label,
        split,
        # Images of a class have one caption: a loss must not push them apart.
        str(number) if images_alone else label,
      )
    )
  if not rows:
    return None
  return Layout(root.resolve(), root, rows, len(rows), by_image=True)
