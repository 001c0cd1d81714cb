"""Tests of contrastive_jax.models.vit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax import models
from contrastive_jax.models import transformer
from tests.models.jitted import apply, init

SMALL = dict(image_size=16, patch_size=4, width=32, depth=1, num_heads=2)


def _images(n=2, size=16):
  return jax.random.normal(jax.random.key(0), (n, size, size, 3))


def _num_params(module, *args):
  shapes = jax.eval_shape(module.init, jax.random.key(0), *args)["params"]
  return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
  ("variant", "published", "width"),
  [  # the published numbers count a classifier of 1000 classes
    ("Ti/16", 5_717_416, 192),
    ("S/16", 22_050_664, 384),
    ("B/16", 86_567_656, 768),
    ("L/16", 304_326_632, 1024),
  ],
)
def test_parameter_counts_are_the_published_ones(variant, published, width):
  images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
  assert _num_params(models.vit(variant), images) + 1000 * (width + 1) == (
    published
  )


@pytest.mark.parametrize("pool", ["cls", "gap", "map"])
@pytest.mark.parametrize("num_registers", [0, 3])
@pytest.mark.parametrize("position", ["learned", "sincos"])
def test_shapes(pool, num_registers, position):
  module = models.ViT(
    pool=pool, num_registers=num_registers, position=position, **SMALL
  )

  def run(key):
    return module.init_with_output(key, _images(), return_tokens=True)

  (feature, tokens), variables = jax.eval_shape(run, jax.random.key(1))
  assert feature.shape == (2, 32)
  assert tokens.shape == (2, (pool == "cls") + num_registers + 16, 32)
  assert ("position_embedding" in variables["params"]) == (
    position == "learned"
  )
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(variables))


def test_pools_read_the_right_tokens():
  images = _images()
  for pool in ("cls", "gap"):
    module = models.ViT(pool=pool, num_registers=3, **SMALL)
    variables = init(module, images)
    feature, tokens = apply(module, variables, images, return_tokens=True)
    expected = tokens[:, 0] if pool == "cls" else tokens[:, 3:].mean(1)
    np.testing.assert_allclose(feature, expected, atol=1e-6)


def test_positions_matter():
  images = _images(1)
  module = models.ViT(pool="gap", **SMALL)
  variables = init(module, images)
  flipped = apply(module, variables, images[:, ::-1])
  assert np.max(np.abs(apply(module, variables, images) - flipped)) > 1e-4
  # Without positions a mean over patches cannot see their order.
  table = jnp.zeros_like(variables["params"]["position_embedding"])
  variables = {"params": variables["params"] | {"position_embedding": table}}
  rolled = apply(module, variables, jnp.roll(images, 4, axis=1))
  np.testing.assert_allclose(
    apply(module, variables, images), rolled, atol=1e-5
  )


@pytest.mark.parametrize("position", ["learned", "sincos"])
def test_positions_of_the_output_are_added_to_returned_patches_alone(position):
  images = _images(2)
  fields = dict(position=position, position_period=6.0, num_registers=3)
  plain = models.ViT(**fields, **SMALL)
  placed = models.ViT(position_output=True, **fields, **SMALL)
  variables = init(plain, images)
  feature, tokens = apply(plain, variables, images, return_tokens=True)
  same, moved = apply(placed, variables, images, return_tokens=True)
  np.testing.assert_array_equal(feature, same)
  np.testing.assert_array_equal(apply(placed, variables, images), feature)
  if position == "learned":
    table = variables["params"]["position_embedding"][1:]
  else:
    table = transformer.sincos_position_embedding(4, 32, 6.0)
  np.testing.assert_array_equal(moved[:, :4], tokens[:, :4])
  np.testing.assert_allclose(
    moved[:, 4:] - tokens[:, 4:], np.stack([table] * 2), atol=1e-6
  )


def test_a_stem_looks_over_the_edges_of_patches():
  """Two 3x3 convolutions over half-patches: no further than half a patch on."""
  images = _images(1)
  module = models.ViT(stem_width=6, **SMALL)
  variables = init(module, images)
  stem = {
    name: value
    for name, value in variables["params"].items()
    if name.startswith(("stem_", "patch_"))
  }
  assert stem["patch_embedding"]["kernel"].shape == (2, 2, 6, 32)

  def embedded(module, x):
    _, seen = module.apply(
      variables,
      x,
      capture_intermediates=lambda m, _: m.name == "patch_embedding",
    )
    return seen["intermediates"]["patch_embedding"]["__call__"][0][0]

  # The group norm sees the whole image: its parts change a little everywhere.
  before = embedded(module, images)
  after = embedded(module, images.at[:, 9, 9].add(0.5))
  change = np.abs(after - before).max(axis=-1)
  assert change.shape == (4, 4)
  far = np.concatenate([change[0], change[:, 0]])
  assert change[1:, 1:].min() > 2 * far.max()


@pytest.mark.parametrize("pool", ["cls", "map"])
def test_bfloat16_is_close_to_float32(pool):
  images = _images(8)
  module = models.ViT(pool=pool, **SMALL)
  variables = init(module, images)
  wide = apply(module, variables, images)
  half = models.ViT(pool=pool, dtype=jnp.bfloat16, **SMALL)
  narrow = apply(half, variables, images)
  assert narrow.dtype == jnp.bfloat16
  error = jnp.linalg.norm(narrow.astype(jnp.float32) - wide)
  assert error / jnp.linalg.norm(wide) < 0.02
  # The parameters stay float32 under the bfloat16 policy.
  shapes = jax.eval_shape(half.init, jax.random.key(1), images)
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
  ("settings", "size", "message"),
  [
    (dict(patch_size=5), 16, r"\bimage_size\b.*\bpatch_size = 5\b.*got 16"),
    (dict(), 32, r"\bimages\b.* 16 x 16\b.*got 32 x 32"),
    (
      dict(patch_size=1, stem_width=4),
      16,
      r"\bpatch_size\b.*got 1",
    ),
    (dict(pool="max"), 16, r"\bpool\b.*got 'max'"),
    (dict(position="rope"), 16, r"\bposition\b.*got 'rope'"),
  ],
)
def test_bad_settings_are_named(settings, size, message):
  module = models.ViT(**{**SMALL, **settings})
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(module.init, jax.random.key(0), _images(1, size))


@pytest.mark.parametrize("variant", ["B", "B/x", "XL/16", "B/0"])
def test_bad_variants_are_named(variant):
  with pytest.raises(ValueError, match=f"e.g. 'B/16'; got '{variant}'"):
    models.vit(variant)
