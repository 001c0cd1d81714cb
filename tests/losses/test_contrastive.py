"""The contrastive losses on one device, against the float64 references."""

from __future__ import annotations

import collections
import functools
import itertools
import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.extend import core as jax_core

from contrastive_jax import losses
from tests.losses import references, rounding

NAMES = tuple(references.LOSSES)
IDS = np.array([7, -1, 7, 3, 0, -1, 7, 2**31 - 1, 3, 5, -(2**31), 0])
N, D = len(IDS), 16
EPSILON = rounding.FLOAT32_EPSILON
TRACES = collections.Counter()


@functools.cache
def compiled(name, block_size="auto", **options):
  """Jitted (arrays, scalars, ids, weights) -> (losses, gradients).

  Tests share the shape `N, D` and with it the compiled program.
  """
  loss = getattr(losses, name)

  def weighted(arguments, ids, weights):
    arrays, scalars = arguments
    per_example = loss(
      *arrays, **scalars, group_ids=ids, block_size=block_size, **options
    )
    return jnp.sum(weights * per_example), per_example

  @jax.jit
  def run(arrays, scalars, ids, weights):
    TRACES[name] += 1
    gradient = jax.grad(weighted, has_aux=True)
    (of_arrays, of_scalars), per_example = gradient(
      (arrays, scalars), ids, weights
    )
    return per_example, of_arrays, of_scalars

  return run


def evaluate(name, inputs, scalars, ids=None, weights=None, **options):
  """Losses and gradients by argument name."""
  arrays = tuple(map(jnp.asarray, inputs.values()))
  count = len(arrays[0]) * (2 if name in references.TWO_VIEWS else 1)
  if weights is None:
    weights = np.full(count, 1.0 / count)
  ids = None if ids is None else jnp.asarray(ids)
  # Strongly typed, so that one compilation serves every test of a shape.
  scalars = {k: jnp.float32(v) for k, v in scalars.items()}
  per_example, of_arrays, of_scalars = compiled(name, **options)(
    arrays, scalars, ids, jnp.asarray(weights, jnp.float32)
  )
  assert per_example.dtype == jnp.float32
  for array, gradient in zip(arrays, of_arrays, strict=True):
    assert gradient.dtype == array.dtype
  return per_example, dict(zip(inputs, of_arrays, strict=True)) | of_scalars


def check(name, inputs, scalars, ids=None, weights=None, **options):
  """Losses and all gradients equal those of the reference."""
  per_example, gradients = evaluate(
    name, inputs, scalars, ids, weights, **options
  )
  options.pop("block_size", None)
  expected = references.LOSSES[name](
    *inputs.values(), **scalars, group_ids=ids, weights=weights, **options
  )
  expected.assert_values(per_example)
  assert gradients.keys() == expected.gradients.keys()
  for argument, gradient in gradients.items():
    expected.assert_gradient(argument, gradient)


def weights_for(name, n, seed=0):
  """Cotangents of any size and sign: a backward pass may not assume 1/N."""
  count = 2 * n if name in references.TWO_VIEWS else n
  return np.float32(np.random.default_rng(seed).normal(size=count))


# --- Values and gradients ---------------------------------------------------


@pytest.mark.parametrize("ids", [None, IDS], ids=["", "grouped"])
@pytest.mark.parametrize(
  "name, options",
  [
    ("clip_four_term", {"in_modal_denominator": "original"}),
    ("info_nce", {"label_smoothing": 0.3}),
    ("clip", {"label_smoothing": 0.3}),
  ],
  ids=str,
)
def test_variants_equal_their_reference(name, options, ids):
  inputs = references.make_inputs(name, N, D)
  check(name, inputs, references.make_scalars(name, 14.3), ids, **options)


