"""Memory that it takes to read each page of a parquet file, from the page's header.

pyarrow's own means do not bound it. It makes room for what the header of a page says
(up to 2 GiB), while its metadata repeat the end of the file, which may say something
else: a file of 10 KB that claims 1,000 bytes takes 1.2 GB. Its limits for Thrift hold
for headers only, and its pools of memory have none. So the headers are read here. They
are structs in Thrift's compact protocol:
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

from typing import IO, Any

# A page may take so many times its bytes in the file, whatever its size.
_RATIO = 20
# Most values in the lists of a row group: a single row may have them all.
_MAX_IN_LISTS = 2**24
# Bytes behind a column's end that readers allow to files of old writers.
_SLACK = 100

# Fields of a header, and of what it says of the kinds of pages.
_SIZE, _COMPRESSED, _DATA, _DICTIONARY, _DATA_2 = 2, 3, 5, 7, 8
_COUNT, _ENCODING = 1, {_DATA: 2, _DATA_2: 4}
_DELTA_BYTE_ARRAY = 7
# Types of the protocol.
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY = range(1, 9)
_STRUCT = 12
_BITS = {_I16: 16, _I32: 32, _I64: 64}


class PageError(Exception):
  """A page takes more than it may; the message says what."""


def check(file: IO[bytes], chunk: Any, *, most: int, in_lists: bool) -> int:
  """Looks through the pages of a column of a row group.

  Args:
    file: the parquet file.
    chunk: the column's `pyarrow.parquet.ColumnChunkMetaData`.
    most: bytes of a page that takes more than 20 times its bytes in the file.
    in_lists: whether the column's values are in lists.

  Returns:
    The most that a value may take without bytes of its own: those that repeat an
    entry of a dictionary, or the beginning of the value before, do.

  Raises:
    PageError: if a page is larger, or nothing bounds what it takes.
    OSError: if one cannot be read.
  """
  place = chunk.data_page_offset
  if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < place:
    place = chunk.dictionary_page_offset
  end = place + chunk.total_compressed_size + _SLACK
  shared = values = 0
  while values < chunk.num_values and place < end:
    try:
      file.seek(place)
      header = _struct(file)
      size, compressed = header[_SIZE], header[_COMPRESSED]
      kinds = [kind for kind in (_DATA, _DATA_2) if kind in header]
      values += sum(header[kind][_COUNT] for kind in kinds)
      repeats = any(
        header[kind][_ENCODING[kind]] == _DELTA_BYTE_ARRAY for kind in kinds
      )
      if min(size, compressed, *(header[k][_COUNT] for k in kinds), 0) < 0:
        raise ValueError
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
      raise OSError(f"no page at byte {place:,}") from error
    if size > max(most, _RATIO * compressed):
      raise PageError(f"a page of {size:,} bytes out of {compressed:,}")
    if in_lists and values > _MAX_IN_LISTS:
      raise PageError(f"{values:,} values in lists")
    if in_lists and repeats:
      raise PageError("lists in the encoding DELTA_BYTE_ARRAY")
    if repeats or _DICTIONARY in header:
      shared = max(shared, size)
    place = file.tell() + compressed
  return shared


def _struct(file: IO[bytes], depth: int = 0) -> dict[int, Any]:
  """The fields of a struct by number; raises for what is in no header."""
  if depth > 3:
    raise ValueError
  found: dict[int, Any] = {}
  number = 0
  while True:
    first = _byte(file)
    kind, step = first & 15, first >> 4
    if not kind:
      return found
    number = number + step if step else _number(file, 16)
    if number in found:  # Readers differ in which one counts.
      raise ValueError
    found[number] = _value(file, kind, depth)


def _value(file: IO[bytes], kind: int, depth: int) -> Any:
  if kind in (_TRUE, _FALSE):
    return kind == _TRUE
  if kind == _BYTE:
    return _byte(file)
  if kind in _BITS:
    return _number(file, _BITS[kind])
  if kind in (_DOUBLE, _BINARY):
    file.seek(8 if kind == _DOUBLE else _unsigned(file, 31), 1)
    return None
  if kind == _STRUCT:
    return _struct(file, depth + 1)
  raise ValueError


def _byte(file: IO[bytes]) -> int:
  return file.read(1)[0]


def _unsigned(file: IO[bytes], bits: int) -> int:
  """Seven bits a byte, the lowest first; the last byte has no eighth one."""
  value = shift = 0
  while True:
    byte = _byte(file)
    value |= (byte & 127) << shift
    shift += 7
    if value >> bits or shift > 70:  # Readers would cut it off.
      raise ValueError
    if byte < 128:
      return value


def _number(file: IO[bytes], bits: int) -> int:
  """With the sign as the lowest bit."""
  value = _unsigned(file, bits)
  return (value >> 1) ^ -(value & 1)
