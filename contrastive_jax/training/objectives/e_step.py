"""Stochastic EM as objectives use it: `losses.em` and what a run adds to it.

An `Auxiliary` holds the loss's options, makes the step over the mesh, and keeps
what the E-step needs beside the memory `em` of log-partitions: under `tables`, a
temperature an example where each has its own; or the parameters of the amortised
rule's predictor.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from contrastive_jax import losses, ops
from contrastive_jax.training.distributed import example_tables, sharding
from contrastive_jax.training.objectives import contrasts, e_step_rules
from contrastive_jax.training.objectives.parts import Parts

State = Mapping[str, Any]
# Momentum of temperatures that are an example's own (iSogCLR).
_TEMPERATURE_MOMENTUM = 0.9


class Auxiliary:
  """Stochastic EM of the augmented loss, with entries of some sides."""

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
    # A table has entries for the indices of examples that are left out, too.
    examples = parts.num_examples if parts.examples is None else parts.examples
    self._rule = loss.e_step.build(
      steps=parts.steps,
      epochs=parts.steps * parts.batch_size / max(examples, 1),
    )
    self._predictor = None
    if isinstance(loss.e_step, e_step_rules.Amortized):
      self._predictor = loss.e_step.predictor.make(
        self._sides, parts.mesh, steps=parts.steps
      )

  @property
  def individual(self) -> contrasts.Individual | None:
    """The mode in which each example has a temperature of its own, or None."""
    mode = self._loss.temperature_mode
    return mode if isinstance(mode, contrasts.Individual) else None

  def init(self, key: jax.Array, dim: int) -> dict[str, Any]:
    """The state before the first step, for features of width `dim`."""
    sides = len(self._sides)
    length = example_tables.entries_for(self._num_examples)
    state: dict[str, Any] = {
      "em": losses.em_init(
        length if self._loss.e_step.keeps_entries else 0,
        sides=sides,
        num_devices=self._mesh.size,
      )
    }
    if self.individual:
      state["tables"] = {
        "temperature": self._table(sides, self._loss.temperature),
        "slope": self._table(sides, 0.0),
      }
    if self._predictor is not None:
      state |= self._predictor.init(key, dim)
    return state

  def step(
    self,
    function: Callable[..., losses.EMStep],
    arrays: Sequence[jax.Array],
    state: State,
    *,
    index: jax.Array,
    key: jax.Array,
    groups: jax.Array | None,
    temperature: Any,
  ) -> tuple[losses.EMStep, dict[str, Any], dict[str, jax.Array]]:
    """A step of stochastic EM over the mesh.

    Args:
      function: one of `losses.em_*`.
      arrays: the features that it takes, [N, ...] each.
      state: see `init`.
      index: [N] the examples, or [N, V] of V views.
      key: of the draws.
      groups: [N] ids; equal ones are no negatives of each other, or None.
      temperature: tau, a scalar, unless each example has its own.

    Returns:
      What the function returns, the new state, and metrics.
    """
    loss, own = self._loss, None
    count = state["em"].count
    options: dict[str, Any] = {
      "temperature": temperature,
      "group_ids": groups,
      "key": key,
      "rule": self._rule(count),
      "concentration": loss.concentration or math.inf,
      "lagged": loss.lagged,
      "log_weight_cap": loss.log_weight_cap or None,
      "include_positive": loss.include_positive,
      **self._common,
    }
    if loss.prior_shape or loss.prior_rate:
      options["prior"] = (loss.prior_shape, loss.prior_rate)
    if loss.e_step.keeps_entries:
      options["margins"] = loss.e_step.margins
      options["level_rate"] = loss.e_step.level_rate
    if self.individual:
      own = self._temperatures(state, index)
      options |= {
        "temperature": own[:, 0],
        "text_temperature": own[:, 1],
        # tau_i log Z_i, in units of the first temperature.
        "weights": own * (1.0 / loss.temperature),
      }
    state = dict(state)
    if self._predictor is not None:
      image, text = arrays
      fitted, options["prediction"] = self._predictor.fit(
        state, image, text, groups, temperature, count
      )
      state.update(fitted)
    if self._mesh.size > 1:
      function = losses.on_mesh(function, self._mesh)
    step = function(*arrays, state["em"], index=index, **options)
    state["em"] = step.state
    metrics = self._metrics(step, options.get("prediction"))
    if own is not None:
      state["tables"] = self._cooled(state["tables"], index, own, step.details)
      metrics["temperature_mean"] = jnp.mean(own)
    return step, state, metrics

  @property
  def _common(self) -> dict[str, Any]:
    """Arguments that the losses and `losses.augmented_diagnostics` share."""
    return {
      "negative_mass": self._loss.negative_mass or self._batch_size - 1.0,
      "block_size": self._loss.block_size or "auto",
    }

  def _metrics(self, step, prediction) -> dict[str, jax.Array]:
    metrics = {}
    if prediction is not None:
      predicted = prediction + jnp.log(self._common["negative_mass"])
      if self._loss.include_positive:
        predicted = jnp.logaddexp(predicted, 0.0)
      gap = jnp.abs(predicted - step.details["batch_log_partition"])
      said = jnp.isfinite(gap)
      metrics["amortized_gap"] = jnp.sum(jnp.where(said, gap, 0.0)) / (
        jnp.maximum(jnp.sum(said), 1)
      )
    if "age" in step.details:
      age = step.details["age"]
      seen = jnp.isfinite(age)
      metrics["unseen_share"] = 1.0 - jnp.mean(seen)
      metrics["table_age"] = jnp.sum(jnp.where(seen, age, 0)) / jnp.maximum(
        jnp.sum(seen), 1
      )
    known = step.details["log_partition"]
    for s, side in enumerate(self._sides):
      found = jnp.isfinite(known[..., s])
      metrics[f"log_partition_{side}"] = jnp.sum(
        jnp.where(found, known[..., s], 0.0)
      ) / jnp.maximum(jnp.sum(found), 1)
    return metrics

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
      return losses.augmented_diagnostics(
        queries,
        keys,
        log_u,
        temperature=temperature,
        group_ids=groups,
        log_weight_cap=self._loss.log_weight_cap or None,
        axes=self._axes,
        **self._common,
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
    if not self._loss.log_weight_cap:
      del metrics["capped_share"]
    return metrics

  def _table(self, width, fill) -> jax.Array:
    return example_tables.create(
      self._num_examples, self._mesh, width=width, fill_value=fill
    )

  def _temperatures(self, state: State, index: jax.Array) -> jax.Array:
    """[N, S] temperatures of a batch's anchors."""
    first = self._loss.temperature
    read = sharding.map_rows(
      lambda _, table, index: ops.tables.read(
        table, index, axes=self._axes, fill_value=first
      ),
      self._mesh,
    )
    return read(None, state["tables"]["temperature"], index)

  def _cooled(self, tables, index, own, details) -> dict[str, jax.Array]:
    """A step of the temperatures: gradient of tau (log Z + rho)."""
    mode = self.individual
    assert mode is not None
    after, batch = (
      jnp.mean(details[name], axis=1)
      for name in ("log_partition", "batch_log_partition")
    )

    def rows(_, tables, index, tau, after, batch, slopes):
      momentum = ops.tables.read(tables["slope"], index, axes=self._axes)
      # The estimate's derivative is that of log Z-hat; u Z-hat makes it Z's.
      gradient = after + mode.rho + tau * jnp.exp(batch - after) * slopes
      gradient = jnp.where(jnp.isfinite(gradient), gradient, 0.0)
      momentum += (1.0 - _TEMPERATURE_MOMENTUM) * (gradient - momentum)
      tau = jnp.clip(
        tau - mode.temperature_rate * momentum, mode.min_temperature, 1.0
      )
      return {
        # An example that is twice in the batch gets the mean.
        name: ops.tables.update(
          tables[name], index, values, axes=self._axes, duplicates="mean"
        )
        for name, values in (("temperature", tau), ("slope", momentum))
      }

    return sharding.map_rows(rows, self._mesh)(
      None, tables, index, own, after, batch, details["slope"]
    )