@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan")])
@pytest.mark.parametrize("name", ["info_nce", "clip"])
def test_label_smoothing_must_be_a_share(name, value):
  inputs = references.make_inputs(name, N, D)
  with pytest.raises(ValueError, match=rf"\blabel_smoothing\b.*got {value}"):
    getattr(losses, name)(
      *inputs.values(),
      **references.make_scalars(name, 1.0),
      label_smoothing=value,
    )


@pytest.mark.parametrize("logit_scale", [1.0, 14.3, 100.0])
@pytest.mark.parametrize("ids", [None, IDS], ids=["", "grouped"])
@pytest.mark.parametrize("name", NAMES)
def test_equals_reference(name, ids, logit_scale):
  inputs = references.make_inputs(name, N, D)
  check(name, inputs, references.make_scalars(name, logit_scale), ids)


@pytest.mark.parametrize(
  "name, block_size",
  [
    *itertools.product(NAMES, [4, 5]),
    ("clip", None),
    ("clip", 1),
    ("nt_xent", N - 1),
    ("nt_xent", 2 * N),
    ("decoupled", 10 * N),
  ],
)
def test_blocks_change_nothing(name, block_size):
  """Blocks of 12 rows: a divisor, a remainder, single rows, more than all."""
  inputs = references.make_inputs(name, N, D, seed=1)
  scalars = references.make_scalars(name, 14.3)
  weights = weights_for(name, N)
  check(name, inputs, scalars, IDS, weights, block_size=block_size)


@pytest.mark.parametrize("block_size", [None, 5])
@pytest.mark.parametrize("ids", [None, IDS], ids=["", "grouped"])
def test_original_in_modal_denominator(ids, block_size):
  name = "clip_four_term"
  inputs = references.make_inputs(name, N, D, seed=2)
  scalars = references.make_scalars(name, 14.3)
  check(
    name,
    inputs,
    scalars,
    ids,
    weights_for(name, N),
    block_size=block_size,
    in_modal_denominator="original",
  )


@pytest.mark.parametrize("name", ["info_nce", "nt_xent", "decoupled"])
@pytest.mark.parametrize("temperature", [0.01, 0.05, 0.2, 1.0])
def test_temperatures(name, temperature):
  inputs = references.make_inputs(name, N, D, seed=3)
  check(name, inputs, {"temperature": temperature}, IDS)


@pytest.mark.parametrize("name", NAMES)
def test_static_hyper_parameters_and_float64(name):
  """Python numbers; with x64 enabled the loss is float32 all the same."""
  scalars = references.make_scalars(name, 14.3)
  arrays = references.make_inputs(name, 5, 8, seed=4, dtype=np.float64)
  expected = references.LOSSES[name](*arrays.values(), **scalars)
  first = next(iter(arrays))

  def mean(rows):
    inputs = arrays | {first: rows}
    per_example = getattr(losses, name)(*inputs.values(), **scalars)
    return jnp.mean(per_example), per_example

  with jax.enable_x64(True):
    gradient_of = jax.jit(jax.grad(mean, has_aux=True))
    gradient, per_example = gradient_of(jnp.asarray(arrays[first]))
  assert per_example.dtype == jnp.float32
  assert gradient.dtype == jnp.float64
  # The float64 rows are rounded to float32 first.
  expected.assert_values(per_example, rtol=2e-6)
  expected.assert_gradient(first, gradient, rtol=2e-6)


@pytest.mark.parametrize(
  "name, block_size, dtype",
  [
    *((name, 5, jnp.bfloat16) for name in NAMES),
    ("clip", None, jnp.bfloat16),
    ("nt_xent", None, jnp.float16),
    ("sigmoid", 4, jnp.float16),
  ],
)
def test_half_precision_inputs(name, block_size, dtype):
  """Only the inputs and the returned gradients are rounded."""
  inputs = references.make_inputs(name, N, D, seed=5, dtype=dtype)
  scalars = references.make_scalars(name, 14.3)
  per_example, gradients = evaluate(
    name, inputs, scalars, IDS, block_size=block_size
  )
  expected = references.LOSSES[name](*inputs.values(), **scalars, group_ids=IDS)
  expected.assert_values(per_example)
  half_ulp = float(jnp.finfo(dtype).eps) / 2
  for argument, gradient in gradients.items():
    rtol = half_ulp if argument in inputs else 1e-6
    expected.assert_gradient(argument, gradient, rtol=rtol * (1 + 1e-3))


