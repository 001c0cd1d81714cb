"""Stochastic EM in one call: memory, level, bounds, mistakes."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax import losses
from tests.losses import augmented_references as references
from tests.losses.em_steps import COUNT, SIDES, D, N, make_steps, run, simulate

RULES = {
  "average": (losses.MovingAverage(0.3), lambda v, z: 0.3),
  "decay": (losses.MovingAverage(1.0, 0.7), lambda v, z: (v + 1) ** -0.7),
  "conjugate": (
    losses.Conjugate(2.0, min_rate=0.2),
    lambda v, z: np.maximum(1 / (1 + np.exp(-z - 2.0)), 0.2),
  ),
}


@pytest.mark.parametrize("rule", RULES)
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
def test_against_a_simulation(family, captions, margins, level_rate, rule):
  """In float64, with a temperature that changes at each step."""
  chosen, rate = RULES[rule]
  steps = make_steps(family, captions=captions)
  found = run(
    family, steps, rule=chosen, margins=margins, level_rate=level_rate
  )
  expected = simulate(family, steps, rate, margins, level_rate)
  for (_, _, tau), step, (ratio, known, entries, level) in zip(
    steps, found, expected, strict=True
  ):
    loss = ratio.mean((1, 2))
    if family == "moco_v3":
      loss = 4 * tau * loss
    np.testing.assert_allclose(step.loss, loss, rtol=2e-5)
    np.testing.assert_allclose(
      step.details["log_partition"], known, rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(step.state.level, level, rtol=1e-4, atol=1e-6)
    table = np.asarray(step.state.tables["entries"])
    for i in range(COUNT):
      wanted = entries.get(i, np.full(SIDES[family], np.nan))
      np.testing.assert_allclose(table[i], wanted, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("family", SIDES)
def test_gradients_are_those_of_the_m_step(family):
  """First and second ones, with the weights that the details name."""
  arrays, index, tau = make_steps(family, 1)[0]
  state = run(family, make_steps(family, 3))[-1].state
  key = jax.random.key(7)
  call = functools.partial(
    getattr(losses, f"em_{family}"),
    state=state,
    index=jnp.asarray(index),
    key=key,
    temperature=jnp.float32(tau),
    concentration=2.0,
  )
  log_u = jax.jit(lambda *x: call(*x).details["log_auxiliary"])(*arrays)

  def whole(*arrays):
    return call(*arrays).loss.sum()

  def by_parts(*arrays):
    options = {"temperature": jnp.float32(tau)}
    if family == "moco_v3":
      q1, q2, k1, k2 = arrays
      return sum(
        losses.augmented_moco_v3(q, k, log_u[:, v, 0], **options).sum()
        for v, (q, k) in enumerate([(q1, k2), (q2, k1)])
      )
    if family == "nt_xent":
      values = losses.augmented_nt_xent(*arrays, *log_u[:, :, 0].T, **options)
      return values.sum() / 2
    augmented = getattr(losses, f"augmented_{family}")
    return augmented(*arrays, *log_u[:, 0].T, **options).sum()

  every = tuple(range(len(arrays)))
  rng = np.random.default_rng(1)
  directions = tuple(jnp.float32(rng.normal(size=x.shape)) for x in arrays)

  def twice(fn):
    first = jax.grad(fn, every)
    slope = jax.grad(
      lambda *x: sum(jnp.vdot(a, b) for a, b in zip(first(*x), directions)),
      every,
    )
    return jax.jit(lambda *x: (*first(*x), *slope(*x)))(*arrays)

  for a, b in zip(twice(whole), twice(by_parts), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_a_positive_that_moves_does_not_make_entries_stale():
  """Negatives stay, positives come near: only margins' weights go wrong."""
  basis = np.eye(D)
  text, rows = basis[:4], np.arange(4)

  def step(positive):
    # A similarity of 0.1 with each negative, whatever the positive's is.
    image = 0.1 * (text.sum(0) - text) + positive * text
    rest = np.sqrt(1.0 - (image**2).sum(1, keepdims=True))
    image = image + rest * basis[5]
    return (np.float32(image), np.float32(text)), rows, 0.05

  steps = [step(positive) for positive in (0.2, 0.5, 0.8)]
  options = {"rule": losses.MovingAverage(0.2), "level_rate": 0.0}
  free, margins = (
    run("contrastive", steps, margins=m, **options)[-1] for m in (False, True)
  )
  np.testing.assert_allclose(free.loss, 1.0, rtol=1e-4)
  assert np.max(margins.loss) < 0.01  # All gradient is lost.


