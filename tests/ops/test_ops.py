"""Normalisation, masked sums and blocks of rows."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax import ops


class TestL2Normalize:
  def test_unit_norm(self):
    x = jax.random.normal(jax.random.key(0), (5, 7))
    norms = jnp.linalg.norm(ops.l2_normalize(x), axis=-1)
    chex.assert_trees_all_close(norms, jnp.ones(5), rtol=1e-6)

  def test_zero_vector_has_zero_value_and_finite_gradient(self):
    grad = jax.grad(lambda x: ops.l2_normalize(x).sum())(jnp.zeros((1, 3)))
    assert np.all(np.isfinite(grad))
    assert not np.any(ops.l2_normalize(jnp.zeros((1, 3))))

  @pytest.mark.parametrize("scale", [1e-18, 1.0, 1e18])
  def test_any_length(self, scale):
    x = scale * jnp.array([[3.0, 4.0]])
    want = [[0.6, 0.8]] if scale >= 1e-12 else x / 1e-12
    chex.assert_trees_all_close(
      ops.l2_normalize(x), jnp.asarray(want), rtol=1e-5
    )

  def test_norm_of_bfloat16_accumulates_in_float32(self):
    x = jnp.full((1, 4096), 0.1, jnp.bfloat16)
    out = ops.l2_normalize(x)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(out, np.float32), 1 / 64, rtol=2**-8)


class TestMaskedLogsumexp:
  def test_counts_only_the_mask(self):
    logits = jnp.array([[0.0, 100.0, 1.0]])
    mask = jnp.array([[True, False, True]])
    np.testing.assert_allclose(
      ops.masked_logsumexp(logits, mask), [np.log(1 + np.e)], rtol=1e-6
    )

  def test_empty_row_is_zero_with_zero_gradient(self):
    logits, mask = jnp.ones((1, 3)), jnp.zeros((1, 3), bool)
    value, grad = jax.value_and_grad(
      lambda x: ops.masked_logsumexp(x, mask).sum()
    )(logits)
    assert value == 0
    np.testing.assert_array_equal(grad, 0)


class TestMapRows:
  @pytest.mark.parametrize("block", [1, 3, 4, 7, 100])
  def test_blocks_equal_the_whole(self, block):
    x = jax.random.normal(jax.random.key(1), (7, 5))

    def total(x, block):
      rows = ops.map_rows(
        lambda r: jax.nn.logsumexp(r @ x.T, axis=1),
        (x,),
        num_columns=7,
        block_size=block,
      )
      return rows.sum()

    want = jax.value_and_grad(total)(x, None)
    chex.assert_trees_all_close(
      jax.value_and_grad(total)(x, block), want, rtol=1e-5, atol=1e-6
    )

  def test_blocks_do_not_form_the_whole_matrix(self):
    n, block = 512, 16

    def total(q, k, block):
      rows = ops.map_rows(
        lambda r: jax.nn.logsumexp(r @ k.T, axis=1),
        (q,),
        num_columns=n,
        block_size=block,
      )
      return rows.sum()

    x = jax.ShapeDtypeStruct((n, 8), jnp.float32)
    bytes_of = {}
    for size in (None, block):
      compiled = (
        jax.jit(jax.grad(total, argnums=(0, 1)), static_argnums=2)
        .lower(x, x, size)
        .compile()
      )
      bytes_of[size] = compiled.memory_analysis().temp_size_in_bytes
    assert bytes_of[None] >= 4 * n * n
    assert bytes_of[block] < n * n

  @pytest.mark.parametrize("block", [0, -1, "foo", 1.5, True])
  def test_bad_block_size(self, block):
    with pytest.raises(ValueError, match="block_size"):
      ops.map_rows(
        lambda r: r.sum(1),
        (jnp.ones((2, 2)),),
        num_columns=2,
        block_size=block,
      )


def test_unmapped_axes_are_named():
  with pytest.raises(ValueError, match="axes names 'rows'"):
    ops.gather_rows(jnp.ones((2, 2)), "rows")