@pytest.mark.usefixtures("all_passes")
@pytest.mark.parametrize("name", ["clip", "nt_xent"])
def test_mixed_precision_inputs(name):
  inputs = references.make_inputs(name, N, D, seed=6)
  first = next(iter(inputs))
  inputs[first] = inputs[first].astype(jnp.bfloat16)
  scalars = references.make_scalars(name, 14.3)
  per_example, _ = evaluate(name, inputs, scalars)
  references.LOSSES[name](*inputs.values(), **scalars).assert_values(
    per_example
  )


# --- Edge cases -------------------------------------------------------------


@pytest.mark.parametrize(
  "name, n, block_size",
  [
    *((name, 1, "auto") for name in NAMES),
    ("clip", 2, 1),
    ("nt_xent", 1, 1),
    ("nt_xent", 2, 3),
    ("decoupled", 2, 1),
  ],
)
def test_tiny_batches(name, n, block_size):
  inputs = references.make_inputs(name, n, 8, seed=7)
  scalars = references.make_scalars(name, 14.3)
  check(name, inputs, scalars, block_size=block_size)


@pytest.mark.parametrize("name", NAMES)
def test_zero_vectors_duplicates_and_one_group(name):
  scalars = references.make_scalars(name, 14.3)
  inputs = references.make_inputs(name, N, D, seed=8)
  kept = (np.arange(N) > 1)[:, None]
  zero = {k: np.zeros_like(v) for k, v in inputs.items()}
  some_zero = {k: v * kept for k, v in inputs.items()}
  duplicates = {k: np.tile(v[:1], (N, 1)) for k, v in inputs.items()}
  for case in (zero, some_zero, duplicates):
    check(name, case, scalars, np.arange(N))
  check(name, inputs, scalars, np.full(N, 9))


@pytest.mark.parametrize("block_size", [None, 4])
def test_decoupled_without_negatives_is_exactly_zero(block_size):
  inputs = references.make_inputs("decoupled", 6, 8, seed=9)
  scalars = {"temperature": 0.1}
  alone = {k: v[:1] for k, v in inputs.items()}
  for case, ids in ((inputs, np.zeros(6, int)), (alone, None)):
    per_example, gradients = evaluate(
      "decoupled", case, scalars, ids, block_size=block_size
    )
    assert not np.any(per_example)
    for gradient in gradients.values():
      assert not np.any(gradient)


@pytest.mark.parametrize("name", NAMES)
def test_opposite_rows_at_extreme_scales(name):
  rows = np.eye(N, D, dtype=np.float32)
  signs = {k: (-1.0) ** i for i, k in enumerate(references.ARRAYS[name])}
  inputs = {k: np.float32(sign * rows) for k, sign in signs.items()}
  check(name, inputs, references.make_scalars(name, 1e4), np.arange(N))


def test_closed_forms():
  n, temperature = 6, 0.3
  eye = jnp.eye(n)
  sharp = math.exp(-1 / temperature)
  t = {"temperature": temperature}
  expected = {
    losses.info_nce: math.log(1 + (n - 1) * sharp),
    losses.nt_xent: math.log(1 + (2 * n - 2) * sharp),
    losses.moco_v3: 2 * temperature * math.log(1 + (n - 1) * sharp),
    losses.decoupled: math.log(n - 1) - 1 / temperature,
  }
  for loss, value in expected.items():
    np.testing.assert_allclose(jax.jit(loss)(eye, eye, **t), value, rtol=1e-6)
  same = jnp.tile(eye[:1], (n, 1))
  np.testing.assert_allclose(
    losses.clip(same, same, logit_scale=10.0), math.log(n), rtol=1e-6
  )
  np.testing.assert_allclose(
    losses.sigmoid(eye, eye, logit_scale=2.0, logit_bias=-1.0),
    np.logaddexp(0, -1.0) + (n - 1) * np.logaddexp(0, -1.0),
    rtol=1e-6,
  )


