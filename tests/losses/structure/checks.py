"""Shared parts of the tests of structure losses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

FORMS = ("gram", "direct")
TERMS = ("intra", "inter", "augmented", "paired")
# Factors of the terms; all different, so that none stands in for another.
WEIGHTS = {"intra": 0.7, "inter": 0.4, "augmented": 1.3, "paired": 2.0}


def only(*terms):
  return {term: float(term in terms) for term in TERMS}


def cotangents(n, seed=1):
  """Cotangents of any size and sign: a backward pass may not assume 1/N."""
  return np.random.default_rng(seed).normal(size=n).astype(np.float32)


def with_gradients(loss):
  """Jitted (arrays, cotangents) -> (losses, gradients)."""

  def weighted(arrays, weights):
    per_example = loss(*arrays)
    return jnp.sum(weights * per_example), per_example

  @jax.jit
  def run(arrays, weights):
    gradients, per_example = jax.grad(weighted, has_aux=True)(arrays, weights)
    return per_example, gradients

  return run


def assert_close(actual, expected, rtol=1e-6, what=""):
  actual = np.asarray(actual, np.float64)
  assert actual.shape == np.shape(expected), (what, actual.shape)
  error = np.abs(actual - expected).max()
  bound = rtol * np.abs(expected).max()
  assert error <= bound, f"{what}: error {error:.3g}, bound {bound:.3g}"
