"""Tests of contrastive_jax.models.transformer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax.models import transformer
from tests.models.jitted import init, jit


def _reference_block(params, x, num_heads, mask, eps):
  """A pre-norm block in float64 NumPy, one example and one head at a time."""
  p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)

  def norm(x, p):
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)
    return x * p["scale"] + p["bias"]

  def dense(x, p):
    return x @ p["kernel"] + p["bias"]

  out = []
  for tokens in np.asarray(x, np.float64):
    width = tokens.shape[-1]
    size = width // num_heads
    qkv = dense(norm(tokens, p["ln_1"]), p["attention"]["qkv"])
    heads = []
    for h in range(num_heads):
      q, k, v = (
        qkv[:, part * width + h * size : part * width + (h + 1) * size]
        for part in range(3)
      )
      logits = np.where(mask, q @ k.T / np.sqrt(size), -np.inf)
      weight = np.exp(logits - logits.max(-1, keepdims=True))
      heads.append(weight / weight.sum(-1, keepdims=True) @ v)
    tokens = tokens + dense(np.concatenate(heads, -1), p["attention"]["out"])
    hidden = dense(norm(tokens, p["ln_2"]), p["mlp"]["fc"])
    hidden = hidden / (1 + np.exp(-1.702 * hidden))
    out.append(tokens + dense(hidden, p["mlp"]["proj"]))
  return np.stack(out)


def test_block_matches_a_float64_reference():
  x = jax.random.normal(jax.random.key(0), (2, 5, 12))
  mask = np.tril(np.ones((5, 5), bool))
  block = transformer.TransformerBlock(3, activation="quick_gelu")
  params = jit(block.init, static_argnums=3)(jax.random.key(1), x, None, False)[
    "params"
  ]
  # Every bias and scale is made to matter.
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(2), len(leaves))
  params = jax.tree.unflatten(
    tree,
    [
      leaf + 0.3 * jax.random.normal(key, leaf.shape)
      for leaf, key in zip(leaves, keys)
    ],
  )
  actual = jit(block.apply, static_argnums=3)(
    {"params": params}, x, mask[None, None], False
  )
  expected = _reference_block(params, x, 3, mask, 1e-6)
  np.testing.assert_allclose(actual, expected, atol=2e-5)


def test_remat_changes_neither_parameters_nor_gradients():
  x = jax.random.normal(jax.random.key(0), (2, 5, 16))
  plain, remat = (
    transformer.Transformer(
      2, 2, remat=remat, dropout=0.2, stochastic_depth=0.5
    )
    for remat in (False, True)
  )
  variables = init(plain, x)
  assert jax.tree.structure(variables) == jax.tree.structure(
    jax.eval_shape(remat.init, jax.random.key(1), x)
  )

  def loss(variables, module):
    rngs = {"dropout": jax.random.key(2)}
    return jnp.sum(module.apply(variables, x, train=True, rngs=rngs) ** 2)

  step = jit(jax.value_and_grad(loss), static_argnums=1)
  value, grad = step(variables, plain)
  remat_value, remat_grad = step(variables, remat)
  np.testing.assert_allclose(remat_value, value, rtol=1e-6)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
    remat_grad,
    grad,
  )
  # It does recompute: the backward pass holds a checkpoint.
  assert "remat" in str(jax.make_jaxpr(lambda v: loss(v, remat))(variables))


def test_dropout_is_a_function_of_the_key():
  x = jax.random.normal(jax.random.key(0), (4, 5, 16))
  module = transformer.Transformer(2, 2, dropout=0.3, stochastic_depth=0.3)
  variables = init(module, x)

  @jit
  def run(seed):
    rngs = {"dropout": jax.random.key(seed)}
    return module.apply(variables, x, train=True, rngs=rngs)

  np.testing.assert_array_equal(run(0), run(0))
  assert np.max(np.abs(run(0) - run(1))) > 0.1
  evaluated = jit(module.apply)(variables, x)  # needs no key
  assert np.max(np.abs(run(0) - evaluated)) > 0.1


def test_sincos_positions_are_distinct_and_bounded():
  table = transformer.sincos_position_embedding(4, 16)
  assert table.shape == (16, 16) and table.dtype == np.float32
  assert np.abs(table).max() <= 1
  gram = table @ table.T
  np.testing.assert_allclose(np.diag(gram), 8, rtol=1e-5)  # sin² + cos²
  assert np.max(gram - 8 * np.eye(16)) < 7.99
  # x is the fast index: the first patches of two rows share their x half.
  np.testing.assert_array_equal(table[0, :8], table[4, :8])
  np.testing.assert_array_equal(table[0, 8:], table[1, 8:])
  with pytest.raises(ValueError, match=r"\bwidth\b.*\b4\b.*got 6"):
    transformer.sincos_position_embedding(2, 6)


def test_a_sincos_position_by_hand():
  table = transformer.sincos_position_embedding(3, 8, 4.0)
  # Row 1, column 2: two frequencies a coordinate, 1 and 1/4.
  x, y = np.array([2.0, 0.5]), np.array([1.0, 0.25])
  expected = np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)])
  np.testing.assert_allclose(table[5], expected, rtol=1e-6)
  with pytest.raises(ValueError, match=r"\bperiod\b.*\b1\b.*got 0\.5"):
    transformer.sincos_position_embedding(3, 8, 0.5)


def test_attention_refuses_a_width_its_heads_do_not_divide():
  with pytest.raises(ValueError, match=r"\bwidth\b.*num_heads = 3.*got 16"):
    transformer.SelfAttention(3).init(jax.random.key(0), jnp.zeros((1, 2, 16)))
