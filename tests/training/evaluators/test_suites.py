"""Suites: every set scored once, what is missing told, one table."""

import json
import types

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from contrastive_jax import evaluation
from contrastive_jax.data import benchmarks
from contrastive_jax.training.config import workdirs
from contrastive_jax.training.evaluators import (
  benchmark_suites,
  choices,
  embeddings,
  few_shot,
  fine_tuning,
)
from tests.data.tfds_sets import TinySeveral, prepare

COLOURS = {"red": 0, "green": 1, "blue": 2}


class Colours:
  """Embeds an image by its mean colour, a text by the colours that it names."""

  has_text = trains_images = True

  def __init__(self):
    self.embedded = []

  def images(self, state, source, *, head="shared"):
    records = [source[i] for i in range(len(source))]
    self.embedded.append(len(records))
    # A fitted picture lies on white, which is as much of every colour.
    means = [255.0 - r["image"].mean((0, 1)) for r in records]
    features = np.array(means).max(1, keepdims=True) - means
    return embeddings.Embedded(
      (features / np.linalg.norm(features, axis=1)[:, None]).astype(np.float32),
      np.array([r["concept_id"] for r in records]),
      np.array([r["label"] for r in records]),
    )

  def texts(self, state, texts):
    rows = [[float(c in text) for c in COLOURS] for text in texts]
    rows = np.array(rows) + 1e-3
    return (rows / np.linalg.norm(rows, axis=1)[:, None]).astype(np.float32)

  def fine_tuner(self, state, *, classes, image_size, batch_size):
    def encode(params, fixed, images):
      means = 255.0 - images.mean((1, 2))
      mixed = (means.max(1, keepdims=True) - means) @ params
      return mixed / jnp.linalg.norm(mixed, axis=1, keepdims=True)

    return fine_tuning.FineTuner(
      encode,
      jnp.eye(3),
      {},
      image_shape=(image_size, image_size, 3),
      classes=classes,
      batch_size=batch_size,
    )


@pytest.fixture(name="root", scope="module")
def fixture_root(tmp_path_factory):
  root = tmp_path_factory.mktemp("tfds")
  names = ["red", "green", "blue"]
  prepare(root, "cifar10", names, train=60, test=12)
  prepare(root, "oxford_iiit_pet", names, train=200, test=9)
  prepare(root, "eurosat/rgb", names, train=30)
  several = {"builder_class": TinySeveral, "validation": 30}
  prepare(root, "voc/2007", names, **several, train=60, test=10)
  return root


def run(name, path, root, encoder=None, **options):
  lines = []
  scores = benchmark_suites.run(
    name,
    encoder or Colours(),
    None,
    path,
    data_dir=str(root),
    image_size=8,
    report=lines.append,
    **options,
  )
  return scores, lines


@pytest.mark.exhaustive  # Many probes, like those of other sets.
def test_few_shot_scores_are_of_few(root, tmp_path):
  path = tmp_path / "s.json"
  scores, lines = run("elevater", path, root)
  assert set(scores) == {"cifar10", "pets", "voc2007"}
  several = scores["voc2007"]
  assert several["zero_shot"] == several["zero_shot/mean_average_precision"]
  assert several["zero_shot"] == 1.0 and several["few_shot/full"] == 1.0
  assert several["few_shot/5_shot"] > 0.9
  assert scores["pets"] == {
    **{k: v for k, v in scores["pets"].items() if k.startswith("zero_shot/")},
    "zero_shot": 1.0,
    "few_shot/5_shot": 1.0,
    "few_shot/5_shot_std": 0.0,
    "few_shot/20_shot": 1.0,
    "few_shot/20_shot_std": 0.0,
    "few_shot/50_shot": 1.0,
    "few_shot/50_shot_std": 0.0,
    "few_shot/full": 1.0,
  }
  assert scores["pets"]["zero_shot/accuracy_top1"] == 1.0
  left_out = {line.split(".")[0] for line in lines if "Left out" in line}
  wanted = set(benchmarks.SUITES["elevater"].sets) - set(scores)
  wanted |= set(benchmarks.SUITES["elevater"].missing)
  assert left_out == {f"Left out: {name}" for name in wanted}
  # A set of other classes than ours says so.
  (line,) = (line for line in lines if line.startswith("Left out: eurosat"))
  assert "has 3 classes instead of 10" in line
  text = benchmark_suites.table("elevater", scores)
  assert "| pets | 1 | 1 | 1 |" in text and "| mean of 3 |" in text
  assert "Not here: caltech101, cifar100" in text


