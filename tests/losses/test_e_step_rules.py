"""The log-partition, the rules of the E-step and the draws, on one device."""

from __future__ import annotations

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax import losses, ops
from tests.losses import augmented_references as references
from tests.losses.augmented_batch import EACH, IDS, TAU, D, N

# --- The log-partition --------------------------------------------------------


@pytest.mark.parametrize("tau", [TAU, EACH], ids=["all", "each"])
@pytest.mark.parametrize(
  "c0, block_size, ids",
  [(False, None, None), (True, None, IDS), (False, 5, IDS), (True, 5, None)],
  ids=str,
)
def test_log_partition(c0, block_size, ids, tau):
  q, k = references.make_inputs("augmented_contrastive", N, D).values()

  @jax.jit
  def every(q, k):
    options = {
      "temperature": tau,
      "include_positive": c0,
      "negative_mass": 7.0,
      "group_ids": None if ids is None else jnp.asarray(ids),
      "block_size": block_size,
    }
    return (
      losses.log_partition(q, k, **options),
      *losses.log_partition_clip(q, k, **options),
      jnp.concatenate(losses.log_partition_nt_xent(q, k, **options)),
    )

  mask = references.negatives(ids, N)
  reference = functools.partial(
    references.log_z, include_positive=c0, negative_mass=7.0
  )
  z = np.concatenate([q, k])
  expected = (
    reference(q, k, temperature=tau, mask=mask),
    reference(q, k, temperature=tau, mask=mask),
    reference(k, q, temperature=tau, mask=mask),
    reference(
      z,
      z,
      temperature=np.tile(tau, 2) if np.ndim(tau) else tau,
      mask=np.tile(mask, (2, 2)),
      positive=np.tile((np.float64(q) * k).sum(1), 2),
    ),
  )
  for found, wanted in zip(every(q, k), expected, strict=True):
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=5e-6)


def test_an_anchor_without_negatives():
  """Log c0, no gradient; nothing is learned from it, nothing made of it."""
  q, k = references.make_inputs("augmented_contrastive", 6, D).values()
  ids = jnp.zeros(6, jnp.int32)
  for n, groups in ((1, None), (6, ids)):
    for c0, value in ((True, 0.0), (False, -np.inf)):

      def total(q):
        found = losses.log_partition(
          q,
          k[:n],
          temperature=TAU,
          include_positive=c0,
          group_ids=groups,
          block_size=5,
        )
        return jnp.sum(jnp.where(jnp.isfinite(found), found, 0.0)), found

      gradient, found = jax.jit(jax.grad(total, has_aux=True))(q[:n])
      np.testing.assert_array_equal(found, np.full(n, value))
      assert not np.any(gradient)
  none = jnp.array([-jnp.inf, -jnp.inf])
  rule = losses.MovingAverage(0.5)
  new = losses.e_step(rule, jnp.array([2.0, jnp.nan]), none)
  np.testing.assert_array_equal(new, [2.0, np.nan])
  log_u = losses.draw_auxiliary(jax.random.key(0), none, concentration=1.0)
  np.testing.assert_array_equal(log_u, none)


def test_gradient_of_log_partition_is_that_of_the_conventional_losses():
  q, k = references.make_inputs("augmented_contrastive", N, D).values()

  def gradient(loss, **options):
    return jax.jit(
      jax.grad(
        lambda q, t: jnp.mean(loss(q, k, temperature=t, **options)), (0, 1)
      )
    )(q, TAU)

  for expected, actual in (
    (gradient(losses.decoupled), gradient(losses.log_partition)),
    (
      gradient(losses.info_nce),
      gradient(
        losses.log_partition, include_positive=True, negative_mass=N - 1
      ),
    ),
  ):
    for a, b in zip(actual, expected):
      np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(b).max())


# --- The identities behind it -------------------------------------------------


