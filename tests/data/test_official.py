"""Official files of captioned images, and what all official formats share."""

import functools
import json
import os
import pickle

import numpy as np
import pytest

from contrastive_jax.data import sources
from contrastive_jax.data.sets import official
from contrastive_jax.data.sets.folder import reading
from tests.data import official_files
from tests.data.official_files import SIDE, save, write


@pytest.fixture(name="root")
def fixture_root(tmp_path):
  """Four images, each of its own colour: the first is (0, 50, 100)."""
  for i in range(4):
    save(tmp_path / "images" / f"{i}.png", (i * 20, 50, 100))
  return tmp_path / "images"


load = functools.partial(official_files.load, "captions")


def texts(source, i):
  return [caption.text for caption in source.fields(i)["captions"]]


def listed(path):
  entries = map(json.loads, path.read_text("utf-8").splitlines())
  return [(e["row"], e["image"], e["problem"].split(":")[0]) for e in entries]


def rows_of(n=4):
  return [{"image": f"{i}.png", "caption": f"thing {i}"} for i in range(n)]


# COCO.


def coco(names, captions):
  return {
    "info": {},
    "images": [{"id": i, "file_name": name} for i, name in names.items()],
    "annotations": [
      {"id": n, "image_id": i, "caption": text}
      for n, (i, text) in enumerate(captions)
    ],
  }


def test_coco(tmp_path, root):
  save(root / "train2017" / "9.png", (7, 8, 9))
  folder_name = tmp_path / "annotations"
  write(
    folder_name / "captions_train2017.json",
    coco(
      {30: "0.png", 9: "9.png"},
      [(9, "A  cup.\n"), (30, "A dog."), (9, "A red cup."), (9, " ")],
    ),
  )
  write(
    folder_name / "captions_val2017.json", coco({5: "2.png"}, [(5, "A cat.")])
  )
  splits = load("coco", folder_name, root)
  assert list(splits) == ["train", "validation"]
  train, validation = splits.values()
  assert len(train) == 2 and len(validation) == 1
  assert texts(train, 0) == ["A dog."]
  assert texts(train, 1) == ["A cup.", "A red cup."]  # In train2017.
  assert train.fields(1) == {
    "index": 1,
    "concept_id": 1,
    "captions": sources.name_captions(["A cup.", "A red cup."]),
    "label": "",
  }
  record = train[1]
  assert record["image"].shape == (SIDE, SIDE, 3)
  assert record["image"].dtype == np.uint8
  np.testing.assert_array_equal(record["image"][4, 4], (7, 8, 9))
  assert validation.fields(0)["concept_id"] == 2  # Not that of a train image.


def test_coco_rows_that_belong_to_nothing(tmp_path, root):
  value = coco({0: "0.png", 1: "1.png"}, [(0, "A dog."), (77, "A lost one.")])
  value["annotations"].append({"image_id": 0, "caption": None})
  path = write(tmp_path / "captions_train2017.json", value)
  report = tmp_path / "run" / "skipped.jsonl"
  lines = []
  splits = load(
    "coco",
    path,
    root,
    max_bad_share=0.8,
    report_path=report,
    report=lines.append,
  )
  assert len(splits["train"]) == 1
  assert sorted(listed(report)) == [
    (2, None, "no caption"),
    (2, None, "unknown image"),
    (3, None, "wrong type"),
  ]
  (line,) = lines
  assert "3 of 4 rows of the split 'train'" in line and str(report) in line


def test_coco_of_two_years_in_a_folder(tmp_path, root):
  for year in (2014, 2017):
    write(tmp_path / f"captions_train{year}.json", coco({}, []))
  with pytest.raises(reading.DataError, match=r"captions_train\*"):
    load("coco", tmp_path, root)


# Karpathy's splits.


def karpathy_image(i, split, **fields):
  sentences = [{"raw": f"thing {i}", "tokens": []}, {"raw": f"one {i}"}]
  return {
    "filename": f"{i}.png",
    "split": split,
    "sentences": sentences,
    **fields,
  }


def test_karpathy(tmp_path, root):
  save(root / "val2014" / "0.png", (1, 2, 3))
  path = write(
    tmp_path / "dataset_coco.json",
    {
      "images": [
        karpathy_image(3, "test"),
        karpathy_image(0, "restval", filepath="val2014"),
        karpathy_image(1, "train", filepath="train2014"),  # All in one folder.
        karpathy_image(2, "val"),
      ]
    },
  )
  splits = load("karpathy", path, root)
  assert {name: len(split) for name, split in splits.items()} == {
    "train": 2,
    "validation": 1,
    "test": 1,
  }
  assert texts(splits["train"], 0) == ["thing 0", "one 0"]
  np.testing.assert_array_equal(splits["train"][0]["image"][0, 0], (1, 2, 3))
  assert texts(splits["train"], 1) == ["thing 1", "one 1"]
  assert texts(splits["test"], 0) == ["thing 3", "one 3"]


