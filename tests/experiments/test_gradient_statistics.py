"""Bias and variance of a stochastic gradient, against known ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax import losses, ops
from experiments.synthetic.gradient_statistics import gradient_statistics

G = {"a": jnp.asarray([3.0, 0.0]), "b": jnp.asarray([[4.0]])}  # |g| = 5.


def noisy(scale, shift):
  def estimate(key):
    keys = jax.random.split(key)
    return {
      name: g + shift + scale * jax.random.normal(k, g.shape)
      for (name, g), k in zip(G.items(), keys)
    }

  return estimate


@pytest.mark.parametrize("draws, chunk", [(4000, 64), (4001, 128), (4000, 1)])
def test_a_known_bias_and_variance(draws, chunk):
  found = gradient_statistics(
    noisy(1.0, 0.5), G, jax.random.key(0), draws=draws, chunk=chunk
  )
  # Three entries: bias^2 = 3 / 4, variance 3, over 25.
  np.testing.assert_allclose(found.squared_bias, 0.03, atol=0.003)
  np.testing.assert_allclose(found.variance, 0.12, rtol=0.05)
  assert 0 < found.standard_error < 0.003


def test_no_bias_is_zero_within_its_error():
  values = [
    gradient_statistics(noisy(2.0, 0.0), G, jax.random.key(i), draws=200)
    for i in range(20)
  ]
  found = np.asarray([v.squared_bias for v in values])
  assert abs(found.mean()) < 3 * found.std(ddof=1) / np.sqrt(20)
  assert found.min() < 0 < found.max()
  assert found.std(ddof=1) < 1.5 * values[0].standard_error


def test_the_cosine_is_that_of_the_mean():
  def estimate(key):
    return {"a": jnp.asarray([0.0, 3.0]), "b": G["b"]}

  found = gradient_statistics(estimate, G, jax.random.key(0), draws=2)
  np.testing.assert_allclose(found.cosine, 16 / 25, rtol=1e-6)
  np.testing.assert_allclose(found.squared_bias, 18 / 25, rtol=1e-6)
  np.testing.assert_allclose(found.variance, 0, atol=1e-6)


def test_the_exact_weight_takes_the_bias_of_a_small_batch_away():
  rng = np.random.default_rng(0)
  n, batch, tau = 64, 4, 0.1
  x, y = jnp.asarray(rng.normal(size=(2, n, 8)), jnp.float32)
  y = x + 0.5 * y

  def features(w, rows):
    return ops.l2_normalize(x[rows] @ w), ops.l2_normalize(y[rows])

  w, everything = jnp.eye(8), jnp.arange(n)
  log_z = losses.log_partition(*features(w, everything), temperature=tau)
  full = jax.grad(
    lambda w: jnp.mean(
      losses.decoupled(*features(w, everything), temperature=tau)
    )
  )(w)

  def decoupled(key):
    rows = jax.random.choice(key, n, (batch,), replace=False)
    return jax.grad(
      lambda w: jnp.mean(losses.decoupled(*features(w, rows), temperature=tau))
    )(w)

  def augmented(key):
    rows = jax.random.choice(key, n, (batch,), replace=False)
    return jax.grad(
      lambda w: jnp.mean(
        losses.augmented_contrastive(
          *features(w, rows), -log_z[rows], temperature=tau
        )
      )
    )(w)

  key = jax.random.key(1)
  biased = gradient_statistics(decoupled, full, key, draws=2000, chunk=500)
  exact = gradient_statistics(augmented, full, key, draws=2000, chunk=500)
  assert biased.squared_bias > 0.05
  assert abs(exact.squared_bias) < 4 * exact.standard_error
  assert exact.squared_bias < 0.2 * biased.squared_bias


@pytest.mark.parametrize(
  "sizes, said",
  [
    ({"draws": 1}, r"\bdraws\b.*\b2\b.*got 1"),
    ({"draws": 4, "chunk": 0}, r"\bchunk\b.*\b1\b.*got 0"),
  ],
)
def test_bad_sizes_are_refused(sizes, said):
  with pytest.raises(ValueError, match=said):
    gradient_statistics(noisy(1.0, 0.0), G, jax.random.key(0), **sizes)


def test_so_many_draws_that_their_pairs_exceed_an_integer():
  def estimate(key):
    return 1.0 + jax.random.normal(key, (1,))

  found = gradient_statistics(
    estimate, jnp.ones(1), jax.random.key(0), draws=2**16, chunk=2**12
  )
  assert abs(found.squared_bias) < 4 * found.standard_error
  assert found.variance == pytest.approx(1.0, rel=0.05)
