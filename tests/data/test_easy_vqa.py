"""Easy-VQA as the installed package has it."""

import importlib
import importlib.util
import json
import pickle
import sys

import numpy as np
import pytest
from PIL import Image

from contrastive_jax.data import tasks
from contrastive_jax.data.sets import easy_vqa
from contrastive_jax.data.sets.choices import Request
from contrastive_jax.data.sets.folder import reading
from contrastive_jax.training.evaluators import task_accuracy

NAMES = ("train", "validation", "test")
INSTALLED = importlib.util.find_spec("easy_vqa") is not None


def write_part(root, questions, images):
  (root / "images").mkdir(parents=True)
  (root / "questions.json").write_text(json.dumps(questions))
  for i in images:
    image = Image.new("RGB", (64, 64), (i, 100, 200))
    image.save(root / "images" / f"{i}.png")


@pytest.fixture(name="package")
def fixture_package(tmp_path, monkeypatch):
  """A package of 20 + 3 images, which must not be imported."""
  root = tmp_path / "site" / "easy_vqa"
  train = []
  for i in range(20):
    train.append(["what shape is present?", "circle", i])
    train.append(["is there a red shape?", ("yes", "no")[i % 2], i])
  train.append(["what color is the shape?", "teal", 0])
  write_part(root / "data" / "train", train, range(20))
  test = [
    ["what shape is present?", "triangle", 2],
    ["is there a red shape?", "yes", 0],
    ["what color is the shape?", "red", 2],
    ["what color is the shape?", "teal", 1],
  ]
  write_part(root / "data" / "test", test, range(3))
  (root / "__init__.py").write_text("raise RuntimeError('was imported')\n")
  monkeypatch.setattr(
    sys, "path", [str(tmp_path / "site"), *sys.path], raising=True
  )
  monkeypatch.delitem(sys.modules, "easy_vqa", raising=False)
  importlib.invalidate_caches()
  return root


def load(*, report=lambda line: None, **options):
  request = Request(task="vqa", report=report, **options)
  return easy_vqa.EasyVqa(vocab_size=300).open(request)


def records(source):
  return [source.fields(i) for i in range(len(source))]


def test_records(package):
  data = load()
  assert (data.name, data.task) == ("easy_vqa", "vqa")
  assert tuple(data.splits) == ("train", "validation", "test")
  assert data.answers == ("circle", "no", "teal", "yes")
  train = records(data.splits["train"])
  # Questions of an image follow each other.
  assert train[:3] == [
    {
      "index": 0,
      "image_id": 0,
      "question_id": 0,
      "question": "what shape is present?",
      "answers": (tasks.Answer("circle", 1.0, 10),),
      "kind": "shape",
    },
    {
      "index": 1,
      "image_id": 0,
      "question_id": 1,
      "question": "is there a red shape?",
      "answers": (tasks.Answer("yes", 1.0, 10),),
      "kind": "yes_no",
    },
    {
      "index": 40,
      "image_id": 0,
      "question_id": 40,
      "question": "what color is the shape?",
      "answers": (tasks.Answer("teal", 1.0, 10),),
      "kind": "colour",
    },
  ]
  assert "easy_vqa" not in sys.modules


def test_no_image_is_in_two_splits(package):
  data = load()
  images = {
    name: {r["image_id"] for r in records(data.splits[name])} for name in NAMES
  }
  assert images["train"] == set(range(18))
  assert images["validation"] == {18, 19}
  assert images["test"] == {20, 21, 22}
  indices = [r["index"] for name in NAMES for r in records(data.splits[name])]
  assert sorted(indices) == list(range(45))


