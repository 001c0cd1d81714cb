"""Tests of contrastive_jax.models.resnet."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax import models
from tests.models.jitted import apply, init, jit

SMALL = dict(stage_sizes=(1, 1), width=32)


def _images(n=2, size=32):
  return jax.random.normal(jax.random.key(0), (n, size, size, 3))


@pytest.mark.parametrize(
  ("depth", "published", "width"),
  [  # the published numbers count a classifier of 1000 classes
    (18, 11_689_512, 512),
    (34, 21_797_672, 512),
    (50, 25_557_032, 2048),
    (101, 44_549_160, 2048),
  ],
)
def test_parameter_counts_are_the_published_ones(depth, published, width):
  images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
  module = models.resnet(depth)
  feature, variables = jax.eval_shape(
    module.init_with_output, jax.random.key(0), images
  )
  assert feature.shape == (1, width)
  total = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
  assert total + 1000 * (width + 1) == published


@pytest.mark.parametrize(("stem", "side"), [("imagenet", 4), ("cifar", 16)])
def test_maps_have_the_expected_size(stem, side):
  module = models.ResNet(stem=stem, **SMALL)

  def run(key):
    return module.init_with_output(key, _images(), return_tokens=True)[0]

  feature, tokens = jax.eval_shape(run, jax.random.key(0))
  assert feature.shape == (2, 256)
  assert tokens.shape == (2, side * side, 256)


@pytest.mark.parametrize("cls", [models.ResNet, models.ModifiedResNet])
def test_batch_norm_updates_its_statistics_only_in_training(cls):
  settings = dict(image_size=32) if cls is models.ModifiedResNet else {}
  module = cls(norm="batch", **settings, **SMALL)
  images = 3 + _images(4)
  variables = init(module, images)
  _, update = apply(
    module, variables, images, train=True, mutable=("batch_stats",)
  )
  old, new = (
    np.concatenate([np.ravel(x) for x in jax.tree.leaves(v["batch_stats"])])
    for v in (variables, update)
  )
  assert np.mean(old != new) > 0.9
  # In evaluation an example does not depend on the rest of its batch.
  both = apply(module, variables, images)
  one = apply(module, variables, images[:1])
  np.testing.assert_allclose(both[:1], one, atol=1e-5)


def test_group_norm_needs_no_statistics():
  module = models.ResNet(norm="group", **SMALL)
  images = _images(3)
  variables = init(module, images)
  assert set(variables) == {"params"}
  both = apply(module, variables, images, train=True)
  one = apply(module, variables, images[:1], train=True)
  np.testing.assert_allclose(both[:1], one, atol=1e-5)


def test_remat_keeps_values_gradients_and_statistics():
  images = _images(2, 16)
  settings = dict(stem="cifar", **SMALL)
  plain = models.ResNet(**settings)
  remat = models.ResNet(remat=True, **settings)
  variables = init(plain, images)

  def loss(params, module):
    feature, update = module.apply(
      {**variables, "params": params},
      images,
      train=True,
      mutable=["batch_stats"],
    )
    return jnp.sum(feature**2), update

  step = jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3),
    step(variables["params"], plain),
    step(variables["params"], remat),
  )


def test_attention_pool_matches_a_naive_one():
  images = _images(2)
  module = models.ModifiedResNet(image_size=32, features=5, **SMALL)
  variables = init(module, images)
  feature, tokens = apply(module, variables, images, return_tokens=True)
  p = jax.tree.map(
    lambda a: np.asarray(a, np.float64), variables["params"]["attention_pool"]
  )
  table, p = p["position_embedding"], p["attention"]
  for actual, x in zip(feature, np.asarray(tokens, np.float64)):
    x = np.concatenate([x.mean(0, keepdims=True), x]) + table  # [T + 1, C]
    out = p["out"]["bias"].copy()
    for h in range(x.shape[1] // 64):
      q, k, v = (
        x @ p[n]["kernel"][:, h] + p[n]["bias"][h]
        for n in ("query", "key", "value")
      )
      weight = np.exp(k @ q[0] / 8)
      out += weight @ v / weight.sum() @ p["out"]["kernel"][h]
    np.testing.assert_allclose(actual, out, atol=1e-4)


def test_a_bottleneck_has_its_stride_on_the_3x3_convolution():
  module = models.ResNet(stem="cifar", **SMALL)
  images = _images(1, 16)

  def run(key):
    return module.init_with_output(
      key,
      images,
      capture_intermediates=True,
      mutable=["params", "batch_stats", "intermediates"],
    )[1]

  state = jax.eval_shape(run, jax.random.key(0))
  block = state["intermediates"]["stage_1_block_0"]
  assert block["conv_0"]["__call__"][0].shape[1:3] == (16, 16)
  assert block["conv_1"]["__call__"][0].shape[1:3] == (8, 8)


def test_narrow_attention_pools_have_one_head():
  module = models.ModifiedResNet(
    image_size=8, features=5, stage_sizes=(1,), width=8
  )
  feature, variables = jax.eval_shape(
    module.init_with_output, jax.random.key(0), _images(2, 8)
  )
  assert feature.shape == (2, 5)
  attention = variables["params"]["attention_pool"]["attention"]
  assert attention["query"]["kernel"].shape == (32, 1, 32)


def test_bad_settings_are_named():
  key, images = jax.random.key(0), _images(1)

  def init(module):
    return jax.eval_shape(module.init, key, images)

  with pytest.raises(ValueError, match=r"\bimage_size\b.* 8; got 36"):
    init(models.ModifiedResNet(image_size=36, **SMALL))
  with pytest.raises(ValueError, match=r"\bimages\b.* 64 x 64\b.*got 32 x 32"):
    init(models.ModifiedResNet(image_size=64, **SMALL))
  for heads in (0, 3):
    with pytest.raises(ValueError, match=f"divide the 256 channels.*{heads}"):
      init(models.ModifiedResNet(image_size=32, num_heads=heads, **SMALL))
  with pytest.raises(ValueError, match=r"\bnorm\b.*got 'layer'"):
    init(models.ResNet(norm="layer", **SMALL))
  with pytest.raises(ValueError, match=r"\bstem\b.*got 'mnist'"):
    init(models.ResNet(stem="mnist", **SMALL))
  with pytest.raises(ValueError, match=r"\bdepth\b.*\b18\b.*got 51"):
    models.resnet(51)
