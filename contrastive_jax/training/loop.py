"""The loop: batches in, updates, logs, checkpoints, evaluation, resume."""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import grain
import jax
import numpy as np

from contrastive_jax.training import checkpoints as checkpoints_lib
from contrastive_jax.training import config as config_lib
from contrastive_jax.training import logging, objectives, sharding
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
    NonFiniteError: naming the first tensor that is not finite. The last good
      checkpoint is kept.
    ValueError: if the batch does not divide over the mesh.
  """
  sharding.check_batch_size(
    config.batch_size,
    config.microbatches,
    mesh,
    images_per_concept=config.data.images_per_concept,
  )
  saved = checkpoints_lib.Checkpoints(workdir, keep=config.keep_checkpoints)
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
  finite_fn = jax.jit(state_lib.finite)
  log = logging.MetricLog(
    workdir, resume_step=start, active=jax.process_index() == 0
  )
  progress = logging.Progress(
    config.steps, start=start, active=jax.process_index() == 0
  )
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
      last = step == config.steps
      if step == start + 1:
        jax.block_until_ready(metrics)
        clock.restart()
        progress.begin(step)
      if last or step % config.log_every == 0:
        _check_finite(*pending)
        values = _scalars(jax.device_get(metrics))
        rates = clock.rates(config.batch_size)
        log.write(step, {f"train/{k}": v for k, v in (values | rates).items()})
        progress.show(step, loss=values["loss"], **rates)
      due = [
        e for e in evaluators if e.every and step % e.every == 0 and not last
      ]
      saving = last or step % config.checkpoint_every == 0
      if due or saving:
        # Waits for the device, whose time would count as a pause otherwise.
        _check_finite(*pending)
      with clock.pause(progress):
        if due or saving:
          _check_state(step, state, finite_fn)
        # Before the checkpoint: a run that is killed in between goes on from
        # the one before, and no line of the log is lost.
        for evaluator in due:
          numbers = evaluator.run(state)
          log.write(step, numbers)
          progress.say(f"  step {step}: {_brief(numbers)}")
        if saving:
          saved.save(step, state, iterator)
    if not config.steps and saved.latest_step is None:
      _check_state(0, state, finite_fn)
      saved.save(0, state, iterator)
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

  def pause(self, progress: logging.Progress) -> "_Pause":
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


def _logged_rates(workdir: pathlib.Path) -> dict[str, float]:
  """The last measured rates of a run that has nothing left to train."""
  for row in reversed(logging.read_metrics(workdir)):
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


def _scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
  # The sums of squares of embeddings are there for `_check_finite` alone.
  return {
    k: float(v)
    for k, v in metrics.items()
    if not isinstance(v, dict) and not k.endswith("_embedding")
  }


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
      _stop(step, name)


def _check_state(
  step: int, state: state_lib.TrainState, finite_fn: Callable[..., Any]
) -> None:
  """Raises unless the state after a step is finite.

  `_check_finite` sees the parameters that a step began with. What its update
  made of them must not get into a checkpoint.
  """
  for name, finite in jax.device_get(finite_fn(state)).items():
    if not finite:
      _stop(step, f"{name} after the update")


def _stop(step: int, name: str) -> NoReturn:
  raise NonFiniteError(
    f"Step {step}: {name} is not finite; training stops and the last good"
    " checkpoint is kept. Try a smaller config.optimizer.learning_rate, or"
    " look at the data."
  )


def _brief(numbers: Mapping[str, float]) -> str:
  return "  ".join(
    f"{k} {v:.3f}"
    for k, v in numbers.items()
    if any(part in k for part in ("recall", "loss", "knn"))
    or k.endswith("/accuracy")
  )