def test_nt_xent_rows_of_the_first_view_come_first():
  first, second = references.make_inputs("nt_xent", 5, 8).values()
  a = losses.nt_xent(first, second, temperature=0.2)
  b = losses.nt_xent(second, first, temperature=0.2)
  assert a.shape == (10,)
  np.testing.assert_allclose(a, np.roll(b, 5), rtol=1e-6)


def test_moco_v3_stops_the_gradient_of_the_keys():
  inputs = references.make_inputs("moco_v3", 6, 8)
  _, gradients = evaluate("moco_v3", inputs, {"temperature": 0.2})
  assert np.any(gradients["queries"])
  assert not np.any(gradients["momentum_keys"])


def test_clamp_logit_scale():
  values = jnp.array([-1.0, 0.0, 2.5, math.log(100), 7.0])
  clamped = jax.jit(losses.clamp_logit_scale)(values)
  np.testing.assert_allclose(
    clamped, [0.0, 0.0, 2.5, math.log(100), math.log(100)], rtol=1e-7
  )
  assert clamped.dtype == jnp.float32
  narrow = losses.clamp_logit_scale(values, minimum=1.0, maximum=2.0)
  np.testing.assert_array_equal(narrow, [1.0, 1.0, 2.0, 2.0, 2.0])


# --- Properties -------------------------------------------------------------

problems = given(
  seed=st.integers(0, 10_000),
  sharpness=st.floats(1.0, 30.0, width=32),
  ids=st.lists(st.integers(-2, 3), min_size=N, max_size=N),
)
few = settings(max_examples=12, deadline=None)


@pytest.mark.parametrize("name", NAMES)
@problems
@few
def test_permutation_equivariance(name, seed, sharpness, ids):
  inputs = references.make_inputs(name, N, D, seed=seed)
  scalars = references.make_scalars(name, sharpness)
  order = np.random.default_rng(seed).permutation(N)
  ids = np.array(ids)
  before, gradients = evaluate(name, inputs, scalars, ids)
  permuted = {k: v[order] for k, v in inputs.items()}
  after, permuted_gradients = evaluate(name, permuted, scalars, ids[order])
  rows = (
    order
    if name not in references.TWO_VIEWS
    else np.concatenate([order, N + order])
  )
  atol = 8 * EPSILON * (3 + sharpness)
  np.testing.assert_allclose(after, before[rows], rtol=1e-6, atol=atol)
  for argument in inputs:
    np.testing.assert_allclose(
      permuted_gradients[argument],
      gradients[argument][order],
      atol=atol * sharpness,
    )


@pytest.mark.parametrize("name", NAMES)
@problems
@few
def test_joint_rotation_invariance(name, seed, sharpness, ids):
  inputs = references.make_inputs(name, N, D, seed=seed)
  scalars = references.make_scalars(name, sharpness)
  rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(D, D)))
  rotated = {k: np.float32(v @ rotation) for k, v in inputs.items()}
  before, _ = evaluate(name, inputs, scalars, np.array(ids))
  after, _ = evaluate(name, rotated, scalars, np.array(ids))
  atol = 8 * EPSILON * (3 + sharpness)
  np.testing.assert_allclose(after, before, rtol=1e-6, atol=atol)


