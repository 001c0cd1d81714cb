"""Rows that cannot be used: counted, listed, and too many of them refused."""

import collections
import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

from contrastive_jax.data.sets.folder import reading
from contrastive_jax.data.sets.folder.folder_rows import RowError
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

  max_bad_share: float = 0.05
  report_path: _files.Path | None = None
  verify: bool = False
  report: Callable[[str], None] = print

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
    self._entries: list[dict[str, Any]] = []
    self._counts: dict[str, collections.Counter[str]] = collections.defaultdict(
      collections.Counter
    )
    self._first: dict[str, str] = {}
    self.rows: collections.Counter[str] = collections.Counter()
    self.bad: collections.Counter[str] = collections.Counter()
    self.left_out: collections.Counter[str] = collections.Counter()

  def add(self, where: Where, image: str | None, error: RowError) -> None:
    """Notes that a row cannot be used."""
    problem = text_of(error)
    split = where.split
    self._entries.append(
      {
        "file": str(where.path),
        "row": where.number,
        "image": image,
        "problem": problem,
      }
    )
    self.left_out[split] += 1
    self._counts[split][error.args[0]] += 1
    if not isinstance(error, UnlabelledError):
      self.bad[split] += 1
      self._first.setdefault(
        split, f"row {where.number:,} of {where.path}: {problem}"
      )

  def check(self) -> None:
    """Writes the list; raises `DataError` if a split is not good enough."""
    path = self._rules.report_path
    if path is not None:
      path = pathlib.Path(path)
      path.parent.mkdir(parents=True, exist_ok=True)
      with open(path, "w", encoding="utf-8") as file:
        for entry in self._entries:
          file.write(json.dumps(entry) + "\n")
    listed = f" They are listed in {path}." if path is not None else ""
    for split in self.rows:
      rows, bad = self.rows[split], self.bad[split]
      if bad > self._rules.max_bad_share * rows:
        raise reading.DataError(
          f"{bad:,} of {rows:,} rows of the split {split!r} cannot be used"
          f" ({self._summary(split)}), more than the allowed share of"
          f" {self._rules.max_bad_share:g} (max_bad_share); the first is"
          f" {self._first[split]}. A good row is {self._example}.{listed}"
        )
      if self.left_out[split] == rows:
        raise reading.DataError(
          f"The split {split!r} has no row that can be used"
          f" ({self._summary(split) or 'none at all'}); a good row is"
          f" {self._example}.{listed}"
        )

  def tell(self) -> None:
    """Says what is left out, if anything is."""
    path = self._rules.report_path
    for split, count in self.left_out.items():
      listed = f"; {path} lists them" if path is not None else ""
      self._rules.report(
        f"Note: {count:,} of {self.rows[split]:,} rows of the split {split!r}"
        f" are left out ({self._summary(split)}){listed}."
      )

  def _summary(self, split: str) -> str:
    counts = sorted(self._counts[split].items())
    return ", ".join(f"{kind}: {count:,}" for kind, count in counts)


def text_of(error: RowError) -> str:
  """Why a row cannot be used, in words."""
  return ": ".join(part for part in error.args if part)
