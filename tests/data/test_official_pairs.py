"""Official files of statements about two photos and hypotheses about one."""

import json

import numpy as np
import pytest

from contrastive_jax.data import tasks
from contrastive_jax.data.sets.folder import reading
from tests.data.official_files import SIDE, all_fields, load, save, write


def write_lines(path, rows):
  path.parent.mkdir(parents=True, exist_ok=True)
  lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
  path.write_text("\n".join(lines) + "\n", encoding="utf-8")
  return path


@pytest.fixture(name="root")
def fixture_root(tmp_path):
  path = tmp_path / "images"
  path.mkdir()
  return path


# NLVR2.


def nlvr2_row(identifier, label="True", **fields):
  return {
    "identifier": identifier,
    "sentence": "Two  dogs.",
    "label": label,
    **fields,
  }


def test_nlvr2(tmp_path, root):
  for i, colour in enumerate([(10, 20, 30), (200, 100, 0)]):
    save(root / "train" / "7" / f"train-4-0-img{i}.png", colour)
    save(root / f"train-5-1-img{i}.png", colour)
    save(root / "dev" / f"dev-1-0-img{i}.png", colour)
    save(root / "test1" / f"test1-1-0-img{i}.png", colour)
  write_lines(
    tmp_path / "train.json",
    [
      nlvr2_row("train-4-0-0", directory=7),
      nlvr2_row("train-5-1-0", directory=8),
      nlvr2_row("train-4-0-1", "False", directory=7),
    ],
  )
  write_lines(tmp_path / "dev.json", [nlvr2_row("dev-1-0-1", "false")])
  write_lines(tmp_path / "test1.json", [nlvr2_row("test1-1-0-1")])
  data = load("nlvr2", "nlvr2", tmp_path, root)
  assert (data.task, data.answers) == ("nlvr2", ())
  assert list(data.splits) == ["train", "validation", "test"]
  assert all_fields(data.splits["train"])[:2] == [
    {
      "index": 0,
      "image_id": 0,
      "second_image_id": 1,
      "statement": "Two dogs.",
      "label": 1,
      "kind": "",
      "identifier": "train-4-0-0",
    },
    {
      "index": 2,
      "image_id": 0,
      "second_image_id": 1,
      "statement": "Two dogs.",
      "label": 0,
      "kind": "",
      "identifier": "train-4-0-1",
    },
  ]
  record = data.splits["train"][2]
  assert record["identifier"] == "train-5-1-0"
  np.testing.assert_array_equal(record["image"][0, 0], (10, 20, 30))
  np.testing.assert_array_equal(record["second_image"][0, 0], (200, 100, 0))
  assert data.splits["validation"].fields(0)["label"] == 0
  assert data.fingerprint == data.splits["train"].fingerprint


def test_nlvr2_of_albef(tmp_path, root):
  save(root / "a.png", (10, 20, 30))
  save(root / "b.png", (40, 50, 60))
  row = {"images": ["b.png", "a.png"], "sentence": "So.", "label": True}
  path = write(tmp_path / "nlvr_train.json", [row])
  data = load("nlvr2", "albef", path, root)
  record = data.splits["train"][0]
  np.testing.assert_array_equal(record["image"][0, 0], (40, 50, 60))
  np.testing.assert_array_equal(record["second_image"][0, 0], (10, 20, 30))
  assert data.splits["train"].fields(0) == {
    "index": 0,
    "image_id": 0,
    "second_image_id": 1,
    "statement": "So.",
    "label": 1,
    "kind": "",
    "identifier": "",
  }


@pytest.mark.parametrize(
  ("format", "row", "problem"),
  [
    ("nlvr2", nlvr2_row("train-4-0-0", "Maybe"), "wrong label: 'maybe'"),
    ("nlvr2", nlvr2_row("train-4-0-0", 1), '"label" is a number'),
    ("nlvr2", nlvr2_row("train"), "not as train-4-0-1"),
    ("nlvr2", nlvr2_row("../../x-0-0"), "unsafe path"),
    ("nlvr2", nlvr2_row("train-4-0-0", directory="../.."), "unsafe path"),
    ("nlvr2", nlvr2_row("train-9-0-0"), "missing file"),
    ("nlvr2", '{"identifier": "train-4', "not JSON"),
    ("albef", {"images": ["a.png"], "sentence": "a", "label": "True"}, "two f"),
    ("albef", {"images": [1, 2], "sentence": "a", "label": "True"}, "two f"),
    (
      "albef",
      {"images": ["train-4-0-img0.png"] * 2, "label": "True"},
      "senten",
    ),
  ],
)
def test_bad_pairs(tmp_path, root, format, row, problem):
  for i in range(2):
    save(root / f"train-4-0-img{i}.png")
  path = write_lines(tmp_path / "train.json", [row])
  with pytest.raises(reading.DataError, match=problem):
    load("nlvr2", format, path, root)


