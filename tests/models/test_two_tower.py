"""Tests of contrastive_jax.models.two_tower."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax import models
from tests.models.jitted import apply, init, jit

IMAGES = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype(np.float32)
TOKENS = np.array([[1, 4, 2, 0], [1, 5, 6, 2]])


def _make(**settings):
  dtype = settings.get("dtype")
  return models.TwoTower(
    image=models.ConvNet(widths=(16,), depths=(1,), dtype=dtype),
    text=models.TextTransformer(
      vocab_size=20,
      context_length=6,
      width=16,
      depth=1,
      num_heads=2,
      dtype=dtype,
    ),
    **{"embed_dim": 24, **settings},
  )


def _init(module):
  return init(module, IMAGES, TOKENS)


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
def test_outputs(dtype):
  module = _make(dtype=dtype)
  variables = _init(module)
  out = apply(module, variables, IMAGES, TOKENS)
  assert out["image"].shape == (3, 24) and out["text"].shape == (2, 24)
  for name in ("image", "text"):
    assert out[name].dtype == jnp.float32
    np.testing.assert_allclose(np.linalg.norm(out[name], axis=-1), 1, atol=1e-5)
  np.testing.assert_allclose(out["logit_scale"], 1 / 0.07, rtol=1e-6)
  assert float(out["logit_bias"]) == -10
  assert variables["params"]["log_logit_scale"].shape == ()
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(variables))


def test_methods_agree_with_the_call():
  module = _make()
  variables = _init(module)
  out = apply(module, variables, IMAGES, TOKENS)
  image = apply(module, variables, IMAGES, method="encode_image")
  text = apply(module, variables, TOKENS, method="encode_text")
  np.testing.assert_allclose(image, out["image"], atol=1e-6)
  np.testing.assert_allclose(text, out["text"], atol=1e-6)


def test_every_parameter_has_a_gradient():
  module = _make()
  variables = _init(module)

  def loss(variables):
    out = module.apply(variables, IMAGES, TOKENS)
    logits = out["image"] @ out["text"].T * out["logit_scale"]
    return jnp.sum(jnp.sin(logits + out["logit_bias"]))

  grads = jit(jax.grad(loss))(variables)
  for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
    assert np.any(leaf != 0), path


def test_scale_and_bias_start_where_they_are_told_to():
  module = _make(init_logit_scale=10.0, init_logit_bias=-2.5)
  params = _init(module)["params"]
  np.testing.assert_allclose(params["log_logit_scale"], math.log(10))
  assert float(params["logit_bias"]) == -2.5
  with pytest.raises(
    ValueError, match=r"\binit_logit_scale\b.*\b0\b.*got 0\.0"
  ):
    _init(_make(init_logit_scale=0.0))


def test_heads():
  params = _init(_make(image_head="mlp", text_head="linear"))["params"]
  assert set(params["image_projection"]["head"]) == {"hidden_0", "out"}
  assert set(params["text_projection"]["head"]) == {"out"}
  params = _init(_make(text_head="affine"))["params"]
  assert set(params["text_projection"]["head"]["out"]) == {"kernel", "bias"}
  assert set(params["image_projection"]["head"]["out"]) == {"kernel"}
  params = _init(_make(embed_dim=16, image_head="none"))["params"]
  assert "image_projection" not in params
  with pytest.raises(ValueError, match=r"\bembed_dim = 24\b.*got 16"):
    _init(_make(image_head="none"))
  with pytest.raises(ValueError, match=r"\bhead\b.*got 'linar'"):
    _init(_make(text_head="linar"))


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_second_heads_see_the_same_feature_and_change_nothing_else(kind):
  module = _make(independent_head=kind)
  variables = _init(module)
  out = apply(module, variables, IMAGES, TOKENS)
  for side, x in (("image", IMAGES), ("text", TOKENS)):
    shared, independent = apply(
      module, variables, x, method=f"encode_{side}_twice"
    )
    np.testing.assert_allclose(shared, out[side], atol=1e-6)
    np.testing.assert_allclose(independent, out[f"{side}_independent"])
    np.testing.assert_allclose(
      np.linalg.norm(independent, axis=-1), 1, atol=1e-5
    )
    assert np.abs(np.sum(shared * independent, axis=1)).max() < 0.9
    expected = {
      "shared": shared,
      "independent": independent,
      "both": np.concatenate([shared, independent], axis=1) / math.sqrt(2),
    }
    for head, value in expected.items():
      found = module.apply(variables, x, method=f"encode_{side}", head=head)
      np.testing.assert_allclose(found, value, atol=1e-6)
  params = variables["params"]
  names = {"image_independent", "text_independent"}
  head = params["image_independent"]["head"]
  assert set(head) == ({"out"} if kind == "linear" else {"hidden_0", "out"})
  plain = _init(_make())["params"]
  assert set(params) - set(plain) == names
  rest = {k: v for k, v in params.items() if k not in names}
  jax.tree.map(np.testing.assert_array_equal, rest, plain)


def test_a_second_head_must_be_there_and_known():
  with pytest.raises(ValueError, match=r"\bindependent_head\b.*got None"):
    _make().apply(_init(_make()), IMAGES, method="encode_image_twice")
  for side, x in (("image", IMAGES), ("text", TOKENS)):
    with pytest.raises(ValueError, match=r"\bindependent_head\b.*got None"):
      _make().apply(_init(_make()), x, head="both", method=f"encode_{side}")
  module = _make(independent_head="mlp")
  with pytest.raises(ValueError, match=r"\bhead\b.*\bboth\b.*got 'second'"):
    module.apply(_init(module), TOKENS, head="second", method="encode_text")
  with pytest.raises(ValueError, match=r"\bindependent_head\b.*got 'none'"):
    _init(_make(independent_head="none"))


def test_train_reaches_both_towers():
  module = _make()
  module = module.clone(
    image=module.image.clone(dropout=0.5), text=module.text.clone(dropout=0.5)
  )
  variables = _init(module)

  @jit
  def run(seed):
    rngs = {"dropout": jax.random.key(seed)}
    return module.apply(variables, IMAGES, TOKENS, train=True, rngs=rngs)

  first, again, other = run(0), run(0), run(1)
  for name in ("image", "text"):
    np.testing.assert_array_equal(first[name], again[name])
    assert np.any(first[name] != other[name])


def test_dropout_of_one_towers_feature():
  module, plain = _make(image_dropout=0.5), _make()
  variables = _init(plain)

  def embed(module, train, seed=0):
    return module.apply(
      variables,
      IMAGES,
      TOKENS,
      train=train,
      rngs={"dropout": jax.random.key(seed)},
      mutable=["batch_stats"],
    )[0]

  expected, evaluated = embed(plain, True), embed(module, False)
  first, second = embed(module, True), embed(module, True, seed=1)
  np.testing.assert_array_equal(evaluated["image"], expected["image"])
  np.testing.assert_array_equal(first["text"], expected["text"])
  assert np.abs(first["image"] - expected["image"]).max() > 0.05
  assert np.abs(first["image"] - second["image"]).max() > 0.05
  with pytest.raises(ValueError, match=r"\btext_dropout\b.*\[0, 1\).*got 1\.0"):
    _init(_make(text_dropout=1.0))


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("side", ["image", "text"])
def test_features_are_taken_in_the_place_of_inputs(side, twice):
  module = _make(
    frozen=("image", "text"), independent_head="mlp" if twice else None
  )
  variables = _init(module)
  inputs = {"image": IMAGES, "text": TOKENS}[side]
  tower = getattr(module, side)
  feature = tower.apply(
    {"params": variables["params"][side]}, inputs, train=False
  )
  assert feature.shape == (len(inputs), 16)
  method = f"encode_{side}_twice" if twice else f"encode_{side}"
  expected = apply(module, variables, inputs, method=method)
  given = apply(module, variables, feature, are_features=True, method=method)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), given, expected
  )
