"""The captions file of a user's folder: its rows, and what is wrong in them."""

from __future__ import annotations

import collections
import csv
import dataclasses
import io
import json
import pathlib
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any

SPLITS = ("train", "validation", "test")
# Other names of splits in files.
_SPLIT_NAMES = dict.fromkeys(("val", "valid", "dev"), "validation")


# Usual names of columns, in the order in which they are looked for.
IMAGES = (
  *("image", "filepath", "image_path", "file_name", "path", "file"),
  *("filename", "img"),
)
CAPTIONS = ("captions", "caption", "text", "txt", "title")
LABELS = ("label", "cls", "class")


class DataError(ValueError):
  """Data cannot be used; the message says why and what to do."""


class RowError(Exception):
  """One row cannot be used: (kind, detail)."""

  def __str__(self) -> str:
    return ": ".join(part for part in self.args if part)


@dataclasses.dataclass(frozen=True)
class CaptionRow:
  """One usable row of the captions file; "" stands for what is not given."""

  line: int
  image: str
  captions: tuple[str, ...]
  label: str = ""
  split: str = ""
  concept: str = ""


def split_name(name: str) -> str:
  """The library's name of a split: `val` and `dev` are "validation"."""
  return _SPLIT_NAMES.get(name, name)


class Report:
  """Counts problems and writes them, one JSON object a line."""

  def __init__(self) -> None:
    self.lines: list[dict[str, Any]] = []
    self.counts: collections.Counter[str] = collections.Counter()
    self.skipped = 0

  def add(
    self, line: int, image: Any, error: RowError, *, skipped: bool = True
  ) -> None:
    """Notes one problem; `skipped` says that the row was lost by it."""
    self.counts[error.args[0]] += 1
    self.skipped += skipped
    self.lines.append(
      {
        "line": line,
        "image": image if isinstance(image, str) else None,
        "problem": str(error),
        "skipped": skipped,
      }
    )

  def write(self, path: pathlib.Path) -> None:
    """Writes all problems, by line."""
    write_lines(path, sorted(self.lines, key=lambda entry: entry["line"]))

  def __str__(self) -> str:
    return counted(self.counts)


def counted(kinds: collections.Counter[str]) -> str:
  """Numbers of problems by their kind, in words."""
  return ", ".join(f"{kind}: {n:,}" for kind, n in sorted(kinds.items()))


def write_lines(path: pathlib.Path, entries: list[dict[str, Any]]) -> None:
  """Writes JSON objects, one a line, over whatever `path` held."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with open(path, "w", encoding="utf-8") as file:
    file.writelines(json.dumps(entry) + "\n" for entry in entries)


def read_bytes(path: pathlib.Path) -> bytes:
  """The content of a text file, without its byte order mark.

  Raises:
    DataError: it is UTF-16.
    OSError: it cannot be read.
  """
  data = path.read_bytes()
  if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
    raise DataError(f"{path} is UTF-16; save it as UTF-8.")
  return data.removeprefix(b"\xef\xbb\xbf")


def lines_of(
  data: bytes, read: Callable[[str], Any] = json.loads
) -> Iterator[tuple[int, Any]]:
  """(line, what `read` makes of it or `RowError`) of all that are not blank."""
  for number, line in enumerate(data.split(b"\n"), 1):
    if not line.strip():
      continue
    try:
      value = read(line.decode("utf-8"))
    except UnicodeDecodeError:
      value = RowError("invalid UTF-8")
    except (ValueError, RecursionError) as error:
      value = RowError("malformed row", f"not JSON ({error})")
    yield number, value


def clean(text: str) -> str:
  """Text with single spaces.

  Raises:
    RowError: it has half of a surrogate pair, which stands for bytes that were
      no UTF-8 (or a JSON escape) and can neither be encoded nor written.
  """
  try:
    text.encode()
  except UnicodeEncodeError as error:
    raise RowError("invalid UTF-8") from error
  return " ".join(text.split())


def normal(text: str) -> str:
  """Text without the differences of case, width and spaces."""
  return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _text(fields: dict[str, Any], key: str) -> str:
  """A label or concept as text; numbers are welcome, anything else is not."""
  value = fields.get(key)
  if value is None:
    return ""
  if isinstance(value, (list, dict, bool)):
    raise RowError("malformed row", f'"{key}" must be text')
  return str(value).strip()


def _make_row(
  line: int, fields: Any, report: Report, images_alone: bool
) -> CaptionRow:
  """Checks one row's fields; raises `RowError`."""
  if not isinstance(fields, dict):
    raise RowError("malformed row", "not a JSON object")
  image = _image_of(fields)
  if not isinstance(image, str) or not image.strip():
    raise RowError("malformed row", '"image" must name a file')
  given = [name for name in CAPTIONS if name in fields]
  if not given and not images_alone:
    raise RowError("malformed row", 'there is no "captions"')
  # One caption and several are ours; of others' names the first counts.
  given = given[: max(1, len({*given} & {"captions", "caption"}))]
  captions: list[Any] = []
  for key in sorted(given):
    value = fields.get(key)
    if value is not None:
      captions += value if isinstance(value, list) else [value]
  if not all(isinstance(caption, str) for caption in captions):
    raise RowError("malformed row", '"captions" must be a list of texts')
  labels = [name for name in LABELS if name in fields]
  label = _text(fields, labels[0]) if labels else ""
  concept = _text(fields, "concept_id")
  clean("".join((image, label, concept)))
  stripped = [clean(caption) for caption in captions]
  kept = tuple(dict.fromkeys(filter(None, stripped)))
  if not kept and not images_alone:
    raise RowError("no caption", "every caption is empty")
  given = _text(fields, "split").lower()
  split = split_name(given)
  if split and split not in SPLITS:
    raise RowError(
      "unknown split", f"{given!r} is not one of {', '.join(SPLITS)}"
    )
  if not all(stripped):
    empty = RowError("empty caption", "left out")
    report.add(line, image, empty, skipped=False)
  return CaptionRow(line, image.strip(), kept, label, split, concept)