@pytest.mark.parametrize("a", [0.5, 1.0, 8.0])
@pytest.mark.parametrize("z", [0.3, 1.0, 20.0])
def test_gamma_identity_by_quadrature(a, z):
  """Z^-a is the integral of u^(a-1) exp(-u Z) / Gamma(a)."""
  log_u = np.linspace(-60, 8, 200_001)
  # du = u d(log u), so the integrand has u^a.
  integrand = np.exp(a * log_u - np.exp(log_u) * z - math.lgamma(a))
  total = np.trapezoid(integrand, log_u)
  np.testing.assert_allclose(total, z**-a, rtol=1e-8)


@pytest.mark.parametrize("concentration", [0.5, 1.0, 8.0])
def test_draws_have_the_moments_of_the_posterior(concentration):
  count = 40_000
  log_z = 1.3
  log_u = losses.draw_auxiliary(
    jax.random.key(1), jnp.full(count, log_z), concentration=concentration
  )
  u = np.exp(np.float64(log_u)) * math.exp(log_z)  # Mean 1, variance 1 / a.
  variance = 1 / concentration
  assert abs(u.mean() - 1) < 4 * math.sqrt(variance / count)
  fourth = np.mean((u - 1) ** 4)
  assert abs(u.var() - variance) < 4 * math.sqrt((fourth - variance**2) / count)


@pytest.mark.parametrize("concentration", [1.0, 8.0])
def test_mean_gradient_is_that_of_log_z(concentration):
  """E[u grad Z-hat] = grad log Z, over draws of u and single negatives."""
  rng = np.random.default_rng(0)
  population, draws = 256, 20_000
  scores = rng.normal(size=population)
  theta = 0.5
  powers = np.exp(theta * scores)
  log_z, slope = np.log(powers.mean()), (scores * powers).sum() / powers.sum()
  log_u = losses.draw_auxiliary(
    jax.random.key(2), jnp.full(draws, log_z), concentration=concentration
  )
  # The loss of d = 1: anchor theta, positive 0, one negative drawn.
  drawn = jnp.float32(scores[rng.integers(population, size=draws)])

  def loss(theta, negative, log_u):
    q = jnp.stack([theta, 0.0])[:, None]
    k = jnp.stack([0.0, negative])[:, None]
    weights = jnp.stack([log_u, -jnp.inf])
    return losses.augmented_contrastive(q, k, weights, temperature=1.0)[0]

  run = jax.jit(jax.vmap(jax.grad(loss), (None, 0, 0)))
  gradients = np.float64(run(jnp.float32(theta), drawn, log_u))
  error = gradients.std() / math.sqrt(draws)
  assert abs(gradients.mean() - slope) < 4 * error
  assert 4 * error < 0.2 * slope


def test_dual_steps_are_their_formulas():
  """ASGD and softplus as in SCENT's code, with one negative.

  U-max begins anew before the step here, and after it in that code, where a far
  estimate raises nu without bound.
  """
  rng = np.random.default_rng(0)
  nu, logit = rng.normal(scale=2, size=(2, 500))
  arrays = jnp.float32(nu), jnp.float32(logit)
  asgd = nu - 0.3 * (1 - np.exp(logit - nu))
  begun = np.where(nu < logit - 0.5, logit, nu)
  umax = begun - 0.3 * (1 - np.exp(logit - begun))
  share = np.exp(logit - nu)
  softplus = nu - 0.3 * (1 - share / (1 + 0.2 * share))
  for rule, expected in (
    (losses.DualDescent(0.3, math.inf), asgd),
    (losses.DualDescent(0.3, 0.5), umax),
    (losses.Softplus(0.3, 0.2), softplus),
  ):
    found = losses.e_step(rule, *arrays)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
  # No estimate raises nu by more than it says, however far off it is.
  rule = losses.DualDescent(0.3, 0.5)
  (far,) = losses.e_step(rule, jnp.zeros(1), jnp.full(1, 40.0))
  assert far == 40.0
  # The slope of log(1 + rho exp(l - nu)) / rho by l, which u exp(l) is.
  weight = np.exp(logit - losses.Softplus(0.3, 0.2).weigh(*arrays))
  np.testing.assert_allclose(weight, share / (1 + 0.2 * share), rtol=1e-5)


