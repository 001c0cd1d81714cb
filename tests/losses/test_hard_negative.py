"""Tests of the hard-negative losses alone; see `test_contrastive` for the rest."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contrastive_jax import losses
from tests.losses import hard_negative_references, references
from tests.losses.distributed import assert_close
from tests.meshes import make_mesh

N, D = 12, 6
IDS = np.array([7, -1, 7, 3, 0, -1, 7, 9, 3, 5, 4, 0])
# The plain loss of each, and its temperature.
PLAIN = {"hard_negative_clip": "clip", "hard_negative_nt_xent": "nt_xent"}
NAMES = tuple(PLAIN)
# At the last of them some anchors are at the bound of G.
SCALES = (0.5, 2.0, 12.0)


def inputs(name, seed=0, n=N, noise=2.0):
  return references.make_inputs(name, n, D, seed=seed, noise=noise)


def scale_of(name, scale):
  return (
    {"logit_scale": scale}
    if name.endswith("clip")
    else {"temperature": 1 / scale}
  )


@functools.cache
def gradients(name, **options):
  """Jitted values and gradients of their weighted sum."""

  def weighted(arrays, scalars, ids, weights):
    values = getattr(losses, name)(*arrays, **scalars, **options, group_ids=ids)
    return jnp.sum(weights * values), values

  return jax.jit(jax.grad(weighted, argnums=(0, 1), has_aux=True))


def both(name, arrays, scalars, ids, weights, **options):
  scalars = {k: jnp.float32(v) for k, v in scalars.items()}
  (of_arrays, of_scalars), values = gradients(name, **options)(
    tuple(arrays.values()), scalars, ids, weights
  )
  return values, dict(zip(arrays, of_arrays)), of_scalars


def weights_of(name, seed):
  count = N if name.endswith("clip") else 2 * N
  return np.float32(np.random.default_rng(seed).normal(size=count))


# --- What it is without hard negatives ----------------------------------------


@pytest.mark.parametrize("traced", [False, True], ids=["known", "traced"])
@pytest.mark.parametrize("ids", [None, IDS], ids=["", "grouped"])
@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 10_000), scale=st.floats(1.0, 30.0, width=32))
@settings(max_examples=8, deadline=None)
def test_beta_zero_is_info_nce(name, ids, traced, seed, scale):
  arrays, weights = inputs(name, seed), weights_of(name, seed)
  scalars = scale_of(name, scale)
  expected = both(PLAIN[name], arrays, scalars, ids, weights)
  known = {"beta": 0.0, "alpha": 1.0, "tau_plus": 0.0}
  if traced:
    del known["tau_plus"]  # A traced one is above 0.
    actual = both(name, arrays, scalars | known, ids, weights)
    for scalar in known:
      actual[2].pop(scalar)
  else:
    actual = both(name, arrays, scalars, ids, weights, **known)
  # The reference knows how float32 rounds; the numbers are the plain loss's.
  plain = references.LOSSES[PLAIN[name]](
    *arrays.values(), **scalars, group_ids=ids, weights=weights
  )
  for values, *found in (actual, expected):
    plain.check(values, found[0] | found[1], rtol=3e-6)


@pytest.mark.parametrize("ids", [None, IDS], ids=["", "grouped"])
@pytest.mark.parametrize("name", NAMES)
def test_the_references_agree_at_beta_zero_in_every_digit(name, ids):
  arrays = inputs(name)
  ours = getattr(hard_negative_references, name)(
    *arrays.values(),
    **scale_of(name, 14.3),
    beta=0.0,
    alpha=1.0,
    tau_plus=0.0,
    group_ids=ids,
  )
  plain = references.LOSSES[PLAIN[name]](
    *arrays.values(), **scale_of(name, 14.3), group_ids=ids
  )
  np.testing.assert_allclose(ours.per_example, plain.per_example, rtol=1e-12)
  for argument, gradient in plain.gradients.items():
    np.testing.assert_allclose(
      ours.gradients[argument], gradient, rtol=1e-9, atol=1e-13
    )


@pytest.mark.parametrize("ids", [None, IDS], ids=["", "grouped"])
def test_without_the_positive_it_is_the_decoupled_loss(ids):
  arrays = inputs("hard_negative_clip")
  x, y = arrays.values()
  options = {"temperature": 0.2, "group_ids": ids}
  expected = losses.decoupled(x, y, **options) + losses.decoupled(
    y, x, **options
  )
  actual = losses.hard_negative_clip(
    x, y, logit_scale=5.0, beta=0.0, alpha=0.0, group_ids=ids
  )
  np.testing.assert_allclose(actual, expected / 2, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_harder_negatives_cost_more(name):
  arrays, before = inputs(name).values(), None
  for beta in (0.0, 0.3, 1.0, 3.0):
    loss = getattr(losses, name)(*arrays, **scale_of(name, 8.0), beta=beta)
    assert before is None or np.all(loss > before)
    before = loss


# --- Debiasing and the weights ------------------------------------------------


@pytest.mark.parametrize(
  "scalars",
  [
    {"beta": 1.0, "alpha": 1.0, "tau_plus": 0.1},
    {"beta": 0.25, "alpha": 0.9, "tau_plus": 0.01},
    {"beta": 3.0, "alpha": 0.5, "tau_plus": 0.002},
  ],
  ids=str,
)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("ids", [None, IDS], ids=["", "grouped"])
@pytest.mark.parametrize("name", NAMES)
def test_equals_reference(name, ids, scale, scalars):
  arrays, weights = inputs(name), weights_of(name, 1)
  scalars = scale_of(name, scale) | scalars
  values, *found = both(name, arrays, scalars, ids, weights)
  getattr(hard_negative_references, name)(
    *arrays.values(), **scalars, group_ids=ids, weights=weights
  ).check(values, found[0] | found[1])


@pytest.mark.parametrize("known", ["alpha", "tau_plus"])
@pytest.mark.parametrize("ids", [None, IDS], ids=["", "grouped"])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_known_to_be_zero(name, ids, known):
  arrays, weights = inputs(name), weights_of(name, 2)
  scalars = scale_of(name, 6.0) | {"beta": 0.7, "alpha": 0.8, "tau_plus": 0.01}
  expected = getattr(hard_negative_references, name)(
    *arrays.values(), **scalars | {known: 0.0}, group_ids=ids, weights=weights
  )
  del scalars[known]
  values, *found = both(name, arrays, scalars, ids, weights, **{known: 0.0})
  expected.check(values, found[0] | found[1])


def test_both_sides_of_the_bound_are_met():
  """The cases above are not all of one side."""
  x, y = inputs("hard_negative_nt_xent").values()
  met = []
  for scale in SCALES:
    loss = losses.hard_negative_nt_xent(
      x, y, temperature=1 / scale, beta=1.0, tau_plus=0.1
    )
    positive = scale * np.tile(np.sum(x * y, 1), 2)
    least = np.logaddexp(positive, np.log(2 * N - 2) - scale) - positive
    met.append(np.isclose(loss, least, rtol=1e-5, atol=1e-6))
  assert not met[0].any() and met[-1].any() and not met[-1].all()


def test_the_gradient_flows_through_the_weights():
  """Held weights would give another one; it is that of the printed value."""
  x, y = (jnp.asarray(v) for v in inputs("hard_negative_clip").values())
  scale, beta = 6.0, 1.0
  own = jnp.eye(N, dtype=bool)

  def dense(x, y, held):
    total = 0.0
    for a, b in ((x, y), (y, x)):
      s = scale * jnp.dot(a, b.T, precision="highest")
      weights = (N - 1) * jax.nn.softmax(jnp.where(own, -jnp.inf, beta * s))
      weights = jax.lax.stop_gradient(weights) if held else weights
      negative = jnp.sum(jnp.where(own, 0.0, weights * jnp.exp(s)), 1)
      positive = jnp.diagonal(s)
      total += jnp.log(jnp.exp(positive) + negative) - positive
    return jnp.mean(total) / 2

  def ours(x, y):
    return losses.hard_negative_clip(x, y, logit_scale=scale, beta=beta).mean()

  actual = jax.grad(ours)(x, y)
  expected, other = (jax.grad(dense)(x, y, held) for held in (False, True))
  np.testing.assert_allclose(actual, expected, atol=1e-5)
  assert np.abs(actual - other).max() > 0.01


# --- Devices ------------------------------------------------------------------


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
@pytest.mark.parametrize("name", NAMES)
def test_on_devices(name, devices):
  arrays = inputs(name, n=16)
  ids = jnp.asarray(np.random.default_rng(5).integers(0, 9, 16))
  options = scale_of(name, 3.0) | {"beta": 0.5, "alpha": 0.9, "tau_plus": 0.01}

  def run(loss):
    def mean(*arrays):
      values = loss(*arrays, **options, group_ids=ids)
      return values.mean(), values

    grads, values = jax.jit(jax.grad(mean, (0, 1), has_aux=True))(
      *arrays.values()
    )
    return values, grads

  loss = getattr(losses, name)
  mesh = make_mesh(data=devices)
  for a, b in zip(
    jax.tree.leaves(run(losses.on_mesh(loss, mesh))),
    jax.tree.leaves(run(loss)),
  ):
    assert_close(a, b)


# --- Bad input ----------------------------------------------------------------


@pytest.mark.parametrize(
  "argument, value",
  [
    ("beta", -0.5),
    ("beta", float("inf")),
    ("beta", None),
    ("alpha", -1.0),
    ("alpha", float("nan")),
    ("alpha", "1"),
    ("tau_plus", 1.0),
    ("tau_plus", -0.1),
    ("tau_plus", np.float32(1.5)),
  ],
)
@pytest.mark.parametrize("name", NAMES)
def test_bad_scalars_are_refused_by_name(name, argument, value):
  options = scale_of(name, 3.0) | {"beta": 0.5, argument: value}
  said = str(value) if not isinstance(value, str) else repr(value)
  with pytest.raises(ValueError, match=rf"\b{argument}\b.*got .*{said}"):
    getattr(losses, name)(*inputs(name).values(), **options)


@pytest.mark.parametrize("argument", ["beta", "alpha", "tau_plus"])
@pytest.mark.parametrize("name", NAMES)
def test_a_scalar_an_example_is_refused(name, argument):
  options = scale_of(name, 3.0) | {"beta": 0.5, argument: jnp.full(N, 0.5)}
  with pytest.raises(ValueError, match=rf"\b{argument}\b.*\({N},\)"):
    getattr(losses, name)(*inputs(name).values(), **options)
