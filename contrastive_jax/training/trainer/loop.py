"""The loop: batches in, updates, logs, checkpoints, evaluation, resume."""

import dataclasses
import math
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import grain
import jax
import numpy as np

from contrastive_jax.training import config as config_lib
from contrastive_jax.training import objectives
from contrastive_jax.training.config import errors
from contrastive_jax.training.distributed import sharding, signals
from contrastive_jax.training.trainer import checkpoints as checkpoints_lib
from contrastive_jax.training.trainer import integrity, metric_log, nonfinite
from contrastive_jax.training.trainer import state as state_lib

EvalFn = Callable[[state_lib.TrainState], Mapping[str, float]]


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
  begin: Callable[[state_lib.TrainState], state_lib.TrainState] | None = None,
  report: Callable[[str], None] = print,
) -> tuple[state_lib.TrainState, dict[str, float]]:
  """Trains for `config.steps`, from the newest checkpoint if there is one.

  Of no steps the checkpoint is what the run begins with.

  Args:
    config: the run.
    objective: what is trained.
    iterator: this host's parts of the training batches.
    mesh: the devices.
    workdir: receives checkpoints and logs.
    evaluators: run at their own cadence; their numbers go to the log.
    begin: makes of the state as initialised the one before the first step, such
      as one with an earlier run's parameters; not called on a run that resumes.
    report: receives lines for the user.

  Returns:
    The final state, and numbers of the training itself.

  Raises:
    finite.NonFiniteError: naming the first tensor that is not finite. The last
      good checkpoint is kept.
    errors.Stopped: after SIGTERM or SIGINT; the step is finished and saved.
    CheckpointError: if no checkpoint is whole, or one cannot be written.
    ValueError: if the batch does not divide over the mesh.
  """
  sharding.check_batch_size(
    config.batch_size,
    config.microbatches,
    mesh,
    images_per_concept=config.data.images_per_concept,
  )
  with sharding.main_process_first("checkpoints"):
    if jax.process_index() == 0:
      integrity.set_aside_damaged(workdir, report)
  saved = checkpoints_lib.Checkpoints(
    workdir,
    keep=config.keep_checkpoints,
    keep_every=config.keep_every,
    keep_best=config.keep_best,
  )
  try:
    return _fit(
      config,
      objective,
      iterator,
      mesh,
      workdir,
      evaluators,
      begin,
      report,
      saved,
    )
  finally:
    saved.close()


def abstract_state(
  config: config_lib.Config,
  objective: objectives.Objective,
  mesh: jax.sharding.Mesh,
) -> state_lib.TrainState:
  """Shapes, types and shardings of a run's state; nothing is computed.

  Args:
    config: the run.
    objective: what is trained.
    mesh: the devices.

  Returns:
    A state of `jax.ShapeDtypeStruct` leaves, to restore a checkpoint into.
  """
  shapes = jax.eval_shape(_init_fn(config, objective), np.uint32(0))
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    shapes,
    sharding.state_sharding(shapes, mesh, fsdp=config.fsdp),
  )


def _init_fn(
  config: config_lib.Config, objective: objectives.Objective
) -> Callable[[Any], state_lib.TrainState]:
  """Makes the state before the first step of a seed."""
  model = config.model
  side = model.image_size
  # Only the shapes count, so that no batch has to be read for them.
  example = {
    "image": np.zeros((2, side, side, 3), np.uint8),
    "tokens": np.zeros(
      (2, config.captions_per_example, model.context_length), np.int32
    ),
  }
  optimizer = state_lib.make_optimizer(config)
  return lambda seed: state_lib.init_state(
    objective, optimizer, config, example, seed
  )


