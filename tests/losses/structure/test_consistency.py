"""Geometric consistency against float64, on one device and on many."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax import losses
from tests.losses import structure_references as references
from tests.losses.structure.checks import (
  FORMS,
  TERMS,
  WEIGHTS,
  assert_close,
  cotangents,
  only,
  with_gradients,
)


def check(arrays, form, rtol=1e-6, weights=None, **options):
  """Losses and gradients equal those of the reference, to `rtol` * max."""
  if weights is None:
    weights = cotangents(len(arrays[0]))
  loss = functools.partial(losses.geometric_consistency, form=form, **options)
  per_example, gradients = with_gradients(loss)(
    tuple(map(jnp.asarray, arrays)), weights
  )
  assert per_example.dtype == jnp.float32
  expected = references.geometric_consistency(
    *arrays, weights=weights, **options
  )
  assert_close(per_example, expected.per_example, rtol, "loss")
  for name, array, gradient in zip(references.ARRAYS, arrays, gradients):
    assert gradient.dtype == array.dtype
    assert_close(gradient, expected.gradients[name], rtol, name)


# --- The reference itself ---------------------------------------------------


def test_reference_is_the_published_double_sum():
  v, t, va, ta = references.make_inputs(4, 3, dtype=np.float64)
  rows = np.zeros(4)
  for j, k in itertools.product(range(4), range(4)):
    rows[j] += WEIGHTS["intra"] * (v[j] @ v[k] - t[j] @ t[k]) ** 2
    rows[j] += WEIGHTS["inter"] * (v[j] @ t[k] - v[k] @ t[j]) ** 2
    rows[j] += WEIGHTS["augmented"] * (v[j] @ v[k] - va[j] @ va[k]) ** 2
    rows[j] += WEIGHTS["augmented"] * (t[j] @ t[k] - ta[j] @ ta[k]) ** 2
  for j in range(4):
    rows[j] += WEIGHTS["paired"] * (v[j] @ t[j] - va[j] @ ta[j]) ** 2
  actual = references.geometric_consistency(v, t, va, ta, **WEIGHTS).per_example
  np.testing.assert_allclose(actual, rows, rtol=1e-13)


# --- Values and gradients on one device -------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n, d", [(12, 16), (40, 8), (16, 16)])
@pytest.mark.parametrize("arrays", [2, 4])
def test_values_and_gradients(arrays, n, d, form):
  check(references.make_inputs(n, d, arrays=arrays), form, **WEIGHTS)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n, d", [(1, 8), (16, 1), (1, 1)])
def test_one_row_or_one_column(n, d, form):
  # Not of unit norm: most of what is left of unit rows is zero.
  arrays = np.random.default_rng(0).normal(size=(4, n, d)).astype(np.float32)
  check(tuple(arrays), form, **WEIGHTS)


@pytest.mark.parametrize("form", FORMS)
def test_one_pair_of_unit_norm_costs_nothing(form):
  v, t = references.make_inputs(1, 8, arrays=2)
  run = with_gradients(
    functools.partial(losses.geometric_consistency, form=form)
  )
  per_example, gradients = run((v, t), np.ones(1, np.float32))
  np.testing.assert_allclose(per_example, [0.0], atol=1e-6)
  for gradient in gradients:
    np.testing.assert_allclose(gradient, np.zeros((1, 8)), atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("arrays", [2, 4])
def test_defaults_weigh_all_terms_by_one(arrays, form):
  check(references.make_inputs(24, 8, arrays=arrays), form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("n, d", [(12, 16), (40, 8)])
def test_each_term_alone(term, form, n, d):
  check(references.make_inputs(n, d), form, **only(term))


def test_rows_at_equal_weights_are_those_of_the_terms():
  # Not the rows of D M'M D', whose mean is the same: 2.56 and 0 here.
  v = np.eye(2, dtype=np.float32)
  t = np.array([[0.6, 0.8], [0.0, 1.0]], np.float32)
  for form in FORMS:
    loss = losses.geometric_consistency(v, t, form=form)
    np.testing.assert_allclose(loss, [1.28, 1.28], rtol=1e-6)
    check((v, t), form)


@pytest.mark.parametrize("form", FORMS)
def test_mean_is_that_of_cyclip(form):
  v, t = references.make_inputs(24, 8, arrays=2)
  in_modal, cross_modal = references.cyclip(v, t, 14.3)
  for a, b in ((1.0, 0.0), (0.0, 1.0), (0.25, 0.25), (0.3, 0.2)):
    loss = losses.geometric_consistency(v, t, intra=a, inter=b, form=form)
    expected = a * in_modal + b * cross_modal
    assert float(jnp.mean(loss)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_duplicates_and_zero_rows(form):
  arrays = [x.copy() for x in references.make_inputs(24, 8)]
  for x in arrays:
    x[12:20] = x[:8]
  arrays[0][21] = 0.0
  arrays[2][22] = 0.0
  check(arrays, form, **WEIGHTS)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n, d", [(24, 64), (256, 32)])
def test_nearly_equal_modalities(form, n, d):
  arrays = references.make_inputs(n, d, noise=0.04)
  distance = np.linalg.norm(arrays[0] - arrays[1], axis=1)
  assert 0.02 < distance.mean() < 0.06
  weights = np.full(n, 1.0 / n, np.float32)
  # The similarities are 25 times as large as the differences that are left of
  # them, their squares 600 times.
  check(arrays, form, weights=weights)
  check(arrays, form, weights=weights, **only("intra"))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("gap", [False, True])
@pytest.mark.parametrize("width, rtol", [(0.3, 3e-6), (0.1, 2e-5)])
def test_features_in_a_cone(form, gap, width, rtol):
  # As encoders have them; with a gap, each modality in a cone of its own. The
  # cosines in a cone are about .92 and .99, and what is left when they are
  # subtracted has fewer digits. The published formula loses about as many.
  rng = np.random.default_rng(4)
  axes = rng.normal(size=(4, 1, 32))
  axes = axes[[0, 1, 0, 1] if gap else [0, 0, 0, 0]]
  arrays = axes / np.linalg.norm(axes, axis=-1, keepdims=True)
  arrays = arrays + width * np.stack(
    references.make_inputs(256, 32, dtype=np.float64)
  )
  arrays /= np.linalg.norm(arrays, axis=-1, keepdims=True)
  arrays = tuple(np.float32(arrays))
  weights = np.full(256, 1.0 / 256, np.float32)
  check(arrays, form, rtol, weights=weights)
  for term in ("intra", "inter", "augmented"):
    check(arrays, form, rtol, weights=weights, **only(term))


@pytest.mark.parametrize("form", FORMS)
def test_equal_modalities_cost_nothing(form):
  v = references.make_inputs(24, 8)[0]
  run = with_gradients(
    functools.partial(losses.geometric_consistency, form=form, **WEIGHTS)
  )
  per_example, gradients = run((v,) * 4, cotangents(24))
  assert not np.any(per_example)
  for gradient in gradients:
    assert not np.any(gradient)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_inputs(form, dtype):
  arrays = tuple(jnp.asarray(x, dtype) for x in references.make_inputs(24, 8))
  weights = cotangents(24)
  run = with_gradients(
    functools.partial(losses.geometric_consistency, form=form, **WEIGHTS)
  )
  per_example, gradients = run(arrays, weights)
  wide = tuple(np.asarray(x, np.float32) for x in arrays)
  expected = references.geometric_consistency(*wide, weights=weights, **WEIGHTS)
  assert per_example.dtype == jnp.float32
  assert_close(per_example, expected.per_example)
  # Exact but for one rounding at the end.
  epsilon = float(jnp.finfo(dtype).eps)
  for name, gradient in zip(references.ARRAYS, gradients, strict=True):
    wanted = expected.gradients[name]
    assert gradient.dtype == dtype
    error = np.abs(np.asarray(gradient, np.float64) - wanted)
    bound = 0.51 * epsilon * np.abs(wanted) + 1e-6 * np.abs(wanted).max()
    assert np.all(error <= bound)


@pytest.mark.parametrize("form", FORMS)
def test_mixed_types(form):
  v, t, va, ta = references.make_inputs(24, 8)
  low = jnp.asarray(t, jnp.bfloat16)
  actual = losses.geometric_consistency(v, low, va, ta, form=form)
  expected = references.geometric_consistency(
    v, np.asarray(low, np.float32), va, ta
  )
  assert_close(actual, expected.per_example)


@pytest.mark.parametrize("form", FORMS)
def test_permuted_rows_and_rotated_columns(form):
  arrays = references.make_inputs(24, 8)
  loss = functools.partial(losses.geometric_consistency, form=form, **WEIGHTS)
  expected = np.asarray(loss(*arrays), np.float64)
  rng = np.random.default_rng(3)
  order = rng.permutation(24)
  assert_close(loss(*(x[order] for x in arrays)), expected[order])
  rotation, _ = np.linalg.qr(rng.normal(size=(8, 8)))
  rotated = (np.float32(x.astype(np.float64) @ rotation) for x in arrays)
  assert_close(loss(*rotated), expected)


def test_swapped_modalities():
  v, t, va, ta = references.make_inputs(24, 8)
  expected = np.asarray(losses.geometric_consistency(v, t, va, ta))
  assert_close(losses.geometric_consistency(t, v, ta, va), expected)


@pytest.mark.parametrize("form", FORMS)
def test_traced_weights(form):
  arrays = references.make_inputs(24, 8)

  @jax.jit
  def mean(weights):
    return jnp.mean(losses.geometric_consistency(*arrays, form=form, **weights))

  value, slopes = jax.value_and_grad(mean)(
    {k: jnp.float32(w) for k, w in WEIGHTS.items()}
  )
  expected = references.geometric_consistency(*arrays, **WEIGHTS)
  assert float(value) == pytest.approx(expected.per_example.mean(), rel=1e-6)
  for term, slope in slopes.items():
    assert float(slope) == pytest.approx(expected.gradients[term], rel=1e-6)


def test_second_derivatives_and_forward_mode():
  arrays = tuple(map(jnp.asarray, references.make_inputs(6, 3)))
  direction = references.make_inputs(6, 3, seed=5)
  results = []
  for form in FORMS:

    def total(arrays, form=form):
      loss = losses.geometric_consistency(*arrays, form=form, **WEIGHTS)
      return jnp.sum(cotangents(6) * loss)

    gradient = jax.grad(total)
    forward = jax.jvp(total, (arrays,), (direction,))[1]
    reverse = sum(map(jnp.vdot, gradient(arrays), direction))
    np.testing.assert_allclose(forward, reverse, rtol=1e-5)
    results.append(jax.jvp(gradient, (arrays,), (direction,))[1])
  for gram, direct in zip(*results, strict=True):
    assert_close(gram, np.asarray(direct, np.float64))


def test_auto_takes_grams_if_rows_outnumber_columns():
  def products(n, d):
    arrays = references.make_inputs(n, d, arrays=2)
    jaxpr = str(jax.make_jaxpr(losses.geometric_consistency)(*arrays))
    return f"f32[{n},{n}]" in jaxpr, f"f32[{d},{d}]" in jaxpr

  assert products(9, 8) == (False, True)
  assert products(8, 9) == (True, False)


@pytest.mark.parametrize("form", FORMS)
def test_no_term_at_all(form):
  arrays = references.make_inputs(6, 4)
  loss = losses.geometric_consistency(*arrays, form=form, **only())
  assert loss.dtype == jnp.float32
  np.testing.assert_array_equal(loss, np.zeros(6))


# --- Errors -----------------------------------------------------------------


@pytest.mark.parametrize(
  "change, message",
  [
    ({"text": np.ones((3, 4), np.float32)}, r"\btext\b.*got \(3, 4\)"),
    ({"image": np.ones(4, np.float32)}, r"\bimage\b.*got \(4,\)"),
    (
      {"image_augmented": np.ones((4, 3), np.int32)},
      r"\bimage_augmented\b.*got int32",
    ),
    (
      {"text_augmented": np.ones((2, 3), np.float32)},
      r"\btext_augmented\b.*got \(2, 3\)",
    ),
    ({"text_augmented": None}, "got text_augmented=None"),
    ({"image_augmented": None, "paired": 0.0}, "got image_augmented=None"),
    ({"form": "full"}, r"\bform\b.*got 'full'"),
    ({"intra": -0.1}, r"\bintra\b.*\b0\b.*got -0\.1"),
    ({"inter": float("nan")}, r"\binter\b.*got nan"),
    ({"augmented": float("inf")}, r"\baugmented\b.*got inf"),
    ({"paired": np.ones(2)}, r"\bpaired\b.*got shape \(2,\)"),
    ({"axes": "data"}, r"\baxes\b.*'data'"),
  ],
)
def test_errors(change, message):
  arguments = dict(zip(references.ARRAYS, references.make_inputs(4, 3)))
  with pytest.raises(ValueError, match=message):
    losses.geometric_consistency(**(arguments | change))


def test_one_augmented_array_that_no_term_needs():
  v, t, va, _ = references.make_inputs(4, 3)
  loss = losses.geometric_consistency(v, t, va, augmented=0.0, paired=0.0)
  expected = references.geometric_consistency(v, t)
  assert_close(loss, expected.per_example)
