"""The loop: batches in, updates, logs, checkpoints, evaluation, resume."""

from collections.abc import Callable, Mapping
import dataclasses
import pathlib
import time
from typing import Any

import grain
import jax
import numpy as np

from contrastive_jax.training import checkpoints as checkpoints_lib
from contrastive_jax.training import config as config_lib
from contrastive_jax.training import logging
from contrastive_jax.training import objectives
from contrastive_jax.training import sharding
from contrastive_jax.training import state as state_lib

EvalFn = Callable[[state_lib.TrainState], Mapping[str, float]]


class NonFiniteError(RuntimeError):
  """A tensor of the run became infinite or NaN."""


@dataclasses.dataclass(frozen=True)
class Evaluator:
  """Something that is measured every so many steps.

  Attributes:
    every: steps between measurements; 0 is never within the loop.
    run: gives flat names -> numbers.
  """

  every: int
  run: EvalFn


def fit(
    config: config_lib.Config,
    *,
    objective: objectives.Objective,
    iterator: grain.DatasetIterator,
    mesh: jax.sharding.Mesh,
    workdir: pathlib.Path,
    evaluators: tuple[Evaluator, ...] = (),
    report: Callable[[str], None] = print,
) -> tuple[state_lib.TrainState, dict[str, float]]:
  """Trains for `config.steps`, from the newest checkpoint if there is one.

  Args:
    config: the run.
    objective: what is trained.
    iterator: this host's parts of the training batches.
    mesh: the devices.
    workdir: receives checkpoints and logs.
    evaluators: run at their own cadence; their numbers go to the log.
    report: receives lines for the user.

  Returns:
    The final state, and numbers of the training itself.

  Raises:
    NonFiniteError: naming the first tensor that is not finite. The last good
      checkpoint is kept.
    ValueError: if the batch does not divide over the mesh.
  """
  sharding.check_batch_size(config.batch_size, config.microbatches, mesh)
  saved = checkpoints_lib.Checkpoints(workdir, keep=config.keep_checkpoints)
  optimizer = state_lib.make_optimizer(config)
  # Shapes come from a batch that is then not taken: a fresh iterator gives it
  # again after its state is set back.
  before = iterator.get_state()
  example = next(iterator)
  iterator.set_state(before)
  everywhere = sharding.replicated(mesh)
  init = jax.jit(
      lambda batch: state_lib.init_state(objective, optimizer, config, batch),
      out_shardings=everywhere,
  )
  state = init({k: v[:2] for k, v in example.items()})
  if saved.latest_step is not None:
    state = saved.restore(state, iterator)
    report(f"Resuming {workdir} at step {int(state.step)}.")
  start = int(state.step)
  step_fn = jax.jit(
      state_lib.make_train_step(objective, optimizer, config),
      donate_argnums=0,
  )
  log = logging.MetricLog(workdir, resume_step=start)
  progress = logging.Progress(config.steps, start=start)
  clock = _Clock()
  pending: tuple[int, Any] | None = None
  if start < config.steps:
    report("Compiling the train step ...")
  try:
    for step in range(start + 1, config.steps + 1):
      batch = clock.wait_for(lambda: next(iterator))
      on_device = sharding.put_batch(batch, mesh)
      with jax.transfer_guard("disallow"):
        state, metrics = step_fn(state, on_device)
      # Looking at the step before this one keeps the device busy.
      if pending is not None:
        _check_finite(*pending)
      pending = (step, metrics)
      if step == start + 1:
        jax.block_until_ready(metrics)
        clock.restart()
      elif step % config.log_every == 0 or step == config.steps:
        values = _scalars(jax.device_get(metrics))
        speed, wait = clock.rates(config.batch_size)
        values |= {"examples_per_second": speed, "input_wait": wait}
        _check_finite(*pending)
        log.write(step, {f"train/{k}": v for k, v in values.items()})
        progress.show(
            step, loss=values["loss"], examples_per_second=speed, wait=wait
        )
      with clock.pause(progress):
        last = step == config.steps
        if last or step % config.checkpoint_every == 0:
          _check_finite(*pending)
          saved.save(step, state, iterator)
        for evaluator in evaluators:
          if evaluator.every and step % evaluator.every == 0 and not last:
            numbers = evaluator.run(state)
            log.write(step, numbers)
            progress.say(f"  step {step}: {_brief(numbers)}")
  finally:
    log.close()
    saved.close()
  speed, wait = clock.overall(config.batch_size)
  return state, {
      "train/examples_per_second": speed,
      "train/input_wait": wait,
  }


class _Clock:
  """Seconds of training and of waiting for input, without pauses."""

  def __init__(self):
    self.restart()

  def restart(self) -> None:
    """Forgets what was: the first step holds the compilation."""
    self._total = self._wait = self._mark_total = self._mark_wait = 0.0
    self._steps = self._mark_steps = 0
    self._since = time.monotonic()

  def wait_for(self, fn: Callable[[], Any]) -> Any:
    """Calls `fn` and counts its time as waiting."""
    began = time.monotonic()
    result = fn()
    self._wait += time.monotonic() - began
    self._steps += 1
    return result

  def pause(self, progress: logging.Progress) -> "_Pause":
    """A context whose time is no training."""
    return _Pause(self, progress)

  def rates(self, batch_size: int) -> tuple[float, float]:
    """Examples a second and share of waiting since the last call."""
    self._advance()
    result = _rates(
        self._steps - self._mark_steps,
        self._total - self._mark_total,
        self._wait - self._mark_wait,
        batch_size,
    )
    self._mark_steps = self._steps
    self._mark_total, self._mark_wait = self._total, self._wait
    return result

  def overall(self, batch_size: int) -> tuple[float, float]:
    """The same since the beginning."""
    self._advance()
    return _rates(self._steps, self._total, self._wait, batch_size)

  def _advance(self) -> None:
    now = time.monotonic()
    self._total += now - self._since
    self._since = now


class _Pause:
  """See `_Clock.pause`."""

  def __init__(self, clock: _Clock, progress: logging.Progress):
    self._clock = clock
    self._progress = progress

  def __enter__(self):
    self._clock._advance()
    self._began = time.monotonic()

  def __exit__(self, *unused):
    now = time.monotonic()
    self._progress.pause(now - self._began)
    self._clock._since = now


def _rates(steps, seconds, waited, batch_size) -> tuple[float, float]:
  if not steps or seconds <= 0:
    return 0.0, 0.0
  return batch_size * steps / seconds, min(1.0, waited / seconds)


def _scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
  return {k: float(v) for k, v in metrics.items() if np.ndim(v) == 0
          and not isinstance(v, dict)}


def _check_finite(step: int, metrics: Mapping[str, Any]) -> None:
  """Raises on the first tensor that is not finite, in order of the step."""
  values = jax.device_get(metrics)
  squares = values["squares"]
  ordered = [
      *((f"parameter {k}", v) for k, v in squares["parameter"].items()),
      *(
          (k.replace("_", " "), v)
          for k, v in values.items()
          if k.endswith("embedding")
      ),
      ("loss", values["loss"]),
      *((f"gradient of {k}", v) for k, v in squares["gradient"].items()),
  ]
  for name, value in ordered:
    if not np.isfinite(value):
      raise NonFiniteError(
          f"Step {step}: {name} is not finite; training stops and the last"
          " good checkpoint is kept. Try a smaller"
          " config.optimizer.learning_rate, or look at the data."
      )


def _brief(numbers: Mapping[str, float]) -> str:
  return "  ".join(
      f"{k} {v:.3f}" for k, v in numbers.items() if "recall" in k or "loss" in k
  )
