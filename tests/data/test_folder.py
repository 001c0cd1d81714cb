"""A user's folder: files of every kind, good and bad, counted and listed."""

import csv
import json
import os
import pickle
import threading

import numpy as np
import pytest
from PIL import Image

from contrastive_jax.data.sets.folder import folder_images, reading
from tests.data.folders import (
  BLUE,
  RED,
  many,
  row,
  save,
  scan,
  texts,
  write_jsonl,
)


@pytest.fixture(name="root")
def fixture_root(tmp_path):
  path = tmp_path / "photos"
  path.mkdir()
  return path


def problems(root):
  """(line, image, problem up to the colon, skipped) of each listed problem."""
  text = (root.parent / "run" / "skipped.jsonl").read_text(encoding="utf-8")
  entries = map(json.loads, text.splitlines())
  return [
    (e["line"], e["image"], e["problem"].split(":")[0], e["skipped"])
    for e in entries
  ]


def names(source):
  """The first caption of every image, which the tests make its name."""
  return [texts(source, i)[0] for i in range(len(source))]


# Good folders.


def test_records_of_a_small_folder(root):
  save(root / "b.png", BLUE)
  save(root / "sub" / "a.jpg", RED, (40, 20))
  write_jsonl(
    root,
    [
      row("sub/a.jpg", "a  red bar ", "une barre", label="bar"),
      {"image": "b.png", "caption": "a blue square", "label": 7},
    ],
  )
  records = scan(root)
  assert (records.num_rows, records.num_skipped) == (2, 0)
  assert records.problems == {} and problems(root) == []
  assert records.train.labels == {"7", "bar"}
  first, second = (records.train[i] for i in range(2))
  assert set(first) == {"image", "index", "concept_id", "captions", "label"}
  assert texts(records.train, 0) == ("a blue square",) and first["label"] == "7"
  assert texts(records.train, 1) == ("a red bar", "une barre")
  assert (first["index"], second["index"]) == (0, 1)
  assert first["concept_id"] != second["concept_id"]
  # By default stored at twice the model's size; the bar is padded with white.
  assert second["image"].shape == (16, 16, 3)
  assert second["image"].dtype == np.uint8
  np.testing.assert_array_equal(second["image"][:4], 255)
  np.testing.assert_array_equal(second["image"][12:], 255)
  np.testing.assert_allclose(second["image"][4:12], [[RED] * 16] * 8, atol=6)
  with pytest.raises(IndexError):
    records.train[2]


def test_few_concepts_are_all_used_for_everything_with_a_warning(root):
  write_jsonl(root, many(root, 9))
  records = scan(root)
  assert [
    len(s) for s in (records.train, records.validation, records.test)
  ] == [
    9,
    9,
    9,
  ]
  assert len(records.warnings) == 1
  assert "Only 9 different concepts" in records.warnings[0]


def test_a_test_split_of_few_concepts_is_said(root):
  write_jsonl(root, many(root, 12))
  records = scan(root)
  assert 0 < len(records.test) < 5 < len(records.train)
  (note,) = records.warnings
  assert f"{len(records.test)} of 12 concepts" in note


def test_split_by_concept_is_stable_and_never_shares_one(root):
  rows = many(root, 120)
  for i, r in enumerate(rows):
    r["captions"] = [f"Thing  {i // 2}"]
  write_jsonl(root, rows)
  records = scan(root)
  splits = (records.train, records.validation, records.test)
  assert sum(map(len, splits)) == 120 and not records.warnings
  assert 80 <= len(records.train) <= 112
  assert min(map(len, splits)) >= 2
  concepts = [{s[i]["concept_id"] for i in range(len(s))} for s in splits]
  assert not (concepts[0] & concepts[1] | concepts[0] & concepts[2])
  assert not concepts[1] & concepts[2]
  assert (
    set.union(*concepts) == set(range(60)) == set(range(records.num_concepts))
  )
  # The order of the lines does not count, nor do further concepts.
  write_jsonl(root, rows[::-1])
  again = scan(root)
  assert [s.fingerprint for s in splits] == [
    s.fingerprint for s in (again.train, again.validation, again.test)
  ]
  assert repr(again.train) == repr(records.train)
  write_jsonl(root, rows[:100])
  fewer = scan(root)
  assert set(names(fewer.test)) <= set(names(records.test))
  assert set(names(fewer.train)) <= set(names(records.train))
  assert repr(fewer.train) != repr(records.train)


