"""The memory of stochastic EM, and the E-step that reads and writes it.

See `losses.em` for what an entry and the level are.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypedDict

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from contrastive_jax import ops
from contrastive_jax._types import Axes, Scalar
from contrastive_jax.losses import _shared, e_step_rules

LEVEL_RATE = 0.1
_RULE = e_step_rules.MovingAverage(0.5)
# Nats by which an example counts at most in the level's step.
_LARGEST_GAP = 3.0


class EMState(NamedTuple):
  """The memory of stochastic EM, of S directions.

  Attributes:
    tables: one entry an example, laid out by `ops.tables`: `entries` [rows, S]
      float32 (NaN before the first visit), `visits` and `last` [rows, 1] int32,
      the number of visits and the step of the last one. Empty where nothing is
      kept.
    level: [S] float32, what all entries have in common.
    count: [] int32, steps made.
  """

  tables: dict[str, jax.Array]
  level: jax.Array
  count: jax.Array

  def specs(self, axes: Axes) -> "EMState":
    """A `PartitionSpec` for each array: tables split by owner, the rest replicated."""
    split: Any = PartitionSpec(axes)
    whole: Any = PartitionSpec()
    return EMState(dict.fromkeys(self.tables, split), whole, whole)


class EMOptions(TypedDict, total=False):
  """Keyword arguments of the E-step that all `em_*` functions take.

  Attributes:
    rule: how an estimate is folded into what is known, see `e_step`;
      `MovingAverage(0.5)` by default.
    concentration: of the draws, see `draw_auxiliary`; `math.inf`, the posterior
      mean, by default.
    prior: of the draws, or None.
    prediction: [N, V, S] floating, for `Amortized`: a network's log Z, with
      kappa = 1 and without c_0, of V views and S directions.
    weights: [N] or [N, S] floating > 0, multiplies each anchor's u, such as the
      tau_i of iSogCLR.
    lagged: whether weights come from before this batch wherever something was
      known: no estimate is part of its own weight then, but all are an epoch old,
      and no bound of a rule holds.
    margins: whether entries are log Z instead of tau log A.
    level_rate: rate of the level, in [0, 1]; 0 keeps none.
  """

  rule: e_step_rules.Rule
  concentration: Scalar
  prior: tuple[float, float] | None
  prediction: jax.Array | None
  weights: jax.Array | None
  lagged: bool
  margins: bool
  level_rate: Scalar


class EMStep(NamedTuple):
  """Result of a step of stochastic EM, for N rows, V views, S directions.

  Attributes:
    loss: [N] float32, one loss an example, u Z-hat. It is about 1 (4 tau in
      `em_moco_v3`) whatever the features are; `details["log_partition"]` says how good they are.
    state: the memory after the step.
    details: arrays by name, without gradient: `log_auxiliary`, `log_partition` (after
      the E-step) and `batch_log_partition` [N, V, S]; `age` [N, V], steps since an
      example was last seen, NaN if it never was; where each anchor has a
      temperature, `slope` [N, T], the derivative of `batch_log_partition` by each of
      the T temperatures: the sum of the directions that share it, the mean of the
      views.
  """

  loss: jax.Array
  state: EMState
  details: dict[str, jax.Array]


def em_init(
  num_examples: int,
  *,
  sides: int = 2,
  num_devices: int = 1,
  sharding: jax.sharding.Sharding | None = None,
) -> EMState:
  """The memory before the first step.

  Args:
    num_examples: of the data set; 0 keeps no entries, for `BatchEstimate` and
      `Amortized`.
    sides: directions that have an entry of their own: 2 for `em_clip`, 1 for the
      others.
    num_devices: devices that the batch is split over.
    sharding: where the tables go, such as `NamedSharding(mesh, P(axes))`.

  Returns:
    An `EMState`.

  Raises:
    ValueError: if a number is not an integer of its range.

  >>> em_init(3).tables["entries"].shape
  (3, 2)
  """
  for name, value, least in (
    ("num_examples", num_examples, 0),
    ("sides", sides, 1),
  ):
    whole = hasattr(value, "__index__") and not isinstance(value, bool)
    if not whole or value < least:
      raise ValueError(f"{name} must be an integer >= {least}; got {value!r}.")
  tables = {}
  if num_examples:
    for name, width, dtype in (
      ("entries", sides, jnp.float32),
      ("visits", 1, jnp.int32),
      ("last", 1, jnp.int32),
    ):
      tables[name] = ops.tables.create(
        num_examples,
        num_devices,
        shape=(width,),
        dtype=dtype,
        sharding=sharding,
      )
  return EMState(
    tables, jnp.zeros(sides, jnp.float32), jnp.zeros((), jnp.int32)
  )


def e_step(
  state: EMState,
  estimate: Callable[[dict[str, Scalar]], jax.Array],
  pairs: list[tuple[jax.Array, jax.Array]],
  taus: dict[str, Scalar],
  *,
  sides: int = 1,
  index: jax.Array,
  key: jax.Array | None,
  axes: Axes,
  include_positive: bool,
  negative_mass: Scalar,
  rule: e_step_rules.Rule = _RULE,
  concentration: Scalar = math.inf,
  prior: tuple[float, float] | None = None,
  prediction: jax.Array | None = None,
  weights: jax.Array | None = None,
  lagged: bool = False,
  margins: bool = False,
  level_rate: Scalar = LEVEL_RATE,
) -> tuple[jax.Array, EMState, dict[str, jax.Array]]:
  """Log u [N, V, S], the state after the step, and `EMStep.details`.

  Args:
    state: the memory.
    estimate: temperatures -> log Z-hat [N, V, S] of this batch, of c_0 = 0 and
      kappa = 1, without gradient by the features.
    pairs: V pairs of anchors and their positives, [N, d] each, without gradient.
    taus: `temperature`, and `text_temperature` where it is another one; scalars
      or [N].
    sides: S.
    index: see `losses.em`, as for all that follow.
    key: of the draws.
    axes: names of the mapped axes.
    include_positive: c_0.
    negative_mass: kappa.
    rule: see `EMOptions`, as for all that follow.
    concentration: of the draws.
    prior: of the draws.
    prediction: of a network.
    weights: of the anchors.
    lagged: whether weights come from before this batch.
    margins: whether entries are log Z.
    level_rate: of the level.
  """
  n, views = pairs[0][0].shape[0], len(pairs)
  shape, flat = (n, views, sides), (n * views, sides)
  _check(state, index, shape, rule, prediction, weights, level_rate)
  taus = {
    k: jax.lax.stop_gradient(_shared.check_temperature(k, tau, n))
    for k, tau in taus.items()
  }
  mass = jnp.log(jax.lax.stop_gradient(jnp.asarray(negative_mass, jnp.float32)))

  def whole(log_z):
    return jnp.logaddexp(log_z, 0.0) if include_positive else log_z

  batch, details = _estimated(estimate, taus, lambda z: whole(z + mass), shape)
  unit, positive = _units(pairs, list(taus.values()), margins, shape)

  rows = jnp.broadcast_to(index.reshape(n, -1), (n, views)).reshape(-1)
  level, visits = state.level, None
  before = jnp.full(shape, jnp.nan, jnp.float32)
  if prediction is not None:
    before = jnp.asarray(prediction, jnp.float32)
  if state.tables:
    entries, visits, last = (
      ops.tables.read(state.tables[name], rows, axes=axes)
      for name in ("entries", "visits", "last")
    )
    visits, last = visits[:, 0], last[:, 0]
    seen = visits > 0
    age = (state.count - last).astype(jnp.float32)
    details["age"] = jnp.where(seen, age, jnp.nan).reshape(n, -1)
    entries = jnp.where(seen[:, None], entries, jnp.nan).reshape(shape)
    gap = batch + positive - (entries + level) / unit
    step = level_rate * _level_step(gap, unit, axes)
    level += step.astype(jnp.float32)
    before = (entries + level) / unit - positive
  after = jnp.stack(
    [
      e_step_rules.e_step(rule, previous, now, visits)
      for previous, now in zip(
        (before + mass).reshape(flat).T,
        (batch + mass).reshape(flat).T,
        strict=True,
      )
    ],
    axis=1,
  ).reshape(shape)
  used = after
  if hasattr(rule, "weigh"):
    heavier = rule.weigh(after.reshape(-1), (batch + mass).reshape(-1))
    used = jnp.where(jnp.isfinite(batch), heavier.reshape(shape), after)
  if lagged:
    used = jnp.where(jnp.isfinite(before), before + mass, after)
  log_u = _drawn(key, whole(used), concentration, prior, axes)
  if weights is not None:
    log_u += jnp.log(weights.reshape(n, 1, -1))

  tables = dict(state.tables)
  if visits is not None:
    kept = after - mass + positive
    if index.ndim == 1:  # Views share their example's: the mean of their Z.
      kept = jax.nn.logsumexp(kept, axis=1, keepdims=True) - math.log(views)
    kept = jnp.broadcast_to(kept, shape) * unit - level
    for name, values, duplicates in (
      ("entries", kept.reshape(flat), "mean"),
      ("visits", visits[:, None] + 1, "last"),
      ("last", jnp.full((n * views, 1), state.count), "last"),
    ):
      tables[name] = ops.tables.update(
        tables[name], rows, values, axes=axes, duplicates=duplicates
      )
  state = EMState(tables, level, state.count + 1)
  details |= {
    "log_auxiliary": log_u,
    "log_partition": whole(after),
    "batch_log_partition": whole(batch + mass),
  }
  return jax.lax.stop_gradient((log_u, state, details))


def _estimated(estimate, taus, whole, shape):
  """Log Z-hat [N, V, S], and the slope of `whole` by temperatures of each anchor."""
  if not any(jnp.ndim(tau) for tau in taus.values()):
    return estimate(taus), {}
  n, views, _ = shape
  taus = {k: jnp.broadcast_to(tau, (n,)) for k, tau in taus.items()}

  def estimated(taus):
    found = estimate(taus)
    return whole(found), found

  _, back, batch = jax.vjp(estimated, taus, has_aux=True)
  (slopes,) = back(jnp.full_like(batch, 1.0 / views))
  return batch, {"slope": jnp.stack([slopes[k] for k in taus], axis=1)}


def _units(pairs, temperatures, margins, shape):
  """The unit of entries, and the part that they leave out, in nats: [N, V, S] each."""
  if margins:
    return jnp.ones(shape, jnp.float32), jnp.zeros(shape, jnp.float32)
  unit = jnp.stack(
    [jnp.broadcast_to(tau, shape[:1]) for tau in temperatures], axis=1
  ).astype(jnp.float32)[:, None]
  cosine = jnp.stack(
    [_shared.paired(*_shared.widen(*pair)[0]) for pair in pairs], axis=1
  )
  return jnp.broadcast_to(unit, shape), cosine[:, :, None] / unit


def _level_step(gap, unit, axes):
  """Log of the mean ratio Z-hat / Z [S], in the unit of entries; 0 if there is none.

  The mean of the logarithms would be biased like log Z-hat itself, and would pull
  the level down at every step.
  """
  says = jnp.isfinite(gap)
  ratio = jnp.exp(jnp.clip(gap, -_LARGEST_GAP, _LARGEST_GAP))
  rows = ops.global_row_ids(gap.shape[0], axes)
  whole = (gap.shape[0] * ops.axis_size(axes), *gap.shape[1:])

  def total(x):
    # Every device adds up the rows of all in one order, so that the bits do not
    # depend on how many there are.
    every = jnp.zeros(whole, jnp.float32).at[rows].set(jnp.where(says, x, 0.0))
    return jnp.sum(ops.sum_over(every, axes), axis=(0, 1))

  count = total(jnp.ones_like(gap))
  some = jnp.maximum(count, 1.0)
  mean = jnp.where(count > 0, total(ratio) / some, 1.0)
  return jnp.log(mean) * total(unit) / some


def _drawn(key, log_z, concentration, prior, axes):
  """Returns log u [N, V, S]; every anchor of the global batch has its own draw."""
  n, views, sides = log_z.shape
  place = ops.global_row_ids(n, axes)[:, None]
  place += jnp.arange(views, dtype=jnp.int32) * (n * ops.axis_size(axes))
  return jnp.stack(
    [
      e_step_rules.draw_auxiliary(
        None if key is None else jax.random.fold_in(key, side),
        log_z[:, :, side].reshape(-1),
        concentration=concentration,
        prior=prior,
        index=place.reshape(-1),
      )
      for side in range(sides)
    ],
    axis=1,
  ).reshape(log_z.shape)


def _check(state, index, shape, rule, prediction, weights, level_rate) -> None:
  """Raises on arguments that no other function checks."""
  n, views, sides = shape
  if not isinstance(state, EMState):
    raise ValueError(
      f"state must be an EMState, see em_init; got {type(state).__name__}."
    )
  if state.level.shape != (sides,):
    raise ValueError(
      f"state must have {sides} sides, see em_init; got {state.level.shape[0]}."
    )
  came = getattr(index, "shape", type(index).__name__)
  if came not in ((n,), (n, views)) or not jnp.issubdtype(
    index.dtype, jnp.integer
  ):
    raise ValueError(
      f"index must be integers of shape ({n},) or ({n}, {views}); got"
      f" {getattr(index, 'dtype', '')} {came}."
    )
  for name, array, allowed in (
    ("prediction", prediction, [shape]),
    ("weights", weights, [(n,), (n, sides)]),
  ):
    if array is None:
      continue
    came = getattr(array, "shape", type(array).__name__)
    if came not in allowed or not jnp.issubdtype(array.dtype, jnp.floating):
      raise ValueError(
        f"{name} must be floating point of shape"
        f" {' or '.join(map(str, allowed))}; got"
        f" {getattr(array, 'dtype', '')} {came}."
      )
  if state.tables and prediction is not None:
    raise ValueError(
      "prediction must be None where the state keeps entries: make the state"
      " with em_init(0)."
    )
  if isinstance(rule, e_step_rules.Amortized) and prediction is None:
    raise ValueError("prediction must be given for Amortized; got None.")
  keeps = isinstance(rule, e_step_rules.KEEPING)
  if keeps and not state.tables and prediction is None:
    raise ValueError(
      f"state must keep entries for {type(rule).__name__}: make it with the"
      " number of examples, em_init(num_examples)."
    )
  _shared.check_range(
    "level_rate", level_rate, "in [0, 1]", lambda x: 0 <= x <= 1
  )