def test_conjugate_is_scent_is_an_adaptive_moving_average():
  rng = np.random.default_rng(0)
  old, batch = rng.normal(scale=8, size=(2, 500))
  for log_alpha in (-3.0, 0.0, 6.0, 10.0):
    rule = losses.Conjugate(log_alpha, min_rate=0.0)
    new = losses.e_step(rule, jnp.float32(old), jnp.float32(batch))
    alpha = np.exp(log_alpha)
    scent = (
      old + np.log1p(alpha * np.exp(batch)) - np.log1p(alpha * np.exp(old))
    )
    b, u = 1 / alpha, np.exp(-old)
    posterior = -np.log((b * u + 1) / (b + np.exp(batch)))
    rate = 1 / (1 + np.exp(-(old + log_alpha)))
    stays = 1 / (1 + np.exp(old + log_alpha))  # 1 - rate, without cancelling.
    average = np.log(stays * np.exp(old) + rate * np.exp(batch))
    for expected in (scent, posterior, average):
      np.testing.assert_allclose(new, expected, rtol=1e-5, atol=1e-5)


def value_and_gradients(loss, q, k):
  return jax.jit(jax.grad(lambda q, k, t: jnp.mean(loss(q, k, t)), (0, 1, 2)))(
    q, k, jnp.float32(TAU)
  )


@pytest.mark.parametrize("block_size", [None, 5])
@pytest.mark.parametrize("conventional", ["info_nce", "decoupled"])
def test_the_full_batch_is_infonce(conventional, block_size):
  """B = n, the mean, a full update: the gradient of InfoNCE, or of DCL."""
  q, k = map(
    jnp.asarray, references.make_inputs("augmented_clip", N, D).values()
  )
  form = {"block_size": block_size}
  if conventional == "info_nce":
    form |= {"include_positive": True, "negative_mass": N - 1.0}

  def augmented(q, k, t):
    batch = losses.log_partition(q, k, temperature=t, **form)
    stale = jnp.full(N, 3.0)
    known = losses.e_step(losses.MovingAverage(1.0), stale, batch)
    log_u = losses.draw_auxiliary(None, known, concentration=math.inf)
    return losses.augmented_contrastive(q, k, log_u, temperature=t, **form)

  def plain(q, k, t):
    return getattr(losses, conventional)(q, k, temperature=t)

  np.testing.assert_allclose(augmented(q, k, TAU), np.ones(N), rtol=2e-6)
  actual = value_and_gradients(augmented, q, k)
  expected = value_and_gradients(plain, q, k)
  size = references.augmented_contrastive(
    q,
    k,
    -references.log_z(q, k, temperature=TAU),
    temperature=TAU,
  ).magnitudes
  for name, a, b in zip(("queries", "keys", "temperature"), actual, expected):
    np.testing.assert_allclose(a, b, atol=1e-6 * size[name])


def test_clip_and_nt_xent_of_the_batch_estimate_are_the_conventional_ones():
  a, b = map(
    jnp.asarray, references.make_inputs("augmented_clip", N, D).values()
  )
  form = {"include_positive": True, "negative_mass": N - 1.0}

  def clip(a, b, t):
    found = losses.log_partition_clip(a, b, temperature=t, **form)
    log_u = [-jax.lax.stop_gradient(x) for x in found]
    return losses.augmented_clip(a, b, *log_u, temperature=t, **form)

  def nt_xent(a, b, t):
    twice = form | {"negative_mass": 2.0 * N - 2}
    found = losses.log_partition_nt_xent(a, b, temperature=t, **twice)
    log_u = [-jax.lax.stop_gradient(x) for x in found]
    return losses.augmented_nt_xent(a, b, *log_u, temperature=t, **twice)

  for actual, expected in (
    (clip, lambda a, b, t: losses.clip(a, b, logit_scale=1 / t)),
    (nt_xent, lambda a, b, t: losses.nt_xent(a, b, temperature=t)),
  ):
    pairs = zip(
      value_and_gradients(actual, a, b), value_and_gradients(expected, a, b)
    )
    for x, y in pairs:
      np.testing.assert_allclose(x, y, atol=2e-5 * np.abs(y).max())


