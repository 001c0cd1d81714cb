"""Parquet files that expand without end: bounded, counted, named."""

import io
import itertools
import shutil

import pyarrow
import pytest
from pyarrow import parquet

from contrastive_jax.data.sets.folder import reading
from contrastive_jax.data.sets.records import (
  caption_tables,
  items,
  pages,
  parquet_files,
  units,
)
from tests.data import pairs

MB = 2**20


def write(path, columns, **options):
  """As pyarrow does, but that types are those of parquet alone."""
  options = {"compression": "zstd", "store_schema": False, **options}
  return pairs.write_parquet(path, columns, **options)


def repeated(value, count):
  """One value, of which a file has but one and an index."""
  return pyarrow.DictionaryArray.from_arrays(
    pyarrow.array([0] * count, pyarrow.int32()), pyarrow.array([value])
  )


def found(path):
  """Examples and problems of the whole file, one after the other."""
  return itertools.chain.from_iterable(u.read() for u in units.split([path]))


@pytest.fixture(name="bomb", scope="module")
def fixture_bomb(tmp_path_factory):
  """A file and its image, made before memory is measured: writing takes 150 MB."""
  image = pairs.RED + bytes(16 * MB)
  path = write(
    tmp_path_factory.mktemp("bomb") / "a.parquet",
    {"image": repeated(image, 5_000), "caption": repeated("red", 5_000)},
    dictionary_pagesize_limit=2**30,
  )
  # Else reading would use what writing took, and seem to need less.
  pyarrow.default_memory_pool().release_unused()
  return path, image


def test_one_large_image_in_all_rows(bomb, place):
  """Some kilobytes say 80 GB; 64 rows at a time would be 1 GB."""
  path, image = bomb
  path = shutil.copy(path, place / path.name)
  assert path.stat().st_size < 50_000
  good = 0
  for each in found(path):
    if isinstance(each, items.Item):
      assert len(each.image) == len(image)
      good += 1
  assert 8 < good < 20 and each.key == "a.parquet" and each.lost == 5_000 - good
  assert each.problem.startswith(
    f"too large: rows {good} to 4,999 (those before take 1,000 times"
  )


def test_rows_in_which_nothing_is_right_count_as_well(place, monkeypatch):
  monkeypatch.setattr(parquet_files, "_ROOM", 10_000)
  columns = {"image": repeated(b"", 500_000), "caption": repeated("", 500_000)}
  path = write(place / "a.parquet", columns)
  *problems, last = found(path)
  assert len(problems) < 10_000
  assert len(problems) + last.lost == 500_000


def test_an_image_of_a_few_captions_is_no_mischief(place):
  columns = {"image": repeated(pairs.RED, 300), "caption": ["red"] * 300}
  assert len([*found(write(place / "a.parquet", columns))]) == 300


def test_a_page_of_nothing(place):
  path = write(
    place / "a.parquet",
    {"image": [pairs.RED] * 3, "caption": ["a" * 2**24, "b", "c"]},
    use_dictionary=False,
  )
  assert path.stat().st_size < 10_000
  (problem,) = found(path)
  assert problem.key == "a.parquet" and problem.lost == 3
  assert problem.problem.startswith(
    "unsafe parquet: rows 0 to 2 (a page of 16,"
  )


def _varint(value, width):
  """Thrift's zigzag number in so many bytes, which may be more than it needs."""
  groups = [(2 * value >> 7 * i) & 127 for i in range(width)]
  return bytes([g | 128 for g in groups[:-1]] + groups[-1:])


def test_a_page_that_the_end_of_the_file_makes_small(place):
  """The metadata of pyarrow repeat what it says, and its reader makes the room."""
  path = write(
    place / "a.parquet",
    {"image": [pairs.RED], "caption": ["a" * 2**24]},
    use_dictionary=False,
    write_statistics=False,
  )

  def claimed():
    return parquet.read_metadata(path).row_group(0).column(1)

  content, size = path.read_bytes(), claimed().total_uncompressed_size
  page, end = content.split(_varint(size, 4))
  path.write_bytes(page + _varint(1_000, 4) + end)
  assert claimed().total_uncompressed_size == 1_000
  caption = parquet.ParquetFile(path).read()["caption"][0].as_py()
  assert len(caption) == 2**24
  (problem,) = found(path)
  assert problem.key == "a.parquet" and problem.lost == 1
  assert problem.problem.startswith(
    "unsafe parquet: rows 0 to 0 (a page of 16,"
  )


def test_a_page_of_empty_images(place, monkeypatch):
  monkeypatch.setattr(items, "MAX_BYTES", MB)
  image = pairs.RED + bytes(2 * MB)
  columns = {"image": [image, b"x"], "caption": ["a", "b"]}
  path = write(place / "a.parquet", columns, row_group_size=1)
  problem, item = found(path)
  said = "unsafe parquet: rows 0 to 0 (a page of 2,"
  assert problem.problem.startswith(said) and item.captions == ("b",)
  # An image that takes its bytes in the file as well is a matter of its row.
  path = write(place / "b.parquet", columns, compression="none")
  problem, item = found(path)
  assert problem.problem.startswith("too large: 2,097,") and item.image == b"x"


