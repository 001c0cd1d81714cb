"""Deep feature separation: float64 references, devices, properties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from contrastive_jax import losses
from tests.losses import structure_references as references
from tests.losses.structure.checks import (
  assert_close,
  cotangents,
  with_gradients,
)
from tests.meshes import make_mesh

N, D, TAU = 16, 6, 0.5
NAMES = tuple(
  f"{name}{end}"
  for end in ("", "_independent", "_independent_augmented")
  for name in ("image", "text")
)


def make_arrays(n=N):
  return references.make_inputs(n, D, arrays=6)


def separate(*arrays, **options):
  options = {"temperature": TAU, **options}
  return losses.deep_feature_separation(*arrays, **options)


def total(*arrays, **options):
  """Rows whose mean is the published sum."""
  terms = separate(*arrays, **options)
  return terms["orthogonality"] + terms["contrast"] + terms["uniformity"]


def reference(arrays, weights, *, positive="augmented", tau=TAU):
  """Rows of `total`, and gradients of their weighted sum."""
  w = np.float64(weights)
  found = references.deep_feature_separation(
    *arrays,
    temperature=tau,
    positive=positive,
    weights=np.concatenate([w, w, [w.sum()]]),
  )
  contrast, squares, spread = np.split(found.per_example, [len(w), 2 * len(w)])
  return contrast + squares + spread, [found.gradients[k] for k in NAMES]


@pytest.mark.parametrize("positive", ["augmented", "original"])
@pytest.mark.parametrize("block_size", [None, 5])
def test_value_and_gradient(positive, block_size):
  arrays, weights = make_arrays(), cotangents(N)
  rows, grads = with_gradients(
    lambda *x: total(*x, positive=positive, block_size=block_size)
  )(arrays, weights)
  expected, wanted = reference(arrays, weights, positive=positive)
  assert rows.dtype == jnp.float32
  assert_close(rows, expected)
  for name, a, b in zip(NAMES, grads, wanted):
    assert_close(a, b, what=name)


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_devices_change_nothing(devices):
  arrays, weights = make_arrays(), cotangents(N)
  mapped = jax.shard_map(
    lambda *x: total(*x, axes="data"),
    mesh=make_mesh(data=devices),
    in_specs=P("data"),
    out_specs=P("data"),
  )
  rows, grads = with_gradients(mapped)(arrays, weights)
  expected, wanted = reference(arrays, weights)
  assert_close(rows, expected)
  for name, a, b in zip(NAMES, grads, wanted):
    assert_close(a, b, what=name)


@pytest.mark.parametrize("positive", ["augmented", "original"])
def test_gradients_of_several_uses_are_rounded_once(positive):
  low = [x.astype(jnp.bfloat16) for x in make_arrays()]

  def gradients(arrays):
    return jax.grad(
      lambda x: jnp.mean(total(*x, positive=positive)),
    )(arrays)

  exact = gradients([x.astype(jnp.float32) for x in low])
  for found, wanted in zip(gradients(low), exact):
    rounded = wanted.astype(jnp.bfloat16).astype(jnp.float32)
    np.testing.assert_allclose(
      found.astype(jnp.float32), rounded, rtol=1e-6, atol=1e-9
    )


def test_the_terms_are_those_that_can_be_called_alone():
  v, t, vi, ti, via, tia = make_arrays()
  terms = separate(v, t, vi, ti, via, tia, t=1.5)
  np.testing.assert_array_equal(
    terms["orthogonality"],
    losses.orthogonality(v, vi) + losses.orthogonality(t, ti),
  )
  np.testing.assert_array_equal(
    terms["contrast"],
    losses.independent_contrast(vi, ti, via, tia, temperature=TAU),
  )
  assert terms["uniformity"].shape == ()
  assert terms["uniformity"] == losses.uniformity(vi, ti, t=1.5)


def test_the_printed_form_is_a_constant_and_a_spread():
  """-1/tau of the numerator, and the log of a sum over the originals."""
  vi, ti = make_arrays()[2:4]
  found = losses.independent_contrast(
    vi, ti, temperature=TAU, positive="original"
  )
  expected = -2.0 / TAU
  for x in (np.float64(vi), np.float64(ti)):
    expected = expected + np.log(np.exp(x @ x.T / TAU).sum(1))
  np.testing.assert_allclose(found, expected, atol=5e-6)


def test_order_rotation_low_precision_and_one_pair():
  arrays = make_arrays()
  expected = total(*arrays)
  order = np.random.default_rng(0).permutation(N)
  turn = np.linalg.qr(np.random.default_rng(1).normal(size=(D, D)))[0]
  moved = [np.float32(x[order] @ turn) for x in arrays]
  np.testing.assert_allclose(total(*moved), expected[order], rtol=1e-5)
  low = [jnp.asarray(x, jnp.bfloat16) for x in arrays]
  rows = total(*low)
  assert rows.dtype == jnp.float32
  np.testing.assert_allclose(rows, expected, atol=0.5)
  one = [x[:1] for x in arrays]
  # No negatives: log 2 of the uniformity, of two modalities' own pairs.
  cosines = sum(np.sum(one[i] * one[i + 2], 1) ** 2 for i in (0, 1))
  np.testing.assert_allclose(total(*one), cosines + np.log(2), rtol=1e-5)


def test_a_cold_temperature_stays_finite():
  arrays = make_arrays()
  rows, grads = with_gradients(lambda *x: total(*x, temperature=0.01))(
    arrays, cotangents(N)
  )
  expected, _ = reference(arrays, cotangents(N), tau=0.01)
  assert_close(rows, expected, 2e-6)
  assert all(np.isfinite(g).all() for g in grads)


def test_examples_of_a_group_are_no_negatives():
  v, t, vi, ti, *_ = make_arrays(4)
  groups = np.array([7, 7, 7, 7])
  contrast = losses.independent_contrast(
    vi, ti, vi, ti, temperature=TAU, group_ids=groups
  )
  plain = losses.independent_contrast(vi, ti, vi, ti, temperature=TAU)
  assert not np.allclose(contrast, plain)


def test_duplicates_are_as_far_from_uniform_as_can_be():
  v, t, vi, *_ = make_arrays()
  same = np.tile(vi[:1], (N, 1))
  terms = separate(v, t, same, same, same, same)
  np.testing.assert_allclose(terms["uniformity"], np.log(2 * N), rtol=1e-6)
  np.testing.assert_allclose(terms["contrast"], 2 * np.log(N), rtol=1e-5)


def test_bad_input_is_refused():
  v, t, vi, ti, via, tia = make_arrays()
  with pytest.raises(ValueError, match=r"\bindependent\b.*got \(3, 6\)"):
    losses.orthogonality(v, vi[:3])
  with pytest.raises(ValueError, match=r"\bimage_augmented\b.*got None"):
    losses.independent_contrast(vi, ti, temperature=TAU)
  with pytest.raises(ValueError, match=r"\btext_augmented\b.*got None"):
    losses.independent_contrast(vi, ti, via, temperature=TAU)
  with pytest.raises(ValueError, match=r"\bpositive\b.*got 'other'"):
    losses.independent_contrast(
      vi, ti, via, tia, temperature=TAU, positive="other"
    )
  with pytest.raises(ValueError, match=r"\btemperature\b.*got 0\.0"):
    separate(v, t, vi, ti, via, tia, temperature=0.0)
  with pytest.raises(ValueError, match=r"\btext_independent\b.*got \(3, 6\)"):
    separate(v, t, vi, ti[:3], via, tia)
  with pytest.raises(ValueError, match=r"\bt\b.*got -1\.0"):
    separate(v, t, vi, ti, via, tia, t=-1.0)
