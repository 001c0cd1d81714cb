"""Arrow files, as Hugging Face's `datasets` saves them to disk."""

import pathlib
from collections.abc import Iterator
from typing import Any

from contrastive_jax.data.sets.folder.folder_rows import DataError
from contrastive_jax.data.sets.records import (
  caption_tables,
  items,
  parquet_files,
)


def check(
  path: pathlib.Path,
  columns: caption_tables.Columns,
  how: items.Reading = items.PAIRS,
) -> dict[str, str]:
  """The columns that are read, by what they hold; as of `parquet_files.check`."""
  reader = _open(path)
  return parquet_files.columns_of(path, reader.schema, columns, how)


def read(
  path: pathlib.Path,
  columns: caption_tables.Columns,
  how: items.Reading = items.PAIRS,
) -> items.Found:
  """The examples of a file, a batch of rows in memory at a time."""
  import pyarrow

  names, number = check(path, columns, how), 0
  try:
    for batch in _batches(path):
      # An index or an offset of a file need not be one.
      batch.validate(full=True)
      for row in range(batch.num_rows):
        yield parquet_files.item(batch, row, names, number, how)
        number += 1
  except (pyarrow.ArrowException, OSError) as error:
    text = " ".join(str(error).split())[:200]
    yield items.Problem(
      path.name, f"broken arrow: from row {number:,} on ({text})", None
    )


def _batches(path: pathlib.Path) -> Iterator[Any]:
  yield from _open(path)


def _open(path: pathlib.Path) -> Any:
  """A reader of record batches, of a stream or a file with an index."""
  import pyarrow
  from pyarrow import ipc

  try:
    source = pyarrow.memory_map(str(path))
    try:
      return ipc.open_stream(source)
    except pyarrow.ArrowInvalid:
      source.seek(0)
      file = ipc.open_file(source)
      batches = (file.get_batch(i) for i in range(file.num_record_batches))
      return pyarrow.RecordBatchReader.from_batches(file.schema, batches)
  except (pyarrow.ArrowException, OSError) as error:
    text = " ".join(str(error).split())[:200]
    raise DataError(
      f"{path} cannot be read as arrow ({text}); fetch it anew or leave it out."
    ) from error