def test_karpathy_of_an_unknown_split(tmp_path, root):
  path = write(
    tmp_path / "dataset_flickr30k.json",
    {"images": [karpathy_image(0, "train"), karpathy_image(1, "extra")]},
  )
  with pytest.raises(reading.DataError, match="unknown split: 'extra'"):
    load("karpathy", path, root)
  splits = load("karpathy", path, root, max_bad_share=0.5)
  assert list(splits) == ["train"] and len(splits["train"]) == 1


# ALBEF's lists.


def test_albef(tmp_path, root):
  whole = str(root / "2.png")  # As its authors' own lists have them.
  files = {
    "train": [
      write(
        tmp_path / "a_train.json",
        [
          {"image": "0.png", "caption": "a", "image_id": "x_0"},
          {"image": whole, "caption": "b", "image_id": "x_2"},
          {"image": "./0.png", "caption": "c", "image_id": "x_0"},
        ],
      ),
      write(tmp_path / "more.json", [{"image": "3.png", "caption": "d"}]),
    ],
    "val": write(
      tmp_path / "a_val.json", [{"image": "1.png", "caption": ["e", "f", "e"]}]
    ),
  }
  splits = load("albef", files, str(root))
  assert list(splits) == ["train", "validation"]
  train = splits["train"]
  assert [texts(train, i) for i in range(3)] == [["a", "c"], ["b"], ["d"]]
  assert texts(splits["validation"], 0) == ["e", "f"]


def test_images_of_two_splits_are_told(tmp_path, root):
  path = write(tmp_path / "a.json", rows_of(3))
  lines = []
  splits = load(
    "albef", {"train": path, "test": path}, root, report=lines.append
  )
  assert (
    len(lines) == 1 and "3 images are both in train and in test" in lines[0]
  )
  assert splits["test"].fields(1)["concept_id"] == 1


# Lists from the web.


def test_list_of_urls(tmp_path, root):
  path = tmp_path / "Train_GCC-training.tsv"
  path.write_text(
    "a dog\thttp://host/x/0.png?w=100\n"
    "\n"
    "a cat\t1.png\n"
    "an ox\thttp://host/y/%32.png\tlabel\n",
    encoding="utf-8",
  )
  (split,) = load("list", path, root).values()
  assert [texts(split, i) for i in range(3)] == [
    ["a dog"],
    ["a cat"],
    ["an ox"],
  ]
  np.testing.assert_array_equal(split[2]["image"][0, 0], (40, 50, 100))


def test_list_with_names_of_its_images(tmp_path, root):
  path = tmp_path / "list.tsv"
  path.write_text("a dog\thttp://h/d.jpg\na cat\thttp://h/c.jpg\n", "utf-8")
  table = {"http://h/d.jpg": "3.png", "http://h/c.jpg": "1.png"}
  for names in (table, write(tmp_path / "names.json", table)):
    (split,) = load("list", path, root, names=names).values()
    np.testing.assert_array_equal(split[0]["image"][0, 0], (60, 50, 100))
  with pytest.raises(reading.DataError, match="names .*http://h/c.jpg"):
    load("list", path, root, names={"http://h/d.jpg": "3.png"})
  with pytest.raises(ValueError, match="^names .*'albef'"):
    load("albef", path, root, names=table)
  with pytest.raises(reading.DataError, match="names.json"):
    load("list", path, root, names=write(tmp_path / "names.json", [1]))


def test_urls_that_end_alike_are_not_mixed_up(tmp_path, root):
  path = tmp_path / "list.tsv"
  path.write_text("dog\thttp://a/0.png\ncat\thttp://b/0.png\n", "utf-8")
  with pytest.raises(reading.DataError, match="ambiguous name: 0.png"):
    load("list", path, root)
  (split,) = load("list", path, root, max_bad_share=0.5).values()
  assert texts(split, 0) == ["dog"]


@pytest.mark.parametrize(
  "value",
  [
    {
      "image_urls": ["http://h/0.png", "http://h/1.png"],
      "captions": ["a", "b"],
    },
    [["0.png", "a"], ["1.png", "b"]],
    [
      {"url": "http://h/0.png", "caption": "a"},
      {"image": "1.png", "caption": "b"},
    ],
  ],
)
def test_list_as_json(tmp_path, root, value):
  path = write(tmp_path / "sbu.json", value)
  (split,) = load("list", path, root).values()
  assert [texts(split, i) for i in range(2)] == [["a"], ["b"]]