def test_second_images_keep_their_numbers(tmp_path, root):
  rows = [
    {"images": [f"{a}.png", f"{b}.png"], "sentence": "So.", "label": "True"}
    for a, b in ((0, 1), (2, 3))
  ]
  for i in range(4):
    save(root / f"{i}.png")
  path = write(tmp_path / "nlvr_train.json", rows)
  before = load("nlvr2", "albef", path, root).splits["train"].fields(1)
  (root / "0.png").unlink()
  data = load("nlvr2", "albef", path, root, max_bad_share=0.5)
  assert data.splits["train"].fields(0) == before
  assert (before["image_id"], before["second_image_id"]) == (2, 3)


# SNLI-VE.


def snli_row(image="36979", label="entailment", text="Two men talk."):
  return {
    "Flickr30K_ID": image,
    "sentence2": text,
    "gold_label": label,
    "pairID": f"{image}.jpg#1r1e",
  }


def test_snli_ve(tmp_path, root):
  save(root / "36979.jpg")
  save(root / "65567.jpg")
  report = tmp_path / "skipped.jsonl"
  lines = []
  write_lines(
    tmp_path / "snli_ve_train.jsonl",
    [
      snli_row(label="contradiction"),
      snli_row("65567"),
      snli_row(label="-"),
      snli_row("36979.jpg", "neutral"),
      snli_row(36979, " Entailment"),
    ],
  )
  write_lines(tmp_path / "snli_ve_dev.jsonl", [snli_row("65567")])
  data = load(
    "entailment",
    "snli_ve",
    tmp_path,
    root,
    max_bad_share=0.0,  # Rows without agreement are no fault.
    report_path=report,
    report=lines.append,
  )
  assert (data.name, data.task) == ("snli_ve", "entailment")
  train = all_fields(data.splits["train"])
  assert [(r["index"], r["image_id"], r["label"]) for r in train] == [
    (0, 0, 0),
    (3, 0, 1),
    (4, 0, 2),
    (1, 1, 2),
  ]
  assert train[3] == {
    "index": 1,
    "image_id": 1,
    "hypothesis": "Two men talk.",
    "label": tasks.ENTAILMENT_LABELS.index("entailment"),
    "kind": "",
    "identifier": "65567.jpg#1r1e",
  }
  assert "1 of 5 rows" in lines[0] and "no gold label: 1" in lines[0]
  assert "1 images are both in train and in validation" in lines[1]
  assert json.loads(report.read_text())["row"] == 3
  assert data.splits["train"][0]["image"].shape == (SIDE, SIDE, 3)


def test_snli_ve_without_any_agreement(tmp_path, root):
  path = write_lines(tmp_path / "snli_ve_train.jsonl", [snli_row(label="-")])
  with pytest.raises(reading.DataError, match="'train' .*no gold label"):
    load("entailment", "snli_ve", path, root)


def test_entailment_of_albef(tmp_path, root):
  save(root / "36979.jpg")
  rows = [{"image": "36979", "sentence": "So.", "label": "neutral"}]
  path = write(tmp_path / "ve_train.json", rows)
  data = load("entailment", "albef", path, root)
  assert data.splits["train"].fields(0) == {
    "index": 0,
    "image_id": 0,
    "hypothesis": "So.",
    "label": 1,
    "kind": "",
    "identifier": "",
  }


@pytest.mark.parametrize(
  ("row", "problem"),
  [
    (snli_row(label="contradicts"), "wrong label: 'contradicts'"),
    (snli_row(label=None), '"gold_label" is null'),
    (snli_row(text=""), "empty text"),
    (snli_row(image="../../etc/passwd"), "unsafe path"),
    (snli_row(image=" "), "names no image"),
    (snli_row(image="1"), "missing file"),
    ({"sentence2": "a", "gold_label": "neutral"}, 'there is no "Flickr30K_ID"'),
  ],
)
def test_bad_hypotheses(tmp_path, root, row, problem):
  save(root / "36979.jpg")
  rows = [*[snli_row()] * 9, row]
  path = write_lines(tmp_path / "snli_ve_train.jsonl", rows)
  with pytest.raises(reading.DataError, match=problem):
    load("entailment", "snli_ve", path, root)
  data = load("entailment", "snli_ve", path, root, max_bad_share=0.1)
  assert len(data.splits["train"]) == 9


# The fingerprint of a data set.


def test_fingerprints_follow_the_training_records(tmp_path, root):
  save(root / "36979.jpg")

  def fingerprint(train, dev):
    files = {
      "train": write_lines(tmp_path / "train.jsonl", [train]),
      "dev": write_lines(tmp_path / "dev.jsonl", [dev]),
    }
    return load("entailment", "snli_ve", files, root).fingerprint

  first = fingerprint(snli_row(), snli_row())
  assert first == fingerprint(snli_row(), snli_row(label="neutral"))
  assert first != fingerprint(snli_row(label="neutral"), snli_row())
  assert first != fingerprint(snli_row(text="Other."), snli_row())
