"""From rows that name images to sources: what all official formats share."""

import copy
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple

from contrastive_jax.data import sources
from contrastive_jax.data.sets.folder import folder_images, reading
from contrastive_jax.data.sets.folder.folder_rows import RowError
from contrastive_jax.data.sets.official import _files, _problems

# The folder of the images, or those of the data sets that a file draws on.
Roots = _files.Path | Mapping[str, _files.Path]


class Named(NamedTuple):
  """What a row says: its images and its other fields.

  Attributes:
    images: of each image, the names that it may have below its folder.
    fields: the rest of the record.
    root: which of the folders, if there are several.
  """

  images: tuple[Sequence[str], ...]
  fields: dict[str, Any]
  root: str = ""


class Part(NamedTuple):
  """The rows of one file, and how to read one; that may raise `RowError`."""

  path: pathlib.Path
  rows: Iterable[tuple[int, _files.Raw]]
  parse: Callable[[Any], Named]


class Row(NamedTuple):
  """A row that can be used.

  Attributes:
    index: among all rows of the data set, with those that cannot be used: it
      stays when an image comes or goes.
    numbers: of its images, in the order in which the data set names them first.
    names: of its images, as the row has them.
    paths: of its images.
    fields: the rest of the record.
  """

  index: int
  numbers: tuple[int, ...]
  names: tuple[str, ...]
  paths: tuple[str, ...]
  fields: dict[str, Any]


class ImageSource(sources.Source):
  """Random access to records whose images are decoded when they are asked for.

  `source[i]` has the images (uint8 [S, S, 3], see `folder_images.decode`) and the
  other fields, `source.fields(i)` those alone.
  """

  def __init__(
    self,
    paths: Mapping[str, Sequence[str]],
    columns: Mapping[str, Sequence[Any]],
    image_size: int,
    fingerprint: str = "",
  ):
    """Takes a file a record for each image field, and the other fields.

    They come by column, as half a million dicts would need half a gigabyte.
    """
    self._paths = {name: tuple(values) for name, values in paths.items()}
    self._columns = {name: tuple(values) for name, values in columns.items()}
    self._image_size = image_size
    self._fit = "pad"
    self._length = len(next(iter(self._paths.values())))
    self.fingerprint = fingerprint

  def __len__(self) -> int:
    """Number of records."""
    return self._length

  def __getitem__(self, index: int) -> dict[str, Any]:
    """One record.

    Raises:
      folder.DataError: an image cannot be decoded (any more).
    """
    fields = self.fields(index)
    images = {}
    for name, paths in self._paths.items():
      try:
        images[name] = folder_images.decode(
          paths[index],
          self._image_size,
          folder_images.MAX_PIXELS,
          self._fit,
        )
      except RowError as error:
        raise reading.DataError(
          f"{paths[index]} cannot be read ({_problems.text_of(error)});"
          " restore it, or load the data with verify=True to leave such images"
          " out."
        ) from error
    return images | fields

  def fields(self, index: int) -> dict[str, Any]:
    """One record without its images."""
    index = self._checked(index)
    return {name: values[index] for name, values in self._columns.items()}

  def fitted(self, fit: str) -> "ImageSource":
    """The same with images that become squares in another way."""
    other = copy.copy(self)
    other._fit = fit
    return other

  def __repr__(self) -> str:
    # A log that names the source then tells when the data has changed.
    return (
      f"ImageSource(records={self._length}, image_size={self._image_size}, "
      f"fingerprint={self.fingerprint!r})"
    )


def read(
  parts: Mapping[str, Sequence[Part]],
  image_root: Roots,
  *,
  image_size: int,
  rules: _problems.Rules,
  example: str,
) -> dict[str, list[Row]]:
  """The rows that can be used, of each split.

  Args:
    parts: the files of each split.
    image_root: where the images are.
    image_size: side at which `rules.verify` decodes.
    rules: what is done with rows that cannot be used.
    example: a good row, for the error.

  Raises:
    folder.DataError: a folder is missing, a split has no row that can be used
      or too many that cannot.
  """
  if image_size < 1:
    raise ValueError(f"image_size must be at least 1, got {image_size}.")
  images, problems = _Images(image_root), _problems.Problems(rules, example)
  result, index = {}, 0
  for split, split_parts in parts.items():
    usable = []
    problems.rows[split] = 0
    for part in split_parts:
      for number, raw in part.rows:
        where = _problems.Where(split, part.path, number)
        problems.rows[split] += 1
        names: tuple[Sequence[str], ...] = ()
        try:
          if isinstance(raw, RowError):
            raise raw
          named = part.parse(raw)
          names = named.images
          # All get their numbers, whichever of them is there.
          numbers = tuple(images.number(n, named.root) for n in names)
          paths = tuple(images.find(n, named.root) for n in names)
          first = tuple(n[0] for n in names)
          row = Row(index, numbers, first, paths, named.fields)
          usable.append((where, row))
        except RowError as error:
          problems.add(where, names[0][0] if names else None, error)
        index += 1
    result[split] = usable
  problems.check()  # Before the long part.
  if rules.verify:
    broken = _broken(result, image_size)
    for split, usable in result.items():
      kept = []
      for where, row in usable:
        errors = [broken[path] for path in row.paths if path in broken]
        if errors:
          problems.add(where, row.paths[0], errors[0])
        else:
          kept.append((where, row))
      result[split] = kept
    problems.check()
  problems.tell()
  found_rows = {
    split: [row for _, row in rows] for split, rows in result.items()
  }
  _note_overlaps(found_rows, rules.report)
  return found_rows