def test_list_of_unequal_lengths(tmp_path, root):
  path = write(
    tmp_path / "sbu.json", {"image_urls": ["0.png"], "captions": ["a", "b"]}
  )
  with pytest.raises(reading.DataError, match="1 image_urls .* 2 captions"):
    load("list", path, root)


def test_list_without_tabs(tmp_path, root):
  path = tmp_path / "list.tsv"
  path.write_text("a dog 0.png\n", "utf-8")
  with pytest.raises(reading.DataError, match="row 1 of .*malformed row"):
    load("list", path, root)


# Bad input, the same in all formats.


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (b'[{"image": "0.png", "capt', "a.json is not JSON"),
    (b'[{"image": "0.png", "caption": "\xff"}]', "is not UTF-8"),
    ("[]".encode("utf-16"), "is UTF-16"),
    (b"[]", "has no row that can be used"),
    (b"", "is empty; expected a list"),
    (b"[1]", "malformed row: it is a number"),
    (b'[{"caption": "a"}]', 'missing key: there is no "image"'),
    (b'[{"image": 3, "caption": "a"}]', '"image" is a number instead of text'),
    (b'[{"image": "0.png", "caption": true}]', "is true or false instead of"),
    (b'[{"image": "0.png", "caption": [1]}]', "text or a list of texts"),
    (b'[{"image": "0.png", "caption": ""}]', "no caption"),
    (b'[{"image": "0.png", "caption": "\\ud800"}]', "invalid UTF-8"),
    (b'[{"image": " ", "caption": "a"}]', "empty text"),
    (b'{"image": "0.png", "capt', "not JSON"),
    (b"[" * 100_000, "is not JSON"),
  ],
)
def test_a_bad_file(tmp_path, root, content, message):
  path = tmp_path / "a.json"
  path.write_bytes(content)
  with pytest.raises(reading.DataError, match=message) as caught:
    load("albef", path, root)
  assert str(path) in str(caught.value) or "'train'" in str(caught.value)


@pytest.mark.parametrize(
  ("value", "message"),
  [
    ([], "holds a list; expected COCO captions"),
    ({"annotations": []}, r'has no "images" \(its keys: \'annotations\'\)'),
    ({"images": {}, "annotations": []}, '"images" of .* is an object'),
  ],
)
def test_json_of_another_format(tmp_path, root, value, message):
  with pytest.raises(reading.DataError, match=message):
    load("coco", write(tmp_path / "a.json", value), root)


@pytest.mark.parametrize(
  ("image", "problem"),
  [
    ("../../etc/passwd", "unsafe path"),
    ("../outside.png", "unsafe path"),
    ("/etc/passwd", "unsafe path"),
    ("C:\\a.png", "unsafe path"),
    ("link.png", "unsafe path"),
    ("none.png", "missing file"),
    (".", "missing file"),
    ("a\0b.png", "missing file"),
  ],
)
def test_an_image_that_is_not_there(tmp_path, root, image, problem):
  save(tmp_path / "outside.png")
  os.symlink(tmp_path / "outside.png", root / "link.png")
  rows = [*rows_of(), {"image": image, "caption": "a"}]
  path = write(tmp_path / "a.json", rows)
  with pytest.raises(reading.DataError, match=f"row 5 of .*{problem}"):
    load("albef", path, root)
  report = tmp_path / "skipped.jsonl"
  splits = load("albef", path, root, max_bad_share=0.2, report_path=report)
  assert len(splits["train"]) == 4
  assert listed(report) == [(5, image, problem)]


def test_one_bad_line_of_many(tmp_path, root):
  lines = [json.dumps(row).encode() for row in rows_of(3)]
  path = tmp_path / "a.jsonl"
  path.write_bytes(b"\n".join([*lines, b"\xff{}", b'{"image": "3.p']))
  report = tmp_path / "skipped.jsonl"
  with pytest.raises(reading.DataError, match="2 of 5 rows"):
    load("albef", path, root, max_bad_share=0.39, report_path=report)
  splits = load("albef", path, root, max_bad_share=0.4, report_path=report)
  assert len(splits["train"]) == 3
  assert listed(report) == [
    (4, None, "invalid UTF-8"),
    (5, None, "malformed row"),
  ]


