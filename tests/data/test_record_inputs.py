"""Tar shards, parquet files and lists: what is read, and what is wrong in them."""

import io
import json
import tarfile

import numpy as np
import pyarrow
import pyarrow.ipc
import pytest
from PIL import Image

from contrastive_jax.data.sets.folder import folder_images, reading
from contrastive_jax.data.sets.records import (
  caption_tables,
  conversion,
  items,
  tars,
  units,
)
from contrastive_jax.data.sets.records import source as record_source
from tests.data.pairs import (
  BLUE,
  GREEN,
  RED,
  converted,
  pair,
  picture,
  problems,
  read,
  write_parquet,
  write_tar,
)


@pytest.fixture
def images(tmp_path):
  root = tmp_path / "images"
  root.mkdir()
  for name, data in (("a.png", RED), ("b.png", GREEN), ("c.png", BLUE)):
    (root / name).write_bytes(data)
  return root


def test_a_tar_shard_becomes_records(tmp_path):
  shard = write_tar(
    tmp_path / "a.tar",
    [
      *pair("x/1", RED, " a  red\nthing "),
      *pair("x/2", picture("lime", format="JPEG"), "green", "JPG"),
      ("x/3.json", json.dumps({"caption": "blue", "label": 7}).encode()),
      ("x/3.png", BLUE),
      ("x/4.png", BLUE),
      ("x/4.txt", b"blue again"),
      ("x/4.cls", b"2"),
      ("x/4.json", b"broken, but not needed"),
    ],
  )
  out, summary = converted(tmp_path, shard)
  assert summary == conversion.Summary(
    {"train": 4, "validation": 0, "test": 0}, {}, 1, 0
  )
  found = read(out)
  assert [r["captions"] for r in found] == [
    ("a red thing",),
    ("green",),
    ("blue",),
    ("blue again",),
  ]
  assert [r["label"] for r in found] == ["", "", "7", "2"]
  assert [r["index"] for r in found] == [0, 1, 2, 3]
  np.testing.assert_array_equal(found[0]["image"][2, 2], [255, 0, 0])
  np.testing.assert_array_equal(found[0]["image"][0, 0], [255, 255, 255])


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_compressed_shards_are_read(tmp_path, mode):
  path = tmp_path / f"a.tar.{mode[2:]}"
  write_tar(path, pair("1", RED, "red"), mode)
  out, _ = converted(tmp_path, path)
  assert [r["captions"] for r in read(out)] == [("red",)]


def test_bad_examples_are_listed_by_name_and_the_rest_is_kept(tmp_path):
  shard = write_tar(
    tmp_path / "a.tar",
    [
      *pair("good", RED, "red"),
      *pair("no_image", b"", "red"),
      *pair("not_an_image", b"GIF89a nothing", "red"),
      *pair("cut", RED[:40], "red"),
      ("no_text.png", RED),
      ("latin.png", RED),
      ("latin.txt", b"caf\xe9"),
      ("empty.png", RED),
      ("empty.txt", b" \n "),
      ("json.png", RED),
      ("json.json", b"{"),
      ("number.png", RED),
      ("number.json", b'{"caption": {"a": 1}}'),
      ("surrogate.png", RED),
      ("surrogate.json", b'{"caption": "\\ud800"}'),
      ("twice.png", RED),
      ("twice.png", BLUE),
      ("twice.txt", b"twice"),
      (".hidden.png", b"x"),
      ("unknown.npy", b"x"),
    ],
  )
  out, summary = converted(tmp_path, shard, max_bad_share=1.0)
  found = problems(out)
  assert {k: v.partition(":")[0] for k, v in found.items()} == {
    "no_image": "no image",
    "not_an_image": "undecodable image",
    "cut": "undecodable image",
    "no_text": "no caption",
    "latin": "invalid UTF-8",
    "empty": "no caption",
    "json": "broken JSON",
    "number": "no caption",
    "surrogate": "invalid UTF-8",
    "twice": "repeated member",
  }
  assert sum(summary.problems.values()) == len(found)
  assert [r["captions"] for r in read(out)] == [("red",), ("twice",)]