@pytest.mark.parametrize("n", range(10, 22))
def test_no_wanted_split_is_empty(root, n):
  concepts = {f"caption:{n} {i}" for i in range(n)}
  for fractions in ((0.8, 0.1, 0.1), (0.98, 0.01, 0.01), (0.9, 0.1, 0.0)):
    splits = list(reading._hashed_splits(concepts, fractions).values())
    assert len(splits) == n and splits.count("train") >= n // 2
    for split, fraction in zip(reading.SPLITS, fractions):
      assert (split in splits) == (fraction > 0)


def test_given_splits_are_followed(root):
  rows = many(root, 6)
  for r, split in zip(rows, ("train", "val", "TEST", None, "validation", "")):
    r["split"] = split
  write_jsonl(root, rows)
  records = scan(root)
  assert names(records.train) == ["thing 000", "thing 003", "thing 005"]
  assert names(records.validation) == ["thing 001", "thing 004"]
  assert names(records.test) == ["thing 002"]
  assert [records.validation[i]["index"] for i in range(2)] == [0, 1]
  assert records.warnings == ()


def test_given_splits_are_questioned_where_they_look_wrong(root):
  rows = many(root, 3)
  rows[0] |= {"split": "train", "concept_id": "x"}
  rows[1] |= {"split": "test", "concept_id": "x"}
  write_jsonl(root, rows)
  both, empty = sorted(scan(root).warnings)
  assert "1 concepts are both in train and in test" in both
  assert "'validation': it is empty" in empty
  write_jsonl(root, [r | {"split": "test"} for r in rows])
  with pytest.raises(reading.DataError, match='"train"'):
    scan(root)


def test_concepts(root):
  rows = many(root, 8)
  captions = [
    ("A cat",),
    ("a  CAT", "more"),  # The first caption agrees with 0.
    ("p", "q"),
    ("q", "p"),  # The set agrees with 2.
    ("q",),
    ("one",),
    ("two",),
    ("A cat",),
  ]
  for r, c in zip(rows, captions):
    r["captions"] = list(c)
  rows[5]["concept_id"] = rows[6]["concept_id"] = "same"
  rows[7]["concept_id"] = 12
  write_jsonl(root, rows)
  source = scan(root).train
  ids = [source[i]["concept_id"] for i in range(8)]
  assert ids[0] == ids[1] and ids[2] == ids[3] and ids[5] == ids[6]
  assert len(set(ids)) == 5
  assert ids[7] != ids[0]  # A name outranks the captions.


def test_rows_of_one_image_are_merged(root):
  save(root / "a.png")
  write_jsonl(
    root,
    [
      row("a.png", "one", "two"),
      row("./a.png", "three", label="x"),
      row("a.png", "two", label="x"),  # Nothing new.
      row("a.png", "four", label="y"),  # Contradicts.
    ],
  )
  records = scan(root)
  assert len(records.train) == 1
  assert texts(records.train, 0) == ("one", "two", "three")
  assert records.train[0]["label"] == "x"
  assert records.problems == {"duplicated row": 1, "conflicting row": 1}
  assert records.num_skipped == 1
  assert problems(root) == [
    (3, "a.png", "duplicated row", False),
    (4, "a.png", "conflicting row", True),
  ]


def test_lazy_and_cached_images_are_the_same(root):
  write_jsonl(root, many(root, 5))
  lazy, cached = scan(root, cache_bytes=0), scan(root)
  assert lazy.train._cache is None and cached.train._cache is not None
  copy = pickle.loads(pickle.dumps(cached.train))
  assert copy._cache is None and repr(copy) == repr(cached.train)
  for i in range(5):
    want = cached.train[i]
    for source in (lazy.train, copy):
      got = source[np.int64(i)]
      np.testing.assert_array_equal(got.pop("image"), want["image"])
      assert got == {k: v for k, v in want.items() if k != "image"}
  cached.train[0]["image"][:] = 0  # A caller's own copy.
  assert cached.train[0]["image"].max() > 0
  (root / "003.png").unlink()
  with pytest.raises(reading.DataError, match="003.png"):
    lazy.train[3]


def test_progress_is_reported_in_the_calling_thread(root):
  write_jsonl(root, many(root, 4))
  seen = []
  scan(
    root,
    progress=lambda *done: seen.append((done, threading.current_thread())),
  )
  assert [d for d, _ in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]
  assert {t for _, t in seen} == {threading.main_thread()}


