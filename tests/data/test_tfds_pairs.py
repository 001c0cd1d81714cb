"""Sets that TFDS has prepared, to train on: classes and captions."""

import pytest

from contrastive_jax.data import benchmarks, sources
from contrastive_jax.data.sets.choices import Request
from contrastive_jax.data.sets.tfds_pairs import Tfds
from tests.data.tfds_sets import prepare, prepare_captions


def captions_of(split, count):
  return [[f"{split} {i} a", f" {split}  {i}\nb", ""] for i in range(count)]


@pytest.fixture(name="root", scope="module")
def fixture_root(tmp_path_factory):
  root = tmp_path_factory.mktemp("tfds")
  names = ["red_thing", "green", "blue"]
  prepare(root, "cifar10", names, train=40, test=12)
  prepare(
    root, "imagenet2012", ["n01440764", "n01443537"], train=9, validation=4
  )
  prepare(root, "eurosat/rgb", [f"c{i}" for i in range(10)], train=20)
  prepare(root, "dtd", names, train=6, validation=5, test=4)
  prepare(root, "imagenet_a", names, test=3)
  prepare(root, "visual_domain_decathlon/gtsrb", names, train=4, validation=3)
  prepare(root, "mine/small", names, train=10, validation=5)
  counts = {"train": 12, "val": 5, "test": 4, "restval": 8}
  prepare_captions(root, {k: captions_of(k, n) for k, n in counts.items()})
  (root / "mine" / "texts").symlink_to(root / "coco_captions" / "2014")
  return root


def load(root, name, *, task="captions", random_crops=False, **fields):
  chosen = Tfds(name, str(root), **{"vocab_size": 300, **fields})
  return chosen.open(
    Request(task=task, image_size=16, random_crops=random_crops)
  )


@pytest.mark.parametrize(
  "name, sizes",
  [
    ("cifar10", (36, 4, 12)),
    ("imagenet", (8, 1, 4)),
    ("imagenet2012", (8, 1, 4)),
    ("eurosat", (12, 4, 4)),
    ("dtd", (6, 5, 4)),
    # Its only other split is kept for test.
    ("mine/small", (9, 1, 5)),
    ("coco_captions", (20, 5, 4)),
    ("coco_captions/2014", (20, 5, 4)),
  ],
)
def test_splits(root, name, sizes):
  data = load(root, name)
  splits = [data.splits[s] for s in ("train", "validation", "test")]
  assert tuple(map(len, splits)) == sizes
  numbers = [s.fields(i)["index"] for s in splits for i in range(len(s))]
  assert numbers == list(range(sum(sizes)))
  assert splits[0].index_bound == sizes[0]
  whole = load(root, name, validation_share=0.0).splits
  own = name in ("dtd", "eurosat") or name.startswith("coco")
  assert len(whole["validation"]) == (sizes[1] if own else 0)
  assert len(whole["train"]) == sizes[0] + (0 if own else sizes[1])


def test_captions_are_names_of_classes(root):
  data = load(root, "cifar10")
  assert data.languages == ("en",) and len(data.prompts) == 18
  train = data.splits["train"]
  for row in (0, 1, 2):
    record = train[row]
    label = record["image"][8, 8].argmax()
    name = ("red thing", "green", "blue")[label]
    assert record["captions"] == (sources.Caption(name, "name", "en"),)
    assert (record["label"], record["concept_id"]) == (name, label)
    assert train.fields(row) == {k: record[k] for k in record if k != "image"}
  assert record["image"].shape == (16, 16, 3)
  assert train.labels == {"red thing", "green", "blue"}
  apart = load(root, "cifar10", task="images").splits
  assert [apart["test"].fields(i)["concept_id"] for i in (0, 11)] == [40, 51]
  first = load(root, "imagenet").splits["test"].fields(0)
  assert first["label"] in ("tench", "goldfish")


