"""Fashion-MNIST: the subset that ships, the full files, what is wrong in them."""

import gzip
import subprocess
import sys

import numpy as np
import pytest

from contrastive_jax.data import pipeline, sources
from contrastive_jax.data.sets.choices import Request
from contrastive_jax.data.sets.fashion_mnist import FashionMnist, files
from contrastive_jax.data.sets.folder import reading
from tests.data.fashion_files import IMAGES, LABELS, idx, write, write_folder
from tools import rebuild_fashion_mnist


@pytest.fixture(name="root")
def fixture_root(tmp_path):
  return write_folder(tmp_path / "fashion")


def load(root="", *, task="images"):
  return FashionMnist(str(root)).open(Request(task=task))


def sizes(data):
  return {name: len(split) for name, split in data.splits.items()}


def test_the_subset_that_ships():
  data = load()
  assert sizes(data) == {"train": 6000, "validation": 1000, "test": 1000}
  found = [
    [split[i][key] for i in range(len(split))]
    for key in ("index", "concept_id")
    for split in data.splits.values()
  ]
  assert sum(found[:3], []) == sum(found[3:], []) == list(range(8000))
  for split in data.splits.values():
    labels = [split.fields(i)["label"] for i in range(len(split))]
    counts = np.unique(labels, return_counts=True)[1]
    assert len(counts) == 10 and counts.min() > 0.08 * len(split)
  record = data.splits["train"][0]
  assert record["label"] == "Ankle boot"  # As published.
  assert record["captions"] == (sources.Caption("Ankle boot", "name", "en"),)
  image = record["image"]
  assert image.shape == (28, 28, 3) and image.dtype == np.uint8
  assert (image == image[..., :1]).all() and 50 < image.mean() < 150
  assert data.fingerprint == "b726fef88cb4f583"


def test_a_shipped_image_is_nearest_to_its_kind():
  """Pixels, labels and splits belong together: kNN is as published work has."""
  data = load()
  train, test = (data.splits[name] for name in ("train", "test"))
  x, y = (
    split.images[..., 0].reshape(len(split), -1).astype(np.float32)
    for split in (train, test)
  )
  near = ((x**2).sum(1) - 2 * y @ x.T).argmin(1)
  right = [
    train.fields(int(i))["label"] == test.fields(j)["label"]
    for j, i in enumerate(near)
  ]
  assert 0.75 < np.mean(right) < 0.87


def test_the_full_files(root):
  data = load(root)
  assert sizes(data) == {"train": 110, "validation": 10, "test": 20}
  assert data.name == "fashion_mnist" and data.languages == ("en",)
  # The last twelfth of the training file is held out; index goes on.
  first = {name: split[0] for name, split in data.splits.items()}
  assert [r["image"].max() for r in first.values()] == [0, 110, 0]
  assert [r["index"] for r in first.values()] == [0, 110, 120]
  assert first["validation"]["label"] == files.CLASSES[0]
  assert data.splits["train"].index_bound == 110


def test_fingerprint_is_that_of_the_training_examples(root):
  before = load(root).fingerprint
  assert before == load(root).fingerprint
  images = np.zeros((120, 28, 28), np.uint8)
  write(root / IMAGES, images)
  other = load(root).fingerprint
  assert other != before
  write(root / LABELS, np.arange(120, dtype=np.uint8)[::-1] % 10)
  assert load(root).fingerprint not in (
    before,
    other,
  )


def test_through_the_pipeline(root):
  data = load(root)
  iterator = pipeline.train_batches(
    data.splits["train"],
    tokenizer=data.tokenizer,
    sampler=pipeline.CaptionSampler(
      {"en": 1.0}, name=0.5, prompt=0.5, prompts=data.prompts
    ),
    context_length=24,
    batch_size=10,
    seed=0,
  )
  batch = next(iterator)
  assert batch["image"].shape == (10, 28, 28, 3)
  texts = [data.tokenizer.decode(tokens) for tokens in batch["tokens"][:, 0]]
  for text, index in zip(texts, batch["index"]):
    assert files.CLASSES[index % 10].lower() in text


@pytest.mark.parametrize("task, count", [("captions", 10), ("images", 110)])
def test_concepts_are_what_the_task_needs(root, task, count):
  """Equal captions are positives; of images alone, labels are not used."""
  train = load(root, task=task).splits["train"]
  concepts = [train.fields(i)["concept_id"] for i in range(len(train))]
  assert concepts == [i % count for i in range(110)]


def refuse(root, match):
  with pytest.raises(reading.DataError, match=match) as raised:
    load(root)
  text = str(raised.value)
  assert "config.data.path " in text
  assert "\n" not in text and "dataset-fashion-mnist" in text


def test_a_path_that_is_no_folder(root):
  refuse(root / "nowhere", "nowhere ")
  refuse(root / IMAGES, IMAGES)


@pytest.mark.parametrize("name", [IMAGES, "t10k-labels-idx1-ubyte.gz"])
def test_a_missing_file_is_named(root, name):
  (root / name).unlink()
  refuse(root, name)


def test_a_file_cut_short_is_named(root):
  path = root / IMAGES
  whole = path.read_bytes()
  for content in (b"", whole[:5], whole[: len(whole) // 2], whole[:-3]):
    path.write_bytes(content)
    refuse(root, IMAGES)
  path.write_bytes(b"never gzipped")
  refuse(root, IMAGES)


@pytest.mark.parametrize(
  "content, match",
  [
    (b"\0\0\x08", "idx"),
    (b"\0\0\x0d\x03" + bytes(12), "idx"),
    (b"\0\0\x08\x03" + bytes(5), "idx"),
    (idx(np.zeros(3, np.uint8)), "idx"),
    (idx(np.zeros((2, 28, 28), np.uint8))[:-1], "1,567 .*1,568"),
    (idx(np.zeros((2, 28, 28), np.uint8)) + b"x", "1,569 "),
    (idx(np.zeros((2, 32, 32), np.uint8)), "28 x 28"),
    (idx(np.zeros((0, 28, 28), np.uint8)), "28 x 28"),
  ],
)
def test_a_file_of_another_form_is_named(root, content, match):
  (root / IMAGES).write_bytes(gzip.compress(content))
  refuse(root, f"{IMAGES} .*{match}")


def test_labels_that_do_not_fit(root):
  write(root / LABELS, np.arange(60, dtype=np.uint8) % 10)
  refuse(root, f"{LABELS} .*60 .*120")
  # Ten classes of another frequency, as MNIST's are, or more of them.
  for labels in (np.arange(120) // 13, np.arange(120) % 12):
    write(root / LABELS, labels.astype(np.uint8))
    refuse(root, LABELS)


def test_rebuild_keeps_the_first_training_images(root, tmp_path):
  rebuild_fashion_mnist.rebuild(root, tmp_path)
  stored = np.load(tmp_path / files.EMBEDDED, allow_pickle=False)
  assert stored["images"].shape == (120, 28, 28)
  assert stored["labels"].tolist() == [i % 10 for i in range(120)]


def test_rebuild_program(tmp_path):
  done = subprocess.run(
    [
      sys.executable,
      "-m",
      "tools.rebuild_fashion_mnist",
      f"--source={tmp_path}",
    ],
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )
  assert done.returncode != 0
  assert IMAGES in done.stderr
  assert "Traceback" not in done.stderr