# Image modes.


def shown(root, name, size=8):
  write_jsonl(root, [row(name)])
  records = scan(root, stored_size=size)
  assert records.problems == {}
  return records.train[0]["image"].astype(int)


@pytest.mark.parametrize(
  ("mode", "suffix"),
  [("P", "gif"), ("CMYK", "jpg"), ("CMYK", "tif"), ("RGB", "webp")]
  + [("RGB", "bmp"), ("P", "png"), ("RGB", "ppm"), ("YCbCr", "jpg")],
)
def test_colour_modes(root, mode, suffix):
  save(root / f"a.{suffix}", RED, mode=mode)
  image = shown(root, f"a.{suffix}")
  assert np.abs(image - RED).max() <= 20


def test_grey_and_sixteen_bit(root):
  Image.new("L", (9, 9), 130).save(root / "l.png")
  Image.new("1", (9, 9), 1).save(root / "one.png")
  deep = np.full((9, 9), 130 * 257, np.uint16)
  Image.fromarray(deep).save(root / "deep.png")
  Image.fromarray(deep).save(root / "deep.tif")
  Image.fromarray(np.full((9, 9), 0.5, np.float32)).save(root / "float.tif")
  for name, level in (
    ("l.png", 130),
    ("one.png", 255),
    ("deep.png", 130),
    ("deep.tif", 130),
    ("float.tif", 128),
  ):
    assert np.abs(shown(root, name) - level).max() <= 1, name


def test_transparency_is_over_white(root):
  Image.new("RGBA", (8, 8), (*RED, 0)).save(root / "clear.png")
  Image.new("LA", (8, 8), (0, 128)).save(root / "half.png")
  palette = Image.new("P", (8, 8), 0)
  palette.putpalette([*RED, *BLUE])
  palette.save(root / "palette.png", transparency=0)
  palette.save(root / "palette.gif", transparency=1)
  Image.new("RGB", (8, 8), RED).save(root / "key.png", transparency=RED)
  assert shown(root, "clear.png").min() == 255
  assert np.abs(shown(root, "half.png") - 127).max() <= 1
  assert shown(root, "palette.png").min() == 255
  np.testing.assert_array_equal(shown(root, "palette.gif")[4, 4], RED)
  assert shown(root, "key.png").min() == 255


def test_orientation_first_frame_and_aspect(root):
  sideways = Image.new("RGB", (16, 16), RED)
  sideways.paste(BLUE, (0, 0, 8, 16))  # Left half blue.
  exif = Image.Exif()
  exif[0x0112] = 6  # To be turned a quarter clockwise: blue on top.
  sideways.save(root / "turned.png", exif=exif)
  image = shown(root, "turned.png")
  assert np.abs(image[1] - BLUE).max() < 5
  assert np.abs(image[6] - RED).max() < 5
  frames = [Image.new("RGB", (8, 8), c) for c in (RED, BLUE)]
  for name in ("moving.gif", "moving.png", "moving.webp"):
    frames[0].save(root / name, save_all=True, append_images=frames[1:])
    assert np.abs(shown(root, name) - RED).max() <= 12, name
  save(root / "line.png", RED, (300, 1))
  image = shown(root, "line.png")
  assert (np.abs(image - RED).max(axis=(1, 2)) == 0).sum() == 1
  assert (image.min(axis=(1, 2)) == 255).sum() == 7


def test_large_images_shrink_without_aliasing(root):
  stripes = np.zeros((512, 512, 3), np.uint8)
  stripes[:, ::2] = 255
  Image.fromarray(stripes).save(root / "stripes.png")
  Image.fromarray(stripes).save(root / "stripes.jpg", quality=95)
  for name in ("stripes.png", "stripes.jpg"):
    assert np.abs(shown(root, name) - 127.5).max() < 6, name


# Bad rows and files.


