"""Tests of contrastive_jax.models.layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from contrastive_jax.models import layers
from tests.models.jitted import apply, init, jit


def test_activations_match_their_formulas():
  x = np.linspace(-4, 4, 33, dtype=np.float32)
  sigmoid = 1 / (1 + np.exp(-1.702 * x.astype(np.float64)))
  np.testing.assert_allclose(
    layers.activation("quick_gelu")(x), x * sigmoid, atol=1e-6
  )
  exact = layers.activation("gelu")(x)
  tanh = layers.activation("gelu_tanh")(x)
  assert 1e-5 < np.max(np.abs(exact - tanh)) < 2e-3
  np.testing.assert_array_equal(layers.activation("relu")(x), np.maximum(x, 0))
  with pytest.raises(ValueError, match=r"\bactivation\b.*got 'gulu'"):
    layers.activation("gulu")


@pytest.mark.parametrize("use_bias", [True, False])
def test_patch_embed_is_a_strided_convolution(use_bias):
  x = jax.random.normal(jax.random.key(0), (2, 8, 12, 5))
  module = layers.PatchEmbed(7, 4, use_bias=use_bias)
  params = init(module, x)["params"]
  if use_bias:
    params["bias"] = jnp.arange(7.0)
  expected = jax.lax.conv_general_dilated(
    x,
    params["kernel"],
    (4, 4),
    "VALID",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  ) + params.get("bias", 0.0)
  actual = apply(module, {"params": params}, x)
  np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_patch_embed_refuses_a_ragged_map():
  with pytest.raises(ValueError, match="patch size 4.*got 8 x 10"):
    layers.PatchEmbed(7, 4).init(jax.random.key(0), jnp.zeros((1, 8, 10, 3)))


def test_stochastic_depth_drops_whole_examples_and_keeps_the_mean():
  x = jnp.ones((4096, 3, 2))
  module = layers.StochasticDepth(0.25)

  def run(seed, train=True):
    rngs = {"dropout": jax.random.key(seed)}
    return np.asarray(module.apply({}, x, train=train, rngs=rngs))

  out = run(0)
  assert np.all(out == out[:, :1, :1])  # an example is dropped as a whole
  np.testing.assert_allclose(np.unique(out), [0, 1 / 0.75], rtol=1e-6)
  assert abs(out.mean() - 1) < 0.05
  np.testing.assert_array_equal(out, run(0))
  assert np.any(out != run(1))
  np.testing.assert_array_equal(run(0, train=False), x)
  with pytest.raises(ValueError, match=r"\brate\b.*\[0, 1\).*got 1\.0"):
    layers.StochasticDepth(1.0).apply({}, x, train=True)


def test_projection_head_linear_is_a_matrix_product():
  x = jax.random.normal(jax.random.key(0), (4, 6))
  out, variables = jit(layers.ProjectionHead(3).init_with_output)(
    jax.random.key(1), x
  )
  leaves = jax.tree.leaves(variables)
  assert [leaf.shape for leaf in leaves] == [(6, 3)]
  np.testing.assert_allclose(out, x @ leaves[0], atol=1e-6)


def test_projection_head_of_moco_normalises_its_output():
  x = jax.random.normal(jax.random.key(0), (64, 6))
  head = layers.ProjectionHead(3, (16, 16), norm="batch", final_norm=True)
  variables = init(head, x)
  # No bias anywhere, and no scale on the final norm.
  assert "bias" not in variables["params"]["hidden_0"]
  assert "final_norm" not in variables["params"]
  out, update = apply(head, variables, x, train=True, mutable=("batch_stats",))
  np.testing.assert_allclose(out.mean(0), 0, atol=1e-5)
  np.testing.assert_allclose(out.std(0), 1, atol=1e-2)
  before, after = (
    v["batch_stats"]["norm_0"]["var"] for v in (variables, update)
  )
  assert np.any(before != after)


def test_projection_head_checks_its_norm():
  with pytest.raises(ValueError, match=r"\bnorm\b.*got 'bach'"):
    layers.ProjectionHead(3, norm="bach").init(
      jax.random.key(0), jnp.zeros((1, 2))
    )


@pytest.mark.parametrize(
  ("images", "message"),
  [
    (np.zeros((8, 8, 3), np.float32), r"\[N, H, W, 3\]; got \(8, 8, 3\)"),
    (np.zeros((1, 8, 8, 1), np.float32), r"got \(1, 8, 8, 1\)"),
    (np.zeros((1, 8, 8, 3), np.uint8), r"\bimages\b.*got uint8"),
    (np.zeros((1, 9, 8, 3), np.float32), r"\bimages\b.* 8 x 8\b.*got 9 x 8"),
  ],
)
def test_check_images_names_what_is_wrong(images, message):
  with pytest.raises(ValueError, match=message):
    layers.check_images(images, 8)


@pytest.mark.parametrize(
  "shape", [(3,), (5, 3), (2, 4, 3), (2, 4, 1, 3), (0, 4, 3)]
)
def test_a_dense_layer_with_one_axis_of_rows_is_the_same(shape):
  x = jax.random.normal(jax.random.key(0), shape)
  plain = nn.Dense(6)
  flat = nn.Dense(6, dot_general=layers.flat_dot_general)
  params = plain.init(jax.random.key(1), x)

  def loss(module, params, x):
    out = module.apply(params, x)
    return jnp.sum(jnp.sin(out)), out

  results = [
    jax.value_and_grad(
      lambda p, x, module=module: loss(module, p, x), (0, 1), has_aux=True
    )(params, x)
    for module in (plain, flat)
  ]
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    *results,
  )
