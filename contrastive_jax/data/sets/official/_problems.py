"""Rows that cannot be used: counted, listed, and too many of them refused."""

import collections
import dataclasses
import pathlib
from collections.abc import Callable
from typing import NamedTuple

from contrastive_jax.data.sets.folder import folder_rows
from contrastive_jax.data.sets.folder.folder_rows import DataError, RowError
from contrastive_jax.data.sets.official import _files


class UnlabelledError(RowError):
  """A row that is left out, but is as it must be: it is no fault."""


@dataclasses.dataclass(frozen=True)
class Rules:
  """What is done with rows that cannot be used.

  Attributes:
    max_bad_share: of a split's rows; more of them are an error.
    report_path: receives a JSON object `{"file", "row", "image", "problem"}` a
      row, if given.
    verify: whether to open every image once, so that a broken one is found now
      instead of in training.
    report: receives lines for the user.
  """

  max_bad_share: float
  report_path: _files.Path | None
  verify: bool
  report: Callable[[str], None]

  def __post_init__(self) -> None:
    """Raises `ValueError` for a share that is none."""
    if not 0.0 <= self.max_bad_share <= 1.0:
      raise ValueError(
        f"max_bad_share must be within 0..1, got {self.max_bad_share}."
      )


class Where(NamedTuple):
  """A row: its split, its file and its number there."""

  split: str
  path: pathlib.Path
  number: int


class Problems:
  """Counts the rows of each split that cannot be used, and lists them."""

  def __init__(self, rules: Rules, example: str):
    self._rules = rules
    self._example = example
    self._found: list[tuple[Where, str | None, RowError]] = []
    self.rows: collections.Counter[str] = collections.Counter()

  def add(self, where: Where, image: str | None, error: RowError) -> None:
    """Notes that a row cannot be used."""
    self._found.append((where, image, error))

  def check(self) -> None:
    """Writes the list; raises `DataError` if a split is not good enough."""
    listed = ""
    if path := self._rules.report_path:
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
      if len(bad) > self._rules.max_bad_share * rows:
        (_, path, number), error = bad[0]
        raise DataError(
          f"{len(bad):,} of {rows:,} rows of the split {split!r} cannot be used"
          f" ({folder_rows.counted(kinds)}), more than the allowed share of"
          f" {self._rules.max_bad_share:g} (max_bad_share); the first is"
          f" row {number:,} of {path}: {error}. A good row is {self._example}.{listed}"
        )
      if kinds.total() == rows:
        raise DataError(
          f"The split {split!r} has no row that can be used"
          f" ({folder_rows.counted(kinds) or 'none at all'}); a good row is"
          f" {self._example}.{listed}"
        )

  def tell(self) -> None:
    """Says what is left out, if anything is."""
    path = self._rules.report_path
    listed = f"; {path} lists them" if path else ""
    for split in dict.fromkeys(where.split for where, *_ in self._found):
      kinds = self._kinds(split)
      self._rules.report(
        f"Note: {kinds.total():,} of {self.rows[split]:,} rows of the split"
        f" {split!r} are left out ({folder_rows.counted(kinds)}){listed}."
      )

  def _kinds(self, split: str) -> collections.Counter[str]:
    return collections.Counter(
      error.args[0] for where, _, error in self._found if where.split == split
    )