def test_a_small_split_is_not_hidden_by_a_large_one(tmp_path, root):
  train = write(tmp_path / "train.json", rows_of() * 50)
  test = write(tmp_path / "test.json", [{"image": "no.png", "caption": "a"}])
  with pytest.raises(reading.DataError, match=r"\b1 of 1\b.*'test'"):
    load("albef", {"train": train, "test": test}, root)


def test_a_folder_or_file_that_is_not_there(tmp_path, root):
  good = write(tmp_path / "a.json", rows_of())
  with pytest.raises(reading.DataError, match="none.json"):
    load("albef", tmp_path / "none.json", root)
  with pytest.raises(reading.DataError, match="images "):
    load("albef", {"train": root}, root)
  with pytest.raises(reading.DataError, match="^path .*train"):
    load("albef", {"train": []}, root)
  with pytest.raises(reading.DataError, match="images .*dataset_"):
    load("karpathy", root, root)
  with pytest.raises(reading.DataError, match="nowhere .*image_root"):
    load("albef", good, tmp_path / "nowhere")
  with pytest.raises(reading.DataError, match="a.json .*image_root"):
    load("albef", good, good)


def test_wrong_arguments(tmp_path, root):
  good = write(tmp_path / "a.json", rows_of())
  with pytest.raises(ValueError, match="^format .*'cocoa'"):
    load("cocoa", good, root)
  with pytest.raises(ValueError, match="^task .*'caption'"):
    official.load("caption", "coco", good, root, image_size=8)
  with pytest.raises(ValueError, match="^max_bad_share .*5"):
    load("albef", good, root, max_bad_share=5)
  with pytest.raises(ValueError, match="^image_size .*0"):
    load("albef", good, root, image_size=0)


@pytest.mark.parametrize(
  ("name", "split"),
  [
    ("captions_val2017.json", "validation"),
    ("ve_dev.json", "validation"),
    ("test1.json", "test"),
    ("contest.json", "train"),
    ("list.json", "train"),
  ],
)
def test_a_single_file_is_of_the_split_in_its_name(tmp_path, root, name, split):
  path = write(tmp_path / name, rows_of())
  assert list(load("albef", path, root)) == [split]


# Sources.


def test_numbers_stay_when_an_image_goes(tmp_path, root):
  path = write(tmp_path / "a.json", rows_of())
  before = load("albef", path, root)["train"]
  (root / "1.png").unlink()
  after = load("albef", path, root, max_bad_share=0.3)["train"]
  assert [before.fields(i)["index"] for i in range(4)] == [0, 1, 2, 3]
  assert [after.fields(i)["index"] for i in range(3)] == [0, 2, 3]
  assert before.fingerprint != after.fingerprint
  assert after.index_bound == 4


def test_the_fingerprint_is_of_the_data(tmp_path, root):
  rows = rows_of()
  path = write(tmp_path / "a.json", rows)
  first = load("albef", path, root)["train"]
  root.rename(tmp_path / "moved")
  moved = load("albef", path, tmp_path / "moved")["train"]
  assert first.fingerprint == moved.fingerprint
  rows[2]["caption"] = "another thing"
  other = load("albef", write(path, rows), tmp_path / "moved")["train"]
  assert first.fingerprint != other.fingerprint


def test_images_are_decoded_when_asked_for(tmp_path, root):
  (root / "2.png").write_bytes(b"<html>gone</html>")
  path = write(tmp_path / "a.json", rows_of())
  source = load("albef", path, root)["train"]
  assert texts(source, 2) == ["thing 2"]
  assert source[1]["image"].shape == (SIDE, SIDE, 3)
  with pytest.raises(reading.DataError, match="2.png .*verify=True"):
    source[2]
  with pytest.raises(reading.DataError, match="undecodable image: 1"):
    load("albef", path, root, verify=True)
  report = tmp_path / "skipped.jsonl"
  checked = load(
    "albef", path, root, verify=True, max_bad_share=0.25, report_path=report
  )["train"]
  assert [checked.fields(i)["index"] for i in range(len(checked))] == [0, 1, 3]
  assert [(row, kind) for row, _, kind in listed(report)] == [
    (3, "undecodable image")
  ]


def test_a_source_like_others(tmp_path, root):
  source = load("albef", write(tmp_path / "a.json", rows_of()), root)["train"]
  copy = pickle.loads(pickle.dumps(source))
  np.testing.assert_array_equal(copy[3]["image"], source[3]["image"])
  assert copy.fields(3) == source.fields(3) and repr(copy) == repr(source)
  assert source.fields(np.int64(1)) == source.fields(1)
  for index in (-1, 4):
    with pytest.raises(IndexError):
      source[index]
    with pytest.raises(IndexError):
      source.fields(index)
