"""Conversion of tar shards, parquet files and lists, and what is read back."""

import gzip
import io
import json
import multiprocessing
import os
import pathlib
import pickle
import resource
import subprocess
import sys
import tarfile
import time

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from contrastive_jax.data import (
  folder,
  folder_images,
  pipeline,
  records,
  sources,
)
from contrastive_jax.data.records import conversion, items, tables, tars, units
from contrastive_jax.training import config as config_lib
from contrastive_jax.training import pair_data


def picture(color, size=(12, 6), format="PNG"):
  file = io.BytesIO()
  Image.new("RGB", size, color).save(file, format=format)
  return file.getvalue()


RED, GREEN, BLUE = (picture(c) for c in ("red", "lime", "blue"))


def write_tar(path, members, mode="w"):
  with tarfile.open(path, mode) as archive:
    for name, data in members:
      info = tarfile.TarInfo(name)
      info.size = len(data)
      archive.addfile(info, io.BytesIO(data))
  return path


def pair(key, image, text, extension="png"):
  return [(f"{key}.{extension}", image), (f"{key}.txt", text.encode())]


def converted(tmp_path, *inputs, report=lambda line: None, **options):
  limits = {
    k: options.pop(k)
    for k in ("workers", "max_bad_share", "retry")
    if k in options
  }
  settings = records.Settings(tuple(map(str, inputs)), **options)
  out = tmp_path / "out"
  summary = records.convert(
    settings, out, report=report, **{"workers": 1, **limits}
  )
  return out, summary


def read(out, split="train", **options):
  source = records.load(str(out), image_size=4, **options)[split]
  return [source[i] for i in range(len(source))]


