"""Tests of contrastive_jax.models.convnet."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax import models
from contrastive_jax.models import convnet
from tests.models.jitted import apply, init, jit

SMALL = dict(widths=(16, 32), depths=(1, 2))
FORMS = [
  dict(block="basic", norm="group"),
  dict(block="basic", norm="layer", patch_size=1),
  dict(block="convnext", norm="layer", activation="gelu"),
  dict(block="convnext", norm="group", separable=False, kernel_size=3),
]


def _images(n=3, size=16):
  return jax.random.normal(jax.random.key(0), (n, size, size, 3))


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_feature_does_not_depend_on_its_batch(form):
  module = models.ConvNet(**SMALL, **form)
  images = _images()
  variables = init(module, images)
  assert set(variables) == {"params"}
  apply = jit(lambda x: module.apply(variables, x, train=True))
  feature = apply(images)
  assert feature.shape == (3, 32)
  for i in range(3):
    np.testing.assert_allclose(
      feature[i : i + 1], apply(images[i : i + 1]), atol=1e-5
    )
  assert np.max(np.abs(feature[0] - feature[1])) > 1e-2


@pytest.mark.parametrize("separable", [True, False])
def test_depthwise_matches_a_grouped_convolution(separable):
  x = jax.random.normal(jax.random.key(0), (2, 7, 6, 4))
  module = convnet.DepthwiseConv(5, separable)
  params = init(module, x)["params"]
  params["bias"] = jnp.arange(4.0)
  kernel = params["kernel_0"]  # [5, 5, C], or a column that meets a row
  if separable:
    kernel = kernel * params["kernel_1"]

  def expected(params_kernel, x):
    return jax.lax.conv_general_dilated(
      x,
      params_kernel[:, :, None],
      (1, 1),
      "SAME",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
      feature_group_count=4,
    )

  np.testing.assert_allclose(
    apply(module, {"params": params}, x),
    expected(kernel, x) + jnp.arange(4.0),
    atol=1e-5,
  )


@pytest.mark.parametrize("form", FORMS[::2], ids=str)
def test_remat_and_bfloat16(form):
  images = _images()
  plain = models.ConvNet(**SMALL, **form)
  variables = init(plain, images)

  def loss(variables, module):
    feature = module.apply(variables, images).astype(jnp.float32)
    return jnp.sum(feature**2), feature

  step = jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
  (_, feature), grads = step(variables, plain)
  (_, same), same_grads = step(
    variables, models.ConvNet(remat=True, **SMALL, **form)
  )
  np.testing.assert_allclose(same, feature, atol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3),
    same_grads,
    grads,
  )
  half = models.ConvNet(dtype=jnp.bfloat16, **SMALL, **form)
  (_, narrow), half_grads = step(variables, half)
  assert jnp.linalg.norm(narrow - feature) < 0.03 * jnp.linalg.norm(feature)
  assert all(g.dtype == jnp.float32 for g in jax.tree.leaves(half_grads))


def test_stochastic_depth_is_a_function_of_the_key():
  module = models.ConvNet(stochastic_depth=0.5, dropout=0.1, **SMALL)
  images = _images()
  variables = init(module, images)

  @jit
  def run(seed):
    rngs = {"dropout": jax.random.key(seed)}
    return module.apply(variables, images, train=True, rngs=rngs)

  np.testing.assert_array_equal(run(0), run(0))
  assert np.max(np.abs(run(0) - run(1))) > 1e-3


def test_tokens_average_to_the_feature():
  module = models.ConvNet(**SMALL)
  variables = init(module, _images())
  feature, tokens = apply(module, variables, _images(), return_tokens=True)
  assert tokens.shape == (3, 16, 32)
  np.testing.assert_allclose(tokens.mean(1), feature, atol=1e-5)


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    (dict(block="bottle"), r"\bblock\b.*got 'bottle'"),
    (dict(norm="batch"), r"\bnorm\b.*got 'batch'"),
    (dict(depths=(1,)), r"\bwidths and depths\b.*got \(16, 32\) and \(1,\)"),
    (dict(patch_size=3), r"\bimages\b.*\b6\b.*got 16 x 16"),
    (dict(block="convnext", kernel_size=4), r"\bkernel_size\b.*got 4"),
  ],
)
def test_bad_settings_are_named(settings, message):
  module = models.ConvNet(**{**SMALL, **settings})
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(module.init, jax.random.key(0), _images())