def test_bad_files_are_counted_and_listed(root):
  save(root / "good.png")
  save(root / "whole.jpg", size=(60, 60))
  (root / "cut.jpg").write_bytes((root / "whole.jpg").read_bytes()[:400])
  (root / "text.png").write_text("no image")
  (root / "empty.png").write_bytes(b"")
  (root / "page.eps").write_text(
    "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
  )
  (root / "folder.png").mkdir()
  os.mkfifo(root / "pipe.png")
  save(root / "huge.png", size=(101, 100))
  save(root.parent / "secret.png", BLUE)
  (root / "link.png").symlink_to(root.parent / "secret.png")
  (root / "inner.png").symlink_to(root / "good.png")
  (root / "loop.png").symlink_to(root / "loop.png")
  (root / "linked").symlink_to(root.parent)
  rows = [
    row("good.png"),
    row("missing.png"),
    row("cut.jpg"),
    row("text.png"),
    row("empty.png"),
    row("page.eps"),
    row("folder.png"),
    row("pipe.png"),
    row("huge.png"),
    row("../secret.png"),
    row(str(root.parent / "secret.png")),
    row("C:\\secret.png"),
    row("link.png"),
    row("linked/secret.png"),
    row("loop.png"),
    row("a\0b.png"),
    row("x" * 300 + ".png"),
    row("inner.png", "another name"),
    row("missing.png", "again"),
  ]
  write_jsonl(root, rows)
  records = scan(root, max_pixels=10_000)
  kinds = {
    2: "missing file",
    3: "undecodable image",
    4: "undecodable image",
    5: "undecodable image",
    6: "undecodable image",
    7: "missing file",
    8: "missing file",
    9: "undecodable image",
    10: "unsafe path",
    11: "unsafe path",
    12: "unsafe path",
    13: "unsafe path",
    14: "unsafe path",
    15: "missing file",
    16: "missing file",
    17: "missing file",
    19: "missing file",
  }
  assert problems(root) == [
    (line, rows[line - 1]["image"], kind, True) for line, kind in kinds.items()
  ]
  assert records.num_rows == 19 and records.num_skipped == 17
  assert records.problems == {
    "missing file": 7,
    "undecodable image": 5,
    "unsafe path": 5,
  }
  # A link within the folder is the file it leads to.
  assert len(records.train) == 1
  assert texts(records.train, 0) == ("good.png", "another name")


def test_bad_json_lines_are_counted_and_listed(root):
  save(root / "a.png")
  lines = [
    json.dumps(row("a.png", "fine", " ")).encode(),
    b"",
    b"{not json",
    b'["a.png"]',
    b'{"captions": ["x"]}',
    b'{"image": 3, "captions": ["x"]}',
    b'{"image": "a.png"}',
    b'{"image": "a.png", "captions": []}',
    b'{"image": "a.png", "captions": ["", "  "]}',
    b'{"image": "a.png", "captions": ["x", 3]}',
    b'{"image": "a.png", "captions": ["x"], "label": ["y"]}',
    b'{"image": "a.png", "captions": ["x"], "split": "exam"}',
    b'{"image": "a.png", "captions": ["caf\xe9"]}',
    b'{"image": "a.png", "captions": ["\\ud800"]}',
    b"[" * 100_000,
    b'{"image": "a.png", "captions": null}',
  ]
  bom = b"\xef\xbb\xbf"
  (root / "captions.jsonl").write_bytes(bom + b"\r\n".join(lines))
  records = scan(root)
  assert [(line, kind) for line, _, kind, _ in problems(root)] == [
    (1, "empty caption"),
    *((line, "malformed row") for line in (3, 4, 5, 6, 7)),
    *((line, "no caption") for line in (8, 9)),
    *((line, "malformed row") for line in (10, 11)),
    (12, "unknown split"),
    (13, "invalid UTF-8"),
    (14, "invalid UTF-8"),
    (15, "malformed row"),
    (16, "no caption"),
  ]
  assert (records.num_rows, records.num_skipped) == (15, 14)
  assert texts(records.train, 0) == ("fine",)


