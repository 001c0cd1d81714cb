"""The benchmark programs: what they compare is the same, what they write."""

import re

import jax
import numpy as np
import pytest

from contrastive_jax.recipes import clip_emoji
from contrastive_jax.training import config as config_lib
from experiments.benchmarks import (
  contestants,
  inference,
  input,
  loss,
  step,
  timing,
  variants,
)
from tests.training import tiny


def result(contestant, name, size=16, dim=8):
  """Value and gradients of a contestant."""
  return jax.tree.leaves(contestants.make(contestant, name, size, dim)())


@pytest.mark.parametrize("name", contestants.PRODUCTS)
def test_the_textbook_says_what_ours_says(name):
  ours, textbook = result("ours", name), result("textbook", name)
  assert len(ours) == len(textbook) == 4
  for a, b in zip(ours, textbook):
    scale = max(1.0, float(np.abs(b).max()))
    np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6 * scale)


def test_optax_says_what_ours_says_where_it_has_the_loss():
  # Its gradients are those of the cosine: it normalises once more.
  ours, theirs = result("ours", "nt_xent")[0], result("optax", "nt_xent")[0]
  np.testing.assert_allclose(ours, theirs, rtol=2e-5)
  assert contestants.make("optax", "clip", 16, 8) is None


@pytest.mark.parametrize("name, products", contestants.PRODUCTS.items())
def test_the_floor_makes_every_product(name, products):
  size, dim = 64, 16
  compiled = contestants.floor(name, size, dim, tile=32).lower(
    *contestants.inputs(size, dim)
  )
  # XLA counts the body of a loop once: it is one tile's.
  text = compiled.compile().as_text()
  found = len(re.findall(r"= [^\n]*\bdot\(", text)) + text.count("__onednn")
  assert found == products


def test_a_record_of_the_losses_becomes_a_table_and_a_figure(tmp_path):
  times = loss.measure("clip", 32, 8, 0.0)
  assert {"ours", "floor", "textbook"} <= times.keys()
  assert all(t["runs"] >= 3 for t in times.values())
  row = {"loss": "clip", "size": 32, "times": times, "memory": {"ours": 2**20}}
  record = {"dim": 8, "cores": 2, "versions": {"jax": "1"}, "rows": [row]}
  ratio = times["ours"]["seconds"] / times["floor"]["seconds"]
  line = [x for x in loss.page(record).splitlines() if x.startswith("| clip")]
  assert line[0].split(" | ")[3] == f"{ratio:.2f}"
  loss.plot(record, tmp_path / "a.png")
  assert (tmp_path / "a.png").stat().st_size > 5000


def test_the_augmented_loss_is_compared_with_clip_where_both_are(tmp_path):
  rows = [
    {
      "loss": name,
      "size": size,
      "times": {"ours": {"seconds": t}, "floor": {"seconds": 1.0}},
      "memory": {},
    }
    for name, size, t in (
      ("clip", 512, 2.0),
      ("augmented_clip", 512, 1.5),
      ("augmented_clip", 64, 1.0),
    )
  ]
  record = {"dim": 8, "cores": 2, "versions": {"jax": "1"}, "rows": rows}
  text = loss.page(record, "other")
  assert "`augmented_clip` over `clip`, ours: 0.75 at N = 512." in text
  assert "--losses=clip,augmented_clip --name=other" in text
  assert "(other.png)" in text


def test_a_step_becomes_a_table_and_a_figure(tmp_path):
  seconds = {"step": 0.2, "loss": 0.02, "augmentation": 0.03}
  seconds |= {"whole": 0.22, "wait": 0.001, "host": 0.019}
  record = {
    "command": "python -m step",
    "cores": 2,
    "versions": {"jax": "1"},
    "recipe": {"batch_size": 110, "seconds": seconds},
    "variants": {
      "loss": {
        "InfoNCE": {"seconds": 0.2, "ratio": [1.0, 1.0, 1.0]},
        "augmented": {"seconds": 0.21, "ratio": [1.01, 0.99, 1.02]},
      },
      "structure": {"views": {"seconds": 0.1, "ratio": [1.0, 1.0, 1.0]}},
    },
    "vit": {
      "preset": "vit_ti16",
      "image_size": 96,
      "context_length": 32,
      "batch_size": 64,
      "parameters": 12_300_000,
      "times": {"ours": {"seconds": 2.0}, "open_clip": {"seconds": 3.0}},
    },
  }
  text = step.page(record)
  assert "\npython -m step\n" in text
  assert (
    "| towers, forward and backward, and optimiser | 150.0 | 68.2% |" in text
  )
  assert "| loss, value and gradient | 20.0 | 9.1% |" in text
  assert "| whole | 220.0 | 500 pairs a second |" in text
  assert "| ours | 2.000 | 32.0 |" in text
  assert "1.50 ×" in text
  assert "| augmented | 210.0 | 1.010 [0.990, 1.020] |" in text
  step.plot(record, tmp_path / "a.png")
  assert (tmp_path / "a.png").stat().st_size > 5000