def _fit(
  config: config_lib.Config,
  objective: objectives.Objective,
  iterator: grain.DatasetIterator,
  mesh: jax.sharding.Mesh,
  workdir: pathlib.Path,
  evaluators: tuple[Evaluator, ...],
  begin: Callable[[state_lib.TrainState], state_lib.TrainState] | None,
  report: Callable[[str], None],
  saved: checkpoints_lib.Checkpoints,
) -> tuple[state_lib.TrainState, dict[str, float]]:
  """See `fit`, which closes the checkpoints whatever happens here."""
  abstract = abstract_state(config, objective, mesh)
  placed = jax.tree.map(lambda x: x.sharding, abstract)
  if saved.latest_step is not None:
    # Into shapes: a state of its own would take the memory a second time.
    state = saved.restore(abstract, iterator)
    report(f"Resuming {workdir} at step {int(state.step)}.")
  else:
    init = jax.jit(_init_fn(config, objective), out_shardings=placed)
    state = init(np.uint32(config.seed))
    if begin is not None:
      state = begin(state)
  start = int(state.step)
  optimizer = state_lib.make_optimizer(config)
  step_fn = jax.jit(
    state_lib.make_train_step(objective, optimizer, config),
    donate_argnums=0,
    # Otherwise the compiler might lay out the new state in its own way.
    out_shardings=(placed, None),
  )
  log = metric_log.MetricLog(
    workdir, resume_step=start, active=jax.process_index() == 0
  )
  progress = metric_log.Progress(
    config.steps, start=start, active=jax.process_index() == 0
  )

  def skipped(step: int, line: str) -> None:
    log.write(step, {"train/skipped": 1.0})
    progress.say(line)

  guard = nonfinite.Guard(config.optimizer.skip_nonfinite, skipped)

  def evaluate(due: list[Evaluator], step: int) -> dict[str, float]:
    scores = {}
    for evaluator in due:
      numbers = evaluator.run(state)
      scores |= numbers
      log.write(step, numbers)
      progress.say(f"  step {step}: {_brief(numbers)}")
    return scores

  clock = _Clock()
  pending: tuple[int, Any] | None = None
  try:
    missed = [
      e
      for e in evaluators
      if e.every and start % e.every == 0 and 0 < start < config.steps
    ]
    # One process reads the log for all.
    undone = jax.process_index() == 0 and not _validated(workdir, start)
    if missed and sharding.any_process(undone):
      evaluate(missed, start)
    if start < config.steps:
      report("Compiling the train step ...")
    with signals.StopSignals() as stops:
      for step in range(start + 1, config.steps + 1):
        batch = clock.wait_for(lambda: next(iterator))
        on_device = sharding.put_batch(stops.tell(batch), mesh)
        with jax.transfer_guard("disallow"):
          state, metrics = step_fn(state, on_device)
        # Looking at the step before this one keeps the device busy.
        if pending is not None:
          guard.check(*pending)
        stop = stops.asked(pending[1] if pending else None)
        pending = (step, metrics)
        last = step == config.steps
        if step == start + 1:
          jax.block_until_ready(metrics)
          clock.restart()
          progress.begin(step)
        if last or step % config.log_every == 0:
          guard.check(*pending)
          values = _scalars(jax.device_get(metrics))
          rates = clock.rates(config.batch_size)
          log.write(
            step, {f"train/{k}": v for k, v in (values | rates).items()}
          )
          progress.show(step, loss=values.get("loss", math.nan), **rates)
        due = [
          e for e in evaluators if e.every and step % e.every == 0 and not last
        ]
        saving = (
          last
          or step % config.checkpoint_every == 0
          or bool(config.keep_every and step % config.keep_every == 0)
          or bool(due and config.keep_best)
          or bool(stop)
        )
        if due or saving:
          # Waits for the device, whose time would count as a pause otherwise.
          guard.check(*pending)
        with clock.pause(progress):
          if due or saving:
            guard.check_state(step, state)
          scores = {}
          # Before the checkpoint: a run that is killed in between goes on from
          # the one before, and no line of the log is lost. A signal cannot wait
          # for it; then it is made when the run goes on.
          if due and not stop:
            scores = evaluate(due, step)
            if config.keep_best and _score(scores) is None:
              raise errors.ConfigError(
                "config.keep_best needs a validation with R@1 or an accuracy; got"
                f" {', '.join(scores) or 'none'}: set config.keep_best=False."
              )
            stop = stops.asked(None)
          if saving or stop:
            saved.save(step, state, iterator, score=_score(scores))
        if stop:
          raise errors.Stopped(
            f"{stop}: the run is saved after step {step} of {config.steps}; the"
            " same command goes on from there."
          )
    if not config.steps and saved.latest_step is None:
      guard.check_state(0, state)
      saved.save(0, state, iterator)
    if config.keep_best and saved.best_step is not None:
      report(f"The best validation was that of step {saved.best_step}.")
    rates = clock.overall(config.batch_size) or _logged_rates(workdir)
  finally:
    progress.close()
    log.close()
  return state, {f"train/{k}": v for k, v in rates.items()}


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

  def pause(self, progress: metric_log.Progress) -> "_Pause":
    """A context whose time is no training."""
    return _Pause(self, progress)

  def rates(self, batch_size: int) -> dict[str, float]:
    """Examples a second and share of waiting since the last call.

    Empty where no step was measured: the first one compiles.
    """
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

  def overall(self, batch_size: int) -> dict[str, float]:
    """The same since the beginning."""
    self._advance()
    return _rates(self._steps, self._total, self._wait, batch_size)

  def _advance(self) -> None:
    now = time.monotonic()
    self._total += now - self._since
    self._since = now


