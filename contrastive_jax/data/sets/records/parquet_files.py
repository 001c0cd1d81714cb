"""Parquet files that hold images, and captions of them.

What they expand to is bounded: a row of an index can say again what a megabyte of a
dictionary says, and a page of zeros takes a ten thousandth of itself.
"""

import itertools
import pathlib
from collections.abc import Mapping
from typing import Any

from contrastive_jax.data.sets.folder.folder_rows import DataError
from contrastive_jax.data.sets.records import caption_tables, items, pages

# Content of rows may take so many times its bytes in the file, and so many
# bytes a file in addition.
_RATIO, _ROOM = 1_000, 2**28
_MAX_ROWS = 64  # At a time.
_MAX_SHARED = 2**26  # Bytes that these may take beside their own.
_MAX_TEXT = 2**24  # Bytes of a page that holds no images.
_MAX_CAPTIONS = 1_000  # Captions of a row.
_ROW = 256  # Bytes of one, at least.


def groups_of(path: pathlib.Path, rows: int) -> list[tuple[int, int]]:
  """Ranges of row groups with about as many rows each.

  Raises:
    DataError: if the file is no parquet file, or none that may be.
  """
  metadata, ranges, start = _open(path).metadata, [], 0
  count = taken = 0
  for group in range(metadata.num_row_groups):
    found = metadata.row_group(group)
    sizes = [
      found.column(place).total_compressed_size
      for place in range(found.num_columns)
    ]
    taken += sum(sizes)
    # Or the same bytes would be read again and again.
    if taken > path.stat().st_size or min(found.num_rows, *sizes, 0) < 0:
      raise DataError(
        f"{path} cannot be read as parquet (its parts are larger than the file);"
        " fetch it anew or leave it out."
      )
    count += found.num_rows
    if count >= rows or group + 1 == metadata.num_row_groups:
      ranges.append((start, group + 1))
      start, count = group + 1, 0
  return ranges


def check(
  path: pathlib.Path,
  columns: caption_tables.Columns,
  how: items.Reading = items.PAIRS,
) -> dict[str, str]:
  """The columns that are read, by what they hold; "" is one that is not.

  Raises:
    DataError: if one is missing, or the images are not in the file.
  """
  return columns_of(path, _open(path).schema_arrow, columns, how)


def columns_of(
  path: pathlib.Path,
  schema: Any,
  columns: caption_tables.Columns,
  how: items.Reading,
) -> dict[str, str]:
  """`check` for the schema of any table of Arrow."""
  import pyarrow

  usual = dict(caption_tables.PARQUET)
  if how.images_alone:
    del usual["caption"]
  found = {"caption": "", **columns.find(path, schema.names, usual)}
  for name in filter(None, found.values()):
    if schema.names.count(name) > 1:
      raise DataError(
        f"{path} has several columns {name!r}; name another one, or write it anew."
      )
  kind = schema.field(found["image"]).type
  if pyarrow.types.is_struct(kind) and "bytes" in [f.name for f in kind]:
    kind = kind.field("bytes").type
  if not (pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)):
    raise DataError(
      f"{path}: column {found['image']!r} holds {kind}, no image files. If these"
      " are addresses, fetch the images first (img2dataset writes tar shards and"
      " parquet files that can be read)."
    )
  kind = schema.field(found["caption"] or found["image"]).type
  if _is_list(kind):
    kind = kind.value_type
  if found["caption"] and pyarrow.types.is_nested(kind):
    raise DataError(
      f"{path}: column {found['caption']!r} holds {kind}, no texts nor lists of"
      " texts; name another one (--caption_column)."
    )
  for what in ("label", "key"):
    # A nested column is neither, and need not be read to know that.
    if found[what] and pyarrow.types.is_nested(schema.field(found[what]).type):
      found[what] = ""
  return found


def _is_list(kind: Any) -> bool:
  import pyarrow

  return isinstance(
    kind, (pyarrow.ListType, pyarrow.LargeListType, pyarrow.FixedSizeListType)
  )


