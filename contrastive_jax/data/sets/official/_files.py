"""Which files hold which split, and what JSON they hold."""

import json
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from contrastive_jax.data.sets.folder import folder_rows, reading

Path = str | os.PathLike[str]
# One file or folder, or the file or files of each split.
Paths = Path | Mapping[str, Path | Sequence[Path]]

# A row that could be read, or why it could not.
Raw = Any | folder_rows.RowError

_SPLIT_NAMES = {
  "val": "validation",
  "valid": "validation",
  "dev": "validation",
}
_ORDER = ("train", "validation", "test")
_NAMED_SPLIT = re.compile(
  r"(?<![a-z])(train|validation|valid|val|dev|test)(?![a-z])", re.IGNORECASE
)


def split_name(name: str) -> str:
  """What a split is called here: `val` and `dev` are "validation"."""
  return _SPLIT_NAMES.get(name, name)


def in_order(splits: Mapping[str, Any]) -> dict[str, Any]:
  """The splits with train, validation and test first."""
  first = [split for split in _ORDER if split in splits]
  rest = [split for split in splits if split not in _ORDER]
  return {split: splits[split] for split in (*first, *rest)}


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
    folder.DataError: a file is missing, or a folder has none or too many.
  """
  if isinstance(paths, Mapping):
    found = {
      split_name(split): [pathlib.Path(file) for file in _listed(files)]
      for split, files in paths.items()
    }
    if not found or not all(found.values()):
      raise reading.DataError(
        f"path must name at least one file for every split, got {dict(paths)}."
      )
    for file in (file for files in found.values() for file in files):
      _require(file)
    return in_order(found)
  path = pathlib.Path(paths)
  if not path.is_dir():
    _require(path)
    named = _NAMED_SPLIT.search(path.name)
    split = split_name(named.group(1).lower()) if named else "train"
    return {split: [path]}
  found = {}
  for split, names in patterns.items():
    for name in names:
      files = sorted(path.glob(name))
      if len(files) > 1:
        raise reading.DataError(
          f"{path} has {len(files)} files {name}"
          f" ({', '.join(file.name for file in files)}): name those of each"
          f' split, as {{"{split}": FILE}}.'
        )
      found.setdefault(split, []).extend(files)
  found = {split: files for split, files in found.items() if files}
  if not found:
    usual = [name for names in patterns.values() for name in names]
    raise reading.DataError(
      f"{path} has none of the files {', '.join(usual)}; give their folder,"
      " or the files of each split by name."
    )
  return in_order(found)


def load_json(path: pathlib.Path, expected: str) -> Any:
  """What a JSON file holds.

  Args:
    path: the file.
    expected: what it should hold, for the error.

  Raises:
    folder.DataError: it is missing, no UTF-8 or no JSON.
  """
  try:
    return json.loads(_bytes(path, expected).decode("utf-8"))
  except UnicodeDecodeError as error:
    raise reading.DataError(
      f"{path} is not UTF-8 (byte {error.start:,}); expected {expected}."
    ) from error
  except (ValueError, RecursionError) as error:
    raise reading.DataError(
      f"{path} is not JSON, or its end is missing ({error}); expected"
      f" {expected}."
    ) from error


def load_rows(path: pathlib.Path, expected: str) -> list[tuple[int, Raw]]:
  """The numbered rows of a JSON list, or of a file with a JSON value a line.

  Args:
    path: the file; which of both it is, its first character tells.
    expected: what it should hold, for the error.

  Raises:
    folder.DataError: it is missing, or a list that is no UTF-8 or no JSON. A
      bad line is a `RowError` among the rows instead.
  """
  data = _bytes(path, expected)
  if data.lstrip().startswith(b"["):
    return numbered(load_json(path, expected))
  return _lines(data, path, expected, json.loads)


def load_lines(path: pathlib.Path, expected: str) -> list[tuple[int, Raw]]:
  """The numbered lines of a text file that are not blank."""
  return _lines(_bytes(path, expected), path, expected, str)


def table(path: pathlib.Path, key: str, expected: str) -> list[Any]:
  """The list under a key of a JSON object.

  Raises:
    folder.DataError: the file has no such list.
  """
  return listed(load_json(path, expected), key, path, expected)


def listed(
  value: Any, key: str, path: pathlib.Path, expected: str
) -> list[Any]:
  """The list under a key of what a JSON file held."""
  if not isinstance(value, dict):
    raise reading.DataError(
      f"{path} holds {_kind(value)}; expected {expected}."
    )
  if key not in value:
    keys = ", ".join(map(repr, list(value)[:8])) or "none"
    raise reading.DataError(
      f'{path} has no "{key}" (its keys: {keys}); expected {expected}.'
    )
  if not isinstance(value[key], list):
    raise reading.DataError(
      f'"{key}" of {path} is {_kind(value[key])}; expected {expected}.'
    )
  return value[key]


def numbered(rows: Iterable[Any]) -> list[tuple[int, Raw]]:
  """Rows with their numbers, from 1."""
  return list(enumerate(rows, 1))


def member(row: Any, key: str, kinds: type | tuple[type, ...]) -> Any:
  """A field of a row.

  Raises:
    folder_rows.RowError: the row is no object, or has no such field of a kind.
  """
  if isinstance(row, folder_rows.RowError):
    raise row
  if not isinstance(row, dict):
    raise folder_rows.RowError("malformed row", f"it is {_kind(row)}")
  if key not in row:
    raise folder_rows.RowError("missing key", f'there is no "{key}"')
  value = row[key]
  wanted = kinds if isinstance(kinds, tuple) else (kinds,)
  # True is an int to Python, but no number of an image.
  if not isinstance(value, wanted) or (
    isinstance(value, bool) and bool not in wanted
  ):
    names = " or ".join(_KINDS[kind] for kind in wanted)
    raise folder_rows.RowError(
      "wrong type", f'"{key}" is {_kind(value)} instead of {names}'
    )
  return value


def clean(text: str) -> str:
  """Text with single spaces.

  Raises:
    folder_rows.RowError: it is empty, or has half of a surrogate pair, which
      can neither be encoded nor written.
  """
  text = " ".join(text.split())
  if not text:
    raise folder_rows.RowError("empty text")
  try:
    text.encode()
  except UnicodeEncodeError as error:
    raise folder_rows.RowError("invalid UTF-8") from error
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


def _listed(files: Any) -> list[Path]:
  return [files] if isinstance(files, (str, os.PathLike)) else list(files)


def _require(path: pathlib.Path) -> None:
  if not path.is_file():
    what = "is no file" if path.exists() else "does not exist"
    raise reading.DataError(f"{path} {what}; give an annotation file.")


def _bytes(path: pathlib.Path, expected: str) -> bytes:
  try:
    data = path.read_bytes()
  except OSError as error:
    raise reading.DataError(
      f"{path} cannot be read ({error.strerror}); expected {expected}."
    ) from error
  if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
    raise reading.DataError(f"{path} is UTF-16; save it as UTF-8.")
  return data.removeprefix(b"\xef\xbb\xbf")


def _lines(
  data: bytes, path: pathlib.Path, expected: str, read: Callable[[str], Any]
) -> list[tuple[int, Raw]]:
  rows: list[tuple[int, Raw]] = []
  for number, line in enumerate(data.split(b"\n"), 1):
    if not line.strip():
      continue
    row: Raw
    try:
      row = read(line.decode("utf-8"))
    except UnicodeDecodeError:
      row = folder_rows.RowError("invalid UTF-8")
    except (ValueError, RecursionError) as error:
      row = folder_rows.RowError("malformed row", f"not JSON ({error})")
    rows.append((number, row))
  if not rows:
    raise reading.DataError(f"{path} is empty; expected {expected}.")
  return rows
