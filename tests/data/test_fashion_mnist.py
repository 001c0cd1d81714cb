"""Fashion-MNIST: the subset that ships, the full files, what is wrong in them."""

import gzip

import numpy as np
import pytest

from contrastive_jax.data import folder, pipeline, sources
from contrastive_jax.data.fashion_mnist import files
from contrastive_jax.training import evaluators, runner
from tests.data import prepared
from tests.training import tiny
from tools import rebuild_fashion_mnist

IMAGES = "train-images-idx3-ubyte.gz"
LABELS = "train-labels-idx1-ubyte.gz"


def idx(values):
  """An array as the bytes of an idx file."""
  head = bytes((0, 0, 8, values.ndim))
  return head + np.array(values.shape, ">u4").tobytes() + values.tobytes()


def write(path, values):
  path.write_bytes(gzip.compress(idx(values), 1))


@pytest.fixture(name="root")
def fixture_root(tmp_path):
  """120 images of training and 20 of test; image i of a file is of level i."""
  root = tmp_path / "fashion"
  root.mkdir()
  for part, count in (("train", 120), ("t10k", 20)):
    levels = np.arange(count, dtype=np.uint8)[:, None, None]
    images = np.broadcast_to(levels, (count, 28, 28))
    write(root / f"{part}-images-idx3-ubyte.gz", images)
    labels = np.arange(count, dtype=np.uint8) % 10
    write(root / f"{part}-labels-idx1-ubyte.gz", labels)
  return root


def sizes(data):
  return {name: len(split) for name, split in data.splits.items()}


def test_the_subset_that_ships():
  data = sources.load_fashion_mnist()
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
  data = sources.load_fashion_mnist()
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
  data = sources.load_fashion_mnist(str(root))
  assert sizes(data) == {"train": 110, "validation": 10, "test": 20}
  assert data.name == "fashion_mnist" and data.languages == ("en",)
  # Of the training file the last twelfth is held out; index goes on.
  first = {name: split[0] for name, split in data.splits.items()}
  assert [r["image"].max() for r in first.values()] == [0, 110, 0]
  assert [r["index"] for r in first.values()] == [0, 110, 120]
  assert first["validation"]["label"] == files.CLASSES[0]
  assert sources.index_bound(data.splits["train"]) == 110


def test_fingerprint_is_that_of_the_training_examples(root):
  before = sources.load_fashion_mnist(str(root)).fingerprint
  assert before == sources.load_fashion_mnist(str(root)).fingerprint
  images = np.zeros((120, 28, 28), np.uint8)
  write(root / IMAGES, images)
  other = sources.load_fashion_mnist(str(root)).fingerprint
  assert other != before
  write(root / LABELS, np.arange(120, dtype=np.uint8)[::-1] % 10)
  assert sources.load_fashion_mnist(str(root)).fingerprint not in (
    before,
    other,
  )


def test_through_the_pipeline(root):
  data = sources.load_fashion_mnist(str(root))
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


@pytest.mark.parametrize("objective", ["clip", "simclr"])
def test_concepts_are_what_the_objective_needs(root, tmp_path, objective):
  """Equal captions are positives; without captions, labels are not used."""
  loss = {"name": "nt_xent", "temperature": "fixed"}
  config = tiny.make_config(
    objective=objective,
    data={"name": "fashion_mnist", "path": str(root)},
    **({} if objective == "clip" else {"loss": loss}),
  )
  run = runner.open_run(config, tmp_path, report=lambda line: None)
  train = run.data.splits["train"]
  concepts = [train.fields(i)["concept_id"] for i in range(len(train))]
  count = 10 if objective == "clip" else len(train)
  assert concepts == [i % count for i in range(len(train))]
  assert (tmp_path / "tokenizer.json").exists()


class Oracle:
  """Embeds images by their label, and texts by the name that they hold."""

  has_text = True

  def images(self, state, source):
    del state
    records = [source.fields(i) for i in range(len(source))]
    labels = [r["label"] for r in records]
    return evaluators.Embedded(
      np.eye(10, dtype=np.float32)[[files.CLASSES.index(c) for c in labels]],
      np.array([r["concept_id"] for r in records]),
      np.array(labels),
    )

  def texts(self, state, texts):
    del state
    rows = [[c in text for c in files.CLASSES] for text in texts]
    return np.array(rows, np.float32)


