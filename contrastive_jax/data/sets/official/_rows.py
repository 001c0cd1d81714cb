"""From rows that name images to sources: what all official formats share."""

import collections
import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from contrastive_jax.data import sources, tasks
from contrastive_jax.data.sets.folder import folder_images, folder_rows
from contrastive_jax.data.sets.folder.folder_rows import DataError, RowError
from contrastive_jax.data.sets.folder.image_source import ImageSource, digest
from contrastive_jax.data.sets.official import _files

# The folder of the images, or those of the data sets that a file draws on.
Roots = _files.Path | Mapping[str, _files.Path]


class Named(NamedTuple):
  """Content of a row: its images and its other fields.

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
  rows: _files.Rows
  parse: Callable[[Any], Named]


Parts = dict[str, list[Part]]


class UsableRow(NamedTuple):
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


class UnlabelledError(RowError):
  """A row that is left out, but is as it must be: it is no fault."""


class _Where(NamedTuple):
  """A row: its split, its file and its number there."""

  split: str
  path: pathlib.Path
  number: int


class _Problems:
  """Counts the rows of each split that cannot be used, and lists them."""

  def __init__(self, opening: "Opening"):
    self._opening = opening
    self._found: list[tuple[_Where, str | None, RowError]] = []
    self.rows: collections.Counter[str] = collections.Counter()

  def add(self, where: _Where, image: str | None, error: RowError) -> None:
    """Notes that a row cannot be used."""
    self._found.append((where, image, error))

  def check(self) -> None:
    """Writes the list; raises `DataError` if a split is not good enough."""
    listed = ""
    if path := self._opening.report_path:
      listed = f" They are listed in {path}."
      entries = [
        dict(file=str(w.path), row=w.number, image=image, problem=str(error))
        for w, image, error in self._found
      ]
      folder_rows.write_lines(pathlib.Path(path), entries)
    for split, rows in self.rows.items():
      kinds = self._kinds(split)
      bad = [
        (where, error)
        for where, _, error in self._found
        if where.split == split and not isinstance(error, UnlabelledError)
      ]
      if len(bad) > self._opening.max_bad_share * rows:
        (_, path, number), error = bad[0]
        raise DataError(
          f"{len(bad):,} of {rows:,} rows of the split {split!r} cannot be used"
          f" ({folder_rows.counted(kinds)}), more than the allowed share of"
          f" {self._opening.max_bad_share:g} (max_bad_share); the first is"
          f" row {number:,} of {path}: {error}. A good row is"
          f" {self._opening.example}.{listed}"
        )
      if kinds.total() == rows:
        raise DataError(
          f"The split {split!r} has no row that can be used"
          f" ({folder_rows.counted(kinds) or 'none at all'}); a good row is"
          f" {self._opening.example}.{listed}"
        )

  def tell(self) -> None:
    """Says what is left out, if anything is."""
    path = self._opening.report_path
    listed = f"; {path} lists them" if path else ""
    for split in dict.fromkeys(where.split for where, *_ in self._found):
      kinds = self._kinds(split)
      self._opening.report(
        f"Note: {kinds.total():,} of {self.rows[split]:,} rows of the split"
        f" {split!r} are left out ({folder_rows.counted(kinds)}){listed}."
      )

  def _kinds(self, split: str) -> collections.Counter[str]:
    return collections.Counter(
      error.args[0] for where, _, error in self._found if where.split == split
    )


def labelled(row: UsableRow) -> dict[str, Any]:
  """The record of a row, with the numbers of its images, without these."""
  numbers = zip(("image_id", "second_image_id"), row.numbers)
  return {"index": row.index, **dict(numbers), **row.fields}


@dataclasses.dataclass(frozen=True)
class Opening:
  """A data set to open, whatever its task; see `official.load`.

  Attributes:
    example: a good row of the format.
    files: those of each split.
  """

  format: str
  example: str
  path: _files.Paths
  files: dict[str, list[pathlib.Path]]
  image_root: Roots
  image_size: int
  fit: str
  report: Callable[[str], None]
  report_path: _files.Path | None
  max_bad_share: float
  verify: bool

  def __post_init__(self) -> None:
    """Raises `ValueError` for a share that is none and images of no size."""
    if not 0.0 <= self.max_bad_share <= 1.0:
      raise ValueError(
        f"max_bad_share must be within 0..1, got {self.max_bad_share}."
      )
    if self.image_size < 1:
      raise ValueError(f"image_size must be at least 1, got {self.image_size}.")

  def parts(self, make: Callable[[pathlib.Path], Part]) -> Parts:
    """The files of each split, each by itself."""
    return {
      split: [make(path) for path in paths]
      for split, paths in self.files.items()
    }

  def json_parts(self, name: str, parse: Callable[[Any], Named]) -> Parts:
    """The files of each split, of which `parse` reads a row of JSON."""
    expected = f"{name}, {self.example}"
    return self.parts(
      lambda path: Part(path, _files.load_rows(path, expected), parse)
    )

  def read(self, parts: Parts) -> dict[str, list[UsableRow]]:
    """The rows that can be used, of each split.

    Raises:
      DataError: a folder is missing, a split has no row that can be used or too
        many that cannot.
    """
    images = _Images(self.image_root)
    problems = _Problems(self)
    found: dict[str, list[tuple[_Where, UsableRow]]] = {}
    index = 0
    for split, split_parts in parts.items():
      usable = found[split] = []
      problems.rows[split] = 0
      for part in split_parts:
        for number, raw in part.rows:
          where = _Where(split, part.path, number)
          problems.rows[split] += 1
          names: tuple[Sequence[str], ...] = ()
          try:
            if isinstance(raw, RowError):
              raise raw
            names, fields, root = part.parse(raw)
            # All get their numbers, whichever of them is there.
            numbers = tuple(images.number(n, root) for n in names)
            paths = tuple(images.path(n) for n in numbers)
            first = tuple(n[0] for n in names)
            usable.append(
              (where, UsableRow(index, numbers, first, paths, fields))
            )
          except RowError as error:
            problems.add(where, names[0][0] if names else None, error)
          index += 1
    problems.check()  # Before the long part.
    if self.verify:
      self._verify(found, problems)
      problems.check()
    problems.tell()
    rows = {
      split: [row for _, row in usable] for split, usable in found.items()
    }
    _note_overlaps(rows, self.report)
    return rows

  def _verify(
    self,
    found: dict[str, list[tuple[_Where, UsableRow]]],
    problems: _Problems,
  ) -> None:
    """Leaves out the rows whose images do not decode."""
    rows = [row for usable in found.values() for _, row in usable]
    paths = list(dict.fromkeys(path for row in rows for path in row.paths))
    errors = list(folder_images.decode_each(paths, self.image_size))
    broken = {p: error for p, error in zip(paths, errors) if error is not None}
    for split, usable in found.items():
      found[split] = []
      for where, row in usable:
        path = next((path for path in row.paths if path in broken), None)
        if path is None:
          found[split].append((where, row))
        else:
          problems.add(where, row.paths[0], broken[path])

  def as_sources(
    self,
    rows: Mapping[str, Sequence[UsableRow]],
    record: Callable[[UsableRow], dict[str, Any]] = labelled,
    image_fields: Sequence[str] = ("image",),
  ) -> dict[str, sources.Source]:
    """A source a split, its records in the order of the rows.

    Args:
      rows: those of each split; none is empty.
      record: a row's record, without its images.
      image_fields: the names of these.
    """
    result: dict[str, sources.Source] = {}
    for split, split_rows in rows.items():
      records = [record(row) for row in split_rows]
      result[split] = ImageSource(
        {
          name: [row.paths[i] for row in split_rows]
          for i, name in enumerate(image_fields)
        },
        {name: [record[name] for record in records] for name in records[0]},
        self.image_size,
        advice="restore it, or load the data with verify=True to leave such"
        " images out",
        # By name: where the folder of the images is does not matter.
        fingerprint=digest([r.names, x] for r, x in zip(split_rows, records)),
        fit=self.fit,
      )
    return result

  def task_data(
    self,
    rows: Mapping[str, list[UsableRow]],
    *,
    task: str,
    name: str,
    answers: tuple[str, ...] = (),
    record: Callable[[UsableRow], dict[str, Any]] = labelled,
    image_fields: Sequence[str] = ("image",),
  ) -> tasks.TaskData:
    """The data set, the records of an image next to each other."""
    by_image = {
      split: sorted(split_rows, key=lambda row: row.numbers)
      for split, split_rows in rows.items()
    }
    splits = self.as_sources(by_image, record, image_fields)
    train = splits.get(sources.TRAIN)
    fingerprint = train.fingerprint if train is not None else ""
    return tasks.TaskData(name, task, splits, answers, fingerprint)


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
        raise DataError(
          f"{path} {what}; give the folder with the images as image_root."
        )
      self._roots[name] = (path.absolute(), path.resolve())
    self._numbers: dict[tuple[str, str], int] = {}
    self._found: list[str | RowError] = []

  def number(self, names: Sequence[str], root: str) -> int:
    """That of the image; raises `RowError` if there is no such folder."""
    if root not in self._roots:
      if "" not in self._roots:
        raise RowError(
          "unknown folder", f"image_root has no folder for {root!r}"
        )
      root = ""
    # Folder and name: numbers stay when a file comes or goes.
    key = root, pathlib.PurePosixPath(names[0]).as_posix()
    if key not in self._numbers:
      self._numbers[key] = len(self._numbers)
      try:
        self._found.append(self._locate(names, root))
      except RowError as error:
        self._found.append(error)
    return self._numbers[key]

  def path(self, number: int) -> str:
    """The path of the image; raises `RowError` if there is none."""
    found = self._found[number]
    if isinstance(found, RowError):
      raise found
    return found

  def _locate(self, names: Sequence[str], root: str) -> str:
    given, resolved = self._roots[root]
    missing = []
    for name in dict.fromkeys(names):
      path = pathlib.PurePath(name)
      # Some lists have whole paths, which are as good if they lead here.
      for base in (given, resolved):
        if path.is_absolute() and path.is_relative_to(base):
          name = path.relative_to(base).as_posix()
      try:
        return str(folder_images.locate(resolved, name))
      except RowError as error:
        if error.args[0] != "missing file":
          raise
        missing.append(error)
    raise missing[0]


def _note_overlaps(
  rows: Mapping[str, Sequence[UsableRow]], report: Callable[[str], None]
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