# --- Rules --------------------------------------------------------------------


def test_moving_average_and_its_rates():
  old, batch = (
    jnp.log(jnp.float32([2.0, 2.0])),
    jnp.log(jnp.float32([6.0, 0.5])),
  )
  visits = jnp.array([1, 7])
  cases = {
    losses.MovingAverage(0.25): [0.25, 0.25],
    losses.MovingAverage(1.0): [1.0, 1.0],
    losses.MovingAverage(1.0, 1.0): [1 / 2, 1 / 8],
    losses.MovingAverage(0.8, 0.5, 0.3): [0.8 / 2**0.5, 0.3],
  }
  for rule, rates in cases.items():
    found = jnp.exp(losses.e_step(rule, old, batch, visits))
    rates = np.array(rates)
    expected = (1 - rates) * np.exp(old) + rates * np.exp(batch)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_rate_of_one_over_t_is_the_mean_of_all_estimates():
  batches = np.random.default_rng(0).uniform(0.1, 5, size=(9, 4))
  rule, known = losses.MovingAverage(1.0, 1.0), jnp.full(4, jnp.nan)
  for t, batch in enumerate(batches):
    visits = jnp.full(4, t)
    known = losses.e_step(rule, known, jnp.log(jnp.float32(batch)), visits)
    expected = batches[: t + 1].mean(0)
    np.testing.assert_allclose(jnp.exp(known), expected, rtol=1e-5)


RULES = (
  losses.BatchEstimate(),
  losses.MovingAverage(0.5),
  losses.Conjugate(6.0),
  losses.Amortized(),
)


@pytest.mark.parametrize(
  "first, second",
  itertools.combinations(
    [*RULES, losses.MovingAverage(0.1, 0.0, 0.0), losses.Conjugate(1.0)], 2
  ),
  ids=lambda r: type(r).__name__,
)
def test_no_rule_is_taken_for_another(first, second):
  """A jitted function looks its programs up by the structures of arguments."""
  a, b = map(jax.tree.structure, (first, second))
  assert (a == b) == (type(first) is type(second))
  for rule in (first, second):
    leaves, tree = jax.tree.flatten(rule)
    assert jax.tree.unflatten(tree, leaves) == rule


@pytest.mark.parametrize("rule", RULES, ids=lambda r: type(r).__name__)
def test_unseen_examples_and_silent_batches(rule):
  nan, inf = jnp.nan, jnp.inf
  old = jnp.array([nan, nan, 1.0, 1.0, 1.0, -inf])
  batch = jnp.array([2.0, nan, nan, -inf, 2.0, 2.0])
  visits = jnp.array([3, 0, 1, 1, 0, 1])
  found = jax.jit(losses.e_step)(rule, old, batch, visits)
  predicted = 1.0 if isinstance(rule, losses.Amortized) else 2.0
  np.testing.assert_array_equal(found, [2.0, nan, 1.0, 1.0, predicted, 2.0])
  gradients = jax.grad(
    lambda o, b: jnp.sum(losses.e_step(rule, o, b)), argnums=(0, 1)
  )(jnp.array([1.0]), jnp.array([2.0]))
  assert not np.any(gradients)


@pytest.mark.parametrize("rule", RULES[1:3], ids=lambda r: type(r).__name__)
def test_rules_are_in_log_space(rule):
  """Where Z itself is no float32."""
  old, batch = (
    jnp.array([150.0, -150.0, 150.0]),
    jnp.array([-150.0, 150.0, 151.0]),
  )
  found = np.asarray(losses.e_step(rule, old, batch))
  assert np.all(np.isfinite(found))
  assert np.all((found >= np.minimum(old, batch)) & (found <= 151.0))


def test_a_schedule_may_set_the_rate():
  @jax.jit
  def step(rate):
    rule = losses.MovingAverage(rate)
    return losses.e_step(rule, jnp.zeros(1), jnp.log(jnp.full(1, 3.0)))

  for rate in (0.2, 0.9):
    np.testing.assert_allclose(jnp.exp(step(rate)), 1 + 2 * rate, rtol=1e-6)


