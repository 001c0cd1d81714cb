"""The state of a run: one pytree, passed in and returned."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from contrastive_jax.training.distributed import sharding, signals
from contrastive_jax.training.objectives import base
from contrastive_jax.training.trainer.settings import TrainerSettings
from contrastive_jax.training.types import Batch, Metrics, Params


@flax.struct.dataclass
class TrainState:
  """Everything that a step changes.

  Attributes:
    step: updates made, int32 [].
    seed: of everything random, uint32 []; here and not in the program, so that
      runs of several seeds share one compiled step.
    params: parameters.
    opt_state: of the optimiser.
    objective_state: of the objective (batch statistics, tables, queues).
    ema_params: averaged parameters; None if switched off.
  """

  step: jax.Array
  seed: jax.Array
  params: Params
  opt_state: optax.OptState
  objective_state: Params
  ema_params: Params | None

  @property
  def eval_params(self) -> Params:
    """The parameters that evaluation uses."""
    return self.params if self.ema_params is None else self.ema_params


def init_state(
  settings: TrainerSettings,
  objective: base.Objective,
  optimizer: optax.GradientTransformation,
  seed: jax.typing.ArrayLike | None = None,
) -> TrainState:
  """The state before the first step, by `seed` (None is `settings.seed`)."""
  seed = jnp.asarray(settings.seed if seed is None else seed, jnp.uint32)
  params, state = objective.init(
    jax.random.key(seed), objective.example_batch()
  )
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    seed=seed,
    params=params,
    opt_state=optimizer.init(params),
    objective_state=state,
    ema_params=(jax.tree.map(jnp.copy, params) if settings.ema_decay else None),
  )


def make_train_step(
  objective: base.Objective,
  optimizer: optax.GradientTransformation,
  settings: TrainerSettings,
  learning_rate: optax.Schedule,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
  """One update as a pure function of state and batch, to be jitted.

  The key of a step is derived from (seed, step), so that nothing random has to
  be kept. `metrics["squares"]` holds the sum of squares of every gradient and
  parameter by name: what is not finite shows there, see `nonfinite.Guard`.

  With `settings.skip_nonfinite` a step with something that is not finite changes
  nothing but the counts of steps, and `metrics["skipped"]` is 1. A batch's
  `signals.FIELD` is no input of the objective; its largest value is a metric.
  """

  def train_step(state, batch):
    batch = dict(batch)
    told = batch.pop(signals.FIELD, None)
    key = jax.random.fold_in(jax.random.key(state.seed + 1), state.step)
    grad_fn = jax.value_and_grad(objective.loss, has_aux=True)
    (loss, (objective_state, metrics)), grads = grad_fn(
      state.params, state.objective_state, batch, key
    )
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    # pyrefly: ignore[bad-argument-type]
    params = objective.constrain(optax.apply_updates(state.params, updates))
    ema_params = state.ema_params
    if ema_params is not None:
      ema_params = _averaged(ema_params, params, state.step, settings.ema_decay)
    metrics = {
      "loss": loss,
      **metrics,
      "gradient_norm": optax.global_norm(grads),
      "parameter_norm": optax.global_norm(state.params),
      "learning_rate": learning_rate(state.step),
      "squares": {
        "parameter": _squares(state.params),
        "gradient": _squares(grads),
      },
    }
    new = TrainState(
      step=state.step + 1,
      seed=state.seed,
      params=params,
      opt_state=opt_state,
      objective_state=objective_state,
      ema_params=ema_params,
    )
    if told is not None:
      metrics[signals.FIELD] = jnp.max(told)
    if settings.skip_nonfinite:
      good = _all_finite(metrics, new)
      metrics["skipped"] = 1.0 - good
      new = _kept_if(good, new, state)
    return new, metrics

  return train_step


def _averaged(average: Params, params: Params, step: Any, decay: float) -> Any:
  """The moving average of parameters after an update; `step` counts those before."""
  # Early on the average would remember the initial values.
  rate = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
  return optax.incremental_update(params, average, 1.0 - rate)


def _kept_if(good: Any, new: TrainState, old: TrainState) -> TrainState:
  """The new state; where it is not good the old one, but for the counts of steps."""
  # Counts go on, or a schedule would end later than the run.
  counts = jax.tree.map(
    lambda a, b: a if jnp.issubdtype(a.dtype, jnp.integer) else b,
    new.opt_state,
    old.opt_state,
  )
  old = dataclasses.replace(old, step=new.step, opt_state=counts)
  return jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)


def _all_finite(metrics: Params, state: TrainState) -> Any:
  """Whether a step, and the state that it made, may be kept: bool []."""
  seen = {k: v for k, v in metrics.items() if k.endswith("_embedding")}
  found = jax.tree.leaves((metrics["loss"], metrics["squares"], seen))
  values = [*map(jnp.isfinite, found), *finite(state).values()]
  return jnp.all(jnp.stack(values))


def finite(state: TrainState) -> dict[str, jax.Array]:
  """Whether each tensor of a state is finite, by name; parameters first."""
  groups = {
    "parameter": state.params,
    "averaged parameter": state.ema_params,
    "objective state": state.objective_state,
    "optimizer state": state.opt_state,
  }

  def whole(path, leaf):
    # In a table, NaN is an example that was not seen yet.
    if sharding.under_tables(path):
      return ~jnp.any(jnp.isinf(leaf))
    return jnp.all(jnp.isfinite(leaf))

  return {
    f"{group} {jax.tree_util.keystr(path, simple=True, separator='/')}": (
      whole(path, leaf)
    )
    for group, tree in groups.items()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    if jnp.issubdtype(leaf.dtype, jnp.inexact)
  }


def _squares(tree: Any) -> dict[str, jax.Array]:
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): jnp.sum(
      jnp.square(leaf.astype(jnp.float32))
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }
