"""Settings of self-supervised objectives: second views, heads, frozen parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax import models
from contrastive_jax.training.trainer import optimizer_choices, optimizers
from tests.training import tiny

CLEAN = {
  "augment__random_resized_crop": False,
  "augment__color_jitter": 0.0,
}


def objective(name="simclr", **changes):
  config = tiny.make_config(objective=name, **changes)
  return tiny.make_objective(config, tiny.make_data())


def views(**changes):
  source = tiny.make_source(0, 8)
  batch = {
    "image": source.images,
    "index": np.arange(8),
    "concept_id": np.arange(8) // 2,
  }
  first, second, index, _ = objective(**changes).views(batch, jax.random.key(0))
  return np.asarray(first), np.asarray(second), index


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("name", ["blur", "solarize"])
def test_second_views_have_settings_of_their_own(images, name):
  changes = {**CLEAN, "objective__images_per_concept": images}
  first, second, index = views(**changes)
  changed = {**changes, f"objective__second_{name}": 1.0}
  same, other, _ = views(**changed)
  np.testing.assert_array_equal(first, same)
  # Blurs may be weak.
  assert np.median(np.abs(second - other).max((1, 2, 3))) > 0.1
  # The first of the two settings is for the first view alone.
  changed |= {f"augment__{name}": 1.0, f"objective__second_{name}": 0.0}
  other, same, _ = views(**changed)
  np.testing.assert_array_equal(second, same)
  assert np.median(np.abs(first - other).max((1, 2, 3))) > 0.1
  if images == 2:
    assert index.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_by_default_both_views_are_made_alike():
  changes = {**CLEAN, "augment__solarize": 1.0}
  first, second, _ = views(**changes)
  np.testing.assert_array_equal(first, second)
  assert np.abs(first - views(**CLEAN)[0]).max() > 0.1


@pytest.mark.parametrize("norm", [True, False])
def test_the_predictor_may_end_without_normalisation(norm):
  model = objective("moco_v3", objective__predictor_norm=norm).model
  assert isinstance(model, models.SelfSupervised)
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((2, 16, 16, 3))
  )
  heads = shapes["batch_stats"]
  assert ("final_norm" in heads["prediction_head"]) == norm
  assert "final_norm" in heads["projection_head"]


@pytest.mark.parametrize("name", ["adamw", "lars", "muon"])
@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_patch_projection_does_not_decay(name, frozen):
  params = {
    "tower": {
      "patch_embedding": {"conv": {"kernel": jnp.ones((2, 2))}},
      "norm": {"scale": jnp.ones(2)},
      "out": {"kernel": jnp.ones((2, 2))},
    }
  }
  choice = optimizer_choices.OPTIMIZERS.find(name)(
    schedule=optimizer_choices.Constant(warmup_share=0.0)
  )
  transform = optimizers.make_optimizer(
    choice,
    steps=8,
    objective=objective("moco_v3", objective__freeze_patches=frozen),
  )
  zeros = jax.tree.map(jnp.zeros_like, params)
  updates, _ = transform.update(zeros, transform.init(params), params)
  moved = jax.tree.map(lambda x: bool(jnp.any(x != 0)), updates)["tower"]
  assert moved["patch_embedding"]["conv"]["kernel"] != frozen
  assert moved["out"]["kernel"] and not moved["norm"]["scale"]
