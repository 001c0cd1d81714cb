"""Pictures to embed, in parts that are embedded on their own."""

import contextlib
import dataclasses
import functools
import hashlib
import io
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from contrastive_jax.data import benchmarks
from contrastive_jax.data.files import stores
from contrastive_jax.data.sets.folder import folder_images
from contrastive_jax.data.sets.folder.folder_rows import DataError
from contrastive_jax.data.sets.records import items, units

_ROWS = 5_000  # Pictures of a part, where they are files.
_ALONE = items.Reading(images_alone=True)


@dataclasses.dataclass(frozen=True)
class Part:
  """A part of the inputs, which becomes one file.

  Attributes:
    number: its place among all.
    name: the input and the part of it, for people.
    digest: changes when the input does.
    read: gives a name and a picture, or an `items.Problem`, one after the other.
    count: pictures, or None where nobody knows before they are read.
  """

  number: int
  name: str
  digest: str
  read: Callable[[], Iterator[tuple[str, Any] | items.Problem]]
  count: int | None = None


def parts(inputs: Sequence[str]) -> Iterator[Part]:
  """The parts of inputs, in order.

  Args:
    inputs: folders of pictures; tar archives, parquet files and lists (`.tsv`, `.csv`,
      `.jsonl`) as `convert_pairs` takes them, or folders and patterns of these, for
      which captions may be missing; `.txt` files with the path of a picture a line,
      below the file's folder; folders of sets that TFDS has prepared, with a split,
      `~/tensorflow_datasets/cifar10:test`, or all of them.

  Raises:
    DataError: if there is no picture.
  """
  number = 0
  for given in inputs:
    each = stores.local(given)
    path = pathlib.Path(each).expanduser()
    prepared, _, split = str(path).partition(":")
    if any(pathlib.Path(prepared).glob("*/dataset_info.json")):
      found = _of_tfds(pathlib.Path(prepared), split)
    elif path.suffix.lower() == ".txt" and path.is_file():
      found = _of_files(_lines(path), path.name)
    elif path.is_dir() and (files := folder_images.files_in(path)):
      found = _of_files(files, path.name or str(path))
    else:
      found = _of_units(each)
    for part in found:
      yield dataclasses.replace(part, number=number)
      number += 1
  if not number:
    raise DataError(f"The inputs {', '.join(inputs)} hold no picture.")


def _lines(path: pathlib.Path) -> list[pathlib.Path]:
  try:
    lines = path.read_text(encoding="utf-8").splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise DataError(f"{path} cannot be read: {error}.") from error
  return [path.parent / line.strip() for line in lines if line.strip()]


def _of_files(files: Sequence[pathlib.Path], name: str) -> Iterator[Part]:
  for start in range(0, len(files), _ROWS):
    part = files[start : start + _ROWS]
    digest = hashlib.sha256("\n".join(map(str, part)).encode())
    for path in part:
      # A picture that changes, changes the digest; a missing one is a problem later.
      with contextlib.suppress(OSError):
        status = path.stat()
        digest.update(f"{status.st_size} {status.st_mtime_ns}".encode())
    yield Part(
      0,
      f"{name} (files {start + 1:,} to {start + len(part):,})",
      digest.hexdigest()[:16],
      functools.partial(_named, part),
      len(part),
    )


def _of_tfds(folder: pathlib.Path, split: str) -> Iterator[Part]:
  """Splits of a set that TFDS has prepared; "" is all of them."""
  prepared = benchmarks.Prepared(folder.name, str(folder.parent))
  info = prepared.builder.info
  if "image" not in info.features:
    raise DataError(f"{folder} has no pictures, a feature of the name image.")
  for name in [split] if split else info.splits:
    rows = prepared.rows(name)
    for start in range(0, len(rows), _ROWS):
      numbers = range(start, min(start + _ROWS, len(rows)))
      what = f"{folder.name} {info.version} {name} {len(rows)} {start}"
      yield Part(
        0,
        f"{folder.name}, {name} (rows {start + 1:,} to {numbers.stop:,})",
        hashlib.sha256(what.encode()).hexdigest()[:16],
        functools.partial(_records, rows, f"{folder.name}/{name}", numbers),
        len(numbers),
      )


def _records(
  rows: Sequence[Any], name: str, numbers: Iterable[int]
) -> Iterator[tuple[str, Any]]:
  for number in numbers:
    yield f"{name}/{number}", io.BytesIO(rows[number]["image"])


def _named(files: Sequence[pathlib.Path]) -> Iterator[tuple[str, Any]]:
  for path in files:
    yield str(path), path


def _of_units(pattern: str) -> Iterator[Part]:
  for unit in units.split(units.find([pattern]), how=_ALONE):
    yield Part(0, unit.name, unit.digest, functools.partial(_items, unit))


def _items(unit: units.Unit) -> Iterator[tuple[str, Any] | items.Problem]:
  for found in unit.read():
    if isinstance(found, items.Problem):
      yield found
    else:
      yield found.key, io.BytesIO(found.image)
