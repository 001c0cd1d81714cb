"""Tests of contrastive_jax.models.text."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax import models
from contrastive_jax.models import text as text_lib
from tests.models.jitted import apply, init, jit

SMALL = dict(vocab_size=50, context_length=12, width=32, depth=1, num_heads=2)
# Start 1, end 2, padding 0.
TOKENS = np.array([[1, 7, 9, 2, 0, 0], [1, 5, 2, 0, 0, 0], [1, 3, 4, 5, 6, 2]])
KINDS = [
  dict(causal=True, pool="eot"),
  dict(causal=True, pool="mean"),
  dict(causal=False, pool="eot"),
  dict(causal=False, pool="mean"),
  dict(causal=False, pool="cls"),
]


def _make(tokens=TOKENS, **settings):
  module = models.TextTransformer(**{**SMALL, **settings})
  return module, init(module, tokens)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_more_padding_changes_nothing(kind):
  module, variables = _make(**kind)
  feature = apply(module, variables, TOKENS)
  assert feature.shape == (3, 32)
  padded = np.pad(TOKENS, ((0, 0), (0, 6)))
  np.testing.assert_allclose(
    apply(module, variables, padded), feature, atol=1e-5
  )
  # And a text alone is the text in a batch.
  np.testing.assert_allclose(
    apply(module, variables, TOKENS[1:2, :3]), feature[1:2], atol=1e-5
  )


def test_causal_tokens_see_nothing_after_them():
  module, variables = _make(causal=True, depth=2)

  def tokens_of(ids):
    return apply(module, variables, ids, return_tokens=True)[1]

  base = tokens_of(TOKENS)
  for position in range(1, 6):
    changed = TOKENS.copy()
    changed[:, position] = 40
    out = tokens_of(changed)
    np.testing.assert_allclose(out[:, :position], base[:, :position], atol=1e-6)
    assert np.all(np.abs(out - base).max(-1)[:, position:] > 1e-4)


def test_bidirectional_tokens_see_what_follows():
  module, variables = _make(causal=False, pool="cls")
  changed = TOKENS.copy()
  changed[:, 2] = 40
  change = apply(module, variables, TOKENS) - apply(module, variables, changed)
  assert np.all(np.abs(change).max(-1) > 1e-4)


def test_last_pooling_takes_the_last_column_and_attends_padding():
  fields = dict(causal=False, pool="last", context_length=6)
  module, variables = _make(attend_padding=True, **fields)
  feature, tokens = apply(module, variables, TOKENS, return_tokens=True)
  np.testing.assert_array_equal(feature, tokens[:, -1])
  masked = models.TextTransformer(**{**SMALL, **fields})
  changed = np.abs(apply(masked, variables, TOKENS) - feature).max(axis=1)
  # Without padding there is none to attend.
  assert changed[:2].min() > 1e-3 and changed[2] < 1e-6
  with pytest.raises(
    ValueError, match=r"\btokens\b.*context_length = 6 .*got 5"
  ):
    apply(module, variables, TOKENS[:, :5])


def test_eot_pooling_takes_the_end_token():
  for settings in (dict(), dict(eot_id=2)):
    module, variables = _make(**settings)
    feature, tokens = apply(module, variables, TOKENS, return_tokens=True)
    expected = np.stack([tokens[0, 3], tokens[1, 2], tokens[2, 5]])
    np.testing.assert_array_equal(feature, expected)


def test_end_positions():
  tokens = np.array([[1, 9, 2, 2, 2], [0, 0, 0, 0, 0], [1, 0, 4, 0, 0]])
  last = text_lib.end_positions(tokens)
  assert last.tolist() == [4, 0, 2] and last.dtype == jnp.int32
  # The first occurrence, where padding is the end token itself; a text that
  # was cut off before its end token falls back to its last token.
  assert text_lib.end_positions(tokens, eot_id=2).tolist() == [2, 0, 2]
  assert text_lib.end_positions(tokens, pad_id=2).tolist() == [1, 4, 4]


def test_mean_pooling_skips_padding():
  module, variables = _make(causal=False, pool="mean")
  feature, tokens = apply(module, variables, TOKENS, return_tokens=True)
  assert tokens.shape == (*TOKENS.shape, feature.shape[1])
  for row, length in ((0, 4), (1, 3)):
    alone = apply(module, variables, TOKENS[row : row + 1, :length])
    np.testing.assert_allclose(feature[row], alone[0], atol=1e-6)


def test_mean_pooling_weighs_tokens_by_their_length():
  # A token whose embedding is small says little, whatever its direction.
  module, variables = _make(causal=False, pool="mean", depth=0)
  params = variables["params"]
  position = jnp.zeros_like(params["position_embedding"])
  table = params["token_embedding"]["embedding"].at[1].multiply(1e-4)
  params = params | {
    "position_embedding": position,
    "token_embedding": {"embedding": table},
  }
  known, both = (
    apply(module, {"params": params}, np.array([row], np.int32))
    for row in ([5, 5], [5, 1])
  )
  # Half the mean is left; the norm after it undoes that (but for its epsilon).
  cosine = known[0] @ both[0] / np.sqrt((known @ known.T) * (both @ both.T))
  np.testing.assert_allclose(cosine, 1.0, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_an_empty_text_is_finite_with_its_gradient(kind):
  tokens = np.zeros((2, 4), np.int32)
  module, variables = _make(tokens, **kind)

  def loss(variables):
    return jnp.sum(module.apply(variables, tokens) ** 2)

  for leaf in jax.tree.leaves(jit(jax.value_and_grad(loss))(variables)):
    assert np.all(np.isfinite(leaf))


def test_remat_and_bfloat16():
  module, variables = _make(activation="quick_gelu")

  def loss(variables, module):
    feature = module.apply(variables, TOKENS).astype(jnp.float32)
    return jnp.sum(feature[:, ::3] ** 3), feature

  step = jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
  (_, feature), grads = step(variables, module)
  (_, same), same_grads = step(variables, module.clone(remat=True))
  np.testing.assert_allclose(same, feature, atol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
    same_grads,
    grads,
  )
  half = module.clone(dtype=jnp.bfloat16)
  (_, narrow), half_grads = step(variables, half)
  shapes = jax.eval_shape(half.apply, variables, TOKENS)
  assert shapes.dtype == jnp.bfloat16
  assert jnp.linalg.norm(narrow - feature) < 0.02 * jnp.linalg.norm(feature)
  assert all(g.dtype == jnp.float32 for g in jax.tree.leaves(half_grads))


@pytest.mark.parametrize(
  ("tokens", "settings", "message"),
  [
    (
      np.ones((2, 13), np.int32),
      {},
      r"\btokens\b.*context_length = 12 .*got 13",
    ),
    (np.ones((2, 0), np.int32), {}, r"\btokens\b.*context_length = 12 .*got 0"),
    (np.ones((13,), np.int32), {}, r"\[N, L\]; got int32 \(13,\)"),
    (np.ones((2, 3), np.float32), {}, r"integers.*got float32 \(2, 3\)"),
    (TOKENS, dict(pool="max"), r"\bpool\b.*got 'max'"),
    (TOKENS, dict(pool="cls"), r"\bpool='cls'.*causal=False"),
  ],
)
def test_bad_input_is_named(tokens, settings, message):
  module = models.TextTransformer(**SMALL, **settings)
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(module.init, jax.random.key(0), tokens)