def test_one_caption_a_million_times_in_a_row(place):
  """100 GB; what comes behind is read."""
  texts = pyarrow.ListArray.from_arrays(
    pyarrow.array([0, MB, MB + 1], pyarrow.int32()),
    repeated("a" * 100_000, MB + 1),
  )
  path = write(
    place / "a.parquet", {"image": [pairs.RED] * 2, "captions": texts}
  )
  problem, item = found(path)
  assert problem == ("row 0", "too many captions: 1,048,576", 1)
  assert item.captions == ("a" * items.MAX_CAPTION,)


def test_lists_that_nothing_bounds(place, monkeypatch):
  columns = {"image": [pairs.RED], "caption": [["ab", "abc", "abcd"]]}
  path = write(
    place / "a.parquet",
    columns,
    use_dictionary=False,
    column_encoding={"caption.list.element": "DELTA_BYTE_ARRAY"},
  )
  (problem,) = found(path)
  assert "(lists in the encoding DELTA_BYTE_ARRAY)" in problem.problem
  monkeypatch.setattr(pages, "_MAX_IN_LISTS", 2)
  (problem,) = found(write(place / "b.parquet", columns))
  assert "(3 values in lists)" in problem.problem


def test_row_groups_that_are_the_same_bytes(place):
  path = write(
    place / "a.parquet", {"image": [pairs.RED] * 9, "caption": ["red"] * 9}
  )
  whole = parquet.read_metadata(path)
  for _ in range(100):
    whole.append_row_groups(parquet.read_metadata(path))
  footer = io.BytesIO()
  whole.write_metadata_file(footer)
  path.write_bytes(path.read_bytes() + footer.getvalue()[4:])
  assert (
    parquet.ParquetFile(path).read().num_rows == 909
  )  # It is none to pyarrow.
  with pytest.raises(
    reading.DataError, match="a.parquet cannot be .* than the f"
  ):
    [*found(path)]


def test_columns_that_are_no_texts(place):
  columns = {
    "image": [pairs.RED],
    "caption": [[["red"]]],
    "text": ["blue"],
    "label": [["a", "b"]],
    "key": [{"a": 1}],
  }
  path = write(place / "a.parquet", columns)
  with pytest.raises(reading.DataError, match="'caption'.* list<"):
    [*found(path)]
  chosen = units.split([path], columns=caption_tables.Columns(caption="text"))
  (item,) = [item for unit in chosen for item in unit.read()]
  assert (item.key, item.captions, item.label) == ("row 0", ("blue",), "")


def test_two_columns_of_a_name(place):
  data = [pyarrow.array([pairs.RED]), pyarrow.array(["red"])]
  table = pyarrow.table([*data, data[1]], names=["image", "caption", "caption"])
  path = place / "a.parquet"
  parquet.write_table(table, path)
  with pytest.raises(reading.DataError, match="a.parquet.*'caption'"):
    [*found(path)]


# Their headers are read as the format has them.


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd"])
@pytest.mark.parametrize("dictionary", [True, False])
def test_files_of_every_form_are_read(place, version, compression, dictionary):
  count = 2_000
  texts = [[f"n{i}", "x" * (i % 7)] if i % 5 else None for i in range(count)]
  path = pairs.write_parquet(
    place / "a.parquet",
    {
      "image": [pairs.RED + i.to_bytes(4) for i in range(count)],
      "caption": texts,
      "label": [i % 3 if i % 2 else None for i in range(count)],
    },
    data_page_version=version,
    compression=compression,
    use_dictionary=dictionary,
    data_page_size=500,
    write_batch_size=50,
    row_group_size=700,
  )
  read = [*found(path)]
  assert len(read) == count
  for i, (each, text) in enumerate(zip(read, texts)):
    if text is None:
      assert each == (f"row {i}", "no caption: there is none", 1)
    else:
      assert each.image == pairs.RED + i.to_bytes(4)
      assert each.captions == tuple(dict.fromkeys(filter(None, text)))


def _checked(path, data):
  chunk = parquet.read_metadata(path).row_group(0).column(0)
  return pages.check(io.BytesIO(data), chunk, most=2**20, in_lists=False)


def test_what_rows_may_share(place):
  images = {"image": [b"x" * 999, b"x" * 999, b"y"]}
  sizes = {}
  for kind in ("dictionary", "PLAIN", "DELTA_BYTE_ARRAY"):
    options = {"use_dictionary": True}
    if kind != "dictionary":
      options = {"use_dictionary": False, "column_encoding": {"image": kind}}
    path = write(place / "a.parquet", images, **options)
    sizes[kind] = _checked(path, path.read_bytes())
  assert sizes["dictionary"] == 2 * 4 + 1_000
  assert sizes["PLAIN"] == 0 and 1_000 < sizes["DELTA_BYTE_ARRAY"] < 1_200


@pytest.mark.parametrize(
  "header",
  [
    "",
    "ff",  # A field of a type that there is none of.
    "1500158080808010",  # A size of more than 32 bits.
    "150015ffffffffffffffffffff7f",
    "15001501150000",  # A size below 0.
    "1500 0502 00 00",  # A field twice.
    "1c" * 9,  # Structs in structs.
    "19f6ff00",  # A list.
    "18ffffffff07",  # A text up to the end of the world.
  ],
)
def test_what_is_no_header(place, header):
  path = write(place / "a.parquet", {"image": [b"x"], "caption": ["x"]})
  chunk = parquet.read_metadata(path).row_group(0).column(0)
  data = bytes(4) + bytes.fromhex(header)
  with pytest.raises(OSError, match=r"\b4\b"):
    pages.check(io.BytesIO(data), chunk, most=2**20, in_lists=False)