@pytest.mark.parametrize("name", NAMES)
@given(
  seed=st.integers(0, 10_000),
  ids=st.lists(
    st.integers(-(2**31), 2**31 - 1), min_size=N, max_size=N, unique=True
  ),
)
@few
def test_groups_of_one_are_no_groups(name, seed, ids):
  inputs = references.make_inputs(name, N, D, seed=seed)
  scalars = references.make_scalars(name, 14.3)
  expected, gradients = evaluate(name, inputs, scalars)
  for unique in (np.arange(N), np.array(ids)):
    actual, actual_gradients = evaluate(name, inputs, scalars, unique)
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-5)
    for argument in inputs:
      np.testing.assert_allclose(
        actual_gradients[argument], gradients[argument], atol=1e-5
      )


# --- Transformations --------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_one_compilation_serves_every_scale(name):
  """And nothing is fetched from, or sent to, the device meanwhile."""
  arrays = tuple(map(jnp.asarray, references.make_inputs(name, N, D).values()))
  ids = jnp.asarray(IDS)
  weights = jnp.asarray(weights_for(name, N))
  run = compiled(name)
  traces = None
  for scale in (1.0, 10.0, 100.0):
    scalars = references.make_scalars(name, scale)
    scalars = jax.tree.map(jnp.float32, scalars)
    with jax.transfer_guard("disallow"):
      per_example, *_ = run(arrays, scalars, ids, weights)
    assert np.all(np.isfinite(per_example))
    traces = traces or TRACES[name]
    assert traces == TRACES[name]


def _equations(jaxpr):
  for equation in jaxpr.eqns:
    yield equation
    for inner in jax_core.jaxprs_in_params(equation.params):
      yield from _equations(inner)


def _trace(name, n, d, block_size):
  """Every equation of the loss with its gradient, traced, not run."""
  loss = getattr(losses, name)

  def weighted(arrays, scalars, ids, weights):
    per_example = loss(*arrays, **scalars, group_ids=ids, block_size=block_size)
    return jnp.sum(weights * per_example)

  count = 2 * n if name in references.TWO_VIEWS else n
  rows = jax.ShapeDtypeStruct((n, d), jnp.float32)
  jaxpr = jax.make_jaxpr(jax.value_and_grad(weighted, argnums=(0, 1)))(
    (rows,) * len(references.ARRAYS[name]),
    references.make_scalars(name, 10.0),
    jax.ShapeDtypeStruct((n,), jnp.int32),
    jax.ShapeDtypeStruct((count,), jnp.float32),
  )
  return list(_equations(jaxpr.jaxpr))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n, block_size", [(64, 4), (65536, "auto")])
def test_blocks_never_form_the_square(name, n, block_size):
  """No intermediate of N^2 elements; no way to leave the device."""
  equations = _trace(name, n, 4, block_size)
  largest = max(math.prod(v.aval.shape) for e in equations for v in e.outvars)
  assert largest < n * n / 4
  assert not [e for e in equations if "callback" in e.primitive.name]


@pytest.mark.parametrize(
  "name, block_size",
  [("nt_xent", 4), ("sigmoid", 5), ("decoupled", 4), ("clip", None)],
)
def test_vmap_is_a_loop(name, block_size):
  problems = [references.make_inputs(name, 6, 8, seed=s) for s in range(3)]
  stacked = [np.stack(rows) for rows in zip(*(p.values() for p in problems))]
  scales = np.float32([2.0, 8.0, 20.0])
  scalars = [references.make_scalars(name, scale) for scale in scales]
  batched = {k: np.float32([s[k] for s in scalars]) for k in scalars[0]}
  ids = np.array([0, 1, 0, 2, 3, 1])
  weights = weights_for(name, 6)
  run = compiled(name, block_size)
  per_example, of_arrays, of_scalars = jax.jit(
    jax.vmap(run, in_axes=(0, 0, None, None))
  )(tuple(stacked), batched, ids, weights)
  for i, (inputs, values) in enumerate(zip(problems, scalars, strict=True)):
    expected = references.LOSSES[name](
      *inputs.values(), **values, group_ids=ids, weights=weights
    )
    expected.assert_values(per_example[i])
    for argument, gradient in zip(inputs, of_arrays, strict=True):
      expected.assert_gradient(argument, gradient[i])
    for argument, gradient in of_scalars.items():
      expected.assert_gradient(argument, gradient[i])


