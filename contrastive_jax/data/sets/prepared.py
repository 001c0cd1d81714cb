"""Reads what the TFDS builders of the data sets prepare."""

import functools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

from contrastive_jax.data.files import prepare


def rows(
  builder: Callable[..., Any],
  folder: pathlib.Path,
  name: str,
  report: Callable[[str], None],
) -> Iterator[tuple[str, list[Any]]]:
  """The splits of a data set, prepared once, with their records by `index`.

  Args:
    builder: a `tfds.core.DatasetBuilder` but for where it keeps its data.
    folder: where that is; of other data it is another one, as TFDS knows only
      the builder's version.
    name: of the data set, for people.
    report: receives a line if the data have to be prepared.

  Yields:
    The name of a split, and all of its records.
  """
  made = prepare.prepared(
    functools.partial(
      builder, data_dir=str(folder), file_format="array_record"
    ),
    name,
    report=report,
  )
  for split in made.info.splits:
    source = made.as_data_source(split=split)
    yield split, sorted(source, key=lambda row: int(row["index"]))