@pytest.mark.exhaustive
@pytest.mark.long
def test_a_step_is_taken_apart(tmp_path):
  tiny.write_folder(tmp_path / "images", 24)
  fields = {"data": "folder", "data__path": str(tmp_path / "images")}
  found = step.take_apart(tiny.make_config(**fields), seconds=0.0, steps=12)
  assert found["batch_size"] == 8
  seconds = found["seconds"]
  assert min(seconds["step"], seconds["loss"], seconds["augmentation"]) > 0
  parts = dict(step.parts(found))
  assert sum(parts.values()) == pytest.approx(seconds["whole"])
  with pytest.raises(config_lib.UserError, match="augmented"):
    augmented = tiny.make_config(**fields, loss="augmented")
    step.take_apart(augmented, seconds=0.0, steps=12)


def test_the_model_that_peers_train_too_is_a_configuration():
  config = step.vit_config(4)
  assert config.batch_size == 4 and not config.loss.group_positives
  assert not config.augment.random_resized_crop


def test_calls_are_timed_in_turn():
  made = []
  calls = {name: lambda name=name: made.append(name) for name in "ab"}
  times = timing.interleaved(calls, 0.0)
  there, back = ["a", "b"], ["b", "a"]
  # One of each compiles.
  assert made == [*there, *there, *back, *there, *back, *there]
  assert {t["runs"] for t in times.values()} == {5}
  assert times["a"]["ratio"] == [1.0, 1.0, 1.0]
  median, low, high = times["b"]["ratio"]
  assert 0 < low <= median <= high


def test_a_median_has_the_interval_of_its_order_statistics():
  """By the binomial: of 100 values the 40th and the 61st."""
  values = [*range(1, 101)]
  assert timing.median_interval(values) == [50.5, 40, 61]
  assert timing.median_interval([3.0]) == [3.0, 3.0, 3.0]


def test_variants_are_configurations_of_the_recipe():
  recipe = config_lib.parse(clip_emoji.get_config())
  for group in variants.GROUPS.values():
    configs = [variants.changed(recipe, fields) for fields in group.values()]
    assert len({str(c) for c in configs}) == len(configs)
    # With the same passes of the encoders as the first one, or none besides.
    assert {c.augmented_sides for c in configs} <= {
      (),
      configs[0].augmented_sides,
    }


def test_a_model_in_use_is_timed(tmp_path, monkeypatch):
  monkeypatch.setattr(inference, "_FILES", 3)
  monkeypatch.setattr(inference, "_PART", 8)
  monkeypatch.setattr(inference, "_IN_FILE", 40)
  embedded = inference.embedding(tmp_path, 20, 2)
  assert all(len(v) == 2 for v in embedded["pictures_a_second"].values())
  searched = inference.searching(tmp_path / "embedded", 100)
  assert searched["bytes"] > 100 * 256 * 4
  record = {
    "cores": 2,
    "rounds": 2,
    "versions": {"jax": "1"},
    "embedding": embedded
    | {
      "pictures_a_second": {
        "decoder alone": [300.0],
        "model alone": [600.0],
        "encode_image of files": [190.0],
      }
    },
    "search": searched,
  }
  text = inference.page(record)
  assert "| the limit | 200 | 1.00 |" in text
  assert "| encode_image of files | 190 | 0.95 |" in text


def test_readers_of_the_input_are_timed_in_turn(tmp_path):
  images, data = input.prepared(64, tmp_path)
  rng = np.random.default_rng(0)
  assert input.cropped(images[0], rng).shape == (224, 224, 3)
  contestants = {
    "Pillow, a loop": lambda: input.pillow_loop(images),
    "pipeline, one thread": lambda: input.ours(data, 1, augment=False),
  }
  batch = next(contestants["pipeline, one thread"]())
  assert batch.shape == (64, 224, 224, 3) and batch.dtype == np.uint8
  # A photograph: it has areas and edges, and no two are equal.
  assert 20 < batch[0].std() < 110 and len(set(images)) == 64
  rates = input.measure(contestants, rounds=1, batches=1)
  assert all(len(r) == 1 and r[0] > 0 for r in rates.values())
  record = {
    **dict(images=64, bytes=1e5, rounds=1, cores=2, versions={"jax": "1"}),
    "images_a_second": {
      "Pillow, a loop": [50.0],
      "other": [100.0, 150.0, 90.0],
    },
  }
  assert "| other | 100 | 2.00 |" in input.page(record)
