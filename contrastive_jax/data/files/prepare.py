"""Prepares TFDS builders once, whoever comes first."""

import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

from contrastive_jax.data.files import locks


def data_dir(folder: str = "") -> pathlib.Path:
  """Where prepared data sets are kept.

  Args:
    folder: that folder; "" is one in the user's cache directory.
  """
  if "://" in folder:
    raise ValueError(
      f"data_dir must be a folder of this host; got {folder!r}: prepared data are"
      " read at random."
    )
  if folder:
    return pathlib.Path(folder).expanduser()
  cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  return pathlib.Path(cache) / "contrastive_jax"


def prepared(
  make_builder: Callable[[], Any],
  name: str,
  *,
  report: Callable[[str], None] = print,
) -> Any:
  """A builder whose data are on disk; of several processes one prepares them.

  Args:
    make_builder: makes a `tfds.core.DatasetBuilder`.
    name: of the data set, for people.
    report: receives a line if the data have to be prepared, or another process is at
      it, which is waited for.

  Returns:
    The builder.
  """
  # TFDS takes seconds to import: only who opens a data set pays for it.
  import tensorflow_datasets as tfds

  tfds.disable_progress_bar()
  builder = make_builder()
  if builder.is_prepared():
    return builder
  where = pathlib.Path(builder.data_dir)
  lock = where.parent.with_name(f".{where.parent.name}.lock")
  lock.parent.mkdir(parents=True, exist_ok=True)

  def wait(who: str) -> None:
    report(f"Waiting for {name}, prepared in {where} by {who}.")

  with locks.held(lock, wait=wait) as locked:
    builder = make_builder()
    if builder.is_prepared():
      return builder
    if locked:  # Nobody else is at it: that is what killed processes left.
      for path in where.parent.glob(f"incomplete.*_{where.name}"):
        shutil.rmtree(path)
    report(f"Preparing {name} in {where} (once).")
    try:
      builder.download_and_prepare()
    except OSError:
      # Without locks: the folder of another process was in its place first.
      builder = make_builder()
      if not builder.is_prepared():
        raise
  return builder
