"""Runs on the data sets: they train, and are scored by what they have."""

import numpy as np
import pytest

from contrastive_jax.data.sets.fashion_mnist import files
from contrastive_jax.training.evaluators import embeddings
from contrastive_jax.training.runs import runner
from tests.data import clip_art, fashion_files
from tests.data.tfds_sets import prepare, prepare_captions
from tests.training import tiny


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
  tiny.use_devices(monkeypatch, 1)


@pytest.fixture(name="root", scope="module")
def fixture_root(tmp_path_factory):
  root = tmp_path_factory.mktemp("tfds")
  names = ["red_thing", "green", "blue"]
  prepare(root, "cifar10", names, train=40, test=12)
  counts = {"train": 12, "val": 5, "test": 4, "restval": 8}
  prepare_captions(
    root,
    {
      k: [[f"{k} {i} a", f"{k} {i} b"] for i in range(n)]
      for k, n in counts.items()
    },
  )
  return root


def settings(root, name, **changes):
  data = {"name": "tfds", "dataset": name, "data_dir": str(root)}
  return tiny.make_config(
    **{
      "steps": 2,
      "data": {**data, "vocab_size": tiny.VOCABULARY},
      "evaluation__plots": False,
      **changes,
    }
  )


@pytest.mark.parametrize("name", ["cifar10", "coco_captions"])
def test_clip_trains_on_sets_of_tfds(root, tmp_path, name):
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


@pytest.mark.exhaustive
def test_simclr_trains_on_a_set_of_tfds(root, tmp_path):
  config = settings(
    root,
    "cifar10",
    objective="simclr",
    model__overrides={"image": {"widths": [8, 16], "depths": [1, 1]}},
  )
  results = runner.train(config, tmp_path / "run", report=lambda line: None)
  assert results["knn/accuracy"] > 0.9


def test_clip_trains_on_open_clip_art(tmp_path):
  clip_art.write(tmp_path / "drawings")
  config = tiny.make_config(
    steps=2,
    batch_size=8,
    data={
      "name": "openclipart",
      "path": str(tmp_path / "drawings"),
      "data_dir": str(tmp_path / "prepared"),
    },
  )
  results = runner.train(config, tmp_path / "run", report=lambda line: None)
  assert 0 <= results["retrieval/image_to_text/recall_at_10"] <= 1
  assert 0 <= results["zero_shot/accuracy_top1"] <= 1


class Oracle:
  """Embeds images by their label, and texts by the name that they hold."""

  has_text = True

  def images(self, state, source, *, head="shared"):
    del state, head
    records = [source.fields(i) for i in range(len(source))]
    labels = [r["label"] for r in records]
    return embeddings.Embedded(
      np.eye(10, dtype=np.float32)[[files.CLASSES.index(c) for c in labels]],
      np.array([r["concept_id"] for r in records]),
      np.array(labels),
    )

  def texts(self, state, texts):
    del state
    rows = [[c in text for c in files.CLASSES] for text in texts]
    return np.array(rows, np.float32)


def test_image_text_evaluations_of_fashion_mnist_are_among_ten_names(tmp_path):
  root = fashion_files.write_folder(tmp_path / "fashion")
  config = tiny.make_config(
    data={"name": "fashion_mnist", "path": str(root)}, evaluation__plots=False
  )
  (tmp_path / "run").mkdir()
  run = runner.open_run(config, tmp_path / "run", report=lambda line: None)
  run.encoder = Oracle()
  results = run.evaluate(Oracle(), run.build(config.evaluation.evaluators))
  for name in (
    "retrieval/image_to_text/recall_at_1",
    "retrieval/text_to_image/recall_at_1",
    "zero_shot/accuracy_top1",
    "knn/accuracy",
  ):
    assert results[name] == 1.0, name
