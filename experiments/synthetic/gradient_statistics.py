"""Bias and variance of a stochastic gradient."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class GradientStatistics(NamedTuple):
  r"""How a stochastic gradient differs from the full one, in units of `|g|^2`.

  Attributes:
    squared_bias: :math:`|E \hat g - g|^2 / |g|^2`, without the noise of the
      mean: an unbiased estimate, so it may fall below 0 where the bias is small.
    variance: :math:`E |\hat g - E \hat g|^2 / |g|^2`, of one draw.
    cosine: between the mean of the draws and g.
    standard_error: of `squared_bias`, were the draws Gaussian.
  """

  squared_bias: jax.Array
  variance: jax.Array
  cosine: jax.Array
  standard_error: jax.Array


def gradient_statistics(
  estimate: Callable[[jax.Array], Any],
  reference: Any,
  key: jax.Array,
  *,
  draws: int,
  chunk: int = 64,
) -> GradientStatistics:
  r"""Bias and variance of a stochastic gradient against the full-data one.

  With the deviations :math:`d_k = \hat g_k - g` of n draws, products of two
  different ones estimate the squared bias without the variance in it:

  .. math::
    |E \hat g - g|^2 \approx \frac{|\sum_k d_k|^2 - \sum_k |d_k|^2}{n (n - 1)},
    \qquad
    \mathrm{Var} \approx \frac{\sum_k |d_k|^2 - |\sum_k d_k|^2 / n}{n - 1} .

  An estimator without bias is not good alone: its variance counts as well.

  Args:
    estimate: key -> gradient, a pytree of floating arrays; one minibatch and
      whatever else is random. It is vmapped, so it must be a pure function.
    reference: the full-data gradient g, a pytree of the same structure.
    key: split into one key a draw.
    draws: n, at least 2.
    chunk: draws made at once, of which that many gradients are held.

  Returns:
    Four float32 scalars.

  Raises:
    ValueError: if `draws` < 2 or `chunk` < 1.
  """
  if draws < 2:
    raise ValueError(f"draws must be at least 2; got {draws}.")
  if chunk < 1:
    raise ValueError(f"chunk must be at least 1; got {chunk}.")
  chunk = min(chunk, draws)
  full, rest = divmod(draws, chunk)
  keys = jax.random.split(key, draws)
  reference = jax.tree.map(lambda g: jnp.asarray(g, jnp.float32), reference)
  squared_norm = functools.partial(optax.tree.norm, squared=True)

  def add(sums, keys):
    total, squares = sums
    found = jax.tree.map(
      lambda x, g: x.astype(jnp.float32) - g,
      jax.vmap(estimate)(keys),
      reference,
    )
    total = jax.tree.map(lambda t, d: t + jnp.sum(d, axis=0), total, found)
    return (total, squares + squared_norm(found)), None

  sums, _ = jax.lax.scan(
    add,
    (optax.tree.zeros_like(reference), jnp.float32(0)),
    keys[: full * chunk].reshape(full, chunk, *keys.shape[1:]),
  )
  if rest:
    sums, _ = add(sums, keys[full * chunk :])
  total, squares = sums
  norm, of_total = squared_norm(reference), squared_norm(total)
  squared_bias = (of_total - squares) / (float(draws) * (draws - 1))
  variance = (squares - of_total / draws) / (draws - 1)
  mean = jax.tree.map(lambda t, g: t / draws + g, total, reference)
  dot = jnp.asarray(optax.tree.vdot(mean, reference))
  # Error for a Gaussian in one direction; in more directions it is smaller.
  spread = variance / draws
  error = jnp.sqrt(
    2.0 * spread**2 + 4.0 * spread * jnp.maximum(squared_bias, 0.0)
  )
  return GradientStatistics(
    squared_bias / norm,
    variance / norm,
    dot / jnp.sqrt(squared_norm(mean) * norm),
    error / norm,
  )