def test_too_many_bad_examples_stop_after_they_are_listed(tmp_path):
  shard = write_tar(
    tmp_path / "a.tar", pair("a", RED, "x") + pair("b", b"no", "y")
  )
  with pytest.raises(reading.DataError, match="1 of 2 "):
    converted(tmp_path, shard)
  assert list(problems(tmp_path / "out")) == ["b"]
  with pytest.raises(reading.DataError, match="dataset.json"):
    record_source.load(str(tmp_path / "out"), image_size=4)


def test_members_behind_damaged_bytes_are_still_read(tmp_path):
  members = [m for i in range(6) for m in pair(str(i), RED, f"number {i}")]
  shard = write_tar(tmp_path / "a.tar", members)
  data = bytearray(shard.read_bytes())
  place = data.index(b"2.png")
  data[place : place + 600] = b"\x07" * 600
  shard.write_bytes(data)
  out, _ = converted(tmp_path, shard, max_bad_share=1.0)
  kept = {r["captions"][0] for r in read(out)}
  assert kept == {f"number {i}" for i in (0, 1, 3, 4, 5)}
  assert problems(out)["a.tar"].startswith("damaged archive: bytes ")
  assert problems(out)["2"].startswith("no image")


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_a_shard_that_is_cut_short_gives_what_is_there(tmp_path, suffix):
  rng = np.random.default_rng(0)
  members = []
  for i in range(9):
    file = io.BytesIO()
    noise = rng.integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(file, format="PNG")
    members += pair(str(i), file.getvalue(), f"n{i}")
  shard = tmp_path / f"a{suffix}"
  write_tar(shard, members, "w:gz" if suffix.endswith("gz") else "w")
  shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
  out, _ = converted(tmp_path, shard, max_bad_share=1.0)
  kept = [r["captions"][0] for r in read(out)]
  assert 2 <= len(kept) <= 5 and kept == [f"n{i}" for i in range(len(kept))]
  assert "broken archive: it ends here" in problems(out)[shard.name]


def test_a_file_that_is_no_archive_is_a_problem_of_its_name(tmp_path):
  bad = tmp_path / "b.tar"
  bad.write_bytes(b"<html>not found</html>" * 99)
  good = write_tar(tmp_path / "a.tar", pair("a", RED, "red"))
  out, _ = converted(tmp_path, good, bad, max_bad_share=1.0)
  assert len(read(out)) == 1
  assert problems(out)["b.tar"].startswith(("empty", "damaged", "broken"))


