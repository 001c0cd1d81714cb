"""Per-example E-step state: log-partition estimates and weights.

An `Auxiliary` turns a batch's estimates of the log-partition into the
log-weights that the augmented losses take, by the loss's E-step rule. Its
state holds, under `tables`, an entry an example: the log-partition (a column a
side, such as image and text), visits and last visit, and temperatures where
each example has its own; or, for the amortised rule, prototypes of each side.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from contrastive_jax import losses, ops
from contrastive_jax.training.distributed import example_tables, sharding
from contrastive_jax.training.objectives import contrasts, e_step_rules
from contrastive_jax.training.objectives.parts import Parts
from contrastive_jax.training.objectives.prototypes import Prototypes, log_mean

State = Mapping[str, Any]
# Of the momentum of temperatures that are an example's own (iSogCLR).
_TEMPERATURE_MOMENTUM = 0.9


class Weights(NamedTuple):
  """What the M-step needs; R anchors of S sides.

  Attributes:
    log_auxiliary: [S, R] log u.
    log_partition: [S, R] log Z after the E-step.
  """

  log_auxiliary: jax.Array
  log_partition: jax.Array


class Auxiliary:
  """The E-step of the augmented loss, for anchors of some sides."""

  def __init__(
    self, loss: contrasts.Augmented, parts: Parts, *, sides: Sequence[str]
  ):
    """Takes the loss, the objective's parts, and the names of the sides."""
    self._loss = loss
    self._steps = parts.steps
    self._log_every = parts.log_every
    self._batch_size = parts.batch_size
    self._num_examples = parts.num_examples
    self._mesh = parts.mesh
    self._axes = sharding.data_axes(parts.mesh)
    self._sides = tuple(sides)
    self._rule = loss.e_step.build(steps=parts.steps)
    self._prototypes = None
    if isinstance(loss.e_step, e_step_rules.Amortized):
      self._prototypes = Prototypes(
        loss.e_step,
        self._sides,
        include_positive=loss.include_positive,
        negative_mass=self.options["negative_mass"],
      )

  @property
  def individual(self) -> contrasts.Individual | None:
    """The mode in which each example has a temperature of its own, or None."""
    mode = self._loss.temperature_mode
    return mode if isinstance(mode, contrasts.Individual) else None

  @property
  def options(self) -> dict[str, Any]:
    """Arguments that `losses.log_partition` and the losses share."""
    return {
      "include_positive": self._loss.include_positive,
      "negative_mass": self._loss.negative_mass or self._batch_size - 1.0,
      "axes": self._axes,
      "block_size": self._loss.block_size or "auto",
    }

  @property
  def log_weight_cap(self) -> float | None:
    """The losses' argument of this name."""
    return self._loss.log_weight_cap or None

  def init(self, key: jax.Array, dim: int) -> dict[str, Any]:
    """The state before the first step, for features of width `dim`."""
    state: dict[str, Any] = {"count": jnp.zeros((), jnp.int32)}
    sides = len(self._sides)
    kept = {}
    if self._loss.e_step.keeps_entries:
      kept["log_partition"] = self._table(sides, math.nan)
      kept["visits"] = self._table(1, 0, jnp.int32)
      kept["last"] = self._table(1, 0, jnp.int32)
    if self.individual:
      kept["temperature"] = self._table(sides, self._loss.temperature)
      kept["slope"] = self._table(sides, 0.0)
    if kept:
      state["tables"] = kept
    if self._prototypes is not None:
      state |= self._prototypes.init(key, dim)
    return state

  def temperatures(self, state: State, index: jax.Array) -> jax.Array | None:
    """[S, R] temperatures of a batch's anchors; None if they have none."""
    if not self.individual:
      return None
    first = self._loss.temperature
    read = sharding.map_rows(
      lambda _, table, index: ops.tables.read(
        table, index, axes=self._axes, fill_value=first
      ),
      self._mesh,
    )
    return read(None, state["tables"]["temperature"], index).T

  def weigh(
    self,
    state: State,
    index: jax.Array,
    positions: jax.Array,
    estimates: jax.Array,
    key: jax.Array,
    *,
    pairs: Sequence[Sequence[tuple[jax.Array, jax.Array]]] = (),
    temperature: Any = None,
    slopes: jax.Array | None = None,
  ) -> tuple[Weights, dict[str, Any], dict[str, jax.Array]]:
    """The E-step and the draw of the weights.

    Args:
      state: see `init`.
      index: [R] the examples that the anchors belong to.
      positions: [R] places in the global batch, a different one an anchor.
      estimates: [S, K, R] log Z-hat among the keys of the batch, for K keys of
        an anchor (captions of an image), whose mean counts.
      key: of the draw.
      pairs: amortized: for each side its K pairs of anchors and keys, [R, d].
      temperature: amortized: tau, a scalar.
      slopes: individual temperatures: [S, R] derivative of the estimates with
        respect to them.

    Returns:
      Weights, the new state, and metrics.
    """
    state = dict(state)
    count = state["count"]
    state["count"] = count + 1
    batch = log_mean(estimates)
    metrics: dict[str, jax.Array] = {}
    if self._prototypes is not None:
      fitted, predicted = self._prototypes.fit(
        state, estimates, pairs, temperature, count
      )
      state |= fitted
      metrics["amortized_gap"] = jnp.mean(jnp.abs(predicted - batch))
    else:
      predicted = jnp.full_like(batch, jnp.nan)

    def fold(whole, kept, index, positions, batch, predicted, slopes):
      """Rows of a device: what is known of them, before and after."""
      count, key = whole
      before, visits, age = predicted, None, jnp.full(index.shape, jnp.nan)
      if "log_partition" in kept:
        before = self._read(kept["log_partition"], index)
        visits = self._read(kept["visits"], index)[:, 0]
        last = self._read(kept["last"], index)[:, 0]
        age = jnp.where(visits > 0, count - last, jnp.nan)
      rule = self._rule(count)
      after = jnp.stack(
        [losses.e_step(rule, a, b, visits) for a, b in zip(before.T, batch.T)],
        axis=1,
      )
      kept = dict(kept)
      if visits is not None:
        for name, values in (
          ("log_partition", after),
          ("visits", visits[:, None] + 1),
          ("last", jnp.full_like(visits[:, None], count)),
        ):
          kept[name] = self._update(kept[name], index, values)
      if self.individual:
        kept |= self._cooled(self.individual, kept, index, batch, after, slopes)
      used = after
      if self._loss.lagged:
        used = jnp.where(jnp.isfinite(before), before, after)
      log_u = jnp.stack(
        [
          self._draw(jax.random.fold_in(key, s), used[:, s], positions)
          for s in range(len(self._sides))
        ],
        axis=1,
      )
      return kept, log_u, after, age

    kept, log_u, after, age = sharding.map_rows(fold, self._mesh)(
      (count, key),
      state.get("tables", {}),
      index,
      positions,
      batch.T,
      predicted.T,
      None if slopes is None else slopes.T,
    )
    if kept:
      state["tables"] = kept
    if "log_partition" in kept:
      seen = jnp.isfinite(age)
      metrics["unseen_share"] = 1.0 - jnp.mean(seen)
      metrics["table_age"] = jnp.sum(jnp.where(seen, age, 0)) / jnp.maximum(
        jnp.sum(seen), 1
      )
    for side, known in zip(self._sides, after.T):
      found = jnp.isfinite(known)
      metrics[f"log_partition_{side}"] = jnp.sum(
        jnp.where(found, known, 0.0)
      ) / jnp.maximum(jnp.sum(found), 1)
    return Weights(log_u.T, after.T), state, metrics

  def diagnose(
    self,
    count: jax.Array,
    queries: jax.Array,
    keys: jax.Array,
    groups: jax.Array | None,
    log_auxiliary: jax.Array,
    temperature: Any,
  ) -> dict[str, jax.Array]:
    """How the weights of one side are spread, at the steps that are logged.

    Args:
      count: steps made, this one included.
      queries: [N, d] anchors.
      keys: [N, d].
      groups: [N] ids, or None.
      log_auxiliary: [N] log u of the anchors.
      temperature: tau, a scalar.

    Returns:
      Metrics; NaN at other steps.
    """

    def rows(temperature, queries, keys, groups, log_u):
      options = self.options
      del options["include_positive"]
      return losses.augmented_diagnostics(
        queries,
        keys,
        log_u,
        temperature=temperature,
        group_ids=groups,
        log_weight_cap=self.log_weight_cap,
        **options,
      )

    def measure(operands):
      found = sharding.map_rows(rows, self._mesh)(*operands)
      return tuple(jnp.mean(found[name]) for name in names)

    names = ("effective_sample_size", "capped_share")
    logged = (count % self._log_every == 0) | (count == self._steps)
    values = jax.lax.cond(
      logged,
      measure,
      lambda _: (jnp.float32(jnp.nan),) * 2,
      jax.lax.stop_gradient(
        (temperature, queries, keys, groups, log_auxiliary)
      ),
    )
    metrics = dict(zip(names, values))
    if self.log_weight_cap is None:
      del metrics["capped_share"]
    return metrics

  def _table(self, width, fill, dtype: Any = jnp.float32) -> jax.Array:
    return example_tables.create(
      self._num_examples, self._mesh, width=width, fill_value=fill, dtype=dtype
    )

  def _read(self, table: jax.Array, index: jax.Array) -> jax.Array:
    return ops.tables.read(table, index, axes=self._axes)

  def _update(self, table, index, values) -> jax.Array:
    # Two anchors of an example (its two views, or one that is twice in the
    # batch) share an entry.
    rule = "mean" if jnp.issubdtype(table.dtype, jnp.floating) else "last"
    return ops.tables.update(
      table, index, values, axes=self._axes, duplicates=rule
    )

  def _draw(self, key, log_partition, positions) -> jax.Array:
    loss = self._loss
    prior = None
    if loss.prior_shape or loss.prior_rate:
      prior = (loss.prior_shape, loss.prior_rate)
    return losses.draw_auxiliary(
      key,
      log_partition,
      concentration=loss.concentration or math.inf,
      prior=prior,
      index=positions,
    )

  def _cooled(
    self, mode, kept, index, batch, after, slopes
  ) -> dict[str, jax.Array]:
    """A step of the temperatures: gradient of tau (log Z + rho)."""
    tau = self._read(kept["temperature"], index)
    momentum = self._read(kept["slope"], index)
    # The estimate's derivative is that of log Z-hat; u Z-hat makes it Z's.
    gradient = after + mode.rho + tau * jnp.exp(batch - after) * slopes
    gradient = jnp.where(jnp.isfinite(gradient), gradient, 0.0)
    momentum += (1.0 - _TEMPERATURE_MOMENTUM) * (gradient - momentum)
    tau = jnp.clip(
      tau - mode.temperature_rate * momentum, mode.min_temperature, 1.0
    )
    return {
      "temperature": self._update(kept["temperature"], index, tau),
      "slope": self._update(kept["slope"], index, momentum),
    }