def _image_of(fields: dict[str, Any]) -> Any:
  """The image that a row names, under the first usual name."""
  return next((fields[name] for name in IMAGES if name in fields), None)


def _several(cell: str) -> list[Any]:
  """The captions of a cell: a JSON list, as tables that were lists have it."""
  if cell.lstrip().startswith("["):
    try:
      found = json.loads(cell)
    except (ValueError, RecursionError):
      found = None
    if isinstance(found, list):
      return found
  return [cell]


def _csv_fields(data: bytes, images_alone: bool) -> Iterator[tuple[int, Any]]:
  """(line, dict by column or `RowError`) of every row that is not blank."""
  text = data.decode("utf-8", "surrogateescape")
  first = text.lstrip("\r\n").split("\n", 1)[0]
  # Spreadsheets of some countries write ";".
  delimiter = max(",;\t", key=first.count)
  reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
  header: list[str] | None = None
  while True:
    try:
      cells = next(reader)
    except StopIteration:
      return
    except csv.Error as error:
      yield reader.line_num, RowError("malformed row", str(error))
      continue
    if not any(cell.strip() for cell in cells):
      continue
    if header is None:
      header = [cell.strip().lower() for cell in cells]
      if not {*IMAGES} & {*header} or not (
        images_alone or {*CAPTIONS} & {*header}
      ):
        raise DataError(
          f"The table has the columns {', '.join(header)}, but needs one for images"
          f" ({', '.join(IMAGES)}) and one for captions ({', '.join(CAPTIONS)};"
          ' several in "captions" are separated by "|", or a JSON list); "label",'
          ' "split" and "concept_id" are optional.'
        )
      continue
    fields: Any = dict(zip(header, cells))
    if len(cells) != len(header):
      wrong = f"{len(cells)} columns instead of {len(header)}"
      fields = RowError("malformed row", wrong)
    else:
      for name in {*CAPTIONS} & {*header}:
        found = _several(fields[name])
        if name == "captions" and len(found) == 1:
          found = fields[name].split("|")
        fields[name] = found
    yield reader.line_num, fields


def read_rows(
  path: pathlib.Path, report: Report, *, images_alone: bool = False
) -> tuple[list[CaptionRow], int]:
  """The rows that are well formed, and the number of all.

  With `images_alone` a row needs no caption.
  """
  rows, count, data = [], 0, read_bytes(path)
  as_lines = path.suffix.lower() == ".jsonl"
  found = lines_of(data) if as_lines else _csv_fields(data, images_alone)
  for line, fields in found:
    count += 1
    try:
      if isinstance(fields, RowError):
        raise fields
      rows.append(_make_row(line, fields, report, images_alone))
    except RowError as error:
      image = _image_of(fields) if isinstance(fields, dict) else None
      report.add(line, image, error)
  return rows, count