def test_image_text_evaluations_are_among_ten_names(root):
  data = sources.load_fashion_mnist(str(root), class_concepts=True)
  results = evaluators.final(
    Oracle(), None, data, seed=0, report=lambda line: None
  )
  for name in (
    "retrieval/image_to_text/recall_at_1",
    "retrieval/text_to_image/recall_at_1",
    "zero_shot/accuracy_top1",
    "knn/accuracy",
  ):
    assert results[name] == 1.0, name


def refuse(root, match):
  with pytest.raises(folder.DataError, match=match) as raised:
    sources.load_fashion_mnist(str(root))
  text = str(raised.value)
  assert "config.data.path must be the folder that holds" in text
  assert "\n" not in text and "dataset-fashion-mnist" in text


def test_a_path_that_is_no_folder(root):
  refuse(root / "nowhere", "nowhere is not a folder")
  refuse(root / IMAGES, f"{IMAGES} is not a folder")


@pytest.mark.parametrize("name", [IMAGES, "t10k-labels-idx1-ubyte.gz"])
def test_a_missing_file_is_named(root, name):
  (root / name).unlink()
  refuse(root, f"{name} is missing")


def test_a_file_cut_short_is_named(root):
  path = root / IMAGES
  whole = path.read_bytes()
  for content in (b"", whole[:5], whole[: len(whole) // 2], whole[:-3]):
    path.write_bytes(content)
    refuse(root, f"{IMAGES} (cannot be read, it may be cut short|is no idx)")
  path.write_bytes(b"never gzipped")
  refuse(root, f"{IMAGES} cannot be read")


@pytest.mark.parametrize(
  "content, match",
  [
    (b"\0\0\x08", "is no idx file of bytes in 3 dim"),
    (b"\0\0\x0d\x03" + bytes(12), "is no idx file of bytes in 3 dim"),
    (b"\0\0\x08\x03" + bytes(5), "is no idx file of bytes in 3 dim"),
    (idx(np.zeros(3, np.uint8)), "is no idx file of bytes in 3 dim"),
    (idx(np.zeros((2, 28, 28), np.uint8))[:-1], "has 1,567 bytes.* says 1,568"),
    (idx(np.zeros((2, 28, 28), np.uint8)) + b"x", "has 1,569 bytes"),
    (idx(np.zeros((2, 32, 32), np.uint8)), "images of 28 x 28 pixels"),
    (idx(np.zeros((0, 28, 28), np.uint8)), "images of 28 x 28 pixels"),
  ],
)
def test_a_file_of_another_form_is_named(root, content, match):
  (root / IMAGES).write_bytes(gzip.compress(content))
  refuse(root, f"{IMAGES} .*{match}")


def test_labels_that_do_not_fit(root):
  write(root / LABELS, np.arange(60, dtype=np.uint8) % 10)
  refuse(root, f"{LABELS} has 60 labels for the 120 images")
  # Ten classes of another frequency, as MNIST's are, or more of them.
  for labels in (np.arange(120) // 13, np.arange(120) % 12):
    write(root / LABELS, labels.astype(np.uint8))
    refuse(root, f"{LABELS} is not of Fashion-MNIST")


def test_rebuild_keeps_the_first_training_images(root, tmp_path):
  rebuild_fashion_mnist.rebuild(root, tmp_path)
  stored = np.load(tmp_path / files.EMBEDDED, allow_pickle=False)
  assert stored["images"].shape == (120, 28, 28)
  assert stored["labels"].tolist() == [i % 10 for i in range(120)]


def test_rebuild_program(tmp_path):
  module = "tools.rebuild_fashion_mnist"
  done = prepared.run_python("-m", module, f"--source={tmp_path}")
  assert done.returncode != 0
  assert f"{IMAGES} is missing" in done.stderr
  assert "Traceback" not in done.stderr
