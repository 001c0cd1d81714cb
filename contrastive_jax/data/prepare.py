"""Prepares TFDS builders once, whoever comes first."""

import os
import pathlib
from collections.abc import Callable
from typing import Any


def default_data_dir() -> pathlib.Path:
  """Where prepared data sets are kept: the user's cache directory."""
  cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  return pathlib.Path(cache) / "contrastive_jax"


def prepared(
  make_builder: Callable[[], Any],
  name: str,
  *,
  report: Callable[[str], None] = print,
) -> Any:
  """A builder whose data are on disk.

  Args:
    make_builder: makes a `tfds.core.DatasetBuilder`.
    name: of the data set, for people.
    report: receives a line if the data have to be prepared.

  Returns:
    The builder.
  """
  # TFDS takes seconds to import: only who opens a data set pays for it.
  import tensorflow_datasets as tfds

  tfds.disable_progress_bar()
  builder = make_builder()
  if not builder.is_prepared():
    report(f"Preparing {name} in {builder.data_dir} (once).")
    try:
      builder.download_and_prepare()
    except FileExistsError:
      # Another process was faster; its complete folder was moved into place.
      builder = make_builder()
  return builder