def test_a_level_carries_entries_that_are_not_visited():
  """All similarities of negatives rise by as much; entries follow unread."""
  groups = np.arange(90).reshape(30, 3)
  basis = np.eye(91)

  def step(rows, common):
    x = np.sqrt(1 - common) * basis[rows] + np.sqrt(common) * basis[-1]
    return (np.float32(x), np.float32(x)), rows, 0.1

  steps = [step(rows, 0.0) for rows in groups]
  steps += [step(rows, 0.01 * t) for t, rows in enumerate(groups)]
  error = {}
  for level_rate in (0.0, 0.1):
    state = losses.em_init(90, sides=1)
    options = {"level_rate": level_rate, "lagged": True}
    last = run("contrastive", steps, state=state, **options)[-1]
    error[level_rate] = np.abs(np.log(last.loss)).max()
  np.testing.assert_allclose(error[0.0], 2.9, rtol=1e-3)
  assert error[0.1] < 1.0


def test_a_level_has_no_bias():
  """On independent batches of a fixed encoder it stays at the log-partition."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(200, D))
  x = np.float32(x / np.linalg.norm(x, axis=1, keepdims=True))
  full = losses.log_partition(jnp.asarray(x), jnp.asarray(x), temperature=0.2)
  steps = []
  for _ in range(400):
    rows = rng.choice(200, N, replace=False)
    steps.append(((x[rows], x[rows]), rows, 0.2))
  state = losses.em_init(200, sides=1)
  found = run("contrastive", steps, state=state, rule=losses.MovingAverage(0.1))
  ratio = np.concatenate([step.loss for step in found[200:]])
  error = np.concatenate(
    [
      step.details["log_partition"][:, 0, 0] - full[rows]
      for step, (_, rows, _) in zip(found[200:], steps[200:])
    ]
  )
  assert abs(ratio.mean() - 1) < 0.1
  assert abs(error.mean()) < 0.1


@pytest.mark.parametrize("change", [0.95, 1.05])
def test_a_temperature_that_moved_is_accounted_for(change):
  """To first order but for the divergence of the softmax over negatives."""
  (arrays, _, _), *_ = make_steps("contrastive", 1)
  steps = [(arrays, np.arange(N), 0.1), (arrays, np.arange(N), 0.1 * change)]
  step = run("contrastive", steps, lagged=True, level_rate=0.0)[-1]
  # Features are the same: what is left is the temperature's own error.
  q, k = map(np.float64, arrays)
  lower = 0.1 * min(change, 1.0)
  logits = np.where(references.negatives(None, N), q @ k.T / lower, -np.inf)
  softmax = np.exp(logits - np.logaddexp.reduce(logits, 1)[:, None])
  uniform = 1.0 / (N - 1)
  with np.errstate(divide="ignore", invalid="ignore"):
    terms = np.where(softmax > 0, softmax * np.log(softmax / uniform), 0.0)
  bound = abs(1 / change - 1) * terms.sum(1)
  error = np.abs(np.log(step.loss))
  assert np.all(error <= bound + 1e-5)
  # An entry that is log A itself would be wrong by this.
  unscaled = np.abs(np.logaddexp.reduce(logits, 1)) * abs(1 / change - 1)
  assert error.mean() < unscaled.mean()


BOUNDS = {
  "batch": (losses.BatchEstimate(), 1.0),
  "average": (losses.MovingAverage(0.1), 10.0),
  "decay": (losses.MovingAverage(1.0, 1.0, min_rate=0.05), 20.0),
  "conjugate": (losses.Conjugate(), 1 / 0.3),
  "scent": (
    losses.Conjugate(10.0, min_rate=0.0, eps=1e-6),
    1 + math.exp(-10.0) / 1e-6,
  ),
  "amortized": (losses.Amortized(), 100.0),
  "u_max": (losses.DualDescent(), math.exp(-0.5) / 0.5),
  "softplus": (losses.Softplus(), 10.0),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_no_weight_exceeds_the_bound_of_its_rule(name):
  """Over 10,000 random histories of 30 visits, of estimates that jump."""
  rule, bound = BOUNDS[name]
  rng = np.random.default_rng(0)
  moves = rng.normal(
    scale=rng.choice([0.1, 2.0, 8.0], (10_000, 1)), size=(10_000, 30)
  )
  batches = jnp.float32(np.clip(np.cumsum(moves, 1), -60, 20).T)

  def visit(carry, batch):
    known, visits = carry
    known = losses.e_step(rule, known, batch, visits)
    used = rule.weigh(known, batch) if hasattr(rule, "weigh") else known
    return (known, visits + 1), batch - used

  start = jnp.full(10_000, jnp.nan), jnp.zeros(10_000, jnp.int32)
  if name == "amortized":  # Predictions that have nothing to do with it.
    start = jnp.float32(rng.uniform(-60, 20, 10_000)), start[1]
  _, log_ratio = jax.lax.scan(visit, start, batches)
  assert np.isfinite(log_ratio).all()
  assert np.max(log_ratio) <= math.log(bound) + 1e-4
  if name != "scent":  # Reached, or the statement would be idle.
    assert np.max(log_ratio) >= 0.9 * math.log(bound)


def test_the_positive_in_the_denominator_and_the_mass():
  """c_0 = 1 and kappa = N - 1, from the batch alone: InfoNCE's gradient."""
  (image, text), index, tau = make_steps("clip", 1)[0]

  def ours(image, text):
    return losses.em_clip(
      image,
      text,
      losses.em_init(COUNT),
      index=jnp.asarray(index),
      temperature=tau,
      include_positive=True,
      negative_mass=N - 1.0,
    ).loss.mean()

  def clip(image, text):
    return losses.clip(image, text, logit_scale=1 / tau).mean()

  for a, b in zip(
    jax.grad(ours, (0, 1))(image, text), jax.grad(clip, (0, 1))(image, text)
  ):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_network_needs_no_entries():
  (image, text), index, tau = make_steps("clip", 1)[0]
  found = losses.em_clip(
    image,
    text,
    losses.em_init(0),
    index=jnp.asarray(index),
    temperature=tau,
    rule=losses.Amortized(),
    prediction=jnp.full((N, 1, 2), 0.5),
  )
  expected = losses.augmented_clip(
    image, text, *jnp.full((2, N), -0.5), temperature=tau
  )
  np.testing.assert_allclose(found.loss, expected, rtol=1e-5)
  assert not found.state.tables and int(found.state.count) == 1


