"""Inputs of a conversion, in parts that are converted on their own."""

import dataclasses
import glob
import hashlib
import itertools
import json
import pathlib
from collections.abc import Iterator, Sequence

from contrastive_jax.data.sets.folder.folder_rows import DataError
from contrastive_jax.data.sets.records import (
  caption_tables,
  items,
  parquet_files,
  tars,
)

FORMATS = ("auto", "tar", "parquet", "list")
_TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_LISTS = (".tsv", ".csv", ".jsonl")
# Rows of a unit of a list or parquet file, about as many as a shard has
# elsewhere.
_ROWS = 5_000


@dataclasses.dataclass(frozen=True)
class Unit:
  """A part of the inputs, which becomes one file a split.

  Attributes:
    number: its place among all.
    path: the input.
    format: one of `FORMATS`, but not "auto".
    part: which row groups of a parquet file, or lines of a list.
    digest: changes when the input does (of a list: its lines).
    rows: of a list.
    columns: of parquet files and lists.
    root: the folder below which a list's images are.
    images_alone: whether examples of archives and parquet files need no caption.
  """

  number: int
  path: pathlib.Path
  format: str
  part: tuple[int, int]
  digest: str
  columns: caption_tables.Columns
  root: pathlib.Path
  rows: tuple[caption_tables.ListLine, ...] = ()
  images_alone: bool = False

  @property
  def name(self) -> str:
    """The input and the part of it, for people."""
    if self.format == "tar":
      return self.path.name
    what = "row groups" if self.format == "parquet" else "lines"
    return f"{self.path.name} ({what} {self.part[0]:,} to {self.part[1] - 1:,})"

  def read(self) -> items.Found:
    """The examples and problems."""
    if self.format == "tar":
      return tars.read(self.path, images_alone=self.images_alone)
    if self.format == "parquet":
      return parquet_files.read(
        self.path, self.part, self.columns, images_alone=self.images_alone
      )
    return caption_tables.read_list(self.rows, self.root)


def find(patterns: Sequence[str], format: str = "auto") -> list[pathlib.Path]:
  """The input files, in order of their names.

  Patterns are paths, or have a `*`; a folder is all that can be read in it, but
  for parquet files beside tar shards of their name.

  Raises:
    DataError: if a pattern finds nothing, or a file is of no known format.
  """
  found: dict[pathlib.Path, None] = {}
  for pattern in patterns:
    path = pathlib.Path(pattern).expanduser()
    if path.is_dir():
      files = [p for p in path.iterdir() if p.is_file() and _format(p)]
      # img2dataset writes a parquet file about each shard beside it.
      tars = {p.name.partition(".")[0] for p in files if _format(p) == "tar"}
      files = [
        p for p in files if _format(p) != "parquet" or p.stem not in tars
      ]
    else:
      files = [pathlib.Path(p) for p in glob.glob(str(path))]
      files = [p for p in files if p.is_file()]
    if not files:
      raise DataError(
        f"{pattern!r} names no file with pairs (.tar, .tar.gz, .parquet, .tsv,"
        " .csv, .jsonl); check the path, and put a pattern in quotes."
      )
    found.update(dict.fromkeys(files))
  for path in found:
    if format == "auto" and not _format(path):
      raise DataError(
        f"{path}: the format is not clear from the name; say which with"
        f" --format, of {', '.join(FORMATS[1:])}."
      )
  return sorted(found)


def split(
  files: Sequence[pathlib.Path],
  *,
  format: str = "auto",
  columns: caption_tables.Columns = caption_tables.USUAL,
  root: str = "",
  images_alone: bool = False,
) -> Iterator[Unit]:
  """Units of the files of `find`, in order; see `Unit`.

  Lists are read while units are asked for. Their images are below `root`; "" is
  the folder of the list.

  Raises:
    DataError: if a file cannot be read as its format says.
  """
  number = 0
  for path in files:
    kind = _format(path) if format == "auto" else format
    image_root = pathlib.Path(root).expanduser() if root else path.parent
    base = Unit(
      number,
      path,
      kind,
      (0, 1),
      "",
      columns,
      image_root,
      images_alone=images_alone,
    )
    if kind == "list":
      units = _list(base)
    else:
      parts = [base.part]
      if kind == "parquet":
        parquet_files.check(path, columns, images_alone=images_alone)
        parts = parquet_files.groups_of(path, _ROWS)
      digest = _digest(path)
      units = (dataclasses.replace(base, part=p, digest=digest) for p in parts)
    for unit in units:
      yield dataclasses.replace(unit, number=number)
      number += 1


def _list(base: Unit) -> Iterator[Unit]:
  if not base.root.is_dir():
    raise DataError(
      f"{base.root} is no folder; --image_root must name the one below which the"
      f" images of {base.path.name} are."
    )
  found = caption_tables.list_rows(base.path, base.columns)
  while rows := tuple(itertools.islice(found, _ROWS)):
    yield dataclasses.replace(
      base,
      part=(rows[0].number, rows[-1].number + 1),
      digest=hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16],
      rows=rows,
    )


def _format(path: pathlib.Path) -> str:
  name = path.name.lower()
  if name.endswith(_TARS):
    return "tar"
  if name.endswith(".parquet"):
    return "parquet"
  return "list" if name.endswith(_LISTS) else ""


def _digest(path: pathlib.Path) -> str:
  """Digest of a file's size, time and ends; a terabyte would take hours."""
  status = path.stat()
  size = status.st_size
  digest = hashlib.sha256(f"{size} {status.st_mtime_ns}".encode())
  with open(path, "rb") as file:
    digest.update(file.read(2**16))
    file.seek(max(size - 2**16, 0))
    digest.update(file.read(2**16))
  return digest.hexdigest()[:16]
