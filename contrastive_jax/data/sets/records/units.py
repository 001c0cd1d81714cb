"""Inputs of a conversion, in parts that are converted on their own."""

import dataclasses
import glob
import hashlib
import itertools
import json
import pathlib
import re
from collections.abc import Iterator, Sequence

from contrastive_jax.data.sets.folder.folder_rows import DataError
from contrastive_jax.data.sets.records import (
  arrow_files,
  caption_tables,
  items,
  parquet_files,
  tars,
)

FORMATS = ("auto", "tar", "parquet", "arrow", "list")
_TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_LISTS = (".tsv", ".csv", ".jsonl")
# {00000..00127} or {train,val}.
_BRACES = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")
_MOST_IN_BRACES = 1_000_000
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
    how: its examples are read.
  """

  number: int
  path: pathlib.Path
  format: str
  part: tuple[int, int]
  digest: str
  columns: caption_tables.Columns
  root: pathlib.Path
  rows: tuple[caption_tables.ListLine, ...] = ()
  how: items.Reading = items.PAIRS

  @property
  def name(self) -> str:
    """The input and the part of it, for people."""
    if self.format in ("tar", "arrow"):
      return self.path.name
    what = "row groups" if self.format == "parquet" else "lines"
    return f"{self.path.name} ({what} {self.part[0]:,} to {self.part[1] - 1:,})"

  def read(self) -> items.Found:
    """The examples and problems."""
    if self.format == "tar":
      return tars.read(self.path, self.how)
    if self.format == "arrow":
      return arrow_files.read(self.path, self.columns, self.how)
    if self.format == "parquet":
      return parquet_files.read(self.path, self.part, self.columns, self.how)
    return caption_tables.read_list(self.rows, self.root, self.how)


def find(patterns: Sequence[str], format: str = "auto") -> list[pathlib.Path]:
  """The input files, in order of their names.

  Patterns are paths, or have a `*` (`**` is any folders) or numbers in braces
  (`{00000..00127}`, `{train,val}`); a folder is all that can be read in it, but for
  parquet files beside tar shards of their name.

  Raises:
    DataError: if a pattern finds nothing, or a file is of no known format.
  """
  found: dict[pathlib.Path, None] = {}
  for pattern in itertools.chain.from_iterable(map(_unbraced, patterns)):
    path = pathlib.Path(pattern).expanduser()
    if path.is_dir():
      files = [p for p in path.iterdir() if p.is_file() and _format(p)]
      # img2dataset writes a parquet file about each shard beside it.
      tars = {p.name.partition(".")[0] for p in files if _format(p) == "tar"}
      files = [
        p for p in files if _format(p) != "parquet" or p.stem not in tars
      ]
    else:
      files = [pathlib.Path(p) for p in glob.glob(str(path), recursive=True)]
      files = [p for p in files if p.is_file()]
    if not files:
      raise DataError(
        f"{pattern!r} names no file with pairs (.tar, .tar.gz, .parquet,"
        " .arrow, .tsv, .csv, .jsonl); check the path, and put a pattern in quotes."
      )
    found.update(dict.fromkeys(files))
  for path in found:
    if format == "auto" and not _format(path):
      raise DataError(
        f"{path}: the format is not clear from the name; say which with"
        f" --format, of {', '.join(FORMATS[1:])}."
      )
  return sorted(found)


def _unbraced(pattern: str) -> Iterator[str]:
  """A pattern for each of what its braces name, as a shell has them."""
  found = _BRACES.search(pattern)
  if found is None or pathlib.Path(pattern).expanduser().exists():
    yield pattern
    return
  low, high, names = found.groups()
  if names is None:
    width = len(low) if low.startswith("0") else 0
    if abs(int(high) - int(low)) >= _MOST_IN_BRACES:
      raise DataError(f"{pattern!r} names too many files ({found[0]}).")
    step = 1 if int(low) <= int(high) else -1
    numbers = range(int(low), int(high) + step, step)
    parts = [f"{number:0{width}}" for number in numbers]
  else:
    parts = names.split(",")
  for part in parts:
    yield from _unbraced(
      pattern[: found.start()] + part + pattern[found.end() :]
    )


def split(
  files: Sequence[pathlib.Path],
  *,
  format: str = "auto",
  columns: caption_tables.Columns = caption_tables.USUAL,
  root: str = "",
  how: items.Reading = items.PAIRS,
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
      how=how,
    )
    if kind == "list":
      units = _list(base)
    else:
      parts = [base.part]
      if kind == "parquet":
        parquet_files.check(path, columns, how)
        parts = parquet_files.groups_of(path, _ROWS)
      elif kind == "arrow":
        arrow_files.check(path, columns, how)
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
  if name.endswith(".arrow"):
    return "arrow"
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
