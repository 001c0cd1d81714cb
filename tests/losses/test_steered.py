"""Losses with the features of a frozen model, `reference` (DRRho-CLIP)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax import losses
from tests.losses import steered_references
from tests.losses.em_steps import (
  COUNT,
  SIDES,
  N,
  make_references,
  make_steps,
  run,
  simulate,
)
from tests.meshes import make_mesh

D, WIDTH, TAU, KAPPA = 6, 4, 0.2, 2.5
IDS = np.array([0, 1, 2, 1, 3, 4, 5, 0])
FAMILIES = ("contrastive", "clip", "nt_xent", "moco_v3")
CASES = [
  *((family, True) for family in FAMILIES),
  *((family, False) for family in FAMILIES[:3]),
]
LOG_PARTITIONS = {
  "contrastive": "log_partition",
  "clip": "log_partition_clip",
  "nt_xent": "log_partition_nt_xent",
}


def unit(rng, *shape):
  x = rng.normal(size=shape)
  return np.float32(x / np.linalg.norm(x, axis=-1, keepdims=True))


def problem(family, augmented, dtype=np.float32):
  """Arrays, the frozen model's, log-weights or None, cotangents."""
  rng = np.random.default_rng(0)
  arrays = tuple(unit(rng, N, D).astype(dtype) for _ in range(2))
  known = tuple(unit(rng, N, WIDTH).astype(dtype) for _ in range(2))
  sides = 2 if family in ("clip", "nt_xent") else 1
  log_u = tuple(np.float32(rng.normal(size=N)) for _ in range(sides))
  one = augmented and family != "nt_xent"
  g = np.float32(rng.normal(size=N if one else N * sides))
  return arrays, known, log_u if augmented else None, g


def call(family, augmented, wrap=None, **options):
  """A function of (arrays, log u, tau, reference) -> values in one row."""
  name = f"augmented_{family}" if augmented else LOG_PARTITIONS[family]
  loss = getattr(losses, name)
  loss = loss if wrap is None else wrap(loss)

  def values(arrays, log_u, tau, known):
    found = loss(
      *arrays,
      *(log_u or ()),
      temperature=tau,
      negative_mass=KAPPA,
      group_ids=jnp.asarray(IDS),
      reference=known,
      **options,
    )
    return jnp.concatenate([x.reshape(-1) for x in jax.tree.leaves(found)])

  return values


def close(actual, expected, rtol=2e-5):
  expected = np.asarray(expected)
  np.testing.assert_allclose(
    actual, expected, rtol=rtol, atol=rtol * (1.0 + np.abs(expected).max())
  )


def expect(family, arrays, known, log_u, g):
  wide = [[np.float64(x) for x in pair] for pair in (arrays, known)]
  weights = None if log_u is None else [np.float64(x) for x in log_u]
  return (*wide, TAU, weights, np.float64(g), KAPPA, IDS)


@pytest.mark.parametrize(
  "block_size", [3, pytest.param(None, marks=pytest.mark.exhaustive)]
)
@pytest.mark.parametrize("family, augmented", CASES)
def test_the_published_formula(family, augmented, block_size):
  """In value, gradient, and the gradient's derivative along a direction."""
  arrays, known, log_u, g = problem(family, augmented)
  options = {"block_size": block_size}
  values = call(family, augmented, **options)
  rng = np.random.default_rng(5)
  directions = tuple(np.float32(rng.normal(size=(N, D))) for _ in range(2))
  moved = (0,) if family == "moco_v3" else (0, 1)

  def total(arrays, tau, known):
    found = values(arrays, log_u, tau, known)
    return jnp.sum(g * found), found

  @jax.jit
  def everything(arrays, tau, known):
    gradients, found = jax.grad(total, (0, 1, 2), has_aux=True)(
      arrays, tau, known
    )

    def slope(arrays):
      first = jax.grad(lambda x: total(x, tau, known)[0])(arrays)
      return sum(jnp.vdot(first[i], directions[i]) for i in moved)

    return found, gradients, jax.grad(slope)(arrays)

  found, (of_arrays, of_tau, of_known), second = everything(
    arrays, jnp.float32(TAU), known
  )
  assert found.dtype == jnp.float32
  rest = expect(family, arrays, known, log_u, g)
  value, *gradients, of_temperature = steered_references.evaluate(family, *rest)
  close(found, value)
  for a, b in zip(of_arrays, gradients, strict=True):
    close(a, b)
  if family != "moco_v3":  # Its temperature is a fixed one.
    close(of_tau, of_temperature, 5e-5)
  assert not any(np.any(x) for x in of_known)
  along = [v if i in moved else 0 * v for i, v in enumerate(directions)]
  curved = steered_references.second(family, rest[0], along, *rest[1:])
  for i in moved:
    close(second[i], curved[i], 5e-5)


