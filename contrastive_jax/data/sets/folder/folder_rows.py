"""The captions file of a user's folder: its rows, and what is wrong in them."""

from __future__ import annotations

import collections
import csv
import dataclasses
import io
import json
import pathlib
from collections.abc import Iterator
from typing import Any

SPLITS = ("train", "validation", "test")
_SPLIT_NAMES = {s: s for s in SPLITS} | {
  "val": "validation",
  "valid": "validation",
  "dev": "validation",
}


class DataError(ValueError):
  """Data cannot be used; the message says why and what to do."""


class RowError(Exception):
  """One row cannot be used: (kind, detail)."""


@dataclasses.dataclass(frozen=True)
class Row:
  """One usable row of the captions file; "" stands for what is not given."""

  line: int
  image: str
  captions: tuple[str, ...]
  label: str = ""
  split: str = ""
  concept: str = ""


class Report:
  """Counts problems and writes them, one JSON object a line."""

  def __init__(self) -> None:
    self.lines: list[tuple[int, str | None, str, bool]] = []
    self.counts: collections.Counter[str] = collections.Counter()
    self.skipped = 0

  def add(
    self,
    line: int,
    image: str | None,
    kind: str,
    detail: str = "",
    *,
    skipped: bool = True,
  ) -> None:
    """Notes one problem; `skipped` says that the row was lost by it."""
    self.counts[kind] += 1
    self.skipped += skipped
    problem = f"{kind}: {detail}" if detail else kind
    self.lines.append((line, image, problem, skipped))

  def write(self, path: pathlib.Path) -> None:
    """Writes all problems, by line, over whatever `path` held."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
      for line, image, problem, skipped in sorted(
        self.lines, key=lambda entry: entry[0]
      ):
        entry = dict(line=line, image=image, problem=problem, skipped=skipped)
        file.write(json.dumps(entry) + "\n")

  def __str__(self) -> str:
    counts = sorted(self.counts.items())
    return ", ".join(f"{kind}: {count:,}" for kind, count in counts)


def _text(value: Any, what: str) -> str:
  """A label or concept as text; numbers are welcome, anything else is not."""
  if value is None:
    return ""
  if isinstance(value, (list, dict, bool)):
    raise RowError("malformed row", f'"{what}" must be text')
  return str(value).strip()


def _make_row(line: int, fields: dict[str, Any], report: Report) -> Row:
  """Checks one row's fields; raises `RowError`."""
  image = fields.get("image")
  if not isinstance(image, str) or not image.strip():
    raise RowError("malformed row", '"image" must name a file')
  if "captions" not in fields and "caption" not in fields:
    raise RowError("malformed row", 'there is no "captions"')
  captions: list[Any] = []
  for key in ("caption", "captions"):
    value = fields.get(key)
    if value is not None:
      captions += value if isinstance(value, list) else [value]
  if not all(isinstance(caption, str) for caption in captions):
    raise RowError("malformed row", '"captions" must be a list of texts')
  stripped = [" ".join(caption.split()) for caption in captions]
  kept = tuple(dict.fromkeys(caption for caption in stripped if caption))
  label = _text(fields.get("label"), "label")
  concept = _text(fields.get("concept_id"), "concept_id")
  # A lone surrogate stands for bytes that were no UTF-8 (or a JSON escape).
  try:
    "".join((image, label, concept, *kept)).encode()
  except UnicodeEncodeError as error:
    raise RowError("invalid UTF-8") from error
  if not kept:
    raise RowError("no caption", "every caption is empty")
  given = _text(fields.get("split"), "split").lower()
  if given and given not in _SPLIT_NAMES:
    raise RowError(
      "unknown split", f"{given!r} is not one of {', '.join(SPLITS)}"
    )
  if not all(stripped):
    report.add(line, image, "empty caption", "left out", skipped=False)
  split = _SPLIT_NAMES.get(given, "")
  return Row(line, image.strip(), kept, label, split, concept)


def _jsonl_fields(data: bytes) -> Iterator[tuple[int, Any]]:
  """(line, parsed object or `RowError`) of every line that is not blank."""
  for line, raw in enumerate(data.split(b"\n"), 1):
    if not raw.strip():
      continue
    try:
      value = json.loads(raw.decode("utf-8"))
      if not isinstance(value, dict):
        raise RowError("malformed row", "not a JSON object")
      yield line, value
    except UnicodeDecodeError:
      yield line, RowError("invalid UTF-8", "")
    except (ValueError, RecursionError) as error:
      yield line, RowError("malformed row", f"not JSON ({error})")
    except RowError as error:
      yield line, error


def _csv_fields(data: bytes) -> Iterator[tuple[int, Any]]:
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
      if "image" not in header or not {"caption", "captions"} & set(header):
        raise DataError(
          f"captions.csv has the columns {', '.join(header)}, but needs "
          '"image" and "caption" (or "captions", several separated by "|"); '
          '"label", "split" and "concept_id" are optional.'
        )
    elif len(cells) != len(header):
      yield (
        reader.line_num,
        RowError(
          "malformed row", f"{len(cells)} columns instead of {len(header)}"
        ),
      )
    else:
      fields: dict[str, Any] = dict(zip(header, cells))
      if "captions" in fields:
        fields["captions"] = fields["captions"].split("|")
      yield reader.line_num, fields


def read_rows(path: pathlib.Path, report: Report) -> tuple[list[Row], int]:
  """The rows that are well formed, and the number of all."""
  data = path.read_bytes()
  if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
    raise DataError(f"{path} is UTF-16; save it as UTF-8.")
  data = data.removeprefix(b"\xef\xbb\xbf")
  read = _jsonl_fields if path.suffix == ".jsonl" else _csv_fields
  rows, count = [], 0
  for line, fields in read(data):
    count += 1
    image = None
    try:
      if isinstance(fields, RowError):
        raise fields
      image = fields.get("image")
      rows.append(_make_row(line, fields, report))
    except RowError as error:
      kind, detail = (*error.args, "")[:2]
      report.add(line, image if isinstance(image, str) else None, kind, detail)
  return rows, count