class _Pause:
  """See `_Clock.pause`."""

  def __init__(self, clock: _Clock, progress: metric_log.Progress):
    self._clock = clock
    self._progress = progress

  def __enter__(self):
    self._clock._advance()
    self._began = time.monotonic()

  def __exit__(self, *unused):
    now = time.monotonic()
    self._progress.pause(now - self._began)
    self._clock._since = now


def _validated(workdir: pathlib.Path, step: int) -> bool:
  """Whether the log has what evaluators found after a step, if only nothing."""
  return any(
    row["step"] == step and not any(k.startswith("train/") for k in row)
    for row in metric_log.read_metrics(workdir)
  )


def _logged_rates(workdir: pathlib.Path) -> dict[str, float]:
  """The last measured rates of a run that has nothing left to train."""
  for row in reversed(metric_log.read_metrics(workdir)):
    rates = {
      k: row[f"train/{k}"]
      for k in ("examples_per_second", "input_wait")
      if f"train/{k}" in row
    }
    if rates:
      return rates
  return {}


def _rates(
  steps: int, seconds: float, waited: float, batch_size: int
) -> dict[str, float]:
  if not steps or seconds <= 0:
    return {}
  return {
    "examples_per_second": batch_size * steps / seconds,
    "input_wait": min(1.0, waited / seconds),
  }


def _score(numbers: Mapping[str, float]) -> float | None:
  """What a validation is judged by; None if it measured nothing such."""
  found = [
    value
    for name, value in numbers.items()
    if name.endswith(("/recall_at_1", "/accuracy"))
  ]
  return float(np.mean(found)) if found else None


def _scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
  """What the log has of a step; of one that was skipped what is finite."""
  # The sums of squares of embeddings are there for `finite.Guard` alone.
  values = {
    k: float(v)
    for k, v in metrics.items()
    if not isinstance(v, dict)
    and not k.endswith("_embedding")
    and k not in ("skipped", signals.FIELD)
  }
  return {k: v for k, v in values.items() if math.isfinite(v)}


def _brief(numbers: Mapping[str, float]) -> str:
  return "  ".join(
    f"{k} {v:.3f}"
    for k, v in numbers.items()
    if any(part in k for part in ("recall", "loss", "knn"))
    or k.endswith("/accuracy")
  )