def test_images(package):
  data = load(image_size=16)
  for name, first in (("train", 0), ("validation", 0), ("test", 20)):
    source = data.splits[name]
    for i in (0, len(source) - 1):
      record = source[i]
      assert record["image"].shape == (16, 16, 3)
      assert record["image"].dtype == np.uint8
      shown = tuple(record["image"][8, 8].tolist())
      assert shown == (record["image_id"] - first, 100, 200)
  source = data.splits["train"]
  copy = pickle.loads(pickle.dumps(source))
  np.testing.assert_array_equal(copy[7]["image"], source[7]["image"])
  for index in (-1, len(source)):
    with pytest.raises(IndexError):
      source[index]


def test_the_fingerprint_is_of_the_training_records(package):
  def fingerprint(part, row):
    path = package / "data" / part / "questions.json"
    before = path.read_text()
    rows = json.loads(before)
    rows[row][1] = "no"
    path.write_text(json.dumps(rows))
    found = load().fingerprint
    path.write_text(before)
    return found

  first = load().fingerprint
  assert first == load().fingerprint == fingerprint("test", 1)
  assert first != fingerprint("train", 1)


def test_texts_alone(package):
  # The most frequent answers are "circle", "yes" and "teal".
  found = task_accuracy.text_only_accuracy(load())
  assert found == {
    "accuracy": 0.5,
    "accuracy/shape": 0.0,
    "accuracy/yes_no": 1.0,
    "accuracy/colour": 0.5,
    "majority_accuracy": 0.0,
    "seen_texts": 1.0,
  }


def test_it_says_what_it_reads(package):
  lines = []
  load(report=lines.append)
  assert len(lines) == 1 and "45 questions on 23 images" in lines[0]


def test_the_vocabulary_is_of_questions_and_answers(package):
  tokenizer = load().tokenizer
  texts = ["what color is the shape?", "teal"]
  rows = tokenizer.encode(texts, 30)
  assert [tokenizer.decode(row) for row in rows] == texts
  assert tokenizer.vocab_size == 300
  assert load(tokenizer=tokenizer).tokenizer is tokenizer


def test_the_package_is_not_installed(tmp_path, monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(reading.DataError, match="pip install easy-vqa"):
    load()


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (b'[["what?", "circle", 0]', "questions.json"),
    (b'[["what?", "\xff", 0]]', "questions.json"),
    (b"[]", "questions.json"),
    (b'{"a": 1}', "questions.json"),
    (b'[["what?", "circle", "0"]]', "questions.json"),
    (b'[["what?", "circle"]]', "questions.json"),
    (b'[["what?", "circle", true]]', "questions.json"),
    (b'[["what?", "circle", 0]]', "train has 1 images"),
    (b'[["what?", "circle", 77]]', "missing file"),
  ],
)
def test_questions_that_are_wrong(package, content, message):
  (package / "data" / "train" / "questions.json").write_bytes(content)
  with pytest.raises(reading.DataError, match=message):
    load()


def test_a_package_that_is_wrong(package):
  image = package / "data" / "test" / "images" / "1.png"
  image.write_bytes(image.read_bytes()[:60])
  with pytest.raises(reading.DataError, match="easy_vqa/data/test/images"):
    load()
  with pytest.raises(ValueError, match="^image_size .*0"):
    load(image_size=0)
  (package / "data" / "test" / "questions.json").unlink()
  with pytest.raises(reading.DataError, match="questions.json"):
    load()
  (package / "data").rename(package / "elsewhere")
  with pytest.raises(reading.DataError, match="easy_vqa/data "):
    load()


@pytest.mark.skipif(not INSTALLED, reason="easy-vqa is not installed")
def test_the_real_package():
  data = load(image_size=8)
  assert {name: len(data.splits[name]) for name in NAMES} == {
    "train": 34_687,
    "validation": 3_888,
    "test": 9_673,
  }
  assert len(data.answers) == 13
  kinds = {r["kind"] for name in NAMES for r in records(data.splits[name])}
  assert kinds == {"yes_no", "shape", "colour"}
  found = task_accuracy.text_only_accuracy(data)
  assert found["accuracy"] == pytest.approx(0.667, abs=1e-3)
  assert found["seen_texts"] == 1.0
