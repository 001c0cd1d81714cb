"""The gamma-augmented losses, on one device."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core as jax_core

from contrastive_jax import losses
from tests.losses import augmented_references as references
from tests.losses.augmented_batch import EACH, IDS, TAU, D, N

NAMES = tuple(references.LOSSES)


@functools.cache
def compiled(name, block_size="auto", c0=False, fused=True, capped=False):
  """Jitted (arrays, log u, tau, ids, weights, kappa, cap) -> losses, grads."""
  loss = getattr(losses, name)

  def weighted(arrays, tau, log_u, ids, weights, kappa, cap):
    per_example = loss(
      *arrays,
      *log_u,
      temperature=tau,
      include_positive=c0,
      negative_mass=kappa,
      group_ids=ids,
      log_weight_cap=cap if capped else None,
      fused=fused,
      block_size=block_size,
    )
    total = jnp.mean(per_example)
    if weights is not None:
      total = jnp.sum(weights * per_example)
    return total, per_example

  return jax.jit(jax.grad(weighted, argnums=(0, 1), has_aux=True))


def check(
  name,
  arrays,
  log_u,
  tau,
  ids=None,
  weights=None,
  kappa=1.0,
  cap=None,
  **static,
):
  """Losses and all gradients equal those of the reference."""
  run = compiled(name, capped=cap is not None, **static)
  (of_arrays, of_tau), per_example = run(
    tuple(map(jnp.asarray, arrays.values())),
    jnp.asarray(tau, jnp.float32),
    log_u,
    None if ids is None else jnp.asarray(ids),
    weights,
    jnp.float32(kappa),
    jnp.float32(0.0 if cap is None else cap),
  )
  assert per_example.dtype == jnp.float32
  expected = references.LOSSES[name](
    *arrays.values(),
    *log_u,
    temperature=tau,
    include_positive=static.get("c0", False),
    negative_mass=kappa,
    group_ids=ids,
    log_weight_cap=cap,
    weights=weights,
  )
  gradients = dict(zip(arrays, of_arrays)) | {"temperature": of_tau}
  low = [x.dtype for x in arrays.values() if x.dtype.itemsize < 4]
  half_ulp = float(jnp.finfo(low[0]).eps) / 2 if low else 0.0
  expected.check(per_example, gradients, rtol=1e-6 + 1.001 * half_ulp)
  return per_example, gradients


def problem(name, n=N, tau=TAU, seed=0, dtype=np.float32, d=D, **options):
  arrays = references.make_inputs(name, n, d, seed=seed, dtype=dtype)
  return arrays, references.make_log_u(name, arrays, tau, seed=seed, **options)


def cotangents(name, n=N):
  rng = np.random.default_rng(3)
  return np.float32(rng.normal(size=references.rows_of(name, n)))


# --- Values and gradients -----------------------------------------------------


@pytest.mark.parametrize("block_size", ["auto", 5])
@pytest.mark.parametrize("ids", [None, IDS], ids=["", "grouped"])
@pytest.mark.parametrize("name", NAMES)
def test_equals_reference(name, ids, block_size):
  """For a mean, so that blocks take the fused pass."""
  arrays, log_u = problem(name)
  for tau in (TAU, 0.5):
    check(name, arrays, log_u, tau, ids, kappa=2.5, block_size=block_size)


@pytest.mark.parametrize(
  "name, fused",
  [*((name, True) for name in NAMES), *((name, False) for name in NAMES[:2])],
)
def test_cotangents_of_any_size_and_sign(name, fused):
  arrays, log_u = problem(name, seed=1)
  weights = cotangents(name)
  check(name, arrays, log_u, TAU, IDS, weights, block_size=5, fused=fused)


@pytest.mark.parametrize("block_size", [1, 4, 10 * N])
def test_blocks_change_nothing(block_size):
  name = "augmented_clip"
  arrays, log_u = problem(name, seed=2)
  for weights in (None, cotangents(name)):
    check(
      name, arrays, log_u, TAU, IDS, weights, c0=True, block_size=block_size
    )


@pytest.mark.parametrize("block_size", [None, 5])
@pytest.mark.parametrize("name", NAMES[:3])
def test_a_temperature_for_each_anchor(name, block_size):
  arrays, log_u = problem(name, tau=EACH)
  weights = None if block_size == 5 else cotangents(name)
  check(name, arrays, log_u, EACH, IDS, weights, block_size=block_size)


def test_the_texts_have_temperatures_of_their_own():
  image, text = references.make_inputs("augmented_clip", N, D).values()
  log_u = np.zeros(N, np.float32)
  both = losses.augmented_clip(
    image, text, log_u, log_u, temperature=0.2, text_temperature=EACH
  )
  there = references.augmented_contrastive(image, text, log_u, temperature=0.2)
  back = references.augmented_contrastive(text, image, log_u, temperature=EACH)
  expected = 0.5 * (there.per_example + back.per_example)
  np.testing.assert_allclose(both, expected, rtol=1e-5)
  found = losses.log_partition_clip(
    image, text, temperature=0.2, text_temperature=EACH
  )
  expected = (
    references.log_z(image, text, temperature=0.2),
    references.log_z(text, image, temperature=EACH),
  )
  np.testing.assert_allclose(found, expected, rtol=1e-6, atol=5e-6)


@pytest.mark.parametrize("block_size", [None, 5])
@pytest.mark.parametrize("name", NAMES[:2])
def test_the_cap_continues_by_the_tangent(name, block_size):
  arrays, log_u = problem(name, seed=3, spread=3.0)
  for cap in (-1.0, 2.0):
    check(
      name, arrays, log_u, TAU, IDS, cap=cap, c0=False, block_size=block_size
    )


@pytest.mark.parametrize(
  "name, dtype",
  [*((name, jnp.bfloat16) for name in NAMES), (NAMES[0], jnp.float16)],
)
def test_half_precision_inputs(name, dtype):
  arrays, log_u = problem(name, dtype=dtype, seed=4)
  check(name, arrays, log_u, TAU, IDS, block_size=5)


def test_float64_is_float32_all_the_same():
  name = "augmented_clip"
  arrays = references.make_inputs(name, 7, D, dtype=np.float64)
  log_u = references.make_log_u(name, arrays, TAU)

  def everything(x, y):
    def mean(x):
      found = losses.augmented_clip(x, y, *log_u, temperature=TAU, block_size=5)
      return jnp.mean(found)

    batch = losses.log_partition(x, y, temperature=1.0)
    drawn = losses.draw_auxiliary(jax.random.key(0), batch, concentration=2.0)
    return *jax.value_and_grad(mean)(x), batch, drawn

  with jax.enable_x64(True):
    value, gradient, *others = jax.jit(everything)(
      *map(jnp.asarray, arrays.values())
    )
  assert gradient.dtype == jnp.float64
  assert {x.dtype for x in (value, *others)} == {np.dtype(np.float32)}
  expected = references.augmented_clip(
    *arrays.values(), *log_u, temperature=TAU
  )
  expected.check(expected.per_example, {"image": gradient}, rtol=3e-6)


# --- Edge cases ---------------------------------------------------------------


@pytest.mark.parametrize("block_size", [None, 1])
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_tiny_batches(name, n, block_size):
  arrays, log_u = problem(name, n)
  per_example, gradients = check(
    name, arrays, log_u, TAU, block_size=block_size
  )
  if n == 1:
    assert not np.any(per_example)
    assert not any(np.any(g) for g in gradients.values())


@pytest.mark.parametrize("block_size", ["auto", 5])
@pytest.mark.parametrize("name", NAMES)
def test_zero_vectors_duplicates_and_one_group(name, block_size):
  arrays, log_u = problem(name)
  kept = np.float32(np.arange(N) > 1)[:, None]
  for case in (
    {k: v * 0 for k, v in arrays.items()},
    {k: v * kept for k, v in arrays.items()},
    {k: np.tile(v[:1], (N, 1)) for k, v in arrays.items()},
  ):
    check(name, case, log_u, TAU, np.arange(N), block_size=block_size)
  found, _ = check(
    name, arrays, log_u, TAU, np.full(N, 9), block_size=block_size
  )
  assert not np.any(found)


@pytest.mark.parametrize("name", NAMES)
def test_a_cold_temperature_stays_finite(name):
  """At tau = .01, whatever u: far too large, far too small, or up to date."""
  arrays = references.make_inputs(name, N, D)
  signs = {k: (-1.0) ** i for i, k in enumerate(arrays)}
  opposite = {k: np.float32(v * signs[k]) for k, v in arrays.items()}
  fitting = references.make_log_u(name, arrays, 0.01, spread=0.0)
  check(name, arrays, fitting, 0.01)
  for case in (arrays, opposite):
    for log_u in (300.0, 0.0, -300.0, -np.inf):
      many = tuple(np.full_like(x, log_u) for x in fitting)
      for block_size in ("auto", 5):
        run = compiled(name, block_size=block_size)
        found = run(
          tuple(map(jnp.asarray, case.values())),
          jnp.float32(0.01),
          many,
          None,
          None,
          jnp.float32(1e6),
          jnp.float32(0),
        )
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(found))


def test_no_weight_no_loss():
  name = "augmented_clip"
  arrays, log_u = problem(name)
  log_u = tuple(np.where(np.arange(N) < 3, -np.inf, x) for x in log_u)
  log_u = tuple(np.float32(x) for x in log_u)
  per_example, _ = check(name, arrays, log_u, TAU, block_size=5)
  assert not np.any(per_example[:3]) and np.all(per_example[3:] > 0)


def test_a_nan_is_not_hidden():
  arrays, (log_u,) = problem("augmented_contrastive")
  q, k = arrays.values()
  q = q.copy()
  q[4, 0] = np.nan
  for weight in (log_u, np.full_like(log_u, -np.inf)):
    found = losses.augmented_contrastive(q, k, weight, temperature=TAU)
    assert np.isnan(found[4]) and np.all(np.isfinite(np.delete(found, 4)))


@pytest.mark.parametrize("name", NAMES)
def test_permutation_equivariance(name):
  arrays, log_u = problem(name)
  order = np.random.default_rng(0).permutation(N)
  rows = order
  if name == "augmented_nt_xent":
    rows = np.concatenate([order, N + order])
  options = {"block_size": 5}
  before, gradients = check(name, arrays, log_u, TAU, IDS, **options)
  after, permuted = check(
    name,
    {k: v[order] for k, v in arrays.items()},
    tuple(x[order] for x in log_u),
    TAU,
    IDS[order],
    **options,
  )
  np.testing.assert_allclose(after, before[rows], rtol=2e-5)
  for argument in arrays:
    np.testing.assert_allclose(
      permuted[argument], gradients[argument][order], atol=1e-4
    )


def test_groups_of_one_are_no_groups():
  name = "augmented_nt_xent"
  arrays, log_u = problem(name)
  expected, _ = check(name, arrays, log_u, TAU, block_size=5)
  ids = np.random.default_rng(0).permutation(N) * 1000
  actual, _ = check(name, arrays, log_u, TAU, ids, block_size=5)
  np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_weights_may_be_folded_into_log_u():
  arrays, (log_u,) = problem("augmented_contrastive")
  weights = np.float32(np.random.default_rng(0).uniform(0, 2, N))
  plain = losses.augmented_contrastive(*arrays.values(), log_u, temperature=TAU)
  folded = losses.augmented_contrastive(
    *arrays.values(), log_u + np.log(weights), temperature=TAU
  )
  np.testing.assert_allclose(folded, weights * plain, rtol=1e-5)


# --- What it costs ------------------------------------------------------------


def _equations(jaxpr, inside=()):
  for equation in jaxpr.eqns:
    yield equation, inside
    for inner in jax_core.jaxprs_in_params(equation.params):
      yield from _equations(inner, (*inside, equation.primitive.name))


def _trace(name, n, block_size, fused=True):
  loss = getattr(losses, name)

  def mean(arrays, log_u):
    return jnp.mean(
      loss(*arrays, *log_u, temperature=TAU, fused=fused, block_size=block_size)
    )

  rows = jax.ShapeDtypeStruct((n, 4), jnp.float32)
  vector = jax.ShapeDtypeStruct((n,), jnp.float32)
  log_u = (vector,) * (2 if name in NAMES[1:3] else 1)
  jaxpr = jax.make_jaxpr(jax.value_and_grad(mean))((rows, rows), log_u)
  return list(_equations(jaxpr.jaxpr))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n, block_size", [(64, 4), (65536, "auto")])
def test_blocks_never_form_the_square(name, n, block_size):
  found = _trace(name, n, block_size)
  largest = max(math.prod(v.aval.shape) for e, _ in found for v in e.outvars)
  assert largest < n * n / 4


@pytest.mark.parametrize(
  "name, fused, products",
  [
    ("augmented_contrastive", True, 3),
    ("augmented_contrastive", False, 4),
    ("augmented_clip", True, 3),
    ("augmented_moco_v3", True, 2),
  ],
)
def test_products_of_value_and_gradient(name, fused, products):
  """Both directions of a mean are one pass of three products."""
  found = _trace(name, 64, 16, fused)
  dots = [i for e, i in found if e.primitive.name == "dot_general"]
  # Products that run only if the cotangents differ are under a `cond`.
  assert len([i for i in dots if "cond" not in i]) == products


# --- Temperature --------------------------------------------------------------


@pytest.mark.parametrize("tau", [0.3, EACH + 0.1], ids=["all", "each"])
def test_scale_by_temperature_is_the_gradient_of_tau_log_z(tau):
  q, k = map(
    jnp.asarray, references.make_inputs("augmented_clip", N, D).values()
  )
  rho = 6.5

  def surrogate(q, k, tau):
    known = jax.lax.stop_gradient(losses.log_partition(q, k, temperature=tau))
    loss = losses.augmented_contrastive(
      q, k, -known, temperature=tau, fused=False
    )
    found = losses.scale_by_temperature(loss, known, temperature=tau, rho=rho)
    return jnp.mean(found)

  def direct(q, k, tau):
    found = losses.log_partition(q, k, temperature=tau)
    return jnp.mean(tau * (found + rho))

  run = (jax.jit(jax.value_and_grad(f, (0, 1, 2))) for f in (surrogate, direct))
  actual, expected = (f(q, k, jnp.float32(tau)) for f in run)
  for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected)):
    np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(b).max())


def test_scale_by_temperature_without_knowledge_is_zero():
  def total(loss, tau):
    log_z = jnp.array([jnp.nan, -jnp.inf])
    return jnp.sum(losses.scale_by_temperature(loss, log_z, temperature=tau))

  found = jax.value_and_grad(total, (0, 1))(jnp.zeros(2), 0.5)
  assert not any(np.any(x) for x in jax.tree.leaves(found))


# --- Diagnostics --------------------------------------------------------------


@pytest.mark.parametrize("block_size", [None, 5])
@pytest.mark.parametrize("tau", [TAU, EACH], ids=["all", "each"])
def test_diagnostics(tau, block_size):
  arrays, (log_u,) = problem("augmented_contrastive", tau=tau, spread=2.0)
  q, k = arrays.values()
  ids = np.append(IDS[:-1], 1)
  cap = 0.5
  found = losses.augmented_diagnostics(
    q,
    k,
    log_u,
    temperature=tau,
    negative_mass=2.0,
    group_ids=jnp.asarray(ids),
    log_weight_cap=cap,
    block_size=block_size,
  )
  cosine = np.float64(q) @ np.float64(k).T
  margin = (cosine - np.diag(cosine)[:, None]) / np.reshape(tau, (-1, 1))
  mask = references.negatives(ids, N)
  x = margin + np.float64(log_u)[:, None]
  power = np.where(mask, np.exp(x), 0)
  capped = np.where(mask, np.exp(np.minimum(x, cap)), 0)
  count = mask.sum(1)
  expected = {
    "weight_sum": 2 * capped.sum(1) / count,
    "effective_sample_size": power.sum(1) ** 2 / (power**2).sum(1),
    "capped_share": (mask & (x > cap)).sum(1) / count,
  }
  assert 0 < expected["capped_share"].mean() < 1
  assert found.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(found[name], value, rtol=3e-5, err_msg=name)


def test_diagnostics_without_negatives_are_zero():
  x = jnp.eye(3)
  found = losses.augmented_diagnostics(
    x, x, jnp.zeros(3), temperature=1.0, group_ids=jnp.zeros(3, jnp.int32)
  )
  assert not any(np.any(v) for v in found.values())


# --- Bad input ----------------------------------------------------------------


def test_bad_arguments_of_the_losses_are_refused_by_name():
  for name in NAMES:
    loss = getattr(losses, name)
    arrays, log_u = problem(name, 4)
    good = {"temperature": 0.1}
    for argument, rows in arrays.items():
      for value in (rows[0], rows.astype(np.int32), rows[:3], rows[:, :5]):
        with pytest.raises(ValueError, match=r"queries|keys|image|text|view"):
          loss(*(arrays | {argument: value}).values(), *log_u, **good)
    for value in (log_u[0][:-1], log_u[0][None], np.zeros(4, int), 0.0):
      with pytest.raises(ValueError, match=r"log_auxiliary\b"):
        loss(*arrays.values(), value, *log_u[1:], **good)
    for options in (
      {"temperature": 0.0},
      {"temperature": -1.0},
      {"temperature": math.nan},
      {"temperature": np.ones(3)},
      {"negative_mass": 0.0},
      {"negative_mass": -2.0},
      {"negative_mass": np.ones(4)},
      {"log_weight_cap": math.inf},
      {"log_weight_cap": np.ones(4)},
      {"group_ids": np.zeros(3, int)},
      {"group_ids": np.zeros(4)},
      {"block_size": 0},
      {"block_size": "foo"},
    ):
      argument = next(iter(options))
      with pytest.raises(ValueError, match=rf"\b{argument}\b"):
        loss(*arrays.values(), *log_u, **(good | options))
  q, k = references.make_inputs("augmented_clip", 4, D).values()
  for value in (np.array([0.1, 0.1, 0.0, 0.1]), np.full(4, -1.0)):
    with pytest.raises(ValueError, match=r"\btemperature\b.*got (0\.0|-1\.0)"):
      losses.log_partition(q, k, temperature=value)
  with pytest.raises(ValueError, match=r"\baxes\b.*'rows'"):
    losses.log_partition(q, k, temperature=0.1, axes="rows")