def read(
  path: pathlib.Path,
  groups: tuple[int, int],
  columns: caption_tables.Columns,
  how: items.Reading = items.PAIRS,
) -> items.Found:
  """The examples of a range of row groups of a parquet file."""
  import pyarrow

  names = check(path, columns, how)
  file = _open(path)
  image = names["image"]
  if pyarrow.types.is_struct(file.schema_arrow.field(image).type):
    image += ".bytes"
  others = [name for what, name in names.items() if name and what != "image"]
  wanted = list(dict.fromkeys([image, *others]))
  # Columns as the file has them, of which one of ours may have several.
  schema = file.metadata.schema
  leaves = {
    place: leaf
    for place in range(len(schema))
    if (leaf := schema.column(place))
    and any(f"{leaf.path}.".startswith(f"{name}.") for name in wanted)
  }
  # A list of one long text again and again stays as small as it is in the file.
  in_lists = [
    leaf.path
    for leaf in leaves.values()
    if leaf.max_repetition_level and leaf.physical_type == "BYTE_ARRAY"
  ]
  file = _open(path, read_dictionary=in_lists)
  metadata = [file.metadata.row_group(group) for group in range(groups[1])]
  stops = [0, *itertools.accumulate(group.num_rows for group in metadata)]
  share = (groups[1] - groups[0]) / file.metadata.num_row_groups
  room = round(_ROOM * share) + _RATIO * sum(
    metadata[group].column(place).total_compressed_size
    for group in range(*groups)
    for place in leaves
  )
  for group in range(*groups):
    number, stop = stops[group : group + 2]
    try:
      rows = _rows_at_a_time(path, metadata[group], leaves, image)
      for batch in file.iter_batches(
        batch_size=rows, row_groups=[group], columns=wanted
      ):
        for row in range(batch.num_rows):
          found = item(batch, row, names, number, how)
          room -= _size(found)
          if room < 0:
            yield items.Problem(
              path.name,
              f"too large: rows {number:,} to {stops[-1] - 1:,} (those before"
              f" take {_RATIO:,} times their bytes in the file)",
              stops[-1] - number,
            )
            return
          yield found
          number += 1
    except (pages.PageError, pyarrow.ArrowException, OSError) as error:
      kind = "unsafe" if isinstance(error, pages.PageError) else "broken"
      text = " ".join(str(error).split())[:200]
      yield items.Problem(
        path.name,
        f"{kind} parquet: rows {number:,} to {stop - 1:,} ({text})",
        stop - number,
      )


def _rows_at_a_time(
  path: pathlib.Path, group: Any, leaves: Mapping[int, Any], image: str
) -> int:
  """Rows of a group that fit into memory; raises `PageError` if one may not."""
  shared = 0
  with open(path, "rb") as file:
    for place, leaf in leaves.items():
      most = items.MAX_BYTES if leaf.path == image else _MAX_TEXT
      in_lists = leaf.max_repetition_level > 0
      chunk = group.column(place)
      each = pages.check(file, chunk, most=most, in_lists=in_lists)
      # Lists are read as indices into their dictionary.
      shared += 0 if in_lists else each
  return max(1, min(_MAX_ROWS, _MAX_SHARED // max(shared, 1)))


def _size(found: items.Item | items.Problem) -> int:
  size = _ROW + len(found.key)
  if isinstance(found, items.Item):
    size += len(found.image) + sum(map(len, found.captions))
  return size


def item(
  batch: Any, row: int, names: dict[str, str], number: int, how: items.Reading
) -> items.Item | items.Problem:
  """The example of a row of a record batch, the so manieth of its file."""

  def value(what: str) -> Any:
    return batch.column(names[what])[row].as_py() if names[what] else None

  key = f"row {number}"
  try:
    given = value("key")
    key = key if given is None else str(given)[: items.MAX_CAPTION]
    image, label = value("image"), value("label")
    if isinstance(image, dict):
      image = image.get("bytes")
    if not names["caption"]:
      return items.make(key, image, (), label, how)
    texts = batch.column(names["caption"])
    texts = texts[row].values if _is_list(texts.type) else texts[row : row + 1]
    if texts is not None and len(texts) > _MAX_CAPTIONS:
      return items.Problem(key, f"too many captions: {len(texts):,}")
    # One after the other: each is cut before the next is there.
    captions = (text.as_py() for text in texts or () if text.is_valid)
    return items.make(key, image, captions, label, how)
  except UnicodeDecodeError as error:
    return items.Problem(key, f"invalid UTF-8: byte {error.start}")


def _open(path: pathlib.Path, **options: Any) -> Any:
  import pyarrow
  from pyarrow import parquet

  try:
    return parquet.ParquetFile(path, **options)
  except (pyarrow.ArrowException, OSError) as error:
    text = " ".join(str(error).split())[:200]
    raise DataError(
      f"{path} cannot be read as parquet ({text}); fetch it anew or leave it out."
    ) from error
