"""What a network is fitted by: values, derivatives, where each is least."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax import losses
from tests.losses import partition_references

N = 16
OBJECTIVES = ("linear", "l2", "kl")


def problem(seed=0):
  """Predictions, estimates (two of nothing) and targets."""
  rng = np.random.default_rng(seed)
  nu, batch, target = rng.normal(scale=2.0, size=(3, N)).astype(np.float32)
  batch[:2] = -np.inf, np.nan
  return nu, batch, target


def formula(objective, nu, batch, target):
  """Value, first and second derivative in float64."""
  nu, batch, target = (np.float64(x) for x in (nu, batch, target))
  ratio = np.exp(batch - nu)
  if objective == "linear":
    return ratio + nu - 1.0, 1.0 - ratio, ratio
  gap = target - nu
  if objective == "l2":
    return gap**2, -2.0 * gap, np.full_like(nu, 2.0)
  value = ratio * (gap - 1.0) + np.exp(batch - target)
  return value, -ratio * gap, ratio * (gap + 1.0)


@pytest.mark.parametrize(
  "objective, given",
  [(name, False) for name in OBJECTIVES] + [("l2", True), ("kl", True)],
)
def test_value_and_both_derivatives(objective, given):
  nu, batch, target = problem()
  options = {"objective": objective}
  if given:
    options["target"] = target
  g = np.random.default_rng(1).normal(size=N)

  def total(nu):
    found = losses.amortized_loss(nu, batch, **options)
    return jnp.sum(jnp.float32(g) * found), found

  gradient, found = jax.jit(jax.grad(total, has_aux=True))(nu)
  second = jax.jit(
    jax.grad(lambda x: jnp.sum(jax.grad(total, has_aux=True)(x)[0]))
  )(nu)
  seen = np.isfinite(batch)
  safe = np.where(seen, batch, 0.0)
  wanted = formula(objective, nu, safe, target if given else safe)
  for actual, expected in zip((found, gradient / g, second / g), wanted):
    np.testing.assert_allclose(
      actual, np.where(seen, expected, 0.0), rtol=3e-5, atol=3e-5
    )
  reference = partition_references.amortized_loss(
    nu, log_partition=batch, weights=g, **options
  )
  reference.check(found, {"prediction": gradient}, rtol=1e-6)


@pytest.mark.parametrize("objective", OBJECTIVES[1:])
def test_it_is_least_at_the_target_and_zero_where_the_batch_says_as_much(
  objective,
):
  _, batch, target = problem()
  for known in (target, batch):
    with_target = {"objective": objective, "target": known}
    seen = np.isfinite(batch)
    at = jnp.where(seen, known, 0.0)
    slope = jax.grad(
      lambda nu, o=with_target: jnp.sum(losses.amortized_loss(nu, batch, **o))
    )(at)
    np.testing.assert_allclose(slope, 0.0, atol=1e-5)
    least = losses.amortized_loss(at, batch, **with_target)
    for step in (-1.0, 0.3):
      assert np.all(
        losses.amortized_loss(at + step, batch, **with_target) >= least
      )
  np.testing.assert_allclose(
    losses.amortized_loss(target, target, objective=objective), 0.0, atol=1e-6
  )


def test_kl_is_the_divergence_of_the_weights_with_their_masses():
  """sum_j p log(p / q) - p + q, with p = exp(s - nu) and q = exp(s) / T."""
  rng = np.random.default_rng(0)
  s = rng.normal(size=(N, 9))
  nu, target = rng.normal(size=(2, N))
  batch = np.log(np.exp(s).mean(1))
  p, q = np.exp(s - nu[:, None]), np.exp(s - target[:, None])
  expected = (p * np.log(p / q) - p + q).mean(1)
  found = losses.amortized_loss(
    *(jnp.float32(x) for x in (nu, batch)),
    objective="kl",
    target=jnp.float32(target),
  )
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_only_the_linear_one_fits_the_mean_of_the_estimates():
  """The others end at the mean of the logarithms, weighted or not, below it."""
  rng = np.random.default_rng(0)
  batch = jnp.float32(np.log(rng.gamma(1.0, size=4000)))
  grid = jnp.linspace(-2.0, 1.0, 301)

  def least(objective):
    def mean(nu):
      return jnp.mean(
        losses.amortized_loss(jnp.full(4000, nu), batch, objective=objective)
      )

    return float(grid[jnp.argmin(jax.lax.map(mean, grid))])

  assert abs(least("linear")) < 0.05
  assert abs(least("l2") - float(jnp.mean(batch))) < 0.02


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_far_away_it_stays_finite(objective):
  nu = jnp.array([-500.0, 500.0, 0.0])
  batch = jnp.array([500.0, -500.0, jnp.nan])

  def total(nu):
    return jnp.sum(losses.amortized_loss(nu, batch, objective=objective))

  found = jax.value_and_grad(total)(nu)
  assert all(np.all(np.isfinite(x)) for x in found)


@pytest.mark.parametrize(
  "named, options",
  [
    ("objective", {"objective": "js"}),
    ("target", {"target": jnp.zeros(4)}),
    ("target", {"objective": "l2", "target": jnp.zeros(3)}),
    ("target", {"objective": "kl", "target": jnp.zeros(4, jnp.int32)}),
    ("target", {"objective": "kl", "target": 0.0}),
  ],
)
def test_a_mistake_names_the_argument(named, options):
  with pytest.raises(ValueError, match=rf"\b{named}\b"):
    losses.amortized_loss(jnp.zeros(4), jnp.zeros(4), **options)