@pytest.mark.parametrize("family, augmented", CASES)
def test_zero_features_are_no_reference(family, augmented):
  arrays, known, log_u, _ = problem(family, augmented)
  values = jax.jit(call(family, augmented))
  zero = jax.tree.map(np.zeros_like, known)
  close(
    values(arrays, log_u, TAU, zero), values(arrays, log_u, TAU, None), 1e-6
  )


@pytest.mark.parametrize("family, augmented", CASES)
def test_a_reference_equal_to_the_model_leaves_no_margin(family, augmented):
  """All negatives weigh the same: Z-hat is kappa."""
  arrays, _, log_u, _ = problem(family, augmented)
  found = call(family, augmented)(arrays, log_u, TAU, arrays)
  expected = np.full(found.shape, np.log(KAPPA))
  if augmented:
    each = [np.exp(x) for x in log_u]
    expected = KAPPA * sum(each) / len(each)
    if family == "nt_xent":
      expected = KAPPA * np.concatenate(each)
    if family == "moco_v3":
      expected = 2 * TAU * expected
  close(found, expected)


@pytest.mark.parametrize(
  "sizes",
  [
    pytest.param({"data": 2}, marks=pytest.mark.exhaustive),
    {"row": 2, "col": 4},
  ],
  ids=str,
)
@pytest.mark.parametrize("family, augmented", CASES)
def test_on_a_mesh_it_is_the_same(family, augmented, sizes):
  arrays, known, log_u, g = problem(family, augmented)
  wrap = functools.partial(losses.on_mesh, mesh=make_mesh(**sizes))

  def gradient(values):
    def total(arrays, tau):
      found = values(arrays, log_u, tau, known)
      return jnp.sum(g * found), found

    return jax.jit(jax.grad(total, (0, 1), has_aux=True))(
      arrays, jnp.float32(TAU)
    )

  for a, b in zip(
    jax.tree.leaves(gradient(call(family, augmented, wrap))),
    jax.tree.leaves(gradient(call(family, augmented))),
    strict=True,
  ):
    close(a, b, 1e-5)


def test_half_precision_takes_the_type_that_holds_both():
  """A float32 reference of bfloat16 features is not rounded."""
  arrays, _, log_u, g = problem("clip", True, jnp.bfloat16)
  known = problem("clip", True)[1]
  values = call("clip", True)
  found, gradients = (
    values(arrays, log_u, TAU, known),
    jax.grad(lambda x: jnp.sum(g * values(x, log_u, TAU, known)))(
      tuple(map(jnp.asarray, arrays))
    ),
  )
  rest = expect("clip", arrays, known, log_u, g)
  value, *expected, _ = steered_references.evaluate("clip", *rest)
  close(found, value)
  for a, b in zip(gradients, expected, strict=True):
    assert a.dtype == jnp.bfloat16
    close(np.float64(a), b, 5e-3)


def test_diagnostics_are_of_the_steered_weights():
  (x, y), (rx, ry), (log_u,), _ = problem("contrastive", True)
  found = losses.augmented_diagnostics(
    x, y, log_u, temperature=TAU, reference=(rx, ry), negative_mass=KAPPA
  )
  loss = losses.augmented_contrastive(
    x, y, log_u, temperature=TAU, reference=(rx, ry), negative_mass=KAPPA
  )
  close(found["weight_sum"], loss)


# --- Stochastic EM ---------------------------------------------------------------


@pytest.mark.parametrize("margins, level_rate", [(False, 0.1), (True, 0.0)])
@pytest.mark.parametrize(
  "family, captions",
  [
    ("clip", 0),
    ("clip", 3),
    ("contrastive", 0),
    ("nt_xent", 0),
    ("moco_v3", 0),
  ],
)
def test_em_against_a_simulation(family, captions, margins, level_rate):
  """Entries, levels and losses, with a temperature that changes."""
  steps = make_steps(family, captions=captions)
  known = make_references(family, captions=captions)
  options = {"margins": margins, "level_rate": level_rate}
  found = run(
    family, steps, frozen=known, rule=losses.MovingAverage(0.3), **options
  )
  expected = simulate(family, steps, lambda v, z: 0.3, frozen=known, **options)
  for (_, _, tau), step, (ratio, z, entries, level) in zip(
    steps, found, expected, strict=True
  ):
    scale = 4 * tau if family == "moco_v3" else 1.0
    close(step.loss, scale * ratio.mean((1, 2)))
    close(step.details["log_partition"], z)
    close(step.state.level, level, 1e-4)
    table = np.asarray(step.state.tables["entries"])
    for i in range(COUNT):
      if i in entries:
        close(table[i], entries[i], 1e-5)
      else:
        assert np.isnan(table[i]).all()