def test_names_of_members_have_no_power(tmp_path):
  path = tmp_path / "in" / "a.tar"
  path.parent.mkdir()
  with tarfile.open(path, "w") as archive:
    for name, data in [*pair("../../evil", RED, "up"), *pair("/abs", RED, "a")]:
      info = tarfile.TarInfo(name)
      info.size = len(data)
      archive.addfile(info, io.BytesIO(data))
    link = tarfile.TarInfo("link.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    archive.addfile(link)
  before = sorted(p for p in tmp_path.rglob("*"))
  out, _ = converted(tmp_path, path, max_bad_share=1.0)
  assert problems(out)["link.png"] == "no regular file: left out"
  assert len(read(out)) == 2
  others = {p for p in tmp_path.rglob("*") if out not in (p, *p.parents)}
  assert sorted(others) == before


def test_a_compressed_member_without_end_is_not_expanded(tmp_path, monkeypatch):
  monkeypatch.setattr(items, "MAX_BYTES", 10_000)
  shard = tmp_path / "a.tar.gz"
  members = [*pair("a", RED, "red"), *pair("b", bytes(20_000), "large")]
  write_tar(shard, [*members, *pair("c", RED, "behind it")], "w:gz")
  found = list(tars.read(shard))
  assert [f.key for f in found] == ["b.png", "a.tar.gz", "a"]
  assert found[2].captions == ("red",)


def test_long_captions_are_cut(tmp_path):
  item = items.make("a", RED, ["word " * 300_000])
  assert len(item.captions[0]) <= items.MAX_CAPTION


def test_parquet_with_images_as_structs_or_bytes(tmp_path):
  structs = [{"bytes": RED, "path": "a"}, {"bytes": None, "path": "b"}]
  first = write_parquet(
    tmp_path / "a.parquet", {"image": structs, "text": ["red", "gone"]}
  )
  second = write_parquet(
    tmp_path / "b.parquet",
    {
      "jpg": [GREEN, BLUE],
      "captions": [["green", "lime"], ["blue", None]],
      "label": [3, None],
      "__key__": ["g", "b"],
    },
  )
  out, _ = converted(tmp_path, first, second, max_bad_share=0.5)
  found = read(out)
  assert [r["captions"] for r in found] == [
    ("red",),
    ("green", "lime"),
    ("blue",),
  ]
  assert [r["label"] for r in found] == ["", "3", ""]
  assert problems(out) == {"row 1": "no image: there is none"}


def test_parquet_is_cut_by_row_groups(tmp_path, monkeypatch):
  monkeypatch.setattr(units, "_ROWS", 5)
  path = write_parquet(
    tmp_path / "a.parquet",
    {"image": [RED] * 11, "caption": [f"n{i}" for i in range(11)]},
    row_group_size=3,
  )
  out, summary = converted(tmp_path, path)
  assert summary.units == 2  # Groups of 3 + 3, then 3 + 2.
  assert [r["captions"][0] for r in read(out)] == [f"n{i}" for i in range(11)]


def test_parquet_without_images_says_what_it_has(tmp_path):
  urls = write_parquet(
    tmp_path / "a.parquet", {"image": ["http://x"], "caption": ["x"]}
  )
  with pytest.raises(reading.DataError, match="string"):
    converted(tmp_path, urls)
  other = write_parquet(tmp_path / "b.parquet", {"a": [RED], "b": ["x"]})
  with pytest.raises(reading.DataError, match="a, b, .*--image_column"):
    converted(tmp_path / "2", other)
  columns = caption_tables.Columns(image="a", caption="c")
  with pytest.raises(reading.DataError, match="'c'.* a, b"):
    converted(tmp_path / "3", other, columns=columns)
  columns = caption_tables.Columns(image="a", caption="b")
  out, _ = converted(tmp_path / "4", other, columns=columns)
  assert len(read(out)) == 1


def test_a_damaged_parquet_file_is_named(tmp_path):
  path = tmp_path / "a.parquet"
  path.write_bytes(b"PAR1 nothing")
  with pytest.raises(reading.DataError, match="a.parquet"):
    converted(tmp_path, path)
  write_parquet(
    path,
    {
      "image": [picture((i, 0, 0)) for i in range(8)],
      "caption": [f"n{i}" for i in range(8)],
    },
    row_group_size=1,
    compression="none",
    use_dictionary=False,
  )
  data = bytearray(path.read_bytes())
  place = data.index(picture((5, 0, 0)))
  data[place - 12 : place] = b"\xff" * 12
  path.write_bytes(data)
  out, summary = converted(tmp_path / "2", path, max_bad_share=1.0)
  assert [r["captions"][0] for r in read(out)] == [
    f"n{i}" for i in range(8) if i != 5
  ]
  assert problems(out)["a.parquet"].startswith("broken parquet: rows 5 to 5 (")
  assert summary.problems == {"broken parquet": 1}


@pytest.mark.parametrize(
  "name, text",
  [
    ("cc3m.tsv", "red\ta.png\ngreen\tb.png\n\nblue\tc.png\n"),
    ("clip.tsv", "filepath\ttitle\na.png\tred\nb.png\tgreen\nc.png\tblue\n"),
    ("cc.csv", 'title,filepath\nred,a.png\n"green",b.png\nblue,c.png\n'),
    (
      "l.jsonl",
      '{"image": "a.png", "caption": "red"}\n{"image": "b.png", "captions":'
      ' ["green"]}\n{"file": "c.png", "text": "blue"}\n',
    ),
  ],
)
def test_lists_beside_images(tmp_path, images, name, text):
  path = tmp_path / name
  path.write_text(text)
  out, _ = converted(tmp_path, path, image_root=str(images))
  assert [r["captions"][0] for r in read(out)] == ["red", "green", "blue"]
  np.testing.assert_array_equal(read(out)[2]["image"][2, 2], [0, 0, 255])


def test_bad_lines_of_a_list(tmp_path, images):
  path = tmp_path / "l.tsv"
  lines = [
    b"red\ta.png",
    b"one cell",
    b"x\t../../etc/passwd",
    b"y\t/etc/passwd",
  ]
  lines += [b"caf\xe9\tb.png", b"x\tcaf\xe9.png", b"z\tmissing.png", b"\tc.png"]
  path.write_bytes(b"\n".join(lines))
  out, _ = converted(tmp_path, path, image_root=str(images), max_bad_share=1.0)
  assert len(read(out)) == 1
  assert {k: v.partition(":")[0] for k, v in problems(out).items()} == {
    "line 2": "malformed row",
    "../../etc/passwd": "unsafe path",
    "/etc/passwd": "unsafe path",
    "b.png": "invalid UTF-8",
    "line 6": "invalid UTF-8",
    "missing.png": "missing file",
    "c.png": "no caption",
  }


def test_lists_of_addresses_and_of_other_columns_are_refused(tmp_path, images):
  path = tmp_path / "l.tsv"
  path.write_text("a dog\thttps://example.com/a.jpg\n")
  with pytest.raises(reading.DataError, match="https.*img2dataset"):
    converted(tmp_path, path)
  path.write_text("a\tb\tc\n1\t2\t3\n")
  with pytest.raises(reading.DataError, match="line 1, has 3 columns"):
    converted(tmp_path / "2", path)
  path.write_text("a dog\ta.png\n")
  with pytest.raises(reading.DataError, match="--image_root "):
    converted(tmp_path / "3", path, image_root=str(tmp_path / "nowhere"))


def test_a_long_list_is_cut(tmp_path, images, monkeypatch):
  monkeypatch.setattr(units, "_ROWS", 4)
  path = tmp_path / "l.tsv"
  path.write_text("".join(f"n{i}\ta.png\n" for i in range(10)))
  out, summary = converted(tmp_path, path, image_root=str(images))
  assert summary.units == 3
  assert [r["captions"][0] for r in read(out)] == [f"n{i}" for i in range(10)]


def test_a_line_of_pixels_is_cropped_without_a_huge_picture():
  file = io.BytesIO()
  Image.new("RGB", (1, 60_000), "red").save(file, format="PNG")
  found = folder_images.decode(file, 64, 10**6, "crop")
  assert found.shape == (64, 64, 3) and (found == [255, 0, 0]).all()


def test_a_folder_of_img2dataset_is_read(tmp_path):
  shard = tmp_path / "in" / "00000.tar"
  shard.parent.mkdir()
  write_tar(shard, pair("000000000", RED, "red"))
  write_parquet(
    shard.with_suffix(".parquet"), {"url": ["http://x"], "caption": ["red"]}
  )
  out, _ = converted(tmp_path, shard.parent)
  assert len(read(out)) == 1


def test_one_address_among_files_is_one_bad_line(tmp_path, images):
  path = tmp_path / "l.tsv"
  path.write_text("red\ta.png\nx\thttps://example.com/a.jpg\ngreen\tb.png\n")
  out, _ = converted(tmp_path, path, image_root=str(images), max_bad_share=0.5)
  assert len(read(out)) == 2 and list(problems(out)) == ["line 2"]


@pytest.mark.parametrize(
  "label, expected",
  [(True, "true"), (3, "3"), (b"\xff", ""), ([1], ""), (None, ""), ("a", "a")],
)
def test_no_pair_is_lost_by_its_label(label, expected):
  assert items.make("a", RED, ["red"], label).label == expected


def test_images_with_dots_in_their_names_are_told(tmp_path):
  shard = write_tar(
    tmp_path / "a.tar",
    [*pair("good", RED, "red"), ("photo.v1.jpg", RED), ("photo.v1.txt", b"x")],
  )
  out, _ = converted(tmp_path, shard, max_bad_share=0.5)
  assert "1 images, such as photo.v1.jpg" in problems(out)["a.tar"]


def test_a_mask_beside_an_image_is_no_problem(tmp_path):
  for number, members in enumerate(
    (
      [("a.seg.png", GREEN), *pair("a", RED, "red")],
      [*pair("a", RED, "red"), ("a.seg.png", GREEN)],
    )
  ):
    folder = tmp_path / str(number)
    folder.mkdir()
    out, summary = converted(folder, write_tar(folder / "a.tar", members))
    assert summary.examples["train"] == 1 and not problems(out)
    (record,) = read(out)
    assert record["captions"] == ("red",)


def test_members_are_named(tmp_path):
  members = [
    *pair("a", RED, "not this"),
    ("a.rgb.png", BLUE),
    ("a.short.txt", b"blue"),
  ]
  shard = write_tar(tmp_path / "a.tar", members)
  how = items.Reading(image_member="rgb.png", caption_member="short.txt")
  out, _ = converted(tmp_path, shard, how=how)
  (record,) = read(out)
  assert record["captions"] == ("blue",)
  np.testing.assert_array_equal(record["image"][2, 2], [0, 0, 255])


def test_lines_are_captions_when_asked(tmp_path):
  shard = write_tar(tmp_path / "a.tar", pair("a", RED, "one\n two\n\none"))
  out, _ = converted(tmp_path, shard)
  assert read(out)[0]["captions"] == ("one two one",)
  how = items.Reading(caption_lines=True)
  (tmp_path / "lines").mkdir()
  out, _ = converted(tmp_path / "lines", shard, how=how)
  assert read(out)[0]["captions"] == ("one", "two")


def test_images_with_classes_and_without_captions(tmp_path):
  members = [("a.jpg", RED), ("a.cls", b"7"), ("b.jpg", BLUE), ("b.cls", b"8")]
  shard = write_tar(tmp_path / "a.tar", members)
  how = items.Reading(images_alone=True)
  out, summary = converted(tmp_path, shard, how=how)
  assert summary.examples["train"] == 2
  with pytest.raises(reading.DataError, match="without captions"):
    read(out)
  found = read(out, images_alone=True)
  assert [r["label"] for r in found] == ["7", "8"]
  assert [r["captions"] for r in found] == [(), ()]
  assert found[0]["concept_id"] != found[1]["concept_id"]


@pytest.mark.parametrize("as_file", [False, True])
def test_datasets_that_hugging_face_saved(tmp_path, as_file):
  table = pyarrow.table(
    {
      "image": [{"bytes": RED, "path": "a"}, {"bytes": None, "path": "gone"}],
      "text": ["red", "gone"],
      "label": [3, 4],
    }
  )
  path = tmp_path / "data-00000-of-00001.arrow"
  make = pyarrow.ipc.new_file if as_file else pyarrow.ipc.new_stream
  with make(str(path), table.schema) as writer:
    writer.write_table(table)
  (tmp_path / "state.json").write_text("{}")
  out, _ = converted(tmp_path, tmp_path / "*.arrow", max_bad_share=0.5)
  (record,) = read(out)
  assert record["captions"] == ("red",) and record["label"] == "3"
  assert "no image" in problems(out)["row 1"]


def test_a_damaged_arrow_file(tmp_path):
  table = pyarrow.table({"image": [RED] * 50, "text": ["red"] * 50})
  path = tmp_path / "a.arrow"
  with pyarrow.ipc.new_stream(str(path), table.schema) as writer:
    for batch in table.to_batches(10):
      writer.write_batch(batch)
  path.write_bytes(path.read_bytes()[:-300])
  out, summary = converted(tmp_path, path, max_bad_share=1.0)
  assert 0 < summary.examples["train"] < 50 and summary.broken == 1
  path.write_bytes(b"nothing")
  (tmp_path / "other").mkdir()
  with pytest.raises(reading.DataError, match="a.arrow"):
    converted(tmp_path / "other", path)


@pytest.mark.parametrize(
  "pattern, expected",
  [
    ("{000..002}.tar", ["000.tar", "001.tar", "002.tar"]),
    ("{2..0}.tar", ["0.tar", "1.tar", "2.tar"]),
    ("{a,b}{0..1}.tar", ["a0.tar", "a1.tar", "b0.tar", "b1.tar"]),
    ("**/*.tar", ["x.tar", "y.tar"]),
  ],
)
def test_patterns(tmp_path, pattern, expected):
  for number, name in enumerate(expected):
    folder = tmp_path / ("deep/er" if "**" in pattern else ".")
    folder.mkdir(parents=True, exist_ok=True)
    write_tar(folder / name, pair(f"k{number}", RED, name))
  found = units.find([str(tmp_path / pattern)])
  assert [path.name for path in found] == expected


def test_a_pattern_that_names_too_much(tmp_path):
  with pytest.raises(reading.DataError, match="too many"):
    units.find([str(tmp_path / "{0..99999999}.tar")])
  (tmp_path / "{0..1}.tar").write_bytes(b"")
  assert len(units.find([str(tmp_path / "{0..1}.tar")])) == 1


def test_what_jpeg_cannot_hold_stays_as_it_is(monkeypatch):
  def encode(image, shorter_side):
    raise OSError("broken data stream when writing image file")

  monkeypatch.setattr(folder_images, "encode", encode)
  item = items.Item("a", picture("red", (90, 60)), ("red",))
  assert items.checked(item, 20) == item


def test_headers_of_archives_are_not_trusted(tmp_path, monkeypatch):
  monkeypatch.setattr(tars, "_MAX_HEADER", 10_000)
  long_name = write_tar(tmp_path / "a.tar.gz", pair("a", RED, "red"), "w:gz")
  with tarfile.open(long_name, "w:gz", format=tarfile.GNU_FORMAT) as archive:
    info = tarfile.TarInfo("x" * 20_000 + ".png")
    archive.addfile(info, io.BytesIO())
  (problem,) = [p for p in tars.read(long_name) if "broken" in p.problem]
  assert "a header of 20,005 bytes" in problem.problem
  no_number = tmp_path / "b.tar"
  with tarfile.open(no_number, "w", format=tarfile.PAX_FORMAT) as archive:
    for name, data in pair("first", RED, "red"):
      info = tarfile.TarInfo(name)
      info.size = len(data)
      archive.addfile(info, io.BytesIO(data))
    info = tarfile.TarInfo("second.png")
    info.pax_headers = {
      "GNU.sparse.major": "0",
      "GNU.sparse.size": "abc",
      "GNU.sparse.map": "0,x",
    }
    archive.addfile(info, io.BytesIO())
  found = list(tars.read(no_number))
  assert [f.captions for f in found if isinstance(f, items.Item)] == [("red",)]
  # A huge member is not expanded to be skipped, whatever its name.
  monkeypatch.setattr(items, "MAX_BYTES", 10_000)
  bomb = tmp_path / "c.tar.gz"
  write_tar(bomb, [("notes.npy", bytes(20_000)), *pair("a", RED, "x")], "w:gz")
  assert [f.key for f in tars.read(bomb)][:2] == ["notes.npy", "c.tar.gz"]


def test_a_list_is_tried_again_when_asked(tmp_path, images):
  path = tmp_path / "l.tsv"
  path.write_text("red\ta.png\nlate\tlate.png\n")
  options = dict(image_root=str(images), max_bad_share=0.5)
  out, _ = converted(tmp_path, path, **options)
  (images / "late.png").write_bytes(BLUE)
  converted(tmp_path, path, **options)
  assert len(read(out)) == 1
  converted(tmp_path, path, **options, retry=True)
  assert [r["captions"][0] for r in read(out)] == ["red", "late"]
  assert not problems(out)