def test_images_have_their_captions(root):
  data = load(root, "coco_captions")
  found = {}
  for split in ("train", "validation", "test"):
    source = data.splits[split]
    rows = [source[i] for i in range(len(source))]
    for row in rows:
      assert row["label"] == "" and row["concept_id"] == row["index"]
      part, number, _ = row["captions"][0].text.split()
      texts = [c.text for c in row["captions"]]
      assert texts == [f"{part} {number} a", f"{part} {number} b"]
      assert row["image"][8, 8, 0] == int(number)
      found.setdefault(split, []).append(part)
  assert found["validation"] == ["val"] * 5 and found["test"] == ["test"] * 4
  assert sorted(found["train"]) == ["restval"] * 8 + ["train"] * 12
  # Its pieces are those of these captions.
  assert data.tokenizer.decode(
    data.tokenizer.encode(["restval 7 b"], 12)[0]
  ) == ("restval 7 b")


def test_fingerprint_follows_the_training_examples(root, tmp_path):
  first = load(root, "cifar10").fingerprint
  assert load(root, "cifar10", fit="crop").fingerprint == first
  assert load(root, "cifar10", validation_share=0.2).fingerprint != first
  names = ["red_thing", "green", "blue"]
  prepare(tmp_path, "cifar10", names, train=40, test=9)
  assert load(tmp_path, "cifar10").fingerprint == first
  prepare(tmp_path / "b", "cifar10", names[::-1], train=40, test=12)
  assert load(tmp_path / "b", "cifar10").fingerprint != first
  prepare(tmp_path / "c", "cifar10", names, train=41, test=12)
  assert load(tmp_path / "c", "cifar10").fingerprint != first


def test_what_cannot_be_trained_on(root, tmp_path):
  with pytest.raises(
    benchmarks.BenchmarkError,
    match="tfds build food101 --file_format=array_record --data_dir=/",
  ):
    load(tmp_path, "food101")
  with pytest.raises(
    benchmarks.BenchmarkError, match="tfds build coco_captions/2014 "
  ):
    load(tmp_path, "coco_captions")
  with pytest.raises(benchmarks.BenchmarkError, match="^imagenet_a "):
    load(root, "imagenet_a")
  with pytest.raises(benchmarks.BenchmarkError, match="gtsrb .*simclr"):
    load(root, "gtsrb")
  assert len(load(root, "gtsrb", task="images").splits["test"]) == 3
  with pytest.raises(
    benchmarks.BenchmarkError, match="^mine/texts .*captions, image"
  ):
    load(root, "mine/texts")
  texts = {
    "train": [["a"], [" "]],
    **dict.fromkeys(("restval", "val", "test"), [["b"]]),
  }
  prepare_captions(tmp_path, texts)
  with pytest.raises(
    benchmarks.BenchmarkError, match="^coco_captions's split train"
  ):
    load(tmp_path, "coco_captions")


def test_a_test_split_without_classes_is_refused_when_it_is_opened(
  root, monkeypatch
):
  rows = benchmarks.Prepared.rows

  def unlabelled(self, split):
    found = rows(self, split)
    return [{**found[0], "label": -1}] if split == "test" else found

  monkeypatch.setattr(benchmarks.Prepared, "rows", unlabelled)
  with pytest.raises(benchmarks.BenchmarkError, match="label -1"):
    load(root, "cifar10")


def test_images_are_larger_where_training_crops_them(root):
  for random_crops, side in ((False, 16), (True, 32)):
    data = load(root, "cifar10", random_crops=random_crops)
    assert data.splits["train"][0]["image"].shape == (side, side, 3)


def test_images_alone_are_each_a_concept(root):
  data = load(root, "gtsrb", task="images")
  train = data.splits["train"]
  assert [train.fields(i)["concept_id"] for i in range(3)] == [0, 1, 2]


def test_a_set_must_be_named():
  with pytest.raises(ValueError, match="^dataset .*''"):
    Tfds().check()
