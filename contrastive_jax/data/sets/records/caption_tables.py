"""Columns of tables with pairs, and lists of captions beside image files."""

import csv
import dataclasses
import json
import pathlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from contrastive_jax.data.sets.folder import folder_images, folder_rows
from contrastive_jax.data.sets.folder.folder_rows import DataError, RowError
from contrastive_jax.data.sets.records import items

# The usual names of columns in parquet files and in lists.
PARQUET: Mapping[str, Sequence[str]] = {
  "image": (
    "image",
    "jpg",
    "jpeg",
    "png",
    "webp",
    "image_bytes",
    "img",
    "bytes",
  ),
  "caption": folder_rows.CAPTIONS,
  "label": folder_rows.LABELS,
  "key": ("key", "__key__", "id", "image_id", "filename"),
}
_PAIR = {"image": folder_rows.IMAGES, "caption": folder_rows.CAPTIONS}
_LIST = _PAIR | {"label": folder_rows.LABELS}


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

  def find(
    self,
    path: pathlib.Path,
    names: Sequence[str],
    usual: Mapping[str, Sequence[str]],
  ) -> dict[str, str]:
    """The columns of a file by what they hold; "" is one that is missing and may be.

    Args:
      path: the file.
      names: of its columns.
      usual: names that are looked for where the user gave none.

    Raises:
      DataError: if there is none.
    """
    lower = {name.strip().lower(): name for name in reversed(names)}
    found = {}
    for what, known in usual.items():
      wanted = getattr(self, what)
      if wanted and wanted not in names:
        raise DataError(
          f"{path} has no column {wanted!r}; it has {', '.join(names)}: name"
          f" one of them (--{what}_column)."
        )
      found[what] = wanted or next((lower[n] for n in known if n in lower), "")
      if not found[what] and what in ("image", "caption"):
        raise DataError(
          f"{path} has the columns {', '.join(names)}, none of which is known"
          f" to hold the {what}: name it (--{what}_column)."
        )
    return found


USUAL = Columns()


class ListLine(NamedTuple):
  """A line of a list: its number, the path of the image, captions, label."""

  number: int
  path: str
  captions: tuple[Any, ...]
  label: Any = ""


def list_rows(path: pathlib.Path, columns: Columns) -> Iterator[ListLine]:
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
      rows: Iterable[ListLine] = _json_rows(path, file, columns)
    elif path.suffix == ".tsv":
      lines = (line.rstrip("\r\n").split("\t") for line in file)
      rows = _rows(path, lines, columns)
    else:
      rows = _rows(path, csv.reader(file), columns)
    for place, row in enumerate(rows):
      if row.path.lower().startswith(("http://", "https://")):
        if place == 0:
          raise DataError(
            f"{path} holds addresses ({row.path[:80]}), no files: fetch the images"
            " first (img2dataset writes tar shards that can be read)."
          )
        row = row._replace(path="")  # A single one is a bad row.
      yield row


def _rows(
  path: pathlib.Path, lines: Iterable[list[str]], columns: Columns
) -> Iterator[ListLine]:
  places: Sequence[int] = ()
  for number, cells in enumerate(lines, 1):
    if not any(cell.strip() for cell in cells):
      continue
    if not places:
      lower = {cell.strip().lower() for cell in cells}
      named = bool(columns.image or columns.caption)
      if named or all(lower & {*names} for names in _PAIR.values()):
        found = columns.find(path, cells, _LIST).values()
        places = [cells.index(name) if name else -1 for name in found]
        continue
      if len(cells) != 2:
        raise DataError(
          f"{path}, line {number}, has {len(cells)} columns and names none that"
          " is known: a caption and a path are expected, or a first line that"
          " names the columns, such as filepath and title."
        )
      places = 1, 0, -1
    image, caption, label = places
    if len(cells) <= max(places):
      yield ListLine(number, "", ())
      continue
    yield ListLine(
      number,
      cells[image].strip(),
      (cells[caption],),
      cells[label] if label >= 0 else "",
    )


def _json_rows(
  path: pathlib.Path, lines: Iterable[str], columns: Columns
) -> Iterator[ListLine]:
  for number, line in enumerate(lines, 1):
    if not line.strip():
      continue
    try:
      fields = json.loads(line)
    except (ValueError, RecursionError):
      fields = None
    if not isinstance(fields, dict):
      yield ListLine(number, "", ())
      continue
    # A label may be missing from a line.
    labelled = not columns.label or columns.label in fields
    try:
      found = columns.find(path, [*fields], _LIST if labelled else _PAIR)
    except DataError:
      if number == 1:  # A file of another kind, no single bad line.
        raise
      yield ListLine(number, "", ())
      continue
    texts = fields[found["caption"]]
    yield ListLine(
      number,
      str(fields[found["image"]] or "").strip(),
      tuple(texts) if isinstance(texts, list) else (texts,),
      fields.get(found.get("label", ""), ""),
    )


def read_list(
  rows: Sequence[ListLine],
  root: pathlib.Path,
  how: items.Reading = items.PAIRS,
) -> items.Found:
  """The examples of some lines of a list, whose images are below a folder."""
  root = root.resolve()
  for row in rows:
    key = row.path or f"line {row.number}"
    try:
      if not row.path:
        raise RowError("malformed row", "no image and caption")
      key.encode()
      file = folder_images.locate(root, row.path)
      size = file.stat().st_size
      if size > items.MAX_BYTES:
        raise RowError("too large", f"{size:,} bytes")
      yield items.make(key, file.read_bytes(), row.captions, row.label, how)
    except UnicodeEncodeError:
      yield items.Problem(f"line {row.number}", "invalid UTF-8: in the path")
    except RowError as error:
      yield items.Problem(key, str(error))
    except OSError as error:
      yield items.Problem(key, f"missing file: {error}")
