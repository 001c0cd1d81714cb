"""Normalisation, and sums over a similarity in tiles."""

import functools

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


def reference(q, k, scale, mask, g_rows, g_columns):
  """Float64 log-sum-exp of rows and columns, and gradients of <g, sums>."""
  q, k = np.float64(q), np.float64(k)
  s = np.where(mask, scale * q @ k.T, -np.inf)

  def sums(s, g):
    top = s.max(axis=1, keepdims=True)
    some = np.isfinite(top)
    top = np.where(some, top, 0.0)
    e = np.exp(s - top)
    total = e.sum(axis=1, keepdims=True)
    p = np.divide(e, total, out=np.zeros_like(e), where=some)
    with np.errstate(divide="ignore"):
      return (top + np.log(total))[:, 0], g[:, None] * p

  rows, by_rows = sums(s, np.float64(g_rows))
  columns, by_columns = sums(s.T, np.float64(g_columns))
  p = by_rows + by_columns.T
  gradients = scale * p @ k, scale * p.T @ q, np.sum(p * (q @ k.T))
  return rows, columns, gradients


def weighted_sums(g_rows, g_columns, **options):
  def total(q, k, scale):
    sums = ops.row_column_sums(q, k, scale=scale, columns=True, **options)

    def dot(g, x):
      return jnp.sum(jnp.where(jnp.isneginf(x), 0.0, g * x))

    return dot(g_rows, sums.rows) + dot(g_columns, sums.columns), sums

  return jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))