@pytest.mark.parametrize("family", SIDES)
def test_em_without_a_reference_is_em_with_zeros(family):
  steps = make_steps(family, 3)
  zero = jax.tree.map(np.zeros_like, make_references(family, 3))
  for a, b in zip(run(family, steps), run(family, steps, frozen=zero)):
    close(a.loss, b.loss, 1e-5)
    for x, y in zip(jax.tree.leaves(a.state), jax.tree.leaves(b.state)):
      np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  "captions", [0, pytest.param(3, marks=pytest.mark.exhaustive)]
)
def test_em_on_a_mesh_is_the_same(captions):
  steps = make_steps("clip", 2, captions=captions)
  known = make_references("clip", 2, captions=captions)
  mesh = make_mesh(data=2)
  found = run(
    "clip",
    steps,
    losses.on_mesh(losses.em_clip, mesh),
    losses.em_init(COUNT, num_devices=2),
    frozen=known,
  )
  for a, b in zip(found, run("clip", steps, frozen=known), strict=True):
    close(a.loss, b.loss, 1e-5)
    close(a.state.level, b.state.level, 1e-5)


def test_an_entry_is_free_of_the_positives_of_both_models():
  """Tau log mean exp((s_ij - r_ij) / tau), after one visit without a level."""
  (arrays, _, tau), *_ = make_steps("contrastive", 1)
  known = make_references("contrastive", 1)
  steps = [(arrays, np.arange(N), tau)]
  step = run("contrastive", steps, frozen=known, level_rate=0.0)[0]
  (q, k), (rq, rk) = ([np.float64(x) for x in p] for p in (arrays, known[0]))
  cosine = np.where(np.eye(N, dtype=bool), -np.inf, q @ k.T - rq @ rk.T)
  expected = np.logaddexp.reduce(cosine / tau, axis=1) - np.log(N - 1)
  close(step.state.tables["entries"][:N, 0], tau * expected)


# --- Bad input ------------------------------------------------------------------


BAD = {
  "one array": np.ones((N, WIDTH), np.float32),
  "three": (np.ones((N, WIDTH), np.float32),) * 3,
  "rows": (np.ones((N - 1, WIDTH), np.float32),) * 2,
  "widths": tuple(np.ones((N, w), np.float32) for w in (3, 4)),
  "whole numbers": (np.ones((N, WIDTH), np.int32),) * 2,
  "a row": (np.ones(N, np.float32),) * 2,
  "a name": "frozen",
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_reference_is_refused_by_name(name):
  for family, augmented in CASES:
    arrays, _, log_u, _ = problem(family, augmented)
    with pytest.raises(ValueError, match=r"\breference\b"):
      call(family, augmented)(arrays, log_u, TAU, BAD[name])
  for family in SIDES:
    (arrays, index, tau), *_ = make_steps(family, 1)
    with pytest.raises(ValueError, match=r"\breference\b"):
      getattr(losses, f"em_{family}")(
        *arrays,
        losses.em_init(COUNT, sides=SIDES[family]),
        index=jnp.asarray(index),
        temperature=tau,
        reference=BAD[name],
      )


def test_a_bad_reference_of_captions_is_refused_by_its_shape():
  (arrays, index, tau), *_ = make_steps("clip", 1, captions=3)
  (image, text), *_ = make_references("clip", 1, captions=3)
  for known in ((image, text[:, :2]), (image, text[:, 0]), image, (image,)):
    with pytest.raises(ValueError, match=rf"\breference\b.*{N}, 3"):
      losses.em_clip(
        *arrays,
        losses.em_init(COUNT),
        index=jnp.asarray(index),
        temperature=tau,
        reference=known,
      )


def test_a_mesh_names_a_reference_that_does_not_divide():
  x = np.eye(4, dtype=np.float32)
  over = losses.on_mesh(losses.log_partition, make_mesh(data=2))
  with pytest.raises(ValueError, match=r"\breference\b.*3.*2"):
    over(x, x, temperature=TAU, reference=(x[:3], x[:3]))
