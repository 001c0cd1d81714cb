"""Tests of contrastive_jax.models.presets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax import models
from tests.models.jitted import jit


def _shapes(model, image_size, context_length):
  return jax.eval_shape(
    model.init_with_output,
    jax.random.key(0),
    jax.ShapeDtypeStruct((2, image_size, image_size, 3), jnp.float32),
    jax.ShapeDtypeStruct((2, context_length), jnp.int32),
  )


@pytest.mark.parametrize(
  ("preset", "published"),
  [
    ("rn50", 102_007_137),
    ("vit_b32", 151_277_313),
    ("vit_b16", 149_620_737),
    ("vit_l14", 427_616_513),
  ],
)
def test_clip_parameter_counts_are_the_published_ones(preset, published):
  config = models.PRESETS[preset]
  assert (config.image_size, config.context_length) == (224, 77)
  model = models.create_model(preset, vocab_size=49_408)
  out, variables = _shapes(model, 224, 77)
  assert out["image"].shape == out["text"].shape == (2, config.embed_dim)
  total = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
  assert total == published + 1  # CLIP has no logit bias


def test_small_clip_parameter_counts():
  model = models.create_model("vit_s16", vocab_size=49_408)
  _, variables = _shapes(model, 224, 77)
  total = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
  assert round(total / 1e6, 2) == 62.26  # open_clip's ViT-S-16
  model = models.create_model("vit_ti16", vocab_size=49_408)
  _, variables = _shapes(model, 224, 77)
  # timm's ViT-Ti/16 less its classifier and patch bias, with CLIP's extra
  # norm and its projection, make the image side.
  image = variables["params"]["image"], variables["params"]["image_projection"]
  total = sum(leaf.size for leaf in jax.tree.leaves(image))
  assert total == 5_717_416 - 193_000 - 192 + 2 * 192 + 192 * 192


def test_resnet50_has_the_published_backbone():
  model = models.create_model("resnet50", vocab_size=49_408)
  out, variables = _shapes(model, 224, 77)
  assert out["image"].shape == (2, 1024)
  params = variables["params"]
  count = {
    name: sum(leaf.size for leaf in jax.tree.leaves(params[name]))
    for name in params
  }
  # The published number counts a classifier of 1000 classes.
  assert count["image"] == 25_557_032 - 1000 * (2048 + 1)
  assert count["image_projection"] == 2048 * 1024
  # The text side is the one of "rn50", whose image side has 38,316,896.
  text = count["text"] + count["text_projection"] + count["log_logit_scale"]
  assert text == 102_007_137 - 38_316_896


@pytest.mark.parametrize("preset", sorted(models.PRESETS))
def test_every_preset_takes_other_sizes_and_types(preset):
  size = 64 if preset == "tiny" else 448
  model = models.create_model(
    preset,
    vocab_size=99,
    image_size=size,
    context_length=10,
    dtype="bfloat16",
    remat=True,
    text=dict(depth=1),
  )
  assert model.image.remat and model.text.remat
  assert model.image.dtype == model.text.dtype == model.dtype == jnp.bfloat16
  out, variables = _shapes(model, size, 10)
  assert out["image"].dtype == out["text"].dtype == jnp.float32
  name = "embeddings" if preset == "lite0_minilm" else "token_embedding"
  table = variables["params"]["text"][name]["embedding"]
  assert table.shape == (99, model.text.width)
  params = jax.tree.leaves(variables["params"])
  assert all(leaf.dtype == jnp.float32 for leaf in params)
  with pytest.raises(ValueError, match="context.length.*got 11"):
    _shapes(model, size, 11)


def test_tiny_runs_and_trains():
  model = models.create_model("tiny", vocab_size=99)
  config = models.PRESETS["tiny"]
  images = np.random.default_rng(0).normal(
    size=(2, config.image_size, config.image_size, 3)
  )
  tokens = np.array([[1, 4, 2, 0], [1, 5, 6, 2]])

  def loss(params):
    out = model.apply({"params": params}, images.astype(np.float32), tokens)
    logits = out["logit_scale"] * out["image"] @ out["text"].T
    return -jnp.mean(jnp.diag(jax.nn.log_softmax(logits)))

  params = jit(model.init)(
    jax.random.key(0), images.astype(np.float32), tokens
  )["params"]
  step = jit(jax.value_and_grad(loss))
  before, grads = step(params)
  params = jax.tree.map(lambda p, g: p - 1e-3 * g, params, grads)
  after, _ = step(params)
  assert np.isfinite(before) and after < before


def test_overrides():
  model = models.create_model(
    "tiny",
    vocab_size=99,
    embed_dim=64,
    image_head="mlp",
    init_logit_scale=20,
    image=dict(widths=[32, 64], depths=[1, 1]),
    text=dict(width=64, num_heads=2, eot_id=3),
  )
  assert model.embed_dim == 64 and model.init_logit_scale == 20
  assert model.image.widths == (32, 64)  # lists, as JSON has them, are taken
  assert model.text.width == 64 and model.text.eot_id == 3
  tower = models.ViT(image_size=48, patch_size=8, width=64, num_heads=1)
  replaced = models.create_model("tiny", vocab_size=99, image=tower)
  assert replaced.image == tower
  # The presets themselves are untouched.
  assert models.PRESETS["tiny"].text.width != 64


@pytest.mark.parametrize(
  ("preset", "settings", "message"),
  [
    ("vit_b61", {}, "preset 'vit_b61'.*'vit_b16'"),
    (None, {}, "preset None.*'resnet50'"),
    ("tiny", dict(embed_dims=3), "override 'embed_dims'.*'embed_dim'"),
    ("tiny", dict(text=dict(widht=3)), "text field 'widht'.*'width'"),
    ("tiny", dict(text=dict(width="3")), r"\btext\.width\b.*got '3'"),
    ("tiny", dict(text=dict(causal=1)), r"\btext\.causal\b.*got 1"),
    ("tiny", dict(embed_dim=True), r"\bembed_dim\b.*got True"),
    ("tiny", dict(image=3), r"\bimage\b.*got 3"),
    ("tiny", dict(image_size=0), r"\bimage_size\b.*\b0\b.*got 0"),
    ("tiny", dict(context_length=7.5), r"\bcontext_length\b.*got 7\.5"),
    ("tiny", dict(vocab_size="9"), r"\bvocab_size\b.*\b0\b.*got '9'"),
    ("tiny", dict(dtype="int32"), r"\bdtype\b.*got int32"),
  ],
)
def test_bad_arguments_are_named(preset, settings, message):
  with pytest.raises(ValueError, match=message):
    models.create_model(preset, **{"vocab_size": 99, **settings})
