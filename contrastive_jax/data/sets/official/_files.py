"""Files of each split of an official data set, and their JSON."""

import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from contrastive_jax.data.sets.folder import folder_rows
from contrastive_jax.data.sets.folder.folder_rows import DataError, RowError

Path = str | os.PathLike[str]
# One file or folder, or the file or files of each split.
Paths = Path | Mapping[str, Path | Sequence[Path]]

# Rows by their numbers, from 1: what could be read, or a `RowError`.
Rows = list[tuple[int, Any]]

_NAMED_SPLIT = re.compile(
  r"(?<![a-z])(train|validation|valid|val|dev|test)(?![a-z])", re.IGNORECASE
)


class Format(NamedTuple):
  """A format of a task.

  Attributes:
    files: the usual names of its files in a folder, by split.
    example: a good row.
  """

  files: Mapping[str, Sequence[str]]
  example: str


def in_order(splits: Mapping[str, Any]) -> dict[str, Any]:
  """The splits with train, validation and test first."""
  first = [split for split in folder_rows.SPLITS if split in splits]
  return {split: splits[split] for split in dict.fromkeys((*first, *splits))}


def find(
  paths: Paths, patterns: Mapping[str, Sequence[str]]
) -> dict[str, list[pathlib.Path]]:
  """The files of each split.

  Args:
    paths: the file or files of each split; or one file, whose split is the one
      that its name has, or else train; or a folder with files of the usual
      names.
    patterns: those names, by split. Of a folder, a name that no file has is
      left out.

  Raises:
    DataError: a file is missing, or a folder has none or too many.
  """
  if isinstance(paths, Mapping):
    found = {}
    for split, files in paths.items():
      files = [files] if isinstance(files, (str, os.PathLike)) else files
      found[folder_rows.split_name(split)] = list(map(pathlib.Path, files))
    if not found or not all(found.values()):
      raise DataError(
        f"path must name at least one file for every split, got {dict(paths)}."
      )
    for file in (file for files in found.values() for file in files):
      _require(file)
    return in_order(found)
  path = pathlib.Path(paths)
  if not path.is_dir():
    _require(path)
    named = _NAMED_SPLIT.search(path.name)
    split = folder_rows.split_name(named.group(1).lower()) if named else "train"
    return {split: [path]}
  found = {}
  for split, names in patterns.items():
    for name in names:
      files = sorted(path.glob(name))
      if len(files) > 1:
        raise DataError(
          f"{path} has {len(files)} files {name}"
          f" ({', '.join(file.name for file in files)}): name those of each"
          f' split, as {{"{split}": FILE}}.'
        )
      found.setdefault(split, []).extend(files)
  found = {split: files for split, files in found.items() if files}
  if not found:
    usual = [name for names in patterns.values() for name in names]
    raise DataError(
      f"{path} has none of the files {', '.join(usual)}; give their folder,"
      " or the files of each split by name."
    )
  return in_order(found)


def load_json(path: pathlib.Path, expected: str) -> Any:
  """The content of a JSON file; the error says what it should hold.

  Raises:
    DataError: it is missing, no UTF-8 or no JSON.
  """
  return _parsed(_bytes(path, expected), path, expected)


def load_rows(path: pathlib.Path, expected: str, *, text: bool = False) -> Rows:
  """The rows of a JSON list, or of a file with a JSON value or a text a line.

  The first character tells which of the first two it is. A bad line is a
  `RowError` among the rows.

  Raises:
    DataError: the file is missing, empty, or a list that is no UTF-8 or JSON.
  """
  data = _bytes(path, expected)
  if not text and data.lstrip().startswith(b"["):
    return list(enumerate(_parsed(data, path, expected), 1))
  rows = list(folder_rows.lines_of(data, str if text else json.loads))
  if not rows:
    raise DataError(f"{path} is empty; expected {expected}.")
  return rows


def listed(
  value: Any, key: str, path: pathlib.Path, expected: str
) -> list[Any]:
  """The list under a key of what a JSON file held.

  Raises:
    DataError: there is no such list.
  """
  if not isinstance(value, dict):
    raise DataError(f"{path} holds {_kind(value)}; expected {expected}.")
  if key not in value:
    keys = ", ".join(map(repr, list(value)[:8])) or "none"
    raise DataError(
      f'{path} has no "{key}" (its keys: {keys}); expected {expected}.'
    )
  if not isinstance(value[key], list):
    raise DataError(
      f'"{key}" of {path} is {_kind(value[key])}; expected {expected}.'
    )
  return value[key]


def member(row: Any, key: str, kinds: type | tuple[type, ...]) -> Any:
  """A field of a row.

  Raises:
    RowError: the row is no object, or has no such field of a kind.
  """
  if isinstance(row, RowError):
    raise row
  if not isinstance(row, dict):
    raise RowError("malformed row", f"it is {_kind(row)}")
  if key not in row:
    raise RowError("missing key", f'there is no "{key}"')
  value = row[key]
  wanted = kinds if isinstance(kinds, tuple) else (kinds,)
  # True is an int to Python, but no number of an image.
  if not isinstance(value, wanted) or (
    isinstance(value, bool) and bool not in wanted
  ):
    names = " or ".join(_KINDS[kind] for kind in wanted)
    raise RowError(
      "wrong type", f'"{key}" is {_kind(value)} instead of {names}'
    )
  return value


def clean(text: str) -> str:
  """Text with single spaces; raises `RowError` if it is empty, or no UTF-8."""
  text = folder_rows.clean(text)
  if not text:
    raise RowError("empty text")
  return text


def text_of(row: Any, key: str) -> str:
  """A field that must be text which is not empty, with single spaces."""
  return clean(member(row, key, str))


def identifier(row: Any, key: str) -> int | str:
  """A field that must be a number or a name."""
  return member(row, key, (int, str))


_KINDS: Mapping[type, str] = {
  dict: "an object",
  list: "a list",
  str: "text",
  int: "a number",
  float: "a number",
  bool: "true or false",
  type(None): "null",
}


def _kind(value: Any) -> str:
  return _KINDS.get(type(value), type(value).__name__)


def _require(path: pathlib.Path) -> None:
  if not path.is_file():
    what = "is no file" if path.exists() else "does not exist"
    raise DataError(f"{path} {what}; give an annotation file.")


def _bytes(path: pathlib.Path, expected: str) -> bytes:
  try:
    return folder_rows.read_bytes(path)
  except OSError as error:
    raise DataError(
      f"{path} cannot be read ({error.strerror}); expected {expected}."
    ) from error


def _parsed(data: bytes, path: pathlib.Path, expected: str) -> Any:
  try:
    return json.loads(data.decode("utf-8"))
  except UnicodeDecodeError as error:
    raise DataError(
      f"{path} is not UTF-8 (byte {error.start:,}); expected {expected}."
    ) from error
  except (ValueError, RecursionError) as error:
    raise DataError(
      f"{path} is not JSON, or its end is missing ({error}); expected"
      f" {expected}."
    ) from error