def test_few_shot_scores_are_a_sets_own_metric_of_its_draws(
  root, tmp_path, monkeypatch
):
  sizes = []

  def probe(train_x, train_y, valid_x, valid_y, test_x, test_y):
    sizes.append((len(train_y), len(valid_y), len(test_y)))
    return {"accuracy": 0.5, "mean_per_class_accuracy": 0.25}

  monkeypatch.setattr(evaluation, "linear_probe", probe)
  scores, _ = run("elevater", tmp_path / "s.json", root)
  assert scores["cifar10"]["few_shot/20_shot"] == 0.5
  assert scores["pets"]["few_shot/20_shot"] == 0.25
  assert scores["pets"]["few_shot/full"] == 0.25
  # Three classes with 5, 20 and 50 images each, a fifth of them held out; at
  # last the whole training split with its own tenth.
  of_pets = [s for s in sizes if s[2] == 9]
  assert of_pets[:3] == [(12, 3, 9)] * 3 and of_pets[3:6] == [(48, 12, 9)] * 3
  assert of_pets[6:9] == [(120, 30, 9)] * 3 and of_pets[9] == (180, 20, 9)


def test_means_are_of_the_sets_that_have_a_score():
  scores = {
    "cifar10": {"zero_shot": 0.5, "few_shot/full": 1.0},
    "aircraft": {"few_shot/full": 0.5},
  }
  text = benchmark_suites.table("elevater", scores)
  assert "| mean of 1/2 | 0.5 | 0.75 |" in text


def test_what_is_scored_is_not_scored_again(root, tmp_path, monkeypatch):
  path = tmp_path / "s.json"
  encoder = Colours()
  first, _ = run("zero_shot", path, root, encoder)
  assert encoder.embedded == [12, 9, 10]
  path.write_text(json.dumps({"cifar10": {"zero_shot/accuracy_top1": 0.25}}))
  again, lines = run("zero_shot", path, root, encoder)
  assert encoder.embedded == [12, 9, 10, 9, 10]
  assert again["cifar10"] == {"zero_shot/accuracy_top1": 0.25}
  assert again["pets"] == first["pets"]
  assert any("cifar10 (8 of 21): known" in line for line in lines)
  path.write_text("[]")
  with pytest.raises(workdirs.WorkdirError, match="s.json"):
    run("zero_shot", path, root)


def test_a_probe_of_each_set(root, tmp_path):
  scores, _ = run("probe", tmp_path / "s.json", root)
  assert scores["cifar10"]["linear_probe/accuracy"] == 1.0
  assert "linear_probe/mean_per_class_accuracy" in benchmark_suites.table(
    "probe", scores
  )


def test_a_set_of_several_classes_has_average_precisions(root):
  run = types.SimpleNamespace(
    encoder=Colours(), image_size=8, seed=0, report=print
  )
  chosen = choices.Benchmarks(sets=("voc2007",), data_dir=str(root))
  scores = chosen.build(run).final(None)
  for name in ("zero_shot", "linear_probe"):
    value = scores.pop(f"benchmark_voc2007/{name}/mean_average_precision")
    assert value == 1.0
  assert {name.split("/")[-1] for name in scores} == {
    "validation_mean_average_precision",
    "regularization",
    "gradient_norm",
  }