def problems(out):
  lines = (out / "skipped.jsonl").read_text().splitlines()
  return {(p := json.loads(line))["key"]: p["problem"] for line in lines}


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
  assert summary == records.Summary(
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
  with pytest.raises(folder.DataError, match="1 of 2 examples cannot be used"):
    converted(tmp_path, shard)
  assert list(problems(tmp_path / "out")) == ["b"]
  with pytest.raises(folder.DataError, match="no finished conversion"):
    records.load(str(tmp_path / "out"), image_size=4)


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


# Parquet.


def write_parquet(path, columns, **options):
  parquet.write_table(pyarrow.table(columns), path, **options)
  return path


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
  with pytest.raises(folder.DataError, match="holds string, no image files"):
    converted(tmp_path, urls)
  other = write_parquet(tmp_path / "b.parquet", {"a": [RED], "b": ["x"]})
  with pytest.raises(
    folder.DataError, match=r"columns a, b, none of .*--image_column"
  ):
    converted(tmp_path / "2", other)
  columns = records.Columns(image="a", caption="c")
  with pytest.raises(folder.DataError, match="no column 'c'; it has a, b"):
    converted(tmp_path / "3", other, columns=columns)
  columns = records.Columns(image="a", caption="b")
  out, _ = converted(tmp_path / "4", other, columns=columns)
  assert len(read(out)) == 1


def test_a_damaged_parquet_file_is_named(tmp_path):
  path = tmp_path / "a.parquet"
  path.write_bytes(b"PAR1 nothing")
  with pytest.raises(
    folder.DataError, match="a.parquet cannot be read as parq"
  ):
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


# Lists.


@pytest.fixture
def images(tmp_path):
  root = tmp_path / "images"
  root.mkdir()
  for name, data in (("a.png", RED), ("b.png", GREEN), ("c.png", BLUE)):
    (root / name).write_bytes(data)
  return root


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
  with pytest.raises(
    folder.DataError, match=r"holds addresses \(https.*img2dataset"
  ):
    converted(tmp_path, path)
  path.write_text("a\tb\tc\n1\t2\t3\n")
  with pytest.raises(
    folder.DataError, match="line 1, has 3 columns and names n"
  ):
    converted(tmp_path / "2", path)
  path.write_text("a dog\ta.png\n")
  with pytest.raises(folder.DataError, match="image_root must name"):
    converted(tmp_path / "3", path, image_root=str(tmp_path / "nowhere"))


def test_a_long_list_is_cut(tmp_path, images, monkeypatch):
  monkeypatch.setattr(units, "_ROWS", 4)
  path = tmp_path / "l.tsv"
  path.write_text("".join(f"n{i}\ta.png\n" for i in range(10)))
  out, summary = converted(tmp_path, path, image_root=str(images))
  assert summary.units == 3
  assert [r["captions"][0] for r in read(out)] == [f"n{i}" for i in range(10)]


# The conversion as a whole.


def shards(tmp_path, count=4, each=3):
  for k in range(count):
    members = [
      m
      for i in range(each)
      for m in pair(f"{k}_{i}", picture((40 * k, 60 * i, 0)), f"shard {k} {i}")
    ]
    write_tar(tmp_path / f"{k}.tar", members)
  return str(tmp_path / "*.tar")


def files(out):
  return {
    str(p.relative_to(out)): p.read_bytes()
    for p in sorted(out.rglob("*"))
    if p.is_file()
  }


def test_processes_make_what_one_makes(tmp_path):
  pattern = shards(tmp_path)
  one, _ = converted(tmp_path / "a", pattern)
  two, _ = converted(tmp_path / "b", pattern, workers=2)
  assert files(one) == files(two)


def test_a_conversion_that_was_stopped_goes_on(tmp_path, monkeypatch):
  pattern = shards(tmp_path)
  whole, _ = converted(tmp_path / "whole", pattern)
  real, done = conversion._Writer.close, []

  def close(self):
    if len(done) == 2:
      raise KeyboardInterrupt
    done.append(self)
    real(self)

  monkeypatch.setattr(conversion._Writer, "close", close)
  with pytest.raises(KeyboardInterrupt):
    converted(tmp_path, pattern)
  assert len(list((tmp_path / "out" / "units").iterdir())) == 2
  monkeypatch.setattr(conversion._Writer, "close", real)
  made = []
  monkeypatch.setattr(
    conversion._Writer,
    "__init__",
    lambda self, *args, init=conversion._Writer.__init__: (
      made.append(args[1]),
      init(self, *args),
    )[1],
  )
  out, _ = converted(tmp_path, pattern)
  assert made == ["00002", "00003"]
  assert files(out) == files(whole)
  # A file that is cut short afterwards is found and made again.
  path = out / "train" / "00001.image.array_record"
  path.write_bytes(path.read_bytes()[:100])
  with pytest.raises(
    folder.DataError, match=r"00001.image.* has 100 bytes inst"
  ):
    records.load(str(out), image_size=4)
  converted(tmp_path, pattern)
  assert files(out) == files(whole)


def test_an_input_that_changed_is_converted_again(tmp_path):
  pattern = shards(tmp_path)
  out, _ = converted(tmp_path, pattern)
  before = records.load(str(out), image_size=4)["train"].fingerprint
  write_tar(tmp_path / "1.tar", pair("a", RED, "another"))
  _, summary = converted(tmp_path, pattern)
  assert summary.examples["train"] == 10
  source = records.load(str(out), image_size=4)["train"]
  assert source.fields(3)["captions"] == ("another",)
  assert source.fingerprint != before


def test_other_settings_need_another_folder(tmp_path):
  pattern = shards(tmp_path)
  converted(tmp_path, pattern)
  with pytest.raises(
    folder.DataError, match="with shorter_side=0, now it is 4"
  ):
    converted(tmp_path, pattern, shorter_side=4)
  occupied = tmp_path / "occupied"
  (occupied / "out").mkdir(parents=True)
  (occupied / "out" / "precious").write_text("x")
  with pytest.raises(
    folder.DataError, match="not empty and holds no conversion"
  ):
    converted(occupied, pattern)


@pytest.mark.parametrize(
  "options, message",
  [
    (dict(format="zip"), "format must be one of auto, tar"),
    (dict(shorter_side=-1), "shorter_side must be 0 or more; got -1"),
    (dict(validation=0.6, test=0.5), "together below 1; got 0.6 and 0.5"),
    (dict(validation=-0.1), "shares of at least 0"),
  ],
)
def test_settings_out_of_range(options, message):
  with pytest.raises(ValueError, match=message):
    records.Settings(("x",), **options)


def test_inputs_that_are_not_there_or_not_known(tmp_path):
  with pytest.raises(folder.DataError, match="names no file with pairs"):
    converted(tmp_path, tmp_path / "*.tar")
  (tmp_path / "empty").mkdir()
  with pytest.raises(folder.DataError, match="names no file with pairs"):
    converted(tmp_path, tmp_path / "empty")
  (tmp_path / "a.bin").write_bytes(b"x")
  with pytest.raises(folder.DataError, match="a.bin: the format is not clear"):
    converted(tmp_path, tmp_path / "a.bin")


def test_captions_are_held_out_together(tmp_path):
  members = []
  for i in range(300):
    members += pair(f"{i}a", RED, f"caption {i}") + pair(
      f"{i}b", BLUE, f"Caption  {i}"
    )
  shard = write_tar(tmp_path / "a.tar", members)
  out, summary = converted(tmp_path, shard, validation=0.1, test=0.2)
  sizes = summary.examples
  assert 30 < sizes["validation"] < 100 and 80 < sizes["test"] < 160
  texts = {
    split: {r["captions"][0].lower().split()[1] for r in read(out, split)}
    for split in sizes
  }
  assert not texts["train"] & (texts["validation"] | texts["test"])
  assert {split: 2 * len(t) for split, t in texts.items()} == sizes
  ids = [r["concept_id"] for r in read(out)]
  assert ids[0] == ids[1] and len(set(ids)) == len(ids) // 2


def test_larger_images_are_made_smaller(tmp_path):
  shard = write_tar(
    tmp_path / "a.tar",
    [
      *pair("large", picture("red", (90, 60), "JPEG"), "large", "jpg"),
      *pair("small", RED, "small"),
    ],
  )
  out, _ = converted(tmp_path, shard, shorter_side=20)
  stored = records.load(str(out), image_size=4)["train"]._files[0]
  with Image.open(io.BytesIO(stored[0])) as image:
    assert image.size == (30, 20) and image.format == "JPEG"
  assert stored[1] == RED


# Reading.


@pytest.fixture
def two(tmp_path):
  outs = []
  for name, count in (("a", 4), ("b", 12)):
    (tmp_path / name).mkdir()
    pattern = shards(tmp_path / name, 2, count // 2)
    outs.append(str(converted(tmp_path / name, pattern)[0]))
  return outs


def batches(data, count, **options):
  iterator = pipeline.train_batches(
    data.splits["train"],
    tokenizer=data.tokenizer,
    sampler=pipeline.CaptionSampler(languages={"": 1.0}),
    context_length=8,
    seed=3,
    **{"batch_size": 8, **options},
  )
  return iterator, [next(iterator) for _ in range(count)]


def test_a_mixture_is_drawn_by_its_weights(two):
  data = sources.load_records(
    two, image_size=4, weights=(3.0, 1.0), vocab_size=300
  )
  assert sources.index_bound(data.splits["train"]) == 16
  _, found = batches(data, 24)
  index = np.concatenate([b["index"] for b in found])
  assert np.sum(index < 4) == 144 and len(index) == 192
  # Each part has epochs of its own.
  for part in (
    index[index < 4].reshape(-1, 4),
    index[index >= 4].reshape(-1, 12),
  ):
    assert all(len(set(epoch)) == len(epoch) for epoch in part)
    assert len({tuple(epoch) for epoch in part}) > 1


def test_without_weights_an_epoch_has_every_pair_once(two):
  data = sources.load_records(two, image_size=4, vocab_size=300)
  _, found = batches(data, 4)
  index = np.concatenate([b["index"] for b in found])
  assert sorted(index[:16]) == list(range(16)) == sorted(index[16:])
  assert data.splits["train"].fields(5)["captions"][0].text == "shard 0 1"


def test_hosts_share_a_mixture_and_its_state_goes_on(two):
  data = sources.load_records(
    two, image_size=4, weights=(1.0, 1.0), vocab_size=300
  )
  iterator, whole = batches(data, 6)
  state = iterator.get_state()
  after = next(iterator)
  parts = [
    batches(data, 6, process_index=i, process_count=2)[1] for i in range(2)
  ]
  for i, batch in enumerate(whole):
    joined = np.concatenate([part[i]["image"] for part in parts])
    np.testing.assert_array_equal(joined, batch["image"])
  again, _ = batches(data, 0)
  again.set_state(state)
  np.testing.assert_array_equal(next(again)["index"], after["index"])


def test_sources_are_read_by_other_processes(two):
  source = records.load(two[0], image_size=4)["train"]
  first = source[0]
  copy = pickle.loads(pickle.dumps(source))
  np.testing.assert_array_equal(copy[0]["image"], first["image"])
  assert repr(copy) == repr(source)
  with pytest.raises(IndexError):
    copy[4]


def test_the_fingerprint_follows_content_order_and_weights(tmp_path, two):
  def fingerprint(paths, weights=()):
    data = sources.load_records(
      paths, image_size=4, weights=weights, vocab_size=300
    )
    return data.fingerprint

  made = [
    fingerprint(two),
    fingerprint(two[::-1]),
    fingerprint(two, (1.0, 2.0)),
    fingerprint(two[:1]),
  ]
  assert len(set(made)) == len(made)
  assert fingerprint(two) == made[0]
  with pytest.raises(ValueError, match="weights must be one a source; got 1"):
    records.Mixture([1, 2], [1.0])


@pytest.mark.parametrize("mixture", ["1", "1,nan", "inf,1", "1,-1", "1,x"])
def test_weights_of_a_mixture_are_checked(two, tmp_path, mixture):
  values = config_lib.default_config()
  values.data.name, values.data.path = "records", ",".join(two)
  values.data.mixture = mixture
  config = config_lib.parse(values.to_dict())
  message = f"a number above 0 for each .* \\(2\\); got '{mixture}'"
  with pytest.raises(config_lib.ConfigError, match=message):
    pair_data.open_data(config, tmp_path, lambda line: None)


def test_records_are_opened_by_a_configuration(two, tmp_path):
  values = config_lib.default_config()
  values.data.name, values.data.path = "records", f"{two[0]}, {two[1]}"
  values.data.mixture, values.data.fit = "3,1", "crop"
  config = config_lib.parse(values.to_dict())
  data = pair_data.open_data(config, tmp_path, lambda line: None)
  assert data.splits["train"].weights == (3.0, 1.0)
  assert len(data.splits["train"]) == 16
  # Cut to the middle: nothing of it is white.
  assert (data.splits["train"][0]["image"][0] < 250).any(axis=-1).all()
  assert (tmp_path / "tokenizer.json").exists()
  again = pair_data.open_data(config, tmp_path, lambda line: None)
  assert again.fingerprint == data.fingerprint


def test_damaged_records_are_named(two):
  root = pathlib.Path(two[0])
  path = root / "train" / "00000.image.array_record"
  data = path.read_bytes()
  place = data.index(b"IHDR")
  path.write_bytes(data[:place] + bytes(40) + data[place + 40 :])
  source = records.load(two[0], image_size=4)["train"]
  with pytest.raises(
    folder.DataError, match="Pair 0 in .*00000.image.* cannot be read"
  ):
    source[0]
  (root / "dataset.json").write_text("{}")
  with pytest.raises(folder.DataError, match="dataset.json is damaged"):
    records.load(two[0], image_size=4)
  (root / "dataset.json").unlink()
  with pytest.raises(folder.DataError, match="holds no finished conversion"):
    records.load(two[0], image_size=4)


def test_squares_by_padding_cropping_and_stretching(tmp_path):
  image = Image.new("RGB", (16, 8), "red")
  image.paste("blue", (4, 0, 12, 8))
  file = io.BytesIO()
  image.save(file, format="PNG")
  shard = write_tar(tmp_path / "a.tar", pair("a", file.getvalue(), "x"))
  out, _ = converted(tmp_path, shard)
  found = {
    fit: read(out, fit=fit)[0]["image"] for fit in ("pad", "crop", "stretch")
  }
  assert found["pad"][0].tolist() == [[255, 255, 255]] * 4
  # The middle of the picture is blue, its edges are red.
  assert found["crop"][2, 0, 2] > 180 and found["crop"][2, 3, 2] > 180
  assert found["stretch"][2, 0, 0] > 180 and found["stretch"][0, 2, 2] > 180


def test_a_killed_process_is_told(tmp_path, monkeypatch):
  fork = multiprocessing.get_context("fork")
  monkeypatch.setattr(
    conversion.multiprocessing, "get_context", lambda unused: fork
  )
  monkeypatch.setattr(conversion, "_convert_unit", _die)
  with pytest.raises(folder.DataError, match="died: killed .* fewer --workers"):
    converted(tmp_path, shards(tmp_path), workers=2)


def _die(*unused):
  os._exit(9)


def test_compressed_data_that_is_wrong_is_a_problem(tmp_path):
  shard = tmp_path / "a.tar.gz"
  shard.write_bytes(gzip.compress(b"hello" * 1000))
  assert [p.key for p in tars.read(shard)] == ["a.tar.gz"]
  assert tables.USUAL == records.Columns()


# What other people's files are like.


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


def test_what_is_lost_counts_not_the_lines_that_say_so(tmp_path):
  for i in range(3):
    (tmp_path / f"{i}.tar").write_bytes(b"<html>gone</html>" * 99)
  good = [m for i in range(100) for m in pair(str(i), RED, f"n{i}")]
  write_tar(tmp_path / "9.tar", good)
  with pytest.raises(
    folder.DataError, match="3 of 4 parts of the inputs are br"
  ):
    converted(tmp_path, tmp_path / "*.tar", max_bad_share=0.5)
  problem = items.Problem("a", "broken parquet: rows 5 to 99", 95)
  result = {"problems": [list(problem)]}
  assert conversion._counted(result) == {
    "problems": {"broken parquet": 95},
    "broken": False,
  }


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
  # What is huge is not expanded to be passed over, whatever its name.
  monkeypatch.setattr(items, "MAX_BYTES", 10_000)
  bomb = tmp_path / "c.tar.gz"
  write_tar(bomb, [("notes.npy", bytes(20_000)), *pair("a", RED, "x")], "w:gz")
  assert [f.key for f in tars.read(bomb)][:2] == ["notes.npy", "c.tar.gz"]


def test_more_parts_than_a_process_may_open_files(tmp_path):
  out, _ = converted(tmp_path, shards(tmp_path, 40, 1))
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  used = len(os.listdir("/proc/self/fd"))
  resource.setrlimit(resource.RLIMIT_NOFILE, (used + 30, hard))
  try:
    assert len(read(out)) == 40
  finally:
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_text_that_is_damaged_is_named(two):
  root = pathlib.Path(two[0])
  path = root / "train" / "00000.text.array_record"
  data = bytearray(path.read_bytes())
  data[data.index(b"captions") - 30 : data.index(b"captions") + 30] = bytes(60)
  path.write_bytes(data)
  source = records.load(two[0], image_size=4)["train"]
  with pytest.raises(folder.DataError, match="00000.text.* cannot be read"):
    source.fields(0)


def test_killed_beside_another_process_it_loses_nothing(tmp_path):
  """Two conversions into one folder, one of them killed in the middle."""
  pattern = shards(tmp_path, 30, 20)
  whole, _ = converted(tmp_path / "whole", pattern)
  out = tmp_path / "out"
  command = [sys.executable, "-m", "experiments.convert_pairs"]
  command += [f"--inputs={pattern}", f"--out={out}", "--workers=1"]
  processes = [
    subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    for _ in range(2)
  ]
  deadline = time.monotonic() + 60
  while not list(out.glob("units/*.json")) and time.monotonic() < deadline:
    time.sleep(0.002)
  processes[0].kill()
  _, errors = processes[1].communicate(timeout=100)
  processes[0].communicate()
  assert processes[1].returncode == 0, errors
  made = {k: v for k, v in files(out).items() if "/." not in f"/{k}"}
  assert made == files(whole)
  # What the killed one left is removed once it is old.
  left = out / "train" / ".00000.image.array_record.1-abc"
  left.write_bytes(b"x")
  os.utime(left, (0, 0))
  converted(tmp_path, pattern)
  assert not left.exists()


def test_a_folder_whose_settings_were_half_written_is_taken(tmp_path):
  (tmp_path / "out").mkdir()
  (tmp_path / "out" / ".conversion.json.1-abc").write_text("{")
  out, _ = converted(tmp_path, shards(tmp_path))
  assert len(read(out)) == 12