class TestRowColumnSums:
  """The tiles on one device; losses/ has them on many."""

  N, D = 13, 6

  def inputs(self, seed=0, spread=1.0):
    rng = np.random.default_rng(seed)
    q, k = rng.normal(size=(2, self.N, self.D)).astype(np.float32)
    # Rows of very different size: logits that share no offset.
    sizes = spread ** rng.uniform(-1, 1, (self.N, 1))
    g = rng.normal(size=(2, self.N)).astype(np.float32)
    return q * sizes.astype(np.float32), k, g

  @pytest.mark.parametrize("block", [None, 1, 4, 5, 13, 100])
  @pytest.mark.parametrize(
    "exclude", ["none", "self", "group", "not_group", "not_others"]
  )
  def test_equal_the_reference(self, block, exclude):
    ids = np.arange(self.N) % 4
    ids[3] = 99
    own = np.eye(self.N, dtype=bool)
    same = ids[:, None] == ids[None, :]
    mask = {
      "none": np.ones((self.N, self.N), bool),
      "self": ~own,
      "group": ~same,
      "not_group": same,
      "not_others": same & ~own,
    }[exclude]
    _, _, g = self.inputs()
    run = weighted_sums(
      *g, group_ids=jnp.asarray(ids), exclude=exclude, block_size=block
    )
    # Spans of a tile: within one exponential, below it, and far beyond. They
    # are of the same compiled program.
    for spread, scale in [(1.0, 3.0), (1.0, 9.0), (9.0, 30.0)]:
      q, k, _ = self.inputs(spread=spread)
      grads, sums = run(q, k, jnp.float32(scale))
      rows, columns, wanted = reference(q, k, scale, mask, *g)
      largest = scale * np.abs(np.float64(q) @ k.T).max()
      # A logit carries an error relative to itself, its softmax the same.
      rtol = 2e-7 * (2 + largest)
      said = f"spread {spread}, scale {scale}"
      np.testing.assert_allclose(sums.rows, rows, 1e-6, rtol, err_msg=said)
      np.testing.assert_allclose(
        sums.columns, columns, 1e-6, rtol, err_msg=said
      )
      for actual, expected in zip(grads, wanted):
        atol = rtol * np.abs(expected).max() + 1e-6
        np.testing.assert_allclose(actual, expected, rtol, atol, err_msg=said)

  @pytest.mark.parametrize("block", [None, 4])
  def test_logits_that_share_no_offset_keep_their_small_rows(self, block):
    # One offset for the tile would lose the second row altogether.
    q = jnp.array([[1.0], [-1.0]])
    sums = ops.row_column_sums(
      q, jnp.ones((2, 1)), scale=500.0, columns=True, block_size=block
    )
    np.testing.assert_allclose(
      sums.rows, np.array([500.0, -500.0]) + np.log(2), rtol=1e-6
    )
    np.testing.assert_allclose(sums.columns, [500.0, 500.0], rtol=1e-6)

  @pytest.mark.parametrize("block", [None, 1, 2])
  def test_empty_sums_have_no_gradient(self, block):
    ids = jnp.zeros(3, jnp.int32)
    x = jnp.ones((3, 2))
    grads, sums = weighted_sums(
      np.ones(3), np.ones(3), group_ids=ids, exclude="group", block_size=block
    )(x, x, jnp.float32(1.0))
    assert np.isneginf(sums.rows).all() and np.isneginf(sums.columns).all()
    for grad in grads:
      np.testing.assert_array_equal(grad, 0)

  @pytest.mark.parametrize("block", [None, 4])
  def test_keys_without_gradient(self, block):
    q, k, _ = self.inputs()

    @functools.partial(jax.jit, static_argnums=2)
    @functools.partial(jax.grad, argnums=(0, 1))
    def gradients(q, k, key_gradient):
      return ops.row_column_sums(
        q, k, scale=2.0, key_gradient=key_gradient, block_size=block
      ).rows.sum()

    some, none = gradients(q, k, True), gradients(q, k, False)
    np.testing.assert_array_equal(some[0], none[0])
    assert np.any(some[1]) and not np.any(none[1])

  @pytest.mark.parametrize("block", [None, 1, 4, 5, 13, 100])
  @pytest.mark.parametrize(
    "exclude, positives",
    [("none", "none"), ("self", "others"), ("group", "group")],
  )
  def test_one_set_of_features_with_itself(self, block, exclude, positives):
    z, _, g = self.inputs(spread=2.0)
    ids = jnp.arange(self.N) % 4

    def total(z, scale, copy):
      sums = ops.row_column_sums(
        z,
        # Another array of the same content takes the general way.
        z + 0.0 if copy else z,
        scale=scale,
        group_ids=ids,
        exclude=exclude,
        positives=positives,
        block_size=block,
      )
      loss = jnp.sum(g[0] * sums.rows)
      if positives != "none":
        loss += jnp.sum(g[1] * sums.row_positive)
      return loss, sums

    run = jax.jit(
      jax.grad(total, argnums=(0, 1), has_aux=True), static_argnums=2
    )
    for scale in (2.0, 60.0):
      half, whole = run(z, scale, False), run(z, scale, True)
      for a, b in zip(jax.tree.leaves(half), jax.tree.leaves(whole)):
        atol = 3e-5 * np.abs(b).max()
        np.testing.assert_allclose(a, b, atol=atol, err_msg=f"scale {scale}")

  def test_one_set_of_features_takes_half_of_the_products(self):
    def flops(copy):
      def total(z):
        other = jnp.roll(z, 1, 0) if copy else z
        return ops.row_column_sums(
          z, other, scale=1.0, block_size=None
        ).rows.sum()

      z = jax.ShapeDtypeStruct((256, 64), jnp.float32)
      compiled = jax.jit(jax.grad(total)).lower(z).compile()
      return compiled.cost_analysis()["flops"]

    # Kept logits: two products instead of three.
    assert flops(False) < 0.75 * flops(True)

  def test_memory_does_not_grow_with_the_square(self):
    def temporary(n, block):
      x = jax.ShapeDtypeStruct((n, 16), jnp.float32)
      g = jnp.ones(n)
      run = weighted_sums(g, g, block_size=block)
      scale = jax.ShapeDtypeStruct((), jnp.float32)
      memory = run.lower(x, x, scale).compile().memory_analysis()
      return memory.temp_size_in_bytes

    assert temporary(1024, None) >= 4 * 1024**2
    small, large = temporary(1024, 64), temporary(2048, 64)
    assert large <= 2.2 * small and large < 4 * 1024**2

  @pytest.mark.parametrize("block", [0, -1, "foo", 1.5, True])
  def test_bad_block_size(self, block):
    with pytest.raises(ValueError, match="block_size"):
      ops.row_column_sums(
        jnp.ones((2, 2)), jnp.ones((2, 2)), scale=1.0, block_size=block
      )


def test_unmapped_axes_are_named():
  with pytest.raises(ValueError, match=r"\baxes\b.*'rows'"):
    ops.global_row_ids(2, "rows")
