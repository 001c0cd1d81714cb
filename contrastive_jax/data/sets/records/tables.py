"""Columns of tables with pairs, and lists of captions beside image files."""

import csv
import dataclasses
import json
import pathlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from contrastive_jax.data.sets.folder import folder_images, reading
from contrastive_jax.data.sets.folder.folder_rows import RowError
from contrastive_jax.data.sets.records import items

IMAGE = ("image", "jpg", "jpeg", "png", "webp", "image_bytes", "img", "bytes")
PATH = ("image", "filepath", "image_path", "path", "file", "filename", "img")
CAPTION = ("captions", "caption", "text", "txt", "title")
LABEL = ("label", "cls", "class")
KEY = ("key", "__key__", "id", "image_id", "filename")


@dataclasses.dataclass(frozen=True)
class Columns:
  """Names of columns; "" finds the usual ones.

  Attributes:
    image: encoded images (parquet) or paths of files (lists).
    caption: text, or a list of texts.
    label: a class; it may be missing.
    key: what names an example; it may be missing.
  """

  image: str = ""
  caption: str = ""
  label: str = ""
  key: str = ""


USUAL = Columns()


class Row(NamedTuple):
  """A line of a list: its number, the path of the image, captions, label."""

  number: int
  path: str
  captions: tuple[Any, ...]
  label: Any = ""


def column(
  path: pathlib.Path,
  names: Sequence[str],
  wanted: str,
  usual: Sequence[str],
  what: str,
) -> str:
  """Which column holds something.

  Args:
    path: the file.
    names: of its columns.
    wanted: the name that a user gave, or "".
    usual: names that are looked for without one.
    what: it holds.

  Returns:
    A name as the file has it; "" if it may be missing and is.

  Raises:
    DataError: if there is none.
  """
  if wanted:
    if wanted not in names:
      raise reading.DataError(
        f"{path} has no column {wanted!r}; it has {', '.join(names)}: name one"
        f" of them (--{what}_column)."
      )
    return wanted
  lower = {name.strip().lower(): name for name in reversed(names)}
  found = next((lower[name] for name in usual if name in lower), "")
  if not found and what in ("image", "caption"):
    raise reading.DataError(
      f"{path} has the columns {', '.join(names)}, none of which is known to"
      f" hold the {what}: name it (--{what}_column)."
    )
  return found


def list_rows(path: pathlib.Path, columns: Columns) -> Iterator[Row]:
  """The lines of a list of captions, of `.tsv`, `.csv` or `.jsonl`.

  A first line that names columns is used (`filepath` and `title` as open_clip
  writes them, `image` and `caption`, ...). Without one a line is a caption and a
  path, in this order, as CC3M and CC12M are published.

  Raises:
    DataError: if the columns are not known, or hold addresses.
  """
  csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
  # Bytes that are no UTF-8 become lone surrogates, and a problem of their row.
  with open(
    path, encoding="utf-8-sig", errors="surrogateescape", newline=""
  ) as file:
    if path.suffix == ".jsonl":
      rows: Iterable[Row] = _json_rows(path, file, columns)
    elif path.suffix == ".tsv":
      lines = (line.rstrip("\r\n").split("\t") for line in file)
      rows = _rows(path, lines, columns)
    else:
      rows = _rows(path, csv.reader(file), columns)
    for place, row in enumerate(rows):
      if row.path.lower().startswith(("http://", "https://")):
        if place == 0:
          raise reading.DataError(
            f"{path} holds addresses ({row.path[:80]}), no files: fetch the images"
            " first (img2dataset writes tar shards that can be read)."
          )
        row = row._replace(path="")  # A single one is a bad row.
      yield row


def _rows(
  path: pathlib.Path, lines: Iterable[list[str]], columns: Columns
) -> Iterator[Row]:
  places: tuple[int, int, int] | None = None
  for number, cells in enumerate(lines, 1):
    if not any(cell.strip() for cell in cells):
      continue
    if places is None:
      lower = {cell.strip().lower() for cell in cells}
      named = bool(columns.image or columns.caption)
      if named or (lower & set(PATH) and lower & set(CAPTION)):
        found = [
          column(path, cells, getattr(columns, what), usual, what)
          for what, usual in (
            ("image", PATH),
            ("caption", CAPTION),
            ("label", LABEL),
          )
        ]
        image, caption, label = (
          cells.index(name) if name else -1 for name in found
        )
        places = image, caption, label
        continue
      if len(cells) != 2:
        raise reading.DataError(
          f"{path}, line {number}, has {len(cells)} columns and names none that"
          " is known: a caption and a path are expected, or a first line that"
          " names the columns, such as filepath and title."
        )
      places = 1, 0, -1
    image, caption, label = places
    if len(cells) <= max(places):
      yield Row(number, "", ())
      continue
    yield Row(
      number,
      cells[image].strip(),
      (cells[caption],),
      cells[label] if label >= 0 else "",
    )


def _json_rows(
  path: pathlib.Path, lines: Iterable[str], columns: Columns
) -> Iterator[Row]:
  for number, line in enumerate(lines, 1):
    if not line.strip():
      continue
    try:
      fields = json.loads(line)
    except (ValueError, RecursionError):
      fields = None
    if not isinstance(fields, dict):
      yield Row(number, "", ())
      continue
    names = [str(name) for name in fields]
    try:
      image = column(path, names, columns.image, PATH, "image")
      caption = column(path, names, columns.caption, CAPTION, "caption")
    except reading.DataError:
      if number == 1:  # A file of another kind, no single bad line.
        raise
      yield Row(number, "", ())
      continue
    texts = fields[caption]
    label = (
      column(path, names, columns.label, LABEL, "label")
      if (not columns.label or columns.label in names)
      else ""
    )
    yield Row(
      number,
      str(fields[image] or "").strip(),
      tuple(texts) if isinstance(texts, list) else (texts,),
      fields.get(label, ""),
    )


def read_list(rows: Sequence[Row], root: pathlib.Path) -> items.Found:
  """The examples of some lines of a list.

  Args:
    rows: the lines.
    root: the folder below which the images are.

  Yields:
    Examples and problems.
  """
  root = root.resolve()
  for row in rows:
    key = row.path or f"line {row.number}"
    if not row.path:
      yield items.Problem(key, "malformed row: no image and caption")
      continue
    try:
      key.encode()
    except UnicodeEncodeError:
      yield items.Problem(f"line {row.number}", "invalid UTF-8: in the path")
      continue
    try:
      file = folder_images.locate(root, row.path)
      size = file.stat().st_size
      if size > items.MAX_BYTES:
        raise RowError("too large", f"{size:,} bytes")
      image = file.read_bytes()
    except RowError as error:
      yield items.Problem(key, str(error))
      continue
    except OSError as error:
      yield items.Problem(key, f"missing file: {error}")
      continue
    yield items.make(key, image, row.captions, row.label)
