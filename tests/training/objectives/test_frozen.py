"""Towers that are not trained, and their features computed once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax import models
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.runs import cached_features, runner
from contrastive_jax.training.trainer import metric_log
from tests.models import small_clip
from tests.training import tiny

# Whole runs like others.
_REST = pytest.mark.exhaustive
OVERRIDES = {
  "embed_dim": 24,
  "image": {"patch_size": 8, "width": 32, "depth": 1, "num_heads": 2},
  "text": {"width": 32, "depth": 1, "num_heads": 2},
}
BOTH = ("image", "text")
SIDES = {"model.image_size": 16, "model.context_length": 12}
# Images as they are, for what is cached to be what is not.
PLAIN = {
  "augment.random_resized_crop": False,
  "augment.color_jitter": 0.0,
}


def quiet(line):
  del line


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
  tiny.use_devices(monkeypatch, 1)


@pytest.fixture(name="made", scope="module")
def fixture_made(tmp_path_factory):
  """A folder of images, and a small CLIP's weights."""
  root = tmp_path_factory.mktemp("frozen")
  tiny.write_folder(root / "data", 32)
  path = root / "clip.safetensors"
  params = small_clip.write(path, OVERRIDES, image_size=16, context_length=12)
  return root / "data", path, params


def configure(made, **changes):
  folder, path, _ = made
  fields = {
    "steps": 3,
    "batch_size": 8,
    "log_every": 1,
    "checkpoint_every": 2,
    "data": "folder",
    "data.path": str(folder),
    "objective.captions_per_example": 2,
    "evaluation": ("retrieval",),
    "evaluation.plots": False,
    "evaluation.batch_size": 8,
    "model.preset": "vit_b32",
    "tokenizer": "clip",
    "model.overrides": OVERRIDES,
    "initial": "weights",
    "initial.weights": str(path),
    "optimizer.learning_rate": 0.01,
    "loss.temperature": 0.1,
    **SIDES,
    **PLAIN,
    **changes,
  }
  return tiny.parse(fields)


def train(made, workdir, **changes):
  runner.train(configure(made, **changes), workdir, report=quiet)
  _, state = runner.restore(workdir, report=quiet)
  losses = [
    row["train/loss"]
    for row in metric_log.read_metrics(workdir)
    if "train/loss" in row
  ]
  return state.params, losses


def changed(params, before):
  return max(
    np.abs(np.asarray(a) - np.asarray(b)).max()
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(before))
  )


@pytest.mark.parametrize(
  "frozen",
  [("image",), *(pytest.param(f, marks=_REST) for f in (("text",), BOTH))],
)
def test_frozen_towers_stay_and_the_rest_learns(made, frozen, tmp_path):
  params, _ = train(made, tmp_path, **{"objective.frozen": frozen})
  for side in ("image", "text"):
    difference = changed(params[side], made[2][side])
    assert difference == 0 if side in frozen else difference > 1e-3
  assert changed(params["image_projection"], made[2]["image_projection"]) > 1e-3


@pytest.mark.parametrize("frozen", [pytest.param((), marks=_REST), ("text",)])
def test_towers_have_a_rate_of_their_own(made, frozen, tmp_path):
  """After one step of Adam, whose length is the rate."""
  once = {
    "steps": 1,
    "objective.frozen": frozen,
    "optimizer.schedule.warmup_share": 0.0,
    "optimizer.weight_decay": 0.0,
  }
  plain, _ = train(made, tmp_path / "plain", **once)
  slow, _ = train(
    made, tmp_path / "slow", **once, **{"objective.tower_rate": 0.125}
  )
  for name, before in made[2].items():
    moved = changed(plain[name], before)
    share = 0.125 if name in ("image", "text") else 1.0
    stays = name in (*frozen, "logit_bias")  # The loss has no bias.
    assert moved == 0 if stays else moved > 1e-3
    np.testing.assert_allclose(
      changed(slow[name], before), share * moved, rtol=1e-3
    )


def test_cached_features_are_those_of_the_towers(made, tmp_path, monkeypatch):
  frozen = {"objective.frozen": BOTH}
  plain, losses = train(made, tmp_path / "plain", **frozen)
  cached = {**frozen, "objective.cache_features": True}
  params, same = train(made, tmp_path / "cached", **cached)
  np.testing.assert_allclose(same, losses, rtol=1e-5)
  assert losses[0] != pytest.approx(losses[-1], rel=1e-3)
  assert changed(params, plain) < 1e-4
  kept = np.load(tmp_path / "cached" / "features.npy")
  assert kept.shape[1] == 32 and len(kept) >= 16

  # A run that goes on takes them from there.
  def fail(*unused):
    raise AssertionError("Features were computed again.")

  monkeypatch.setattr(cached_features, "of_images", fail)
  run, _ = runner.restore(tmp_path / "cached", report=quiet)
  batch = next(run.batches())
  image, text = batch["image_features"], batch["text_features"]
  assert image.shape == (8, 32) and text.shape == (8, 2, 32)
  assert image.dtype == text.dtype == np.float32
  assert not {"image", "tokens"} & set(batch)
  # A file that was cut off counts as none.
  (tmp_path / "cached" / "features.npy").write_bytes(b"\x93NUMPY")
  with pytest.raises(AssertionError, match="computed again"):
    run.batches()


def test_batch_statistics_of_a_frozen_tower_stay():
  model = models.TwoTower(
    models.ResNet(stage_sizes=(1,), width=32, stem="cifar"),
    models.TextTransformer(width=16, depth=0, num_heads=1, vocab_size=9),
    embed_dim=8,
    frozen=("image",),
  )
  images = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
  tokens = jnp.ones((4, 3), jnp.int32)
  variables = model.init(jax.random.key(1), images, tokens)
  out, updates = model.apply(
    variables, images, tokens, train=True, mutable=["batch_stats"]
  )
  tiny.assert_same(updates["batch_stats"], variables["batch_stats"])
  evaluated = model.apply(variables, images, tokens)
  np.testing.assert_array_equal(out["image"], evaluated["image"])
  # The feature in the image's place.
  feature = model.image.apply(
    {k: tree["image"] for k, tree in variables.items()}, images
  )
  given, updates = model.apply(
    variables,
    feature,
    train=True,
    are_features=True,
    mutable=["batch_stats"],
    method="encode_image",
  )
  np.testing.assert_allclose(given, out["image"], atol=1e-6)
  tiny.assert_same(updates["batch_stats"], variables["batch_stats"])
  with pytest.raises(ValueError, match="^frozen .*image, text"):
    model.clone(frozen=("both",)).init(jax.random.key(0), images, tokens)


def test_a_mistake_names_the_field(made):
  with pytest.raises(config_lib.ConfigError, match="objective.frozen"):
    configure(made, **{"objective.frozen": ("images",)})