@pytest.mark.parametrize("c0, mass", [(False, 1.0), (True, 7.0)])
def test_a_temperature_each_has_its_slope(c0, mass):
  (image, text), index, _ = make_steps("clip", 1)[0]
  terms = {"include_positive": c0, "negative_mass": mass}
  taus = jnp.float32(np.random.default_rng(3).uniform(0.1, 0.3, (2, N)))

  def log_z(taus):
    found = losses.log_partition_clip(
      image, text, temperature=taus[0], text_temperature=taus[1], **terms
    )
    return jnp.stack(found)

  step = losses.em_clip(
    image,
    text,
    losses.em_init(COUNT),
    index=jnp.asarray(index),
    temperature=taus[0],
    text_temperature=taus[1],
    weights=taus.T,
    **terms,
  )
  (slopes,) = jax.vjp(log_z, taus)[1](jnp.ones((2, N)))
  np.testing.assert_allclose(step.details["slope"], slopes.T, rtol=1e-4)
  np.testing.assert_allclose(step.loss, taus.mean(0), rtol=1e-5)


def test_a_row_that_the_table_lacks_is_weighed_by_its_batch():
  (image, text), _, tau = make_steps("clip", 1)[0]
  index = jnp.array([0, 1, -1, 2, 3, 4, 5, 6])
  step = losses.em_clip(
    image, text, losses.em_init(N), index=index, temperature=tau
  )
  np.testing.assert_allclose(step.loss, 1.0, rtol=1e-5)
  visits = np.asarray(step.state.tables["visits"])[:, 0]
  assert visits.tolist() == [1] * 7 + [0]
  assert np.isnan(step.state.tables["entries"][7]).all()


