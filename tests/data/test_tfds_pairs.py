"""Sets that TFDS has prepared, to train on: classes and captions."""

import io

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from contrastive_jax.data import benchmarks, sources
from contrastive_jax.data.sets import tfds_pairs
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.runs import open_data, runner
from tests.data.test_benchmarks import prepare
from tests.training import tiny

with tfds.core.registered.skip_registration():

  class Captioned(tfds.core.GeneratorBasedBuilder):
    """Images with captions, in the form of coco_captions."""

    VERSION = tfds.core.Version("1.1.0")

    def __init__(self, *, captions, **kwargs):
      self._captions = captions
      super().__init__(**kwargs)

    def _info(self):
      features = {
        "image": tfds.features.Image(encoding_format="png"),
        "image/id": np.int64,
        "captions": tfds.features.Sequence({"text": np.str_, "id": np.int64}),
        "objects": tfds.features.Sequence({"area": np.int64}),
      }
      return tfds.core.DatasetInfo(
        builder=self, features=tfds.features.FeaturesDict(features)
      )

    def _split_generators(self, dl_manager):
      return {
        split: self._generate_examples(texts)
        for split, texts in self._captions.items()
      }

    def _generate_examples(self, texts):
      for i, captions in enumerate(texts):
        file = io.BytesIO()
        Image.new("RGB", (40, 20), (i, 0, 0)).save(file, "png")
        file.seek(0)
        yield (
          i,
          {
            "image": file,
            "image/id": i,
            "captions": [{"text": t, "id": k} for k, t in enumerate(captions)],
            "objects": [{"area": 3}] * (i % 3),
          },
        )


def prepare_captions(root, captions):
  """A set in the place where TFDS keeps COCO's captions."""
  with tfds.core.registered.skip_registration():
    builder = Captioned(
      captions=captions, data_dir=root / "made", file_format="array_record"
    )
  builder.download_and_prepare()
  target = root / "coco_captions" / "2014"
  target.mkdir(parents=True)
  (root / "made/captioned/1.1.0").rename(target / "1.1.0")


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


def load(root, name, **options):
  return tfds_pairs.load(
    name, str(root), **{"stored_size": 16, "vocab_size": 300, **options}
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
  assert sources.index_bound(splits[0]) == sizes[0]
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
  assert set(train.labels) == {"red thing", "green", "blue"}
  apart = load(root, "cifar10", class_concepts=False).splits
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
    match=r"tfds build food101 --file_format=array_record --data_dir=/",
  ):
    load(tmp_path, "food101")
  with pytest.raises(
    benchmarks.BenchmarkError, match="tfds build coco_captions/2014 --file"
  ):
    load(tmp_path, "coco_captions")
  with pytest.raises(benchmarks.BenchmarkError, match="no split to train on"):
    load(root, "imagenet_a")
  with pytest.raises(benchmarks.BenchmarkError, match="does not name its cl"):
    load(root, "gtsrb", need_names=True)
  assert len(load(root, "gtsrb").splits["test"]) == 3
  with pytest.raises(
    benchmarks.BenchmarkError, match="has captions, image, im"
  ):
    load(root, "mine/texts")
  texts = {
    "train": [["a"], [" "]],
    **dict.fromkeys(("restval", "val", "test"), [["b"]]),
  }
  prepare_captions(tmp_path, texts)
  with pytest.raises(benchmarks.BenchmarkError, match="without a caption"):
    load(tmp_path, "coco_captions")


def test_a_test_split_without_classes_is_refused_when_it_is_opened(
  root, monkeypatch
):
  rows = benchmarks.Prepared.rows

  def unlabelled(self, split):
    found = rows(self, split)
    return [{**found[0], "label": -1}] if split == "test" else found

  monkeypatch.setattr(benchmarks.Prepared, "rows", unlabelled)
  with pytest.raises(
    benchmarks.BenchmarkError, match="class .label -1.: choose"
  ):
    load(root, "cifar10")


def settings(root, name, **changes):
  return tiny.make_config(
    **{
      "steps": 2,
      "data__name": "tfds",
      "data__path": name,
      "data__vocab_size": tiny.VOCABULARY,
      "evaluation__benchmarks_dir": str(root),
      "evaluation__plots": False,
      **changes,
    }
  )


@pytest.mark.parametrize("name", ["cifar10", "coco_captions"])
def test_clip_trains_on_it(root, tmp_path, name):
  lines = []
  results = runner.train(
    settings(root, name), tmp_path / "run", report=lines.append
  )
  count = {"cifar10": 36, "coco_captions": 20}[name]
  assert any(f"tfds:{name}: {count} training images" in line for line in lines)
  assert "retrieval/image_to_text/recall_at_1" in results
  # Three colours are soon told apart; captions have no classes.
  assert results.get("linear_probe/accuracy") == (
    1.0 if name == "cifar10" else None
  )
  assert ("zero_shot/accuracy_top1" in results) == (name == "cifar10")


@pytest.mark.parametrize("objective", ["simclr", "moco_v3"])
def test_images_alone_are_each_a_concept(root, tmp_path, objective):
  config = settings(
    tmp_path,
    "gtsrb",
    objective=objective,
    loss__name="nt_xent" if objective == "simclr" else objective,
    loss__temperature="fixed",
    data__data_dir=str(root),
    augment__random_resized_crop=False,
  )
  data = open_data.open_data(config, tmp_path, print)
  train = data.splits["train"]
  assert train[3]["concept_id"] == 3 and train[3]["image"].shape[0] == 16
  assert (tmp_path / "tokenizer.json").exists()


@pytest.mark.exhaustive
def test_simclr_trains_on_it(root, tmp_path):
  config = settings(
    root,
    "cifar10",
    objective="simclr",
    loss__name="nt_xent",
    loss__temperature="fixed",
    model__overrides='{"image": {"widths": [8, 16], "depths": [1, 1]}}',
  )
  results = runner.train(config, tmp_path / "run", report=lambda line: None)
  assert results["knn/accuracy"] > 0.9


def test_a_configuration_without_a_set():
  with pytest.raises(config_lib.ConfigError, match="name of a set in TFDS"):
    tiny.make_config(data__name="tfds")