def test_csv_with_bom_crlf_quotes_and_bad_rows(root):
  save(root / "a.png")
  save(root / "b.png", BLUE)
  data = (
    b"\xef\xbb\xbfImage, Caption ,label\r\n"
    b'a.png,"a ""red"" square, plain",square\r\n'
    b"a.png,\xe4\xb8\x80\xe4\xb8\xaa\xe6\x96\xb9\xe5\x9d\x97,square\r\n"
    b'b.png,"two\r\nlines",\r\n'
    b"b.png,caf\xe9,\r\n"
    b"b.png,too,many,cells\r\n"
    b"b.png\r\n"
    b"b.png,,square\r\n"
    b"\r\n"
  )
  (root / "captions.csv").write_bytes(data)
  records = scan(root)
  assert texts(records.train, 0) == ('a "red" square, plain', "一个方块")
  assert records.train[0]["label"] == "square"
  assert texts(records.train, 1) == ("two lines",)
  assert [(line, kind) for line, _, kind, _ in problems(root)] == [
    (6, "invalid UTF-8"),
    (7, "malformed row"),
    (8, "malformed row"),
    (9, "no caption"),
  ]
  assert (records.num_rows, records.num_skipped) == (7, 4)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_captions_column_and_delimiters(root, delimiter):
  rows = many(root, 12)
  with open(root / "captions.csv", "w", newline="", encoding="utf-8") as file:
    writer = csv.writer(file, delimiter=delimiter)
    writer.writerow(["image", "captions", "split", "concept_id"])
    for i, r in enumerate(rows):
      writer.writerow(
        [r["image"], f"first {i}| second", "test" * (i > 8), i // 3]
      )
  records = scan(root)
  assert records.num_skipped == 0
  assert (len(records.train), len(records.test)) == (9, 3)
  assert texts(records.train, 1) == ("first 1", "second")
  assert records.num_concepts == 4


def test_above_the_share_the_run_stops(root):
  rows = many(root, 20)
  (root / "003.png").write_bytes(b"broken")
  rows[5] = row("gone.png")
  write_jsonl(root, rows + ["{"])
  report = root.parent / "run" / "skipped.jsonl"
  with pytest.raises(reading.DataError) as caught:
    scan(root, max_bad_share=0.1)
  message = str(caught.value)
  assert message.startswith("3 of 21 rows of ")
  assert (
    "malformed row: 1, missing file: 1, undecodable image: 1" in message
    and f"they are listed in {report}." in message
    and "allowed share of 0.1" in message
  )
  assert "\n" not in message
  assert [line for line, *_ in problems(root)] == [4, 6, 21]
  assert scan(root, max_bad_share=3 / 21).num_skipped == 3


def test_too_many_missing_files_stop_before_decoding(root, monkeypatch):
  write_jsonl(root, many(root, 2) + [row("gone.png")])
  monkeypatch.setattr(folder_images, "decode", lambda *_: 1 / 0)
  with pytest.raises(reading.DataError, match="missing file: 1"):
    scan(root, max_bad_share=0.05)


def test_harmless_problems_do_not_stop_a_run(root):
  rows = many(root, 2)
  write_jsonl(root, rows + rows)
  records = scan(root, max_bad_share=0.0)
  assert records.problems == {"duplicated row": 2}
  assert records.num_skipped == 0


def test_a_stale_report_is_overwritten(root):
  write_jsonl(root, many(root, 2))
  report = root.parent / "run" / "skipped.jsonl"
  report.parent.mkdir()
  report.write_text("old")
  scan(root)
  assert report.read_text() == ""


def test_unusable_folders_say_what_to_do(root):
  def message(path=root):
    with pytest.raises(reading.DataError) as caught:
      scan(path)
    text = str(caught.value)
    assert "\n" not in text
    return text

  example = '{"image": "a.png", "captions": ["a red cup"], "label": "cup"}'
  text = message(root / "nowhere")
  assert "does not exist" in text and example in text
  (root / "file").write_text("")
  assert "file is not a folder" in message(root / "file")
  text = message()
  assert "neither captions.jsonl nor captions.csv" in text and example in text
  (root / "captions.csv").write_text("")
  assert "has no usable row; write one line" in message()
  (root / "captions.csv").write_text("name,words\na.png,x\n")
  text = message()
  assert "columns name, words" in text and "filepath" in text
  (root / "captions.csv").write_bytes("image,caption".encode("utf-16"))
  assert "is UTF-16; save it as UTF-8" in message()
  (root / "captions.jsonl").write_text("{}\n")
  text = message()
  assert "no usable row (malformed row: 1; listed in " in text


def test_both_files_give_a_warning(root):
  write_jsonl(root, many(root, 1))
  (root / "captions.csv").write_text("nothing")
  assert "captions.jsonl is read" in scan(root).warnings[0]


@pytest.mark.parametrize(
  ("option", "value"),
  [
    ("image_size", 0),
    ("stored_size", 0),
    ("max_bad_share", 1.5),
    ("fractions", (0.8, 0.1)),
    ("fractions", (0.8, 0.3, -0.1)),
    ("fractions", (0.0, 0.5, 0.5)),
    ("fractions", (0.8, 0.1, 0.2)),
  ],
)
def test_bad_arguments_are_refused_by_name(root, option, value):
  with pytest.raises(ValueError, match=option):
    scan(root, **{option: value})
