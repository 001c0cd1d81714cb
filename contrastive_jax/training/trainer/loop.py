"""The loop: batches in, updates, logs, checkpoints, evaluation, resume."""

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grain
import jax
import numpy as np
import optax

from contrastive_jax.training.config import errors
from contrastive_jax.training.distributed import sharding, signals
from contrastive_jax.training.loggers import choices as logger_choices
from contrastive_jax.training.objectives import base
from contrastive_jax.training.trainer import checkpoints as checkpoints_lib
from contrastive_jax.training.trainer import integrity, nonfinite, run_log
from contrastive_jax.training.trainer import state as state_lib
from contrastive_jax.training.trainer.settings import TrainerSettings
from contrastive_jax.training.types import Report

Numbers = Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Evaluator:
  """Something that is measured every so many steps.

  Attributes:
    every: steps between measurements; 0 is never within the loop.
    run: gives flat names -> numbers.
    headline: selects the numbers that are shown after the step, and by whose mean
      the best checkpoint is chosen; all of them by default.
  """

  every: int
  run: Callable[[state_lib.TrainState], Numbers]
  headline: Callable[[Numbers], Numbers] = dict


def fit(
  settings: TrainerSettings,
  *,
  objective: base.Objective,
  optimizer: optax.GradientTransformation,
  learning_rate: optax.Schedule,
  iterator: grain.DatasetIterator,
  mesh: jax.sharding.Mesh,
  workdir: pathlib.Path,
  evaluators: Sequence[Evaluator] = (),
  begin: Callable[[state_lib.TrainState], state_lib.TrainState] | None = None,
  log: logger_choices.Log | None = None,
  saved: Callable[[], None] = lambda: None,
  report: Report = print,
) -> tuple[state_lib.TrainState, dict[str, float]]:
  """Trains for `settings.steps`, from the newest checkpoint if there is one.

  Args:
    settings: of the loop.
    objective: what is trained.
    optimizer: of its parameters, see `optimizers.make_optimizer`.
    learning_rate: that it has, for the log.
    iterator: this host's parts of the training batches.
    mesh: the devices.
    workdir: receives checkpoints and logs.
    evaluators: run at their own cadence; their numbers go to the log.
    begin: changes the initial state; not called on a run that resumes.
    log: receives what is measured beside `metrics.jsonl`; is begun, and stays open.
    saved: called after each checkpoint.
    report: receives lines for the user.

  Returns:
    The final state, and numbers of the training itself.

  Raises:
    nonfinite.NonFiniteError: naming the first tensor that is not finite. The last
      good checkpoint is kept.
    errors.Stopped: after SIGTERM or SIGINT; the step is finished and saved.
    CheckpointError: if no checkpoint is whole, or one cannot be written.
    ValueError: if the batch does not divide over the mesh.
  """
  images = settings.images_per_concept
  sharding.check_batch_size(
    settings.batch_size, settings.microbatches, mesh, images_per_concept=images
  )
  with contextlib.closing(_open(settings, workdir, report)) as kept:
    abstract = abstract_state(settings, objective, optimizer, mesh)
    placed = jax.tree.map(lambda x: x.sharding, abstract)
    if kept.latest_step is not None:
      # Into shapes: a state of its own would take the memory a second time.
      state = kept.restore(abstract, iterator)
      report(f"Resuming {workdir} at step {int(state.step)}.")
    else:
      state = _first_state(settings, objective, optimizer, placed)
      state = begin(state) if begin else state
    make = state_lib.make_train_step
    step = make(objective, optimizer, settings, learning_rate)
    # Without shardings the compiler might lay out the new state in its own way.
    step = jax.jit(step, donate_argnums=0, out_shardings=(placed, None))
    start = int(state.step)
    own = run_log.RunLog(workdir, settings, log, start=start)
    with contextlib.closing(own):
      loop = _Loop(
        settings, state, iterator, mesh, evaluators, kept, own, saved
      )
      loop.run(step, report)
      return loop.state, {f"train/{k}": v for k, v in own.rates().items()}


def _open(
  settings: TrainerSettings, workdir: pathlib.Path, report: Report
) -> checkpoints_lib.Checkpoints:
  """The checkpoints of a run that is about to train; damaged ones are set aside."""
  with sharding.main_process_first("checkpoints"):
    if jax.process_index() == 0:
      integrity.set_aside_damaged(workdir, report)
  return checkpoints_lib.Checkpoints(
    workdir,
    keep=settings.keep_checkpoints,
    keep_every=settings.keep_every,
    keep_best=settings.keep_best,
  )


def _first_state(
  settings: TrainerSettings,
  objective: base.Objective,
  optimizer: optax.GradientTransformation,
  placed: Any,
) -> state_lib.TrainState:
  """A run's state before its first step, with these shardings."""
  init = functools.partial(state_lib.init_state, settings, objective, optimizer)
  return jax.jit(init, out_shardings=placed)(np.uint32(settings.seed))


def abstract_state(
  settings: TrainerSettings,
  objective: base.Objective,
  optimizer: optax.GradientTransformation,
  mesh: jax.sharding.Mesh,
) -> state_lib.TrainState:
  """A run's state, each array a `jax.ShapeDtypeStruct`, to restore into.

  Nothing is computed.
  """
  init = functools.partial(state_lib.init_state, settings, objective, optimizer)
  shapes = jax.eval_shape(init, np.uint32(0))
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    shapes,
    sharding.state_sharding(shapes, mesh, fsdp=settings.fsdp),
  )