def test_rows_without_negatives_change_nothing():
  (image, text), index, tau = make_steps("clip", 1)[0]
  options = {"index": jnp.arange(N), "temperature": tau, "level_rate": 0.0}
  nothing = {**options, "group_ids": jnp.zeros(N, jnp.int32)}
  step = losses.em_clip(image, text, losses.em_init(N), **nothing)
  np.testing.assert_array_equal(step.loss, 0.0)
  assert np.isnan(step.state.tables["entries"]).all()
  known = losses.em_clip(image, text, losses.em_init(N), **options).state
  step = losses.em_clip(image, text, known, **nothing)
  np.testing.assert_array_equal(step.loss, 0.0)
  np.testing.assert_allclose(
    step.state.tables["entries"], known.tables["entries"], rtol=1e-5
  )


def test_in_wide_types_the_state_keeps_its_own():
  """Through scan, which wants the same types before and after."""
  (image, text), index, tau = make_steps("clip", 1)[0]
  with jax.enable_x64(True):
    arrays = jnp.asarray(image, jnp.float64), jnp.asarray(text, jnp.float64)

    def body(state, _):
      step = losses.em_clip(
        *arrays, state, index=jnp.asarray(index), temperature=tau
      )
      return step.state, step.loss

    state, values = jax.lax.scan(body, losses.em_init(COUNT), length=2)
    assert state.level.dtype == values.dtype == jnp.float32


@pytest.mark.parametrize(
  "changes, named",
  [
    ({"state": None}, "state"),
    ({"state": losses.em_init(COUNT, sides=1)}, "state"),
    ({"index": jnp.zeros(N - 1, jnp.int32)}, "index"),
    ({"index": jnp.zeros(N)}, "index"),
    ({"index": [0] * N}, "index"),
    ({"prediction": jnp.zeros(N)}, "prediction"),
    ({"level_rate": 1.5}, "level_rate"),
    ({"concentration": 1.0}, "key"),
    ({"rule": "moving_average"}, "rule"),
    ({"temperature": -1.0}, "temperature"),
    ({"temperature": jnp.ones(N - 1)}, "temperature"),
    ({"weights": jnp.zeros(3)}, "weights"),
    ({"weights": [1.0] * N}, "weights"),
    ({"state": losses.em_init(0)}, "state"),
    ({"prediction": jnp.zeros((N, 1, 2))}, "prediction"),
    ({"rule": losses.Amortized(), "state": losses.em_init(0)}, "prediction"),
  ],
)
def test_a_mistake_names_the_argument(changes, named):
  x = jnp.eye(N)
  options = {
    "state": losses.em_init(COUNT),
    "index": jnp.arange(N),
    "temperature": 0.1,
    **changes,
  }
  with pytest.raises(ValueError, match=named):
    losses.em_clip(x, x, **options)