# --- Bad input --------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_bad_arrays_are_refused_by_name(name):
  loss = getattr(losses, name)
  inputs = references.make_inputs(name, 4, 8)
  scalars = references.make_scalars(name, 10.0)
  for argument, rows in inputs.items():
    bad = [rows[0], rows[None], rows.astype(np.int32)]
    if argument != next(iter(inputs)):  # A mismatch with the first array.
      bad += [rows[:3], rows[:, :5]]
    for value in bad:
      with pytest.raises(ValueError, match=rf"\b{argument}\b"):
        loss(*(inputs | {argument: value}).values(), **scalars)
  for ids in (np.arange(3), np.zeros((4, 1), int), np.arange(4.0)):
    with pytest.raises(ValueError, match=r"\bgroup_ids\b"):
      loss(*inputs.values(), **scalars, group_ids=ids)


@pytest.mark.parametrize("name", NAMES)
def test_bad_hyper_parameters_are_refused_by_name(name):
  loss = getattr(losses, name)
  arrays = references.make_inputs(name, 4, 8).values()
  scalars = references.make_scalars(name, 10.0)
  for argument in set(scalars) - {"logit_bias", "beta", "alpha", "tau_plus"}:
    for value in (0.0, -1.0, 0):
      with pytest.raises(ValueError, match=rf"\b{argument}\b"):
        loss(*arrays, **(scalars | {argument: value}))
  for block_size in (0, -4, "foo"):
    with pytest.raises(ValueError, match=r"\bblock_size\b"):
      loss(*arrays, **scalars, block_size=block_size)


def test_unknown_in_modal_denominator_is_refused():
  inputs = references.make_inputs("clip_four_term", 4, 8)
  with pytest.raises(ValueError, match="in_modal_denominator.*printed"):
    losses.clip_four_term(
      *inputs.values(), logit_scale=10.0, in_modal_denominator="printed"
    )


def test_import_costs_what_jax_costs():
  """Neither the other dependencies nor anything else is imported."""
  program = (
    "import jax, jax.numpy, sys\n"
    "before = set(sys.modules)\n"
    "import contrastive_jax.losses\n"
    "new = {m.partition('.')[0] for m in set(sys.modules) - before}\n"
    "print(*sorted(new - set(sys.stdlib_module_names)))\n"
    "print(*sorted({m.partition('.')[0] for m in sys.modules}))\n"
  )
  output = subprocess.run(
    [sys.executable, "-c", program],
    capture_output=True,
    text=True,
    check=True,
  ).stdout
  new, everything = (set(line.split()) for line in output.splitlines())
  assert new <= {"contrastive_jax", "jax", "jaxlib"}
  heavy = {"flax", "absl", "optax", "grain", "tensorflow_datasets"}
  assert not heavy & everything


@pytest.mark.parametrize("block_size", [None, 16])
@pytest.mark.parametrize("name", ["info_nce", "nt_xent"])
def test_small_cotangents_lose_no_digit(name, block_size):
  rng = np.random.default_rng(0)
  views = rng.normal(size=(2, 40, 3))
  views /= np.linalg.norm(views, axis=-1, keepdims=True)
  x, y = jnp.asarray(views, jnp.float32)

  @jax.jit
  def gradient(size):
    def total(x, y):
      # Logits span more than 120, so that a tile's exponentials do e^-60 to e^60.
      found = getattr(losses, name)(
        x, y, temperature=0.015, block_size=block_size
      )
      weights = size * jnp.linspace(0.5, 1.0, len(found))
      return jnp.sum(weights * found)

    return jax.grad(total, (0, 1))(x, y)

  whole, small = gradient(1.0), gradient(2.0**-70)
  for a, b in zip(whole, small):
    np.testing.assert_array_equal(b, a * 2.0**-70)