# --- Draws --------------------------------------------------------------------


def test_draws_belong_to_the_index():
  log_z = jnp.float32(np.random.default_rng(0).normal(size=N))
  index = np.random.default_rng(1).permutation(1000)[:N]
  draw = functools.partial(
    losses.draw_auxiliary, jax.random.key(3), concentration=2.0
  )
  all_of_them = draw(log_z, index=jnp.asarray(index))
  order = np.random.default_rng(2).permutation(N)[:5]
  some = draw(log_z[order], index=jnp.asarray(index[order]))
  np.testing.assert_array_equal(some, all_of_them[order])
  default = draw(log_z, index=ops.global_row_ids(N, None))
  np.testing.assert_array_equal(draw(log_z), default)
  other = losses.draw_auxiliary(
    jax.random.key(4), log_z, concentration=2.0, index=jnp.asarray(index)
  )
  assert not np.any(other == all_of_them)


def test_the_mean_needs_no_key_and_is_the_limit():
  log_z = jnp.float32([-100.0, 0.0, 100.0])
  mean = losses.draw_auxiliary(None, log_z, concentration=math.inf)
  np.testing.assert_array_equal(mean, -log_z)
  near = losses.draw_auxiliary(jax.random.key(0), log_z, concentration=1e7)
  np.testing.assert_allclose(near, mean, atol=2e-3)


@pytest.mark.parametrize("concentration", [1e-6, 1e-3, 0.1])
def test_small_concentrations_stay_finite(concentration):
  log_z = jnp.linspace(-100, 100, 1000)
  found = losses.draw_auxiliary(
    jax.random.key(0), log_z, concentration=concentration
  )
  assert np.all(np.isfinite(found))


@pytest.mark.parametrize("concentration", [2.0, math.inf])
def test_a_prior_bounds_u(concentration):
  count, a0, b0, log_z = 40_000, 3.0, 0.5, -4.0
  found = losses.draw_auxiliary(
    jax.random.key(5),
    jnp.full(count, log_z),
    concentration=concentration,
    prior=(a0, b0),
  )
  mean = 1 / (b0 + math.exp(log_z))
  u = np.exp(np.float64(found)) / mean
  assert abs(u.mean() - 1) < max(4 * u.std() / count**0.5, 1e-6)
  variance = 0.0 if math.isinf(concentration) else 1 / (a0 + concentration)
  np.testing.assert_allclose(u.var(), variance, rtol=0.05, atol=1e-12)
  none = losses.draw_auxiliary(
    None, jnp.array([log_z]), concentration=math.inf, prior=(0.0, 0.0)
  )
  np.testing.assert_allclose(none, -log_z)


# --- Amortisation -------------------------------------------------------------


def test_amortized_loss_is_least_at_the_log_of_the_mean():
  rng = np.random.default_rng(0)
  estimates = jnp.float32(rng.normal(scale=1.5, size=4000))
  best = np.log(np.mean(np.exp(np.float64(estimates))))

  def mean(nu):
    return jnp.mean(losses.amortized_loss(jnp.full(4000, nu), estimates))

  value, slope = jax.value_and_grad(mean)(best)
  np.testing.assert_allclose(value, best, rtol=1e-4)
  assert abs(slope) < 1e-4
  assert jax.grad(mean)(best - 0.1) < -0.05 < 0.05 < jax.grad(mean)(best + 0.1)
  of_batch = jax.grad(lambda z: jnp.sum(losses.amortized_loss(z * 0, z)))
  assert not np.any(of_batch(estimates))
  extreme = jnp.array([-jnp.inf, 300.0, -300.0])
  found = losses.amortized_loss(jnp.zeros(3), extreme)
  assert np.all(np.isfinite(found)) and found[0] == 0