def sources_of(
  rows: Mapping[str, Sequence[Row]],
  image_fields: Sequence[str],
  image_size: int,
  columns: Callable[[Row], dict[str, Any]],
) -> dict[str, ImageSource]:
  """A source a split, its records in the order of the rows.

  Args:
    rows: those of each split; none is empty.
    image_fields: the names of their images.
    image_size: side of the images.
    columns: the other fields of a row's record, always the same ones.
  """
  result = {}
  for split, split_rows in rows.items():
    records = [columns(row) for row in split_rows]
    digest = hashlib.sha256()
    for row, record in zip(split_rows, records):
      # By name: where the folder of the images is does not matter.
      digest.update(json.dumps([row.names, record]).encode())
    result[split] = ImageSource(
      {
        name: [row.paths[i] for row in split_rows]
        for i, name in enumerate(image_fields)
      },
      {name: [record[name] for record in records] for name in records[0]},
      image_size,
      digest.hexdigest()[:16],
    )
  return result


def by_image(rows: Mapping[str, list[Row]]) -> dict[str, list[Row]]:
  """The rows with those of an image next to each other, else in their order."""
  return {
    split: sorted(split_rows, key=lambda row: row.numbers)
    for split, split_rows in rows.items()
  }


def fingerprint_of(splits: Mapping[str, ImageSource]) -> str:
  """That of the training records, if there are any."""
  train = splits.get("train")
  return train.fingerprint if train is not None else ""


class _Images:
  """Finds the images that rows name, each but once, and numbers them."""

  def __init__(self, roots: Roots):
    if not isinstance(roots, Mapping):
      roots = {"": roots}
    self._roots: dict[str, tuple[pathlib.Path, pathlib.Path]] = {}
    for name, root in roots.items():
      path = pathlib.Path(root)
      if not path.is_dir():
        what = "is not a folder" if path.exists() else "does not exist"
        raise reading.DataError(
          f"{path} {what}; give the folder with the images as image_root."
        )
      self._roots[name] = (path, path.resolve())
    self._numbers: dict[tuple[str, str], int] = {}
    self._found: dict[tuple[str, str], str | RowError] = {}

  def number(self, names: Sequence[str], root: str) -> int:
    """That of the image; raises `RowError` if there is no such folder."""
    return self._numbers.setdefault(self._key(names, root), len(self._numbers))

  def find(self, names: Sequence[str], root: str) -> str:
    """The path of the image; raises `RowError` if there is none."""
    key = self._key(names, root)
    if key not in self._found:
      try:
        self._found[key] = self._locate(names, key[0])
      except RowError as error:
        self._found[key] = error
    found = self._found[key]
    if isinstance(found, RowError):
      raise found
    return found

  def _key(self, names: Sequence[str], root: str) -> tuple[str, str]:
    """Folder and name: numbers stay when a file comes or goes."""
    if root not in self._roots:
      if "" not in self._roots:
        raise RowError(
          "unknown folder", f"image_root has no folder for {root!r}"
        )
      root = ""
    return root, pathlib.PurePosixPath(names[0]).as_posix()

  def _locate(self, names: Sequence[str], root: str) -> str:
    given, resolved = self._roots[root]
    missing: RowError | None = None
    for name in dict.fromkeys(names):
      path = pathlib.PurePath(name)
      # Some lists have whole paths, which are as good if they lead here.
      for base in (given.absolute(), resolved):
        if path.is_absolute() and path.is_relative_to(base):
          name = path.relative_to(base).as_posix()
      try:
        return str(folder_images.locate(resolved, name))
      except RowError as error:
        if error.args[0] != "missing file":
          raise
        missing = missing or error
    if missing is None:
      raise RowError("missing file", "the row names none")
    raise missing


def _broken(
  rows: Mapping[str, Sequence[tuple[_problems.Where, Row]]], image_size: int
) -> dict[str, RowError]:
  """The images that do not decode."""
  paths = list(
    dict.fromkeys(
      path
      for split_rows in rows.values()
      for _, row in split_rows
      for path in row.paths
    )
  )

  def check(path: str) -> RowError | None:
    try:
      folder_images.decode(path, image_size, folder_images.MAX_PIXELS)
    except RowError as error:
      return error
    return None

  pool = futures.ThreadPoolExecutor(min(16, os.cpu_count() or 1))
  try:
    errors = list(pool.map(check, paths))
  finally:
    pool.shutdown(cancel_futures=True)
  return {path: e for path, e in zip(paths, errors) if e is not None}


def _note_overlaps(
  rows: Mapping[str, Sequence[Row]], report: Callable[[str], None]
) -> None:
  """Says if scores would be of images that were trained on."""
  seen = {
    split: {n for row in found for n in row.numbers}
    for split, found in rows.items()
  }
  for split, numbers in seen.items():
    both = len(numbers & seen.get("train", set()))
    if split != "train" and both:
      report(
        f"Note: {both:,} images are both in train and in {split}: scores on"
        " them are of images that were trained on."
      )
