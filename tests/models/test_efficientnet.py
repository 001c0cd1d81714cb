"""EfficientNet-Lite: a forward pass by hand, from the names of its weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax import models
from contrastive_jax.models import efficientnet, pretrained
from tests.models import make_golden_pretrained as golden
from tests.models.jitted import apply, jit

STAGES = (
  efficientnet.Stage(1, 3, 1, 1, 8),
  efficientnet.Stage(2, 5, 2, 6, 12),
  efficientnet.Stage(1, 3, 1, 6, 16),
)
STEM, FEATURES = 10, 24


def make(**fields):
  return models.EfficientNetLite(STAGES, STEM, FEATURES, **fields)


def shapes():
  """Shapes by published name.

  They are _conv_stem, _bn0, _blocks.N.*, _conv_head, _bn1 and _fc.
  """
  out = {}

  def conv(name, out_channels, in_channels, kernel):
    out[f"{name}.weight"] = (out_channels, in_channels, kernel, kernel)

  def norm(name, channels):
    for part in ("weight", "bias", "running_mean", "running_var"):
      out[f"{name}.{part}"] = (channels,)

  conv("_conv_stem", STEM, 3, 3)
  norm("_bn0", STEM)
  width = STEM
  plan = [(3, 1, 8), (5, 6, 12), (5, 6, 12), (3, 6, 16)]
  for number, (kernel, expansion, features) in enumerate(plan):
    name, inner = f"_blocks.{number}", width * expansion
    if expansion > 1:
      conv(f"{name}._expand_conv", inner, width, 1)
      norm(f"{name}._bn0", inner)
    conv(f"{name}._depthwise_conv", inner, 1, kernel)
    norm(f"{name}._bn1", inner)
    conv(f"{name}._project_conv", features, inner, 1)
    norm(f"{name}._bn2", features)
    width = features
  conv("_conv_head", FEATURES, width, 1)
  norm("_bn1", FEATURES)
  out |= {"_fc.weight": (10, FEATURES), "_fc.bias": (10,)}
  return out


def by_hand(weights, x):
  """Float64, channels first, from the published description of a block."""

  def conv(x, name, stride=1, groups=1):
    kernel = weights[f"{name}.weight"].astype(np.float64)
    size = kernel.shape[-1]
    height = x.shape[-1]
    # As TensorFlow pads: what is odd comes after.
    total = max((-(-height // stride) - 1) * stride + size - height, 0)
    before = total // 2
    x = np.pad(x, [(0, 0), (0, 0)] + [(before, total - before)] * 2)
    n, channels, side, _ = x.shape
    steps = range(0, side - size + 1, stride)
    out = np.empty((n, len(kernel), len(steps), len(steps)))
    for i, a in enumerate(steps):
      for j, b in enumerate(steps):
        patch = x[:, :, a : a + size, b : b + size]
        if groups == 1:
          out[:, :, i, j] = np.einsum("nchw,ochw->no", patch, kernel)
        else:
          assert groups == channels == len(kernel)
          out[:, :, i, j] = np.einsum("nchw,chw->nc", patch, kernel[:, 0])
    return out

  def norm(x, name):
    mean, var, scale, bias = (
      weights[f"{name}.{part}"].astype(np.float64)[:, None, None]
      for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / np.sqrt(var + 1e-3) * scale + bias

  def relu6(x):
    return np.clip(x, 0, 6)

  x = relu6(norm(conv(x, "_conv_stem", 2), "_bn0"))
  for number, stride in enumerate((1, 2, 1, 1)):
    name, y = f"_blocks.{number}", x
    if f"{name}._expand_conv.weight" in weights:
      y = relu6(norm(conv(y, f"{name}._expand_conv"), f"{name}._bn0"))
    y = conv(y, f"{name}._depthwise_conv", stride, groups=y.shape[1])
    y = relu6(norm(y, f"{name}._bn1"))
    y = norm(conv(y, f"{name}._project_conv"), f"{name}._bn2")
    # From the second block of a stage on there is a way around it.
    x = x + y if number == 2 else y
  return relu6(norm(conv(x, "_conv_head"), "_bn1")).mean(axis=(2, 3))


@pytest.mark.parametrize("side", [16, 17])
def test_a_forward_pass_by_hand(side, tmp_path):
  weights, path = golden.weights(shapes()), tmp_path / "lite.safetensors"
  pretrained.write_safetensors(path, weights)
  model = make()
  images = np.random.default_rng(0).normal(size=(2, side, side, 3))
  images = jnp.asarray(images, jnp.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), images)
  variables, report = pretrained.load(model, path, variables)
  assert not (report.missing or report.unexpected or report.misshapen)
  expected = by_hand(
    weights, np.asarray(images, np.float64).transpose(0, 3, 1, 2)
  )
  assert expected.std() > 0.05
  actual = apply(model, variables, images)
  np.testing.assert_allclose(actual, expected, atol=2e-5)
  _, tokens = apply(model, variables, images, return_tokens=True)
  np.testing.assert_allclose(tokens.mean(1), expected, atol=2e-5)


@pytest.mark.parametrize("size, stride", [(3, 1), (3, 2), (5, 1), (5, 2)])
@pytest.mark.parametrize("padding", ["SAME", ((1, 2), (2, 0))])
def test_shifted_sums_are_the_grouped_convolution(size, stride, padding):
  rng = np.random.default_rng(size)
  x = jnp.asarray(rng.normal(size=(2, 7, 8, 4)), jnp.float32)
  kernel = jnp.asarray(rng.normal(size=(size, size, 1, 4)), jnp.float32)
  settings = {
    "feature_group_count": 4,
    "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
  }

  def energy(convolve, x, kernel):
    y = convolve(x, kernel, (stride, stride), padding, **settings)
    return jnp.sum(jnp.cos(y) * jnp.arange(y.size).reshape(y.shape)), y

  ours, theirs = (
    jax.jit(
      jax.value_and_grad(
        functools.partial(energy, f), argnums=(0, 1), has_aux=True
      )
    )(x, kernel)
    for f in (efficientnet._depthwise, jax.lax.conv_general_dilated)
  )
  assert ours[0][1].shape == theirs[0][1].shape
  for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs)):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)
  # Elsewhere it stays what it is called.
  lowered = jax.jit(
    lambda x, kernel: efficientnet._depthwise(
      x, kernel, (stride, stride), padding, **settings
    )
  ).trace(x, kernel)
  texts = [
    lowered.lower(lowering_platforms=(p,)).as_text() for p in ("cpu", "tpu")
  ]
  assert ["stablehlo.convolution" in text for text in texts] == [False, True]


def test_training_updates_the_statistics_and_remat_changes_nothing():
  images = jax.random.normal(jax.random.key(1), (4, 16, 16, 3))
  model = make()
  variables = jit(model.init)(jax.random.key(0), images)
  out, changed = apply(
    model, variables, images, train=True, mutable=("batch_stats",)
  )
  again, _ = apply(
    make(remat=True), variables, images, train=True, mutable=("batch_stats",)
  )
  np.testing.assert_allclose(out, again, atol=1e-5)
  mean = changed["batch_stats"]["stem"]["norm"]["mean"]
  assert np.abs(mean).max() > 1e-4
  half = apply(make(dtype=jnp.bfloat16), variables, images)
  assert half.dtype == jnp.bfloat16


def test_lite0_has_the_published_number_of_parameters():
  model = models.EfficientNetLite()
  variables = jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3))
  )
  count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
  assert count + 1280 * 1000 + 1000 == 4_652_008
