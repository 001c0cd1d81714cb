"""Tests of experiments.synthetic.{discrete,worlds,information_gap}."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.synthetic import discrete, information_gap, worlds

TINY = worlds.WorldSizes(
  inputs=4, hidden=4, dim=3, batch=8, steps=2, test=16, precision=0.1
)


def test_information_of_known_distributions():
  assert discrete.entropy(np.full(8, 1 / 8)) == pytest.approx(np.log(8))
  assert discrete.entropy(np.array([1.0, 0.0])) == 0.0
  independent = np.outer([0.2, 0.8], [0.5, 0.3, 0.2])
  assert discrete.information(independent) == pytest.approx(0, abs=1e-12)
  assert discrete.information(np.eye(4) / 4) == pytest.approx(np.log(4))
  # A binary symmetric channel with a tenth of errors.
  channel = np.array([[0.45, 0.05], [0.05, 0.45]])
  noise = discrete.entropy(np.array([0.1, 0.9]))
  assert discrete.information(channel) == pytest.approx(np.log(2) - noise)


def test_the_common_part_is_what_both_can_tell():
  p = np.zeros((4, 3))
  p[0, 0] = p[1, 0] = p[2, 1] = p[2, 2] = p[3, 2] = 0.2
  parts = discrete.common_part(p)
  assert parts[0] == parts[1] and parts[2] == parts[3] != parts[0]
  assert len(set(discrete.common_part(np.eye(5) / 5))) == 5
  assert set(discrete.common_part(np.full((3, 2), 1 / 6))) == {0}


@pytest.mark.parametrize(
  ("image", "text", "erased", "bound", "excess"),
  [
    (0, 0, 0.0, 0, 0),
    (2, 0, 0.0, 2, 2),
    (2, 0, 0.5, 1, 1),
    (2, 2, 0.0, 0, 4),
    (3, 1, 0.25, 1.25, 3.25),
  ],
)
def test_bits_that_one_alone_sees_are_lost(image, text, erased, bound, excess):
  gap = discrete.gap(discrete.bits(1, image, text, erased))
  assert gap["bound"] == pytest.approx(bound * np.log(2), abs=1e-9)
  assert gap["excess"] == pytest.approx(excess * np.log(2), abs=1e-9)
  assert gap["text"] == pytest.approx((1 + text) * np.log(2))


def test_a_modality_that_knows_nothing_costs_the_whole_of_y():
  # Y is a function of the image; the text is independent.
  world = np.zeros((4, 2, 4))
  for i in range(4):
    world[i, :, i] = 1 / 8
  gap = discrete.gap(world)
  assert gap["excess"] == pytest.approx(np.log(4))
  assert gap["bound"] == pytest.approx(np.log(4))


@pytest.mark.parametrize("seed", range(3))
def test_the_best_aligned_representation_obeys_the_bound(seed):
  rng = np.random.default_rng(seed)
  gaps = [discrete.gap(discrete.random_world(rng)) for _ in range(50)]
  assert all(g["excess"] >= g["bound"] - 1e-12 for g in gaps)
  assert max(g["bound"] for g in gaps) > 0.2
  assert all(g["both"] >= max(g["image"], g["text"]) - 1e-12 for g in gaps)


@pytest.mark.parametrize(
  "world", [np.ones((2, 2)) / 4, np.ones((2, 2, 2)), -np.ones((1, 1, 1))]
)
def test_what_is_no_world_is_refused(world):
  with pytest.raises(ValueError, match="^world "):
    discrete.gap(world)


def test_drawn_things_are_those_of_the_world():
  """Inputs without noise tell what they should, and nothing else."""
  settings = worlds.WorldSizes(noise=0.0, batch=512)
  codes = worlds._codes(jax.random.key(0), settings)
  world = worlds.World(jnp.int32(2), jnp.int32(1), jnp.float32(0.25))
  inputs, label = worlds.draw(
    {"codes": codes}, world, jax.random.key(1), settings
  )
  shared, image, text = (
    label // 16,
    label // 2 % 8,
    label % 2,
  )
  assert set(np.unique(shared)) == set(range(8))
  assert set(np.unique(image)) == set(range(4))
  assert set(np.unique(text)) == {0, 1}
  expected = codes["text_shared"][shared] + codes["text_own"][text]
  np.testing.assert_allclose(inputs["text"], expected, atol=1e-6)
  np.testing.assert_allclose(inputs["text_augmented"], expected, atol=1e-6)
  plain = codes["image_shared"][shared]
  whole = plain + codes["image_own"][image]
  erased = np.all(np.abs(inputs["image"] - plain) < 1e-6, axis=1)
  shown = np.all(np.abs(inputs["image"] - whole) < 1e-6, axis=1)
  assert np.all(erased ^ shown) and 0.15 < erased.mean() < 0.35
  np.testing.assert_array_equal(inputs["image"], inputs["image_augmented"])


def test_views_have_noise_of_their_own():
  settings = worlds.WorldSizes(noise=0.1)
  codes = worlds._codes(jax.random.key(0), settings)
  world = worlds.World(jnp.int32(1), jnp.int32(0), jnp.float32(0))
  inputs, _ = worlds.draw({"codes": codes}, world, jax.random.key(1), settings)
  change = np.asarray(inputs["image"] - inputs["image_augmented"])
  assert change.std() == pytest.approx(0.1 * 2**0.5, rel=0.1)


def test_the_record_of_a_short_run(monkeypatch, tmp_path):
  monkeypatch.setattr(information_gap, "_WORLDS", ((1, 0, 0.0), (1, 1, 0.5)))
  monkeypatch.setattr(information_gap, "_RANDOM_WORLDS", 5)
  monkeypatch.setattr(
    worlds,
    "METHODS",
    {k: worlds.METHODS[k] for k in ("aligned", "separation")},
  )
  lines = []
  record = {
    "settings": {"dim": 3, "steps": 2, "batch": 8, "precision": 0.1},
    "seeds": 2,
    "versions": {"jax": "1"},
    "seconds": 1.0,
    "exact": information_gap.exact_part(),
    "learned": information_gap.learned_part(TINY, 2, lines.append),
  }
  assert len(lines) == 2 and "ETA" in lines[0]
  record = json.loads(json.dumps(record))
  assert [r["method"] for r in record["learned"]] == [
    "aligned",
    "aligned",
    "separation",
    "separation",
  ]
  for row in record["learned"]:
    assert len(row["excess"]) == 2 and np.isfinite(row["excess"]).all()
  page = information_gap.page(record)
  assert "| gap, the bound | 0.693 | 0.347 |" in page
  assert (
    sum(line.startswith("| separation |") for line in page.splitlines()) == 2
  )
  information_gap.plot(record, tmp_path / "a.png")
  assert (tmp_path / "a.png").stat().st_size > 5000


@pytest.mark.exhaustive
def test_a_wider_reading_noise_hides_more():
  """The classifier reads the features with that noise."""
  world = worlds.World(jnp.int32(1), jnp.int32(0), jnp.float32(0))
  found = [
    worlds.train(
      {"image": 1.0},
      world,
      jax.random.key(0),
      worlds.WorldSizes(
        inputs=8, hidden=16, dim=8, batch=32, steps=60, test=256, precision=p
      ),
    )["cross_entropy"]
    for p in (0.01, 3.0)
  ]
  assert found[0] < found[1] - 0.3