def test_draws_hold_out_a_fifth_of_each_class():
  labels = np.repeat([0, 1, 2], [30, 7, 1])
  for shots, fitted, chosen in ((5, 4 + 4 + 1, 2), (20, 16 + 6 + 1, 4 + 1)):
    fit, choose = few_shot.draw(labels, shots, np.random.default_rng(0))
    assert (len(fit), len(choose)) == (fitted, chosen)
    assert not set(fit) & set(choose)
    assert set(labels[fit]) == {0, 1, 2}
  # With one example of each class there is none to choose with.
  fit, choose = few_shot.draw(np.array([0, 1]), 5, np.random.default_rng(0))
  np.testing.assert_array_equal(fit, choose)


def test_draws_of_several_classes_have_enough_of_each():
  rng = np.random.default_rng(1)
  labels = rng.choice([1, 0, 0, 0, -1], size=(200, 6))
  labels[:, 5] = 0
  labels[:3, 5] = 1
  for shots in (5, 20):
    fit, choose = few_shot.draw(labels, shots, np.random.default_rng(0))
    drawn = np.concatenate([fit, choose])
    assert len(set(drawn)) == len(drawn)
    counts = (labels[drawn] == 1).sum(0)
    assert (counts[:5] >= shots).all() and counts[5] == 3
    assert ((labels[choose] == 1).sum(0) >= counts // 5).all()
    assert len(choose) < len(fit)
    # None is there that was not needed when its turn came.
    assert len(drawn) <= 5 * shots + 3
  fit, choose = few_shot.draw(np.eye(2, dtype=int), 5, rng)
  np.testing.assert_array_equal(fit, choose)


def test_fine_tuning(root, tmp_path, monkeypatch):
  recipe = fine_tuning.FineTuneRecipe((1e-6, 0.1), (0.0,), 2, 3)
  monkeypatch.setattr(few_shot, "_RECIPE", recipe)
  calls = []
  fine_tune = fine_tuning.fine_tune

  def counted(tuner, images, labels, fit, choose, *rest, **options):
    calls.append((len(fit), len(choose), options["head"] is not None))
    return fine_tune(tuner, images, labels, fit, choose, *rest, **options)

  monkeypatch.setattr(fine_tuning, "fine_tune", counted)
  path = tmp_path / "s.json"
  scores, lines = run("elevater_fine_tune", path, root)
  assert set(scores) == {"cifar10", "pets", "voc2007"}
  # It begins with texts that are right already.
  of_pets = calls[10:20]
  assert of_pets[:3] == [(12, 3, True)] * 3 and of_pets[9] == (180, 20, True)
  for each, metric in (
    ("cifar10", "accuracy_top1"),
    ("pets", "mean_per_class_accuracy"),
    ("voc2007", "mean_average_precision"),
  ):
    row = scores[each]
    assert row["zero_shot"] == row[f"zero_shot/{metric}"]
    assert row["fine_tune/50_shot"] == 1.0 and row["fine_tune/full"] == 1.0
    assert row["fine_tune/5_shot_std"] == 0.0 and row["fine_tune/from_texts"]
  assert any(line.startswith("pets: 1.0000, trained on 15") for line in lines)
  text = benchmark_suites.table("elevater_fine_tune", scores)
  assert "| zero_shot | fine_tune/5_shot |" in text and "| mean of 3 |" in text
  # Known scores are kept; without texts a head begins at random.
  known = {each: scores[each] for each in ("cifar10", "voc2007")}
  path.write_text(json.dumps(known))
  calls.clear()
  encoder = Colours()
  encoder.has_text = False
  again, _ = run("elevater_fine_tune", path, root, encoder)
  assert len(calls) == 10 and not any(texts for *_, texts in calls)
  assert again["pets"]["fine_tune/from_texts"] == 0.0
  assert (
    "zero_shot" not in again["pets"] and again["cifar10"] == known["cifar10"]
  )


def test_images_are_decoded_once_within_bounds(root, monkeypatch):
  found = benchmarks.load("cifar10", str(root), image_size=8)
  reads = []
  read = benchmarks.BenchmarkSource.__getitem__

  def counted(self, index):
    reads.append(index)
    return read(self, index)

  monkeypatch.setattr(benchmarks.BenchmarkSource, "__getitem__", counted)
  monkeypatch.setattr(few_shot, "_MOST_BYTES", 2 * 8 * 8 * 3)
  images = few_shot._Images([found.test, found.validation])
  assert images.labels().shape == (12 + 6,) and not reads
  rows = np.array([3, 13, 4])
  first, second = images(rows), images(rows)
  np.testing.assert_array_equal(first, second)
  np.testing.assert_array_equal(first[1], found.validation[1]["image"])
  # Two are kept, of the third there is no room.
  assert reads == [3, 1, 4, 4, 1]


def test_retrieval_reads_the_test_split_alone(tmp_path):
  root = tmp_path / "data"
  images = []
  for folder, file in benchmarks.RETRIEVAL.items():
    (root / folder / "images").mkdir(parents=True)
    images = [
      {
        "filename": f"{name}.png",
        "split": "test",
        "sentences": [{"raw": f"something {name}"}, {"raw": f"it is {name}"}],
      }
      for name in COLOURS
    ]
    for name in COLOURS:
      path = root / folder / "images" / f"{name}.png"
      Image.new("RGB", (8, 8), name if name != "green" else "lime").save(path)
    # Images of training are not there, and need not be.
    images.append(
      {"filename": "x.png", "split": "train", "sentences": [{"raw": "x"}]}
    )
    (root / folder / file).write_text(json.dumps({"images": images}))
  scores, _ = run("retrieval", tmp_path / "s.json", root)
  assert set(scores) == {"coco", "flickr30k"}
  assert scores["coco"]["images"] == 3
  assert scores["coco"]["retrieval/image_to_text/recall_at_1"] == 1.0
  assert scores["coco"]["retrieval/text_to_image/recall_at_1"] == 1.0
  (root / "coco" / "images" / "red.png").unlink()
  scores, lines = run("retrieval", tmp_path / "t.json", root)
  assert set(scores) == {"flickr30k"}
  assert any("Left out: coco" in line and "missing" in line for line in lines)
  assert "| images |" in benchmark_suites.table("retrieval", scores)


def test_models_without_texts_and_unknown_suites(root, tmp_path):
  encoder = Colours()
  encoder.has_text = False
  scores, _ = run("elevater", tmp_path / "s.json", root, encoder)
  assert not any(key.startswith("zero_shot") for key in scores["pets"])
  with pytest.raises(ValueError, match="'retrieval'"):
    run("retrieval", tmp_path / "t.json", root, encoder)
  encoder.trains_images = False
  with pytest.raises(ValueError, match="'elevater_fine_tune'"):
    run("elevater_fine_tune", tmp_path / "t.json", root, encoder)
  with pytest.raises(ValueError, match="^suite .*zero_shot, probe.*'zeroshot'"):
    run("zeroshot", tmp_path / "t.json", root)


def test_every_set_of_a_suite_is_known():
  for name, suite in benchmarks.SUITES.items():
    known = (
      benchmarks.RETRIEVAL if name == "retrieval" else benchmarks.BENCHMARKS
    )
    assert set(suite.sets) <= set(known)
    assert len(set(suite.sets)) == len(suite.sets)
    if suite.kind == "zero_shot":
      assert all(known[each].prompts for each in suite.sets)
    if suite.kind in ("probe", "few_shot", "fine_tune"):
      assert all(known[each].train for each in suite.sets)
  assert len(benchmarks.SUITES["probe"].sets) == 13
  elevater = benchmarks.SUITES["elevater"]
  assert len(elevater.sets) + len(elevater.missing) == 20
  assert benchmarks.SUITES["elevater_fine_tune"].sets == elevater.sets


def test_published_prompts_are_as_many_as_published():
  sizes = {"imagenet": 80, "cifar10": 18, "caltech101": 34, "cars": 8, "dtd": 8}
  for name, size in sizes.items():
    prompts = benchmarks.BENCHMARKS[name].prompts
    assert len(set(prompts)) == size
  for benchmark in benchmarks.BENCHMARKS.values():
    assert all(p.count("{}") == 1 for p in benchmark.prompts)
  assert benchmarks._readable("/a/apartment_building/outdoor") == (
    "apartment building outdoor"
  )