def test_prototypes_of_the_negatives_are_the_log_partition():
  q, k = references.make_inputs("augmented_contrastive", N, D).values()
  params = {"prototypes": jnp.asarray(3.0 * k)}
  for c0 in (False, True):
    found = losses.prototype_log_partition(
      params, q, k, temperature=EACH, include_positive=c0, negative_mass=2.0
    )
    expected = references.log_z(
      q,
      k,
      temperature=EACH,
      mask=np.ones((N, N)) > 0,
      include_positive=c0,
      negative_mass=2.0,
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_prototypes_learn_the_log_partition():
  q, k = map(
    jnp.asarray, references.make_inputs("augmented_contrastive", 64, D).values()
  )
  batch = losses.log_partition(q, k, temperature=0.3)
  params = losses.init_prototypes(jax.random.key(0), 8, D)
  np.testing.assert_allclose(
    jnp.linalg.norm(params["prototypes"], axis=1), 1.0, rtol=1e-5
  )

  def mean(params, q, k, tau):
    nu = losses.prototype_log_partition(params, q, k, temperature=tau)
    return jnp.mean(losses.amortized_loss(nu, batch))

  of_features = jax.grad(mean, argnums=(1, 2, 3))(params, q, k, 0.3)
  assert not any(np.any(x) for x in of_features)

  @jax.jit
  def step(params, _):
    value, gradient = jax.value_and_grad(mean)(params, q, k, 0.3)
    return jax.tree.map(lambda p, g: p - 0.5 * g, params, gradient), value

  _, values = jax.lax.scan(step, params, length=300)
  least = jnp.mean(batch)
  assert least <= values[-1] < least + 0.1 * (values[0] - least)


# --- Bad input ----------------------------------------------------------------


def test_bad_arguments_of_the_e_step_are_refused_by_name():
  key, four = jax.random.key(0), jnp.zeros(4)
  cases = (
    ("rate", lambda: losses.MovingAverage(0.0)),
    ("rate", lambda: losses.MovingAverage(1.5)),
    ("rate", lambda: losses.MovingAverage("half")),
    ("decay", lambda: losses.MovingAverage(0.5, -1.0)),
    ("min_rate", lambda: losses.MovingAverage(0.5, 0.0, 2.0)),
    ("log_alpha", lambda: losses.Conjugate(math.nan)),
    ("rule", lambda: losses.e_step("ema", four, four)),
    ("previous", lambda: losses.e_step(RULES[0], four[:3], four)),
    ("batch", lambda: losses.e_step(RULES[0], four, four[None])),
    ("batch", lambda: losses.e_step(RULES[0], four, jnp.arange(4))),
    ("visits", lambda: losses.e_step(RULES[0], four, four, four)),
    ("visits", lambda: losses.e_step(losses.MovingAverage(1, 1), four, four)),
    ("key", lambda: losses.draw_auxiliary(None, four, concentration=1.0)),
    ("log_partition", lambda: losses.amortized_loss(four, four[:2])),
    ("prediction", lambda: losses.amortized_loss(four[None], four)),
    ("num_prototypes", lambda: losses.init_prototypes(key, 0, 4)),
    ("dim", lambda: losses.init_prototypes(key, 4, 2.5)),
    (
      "rho",
      lambda: losses.scale_by_temperature(
        four, four, temperature=1.0, rho=four
      ),
    ),
    (
      "prototypes",
      lambda: losses.prototype_log_partition(
        {"prototypes": jnp.ones((3, 5))}, jnp.eye(4), jnp.eye(4), temperature=1
      ),
    ),
    (
      "eps",
      lambda: losses.prototype_log_partition(
        {"prototypes": jnp.eye(4)}, jnp.eye(4), jnp.eye(4), temperature=1, eps=0
      ),
    ),
  )
  for argument, call in cases:
    with pytest.raises(ValueError, match=rf"\b{argument}\b"):
      call()
  for options in (
    {"concentration": 0.0},
    {"concentration": -1.0},
    {"concentration": math.nan},
    {"concentration": four},
    {"concentration": 1.0, "prior": 3.0},
    {"concentration": 1.0, "prior": (1.0, -1.0)},
    {"concentration": 1.0, "index": jnp.arange(3)},
    {"concentration": 1.0, "index": four},
  ):
    argument = next(reversed(options))
    with pytest.raises(ValueError, match=rf"\b{argument}\b"):
      losses.draw_auxiliary(key, four, **options)