class _Loop:
  """The steps of one start of a run, and what is due after each.

  Attributes:
    state: after the last step.
  """

  def __init__(
    self,
    settings: TrainerSettings,
    state: state_lib.TrainState,
    iterator: grain.DatasetIterator,
    mesh: jax.sharding.Mesh,
    evaluators: Sequence[Evaluator],
    saved: checkpoints_lib.Checkpoints,
    log: run_log.RunLog,
    after_saving: Callable[[], None],
  ):
    """Begins where the state stands; arguments as of `fit`."""
    self.state = state
    self._settings = settings
    self._iterator = iterator
    self._mesh = mesh
    self._evaluators = evaluators
    self._saved = saved
    self._log = log
    self._after_saving = after_saving
    self._guard = nonfinite.Guard(settings.skip_nonfinite, log.skipped)

  def run(self, step_fn: Callable[..., Any], report: Report) -> None:
    """Makes all the steps that are left, with a jitted train step."""
    settings, start = self._settings, int(self.state.step)
    self._make_up_for(start)
    if start < settings.steps:
      report("Compiling the train step ...")
    with signals.StopSignals() as stops:
      before: tuple[int, Any] | None = None
      for step in range(start + 1, settings.steps + 1):
        batch = self._log.wait_for(lambda: next(self._iterator))
        on_device = sharding.put_batch(stops.tell(batch), self._mesh)
        with jax.transfer_guard("disallow"):
          self.state, metrics = step_fn(self.state, on_device)
        # Looking at the step before this one keeps the device busy.
        if before is not None:
          self._guard.check(*before)
        stop = stops.asked(before[1] if before else None)
        before = (step, metrics)
        if step == start + 1:
          jax.block_until_ready(metrics)
          self._log.begin(step)
        if step == settings.steps or step % settings.log_every == 0:
          self._guard.check(step, metrics)
          self._log.trained(step, metrics)
        stop = self._look_after(step, metrics, stop, stops)
        if stop:
          raise errors.Stopped(
            f"{stop}: the run is saved after step {step} of {settings.steps}; the"
            " same command goes on from there."
          )
    # Without steps the checkpoint is what the run begins with.
    if not settings.steps and self._saved.latest_step is None:
      self._guard.check_state(0, self.state)
      self._saved.save(0, self.state, self._iterator)
      self._after_saving()
    if settings.keep_best and self._saved.best_step is not None:
      report(f"The best validation was that of step {self._saved.best_step}.")

  def _look_after(
    self, step: int, metrics: Any, stop: str, stops: signals.StopSignals
  ) -> str:
    """Evaluates and saves where it is due; the signal that ends the run, or ""."""
    due = [] if step == self._settings.steps else self._due(step)
    saving = self._is_saved(step, evaluated=bool(due)) or bool(stop)
    if due or saving:
      # Waits for the device, whose time would count as a pause otherwise.
      self._guard.check(step, metrics)
    with self._log.pause():
      if due or saving:
        self._guard.check_state(step, self.state)
      score = None
      # Before the checkpoint: a run that is killed in between goes on from
      # the one before, and no line of the log is lost. A signal cannot wait
      # for it; then it is made when the run goes on.
      if due and not stop:
        score = self._score(step, due)
        stop = stops.asked(None)
      if saving or stop:
        self._saved.save(step, self.state, self._iterator, score=score)
        self._after_saving()
    return stop

  def _due(self, step: int) -> list[Evaluator]:
    return [e for e in self._evaluators if e.every and step % e.every == 0]

  def _is_saved(self, step: int, *, evaluated: bool) -> bool:
    """Whether the settings ask for a checkpoint after a step."""
    settings = self._settings
    return (
      step == settings.steps
      or step % settings.checkpoint_every == 0
      or bool(settings.keep_every and step % settings.keep_every == 0)
      or (evaluated and settings.keep_best)
    )

  def _make_up_for(self, start: int) -> None:
    """Evaluates after the step `start` what a signal did not wait for."""
    inside = 0 < start < self._settings.steps
    missed = self._due(start) if inside else []
    # One process reads the log for all.
    undone = jax.process_index() == 0 and not self._log.has_evaluation(start)
    if missed and sharding.any_process(undone):
      self._evaluate(start, missed)

  def _score(self, step: int, due: Sequence[Evaluator]) -> float | None:
    """Evaluates; the mean of the headline, by which the best one is chosen."""
    numbers, headline = self._evaluate(step, due)
    if headline:
      return float(np.mean([*headline.values()]))
    if self._settings.keep_best:
      raise errors.ConfigError(
        "config.keep_best needs a validation with a headline, such as R@1 or an"
        f" accuracy; got {', '.join(numbers) or 'none'}: set"
        " config.keep_best=False."
      )
    return None

  def _evaluate(
    self, step: int, due: Sequence[Evaluator]
  ) -> tuple[dict[str, float], dict[str, float]]:
    """All numbers of some evaluators after a step, and the headline of them."""
    found: dict[str, float] = {}
    headline: dict[str, float] = {}
    for evaluator in due:
      numbers = evaluator.run(self.state)
      shown = evaluator.headline(numbers)
      self._log.evaluated(step, numbers, shown)
      found |= numbers
      headline |= shown
    return found, headline
