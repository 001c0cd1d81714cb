"""All that a run says while it trains: its log, its progress line, its speed."""

import contextlib
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax

from contrastive_jax.training.distributed import signals
from contrastive_jax.training.loggers import choices
from contrastive_jax.training.trainer import clock, metric_log
from contrastive_jax.training.trainer.settings import TrainerSettings


class RunLog:
  """The log points and the lines of a run at work; one process writes them."""

  def __init__(
    self,
    workdir: pathlib.Path,
    settings: TrainerSettings,
    other: choices.Log | None = None,
    *,
    start: int,
  ):
    """Opens the log; lines after the step `start`, where it goes on, are dropped."""
    main = jax.process_index() == 0
    self._workdir = workdir
    self._batch_size = settings.batch_size
    self._metrics = metric_log.MetricLog(
      workdir, resume_step=start, active=main, other=other
    )
    self._progress = metric_log.Progress(
      settings.steps, start=start, active=main
    )
    self._clock = clock.Clock()

  def begin(self, step: int) -> None:
    """Counts the time from here: before, the step was compiled."""
    self._clock.restart()
    self._progress.begin(step)

  def wait_for(self, fn: Callable[[], Any]) -> Any:
    """Calls `fn`, whose time is waiting for input."""
    return self._clock.wait_for(fn)

  def pause(self) -> contextlib.AbstractContextManager[None]:
    """A context whose time is no training."""
    return self._clock.pause(self._progress)

  def trained(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Writes the metrics of a step, and the speed since the last call."""
    values = _scalars(jax.device_get(metrics))
    rates = self._clock.rates(self._batch_size)
    self._metrics.write(
      step, {f"train/{k}": v for k, v in (values | rates).items()}
    )
    self._progress.show(step, loss=values.get("loss", math.nan), **rates)

  def skipped(self, step: int, line: str) -> None:
    """Writes that a step was skipped, and says why."""
    self._metrics.write(step, {"train/skipped": 1.0})
    self._progress.say(line)

  def evaluated(
    self, step: int, numbers: Mapping[str, float], shown: Mapping[str, float]
  ) -> None:
    """Writes what an evaluator found after a step, and says some of it."""
    self._metrics.write(step, numbers)
    brief = "  ".join(f"{k} {v:.3f}" for k, v in shown.items())
    self._progress.say(f"  step {step}: {brief}")

  def has_evaluation(self, step: int) -> bool:
    """Whether the log has what evaluators found after a step, if only nothing."""
    return any(
      row["step"] == step and not any(k.startswith("train/") for k in row)
      for row in metric_log.read_metrics(self._workdir)
    )

  def rates(self) -> dict[str, float]:
    """Examples a second and share of waiting, of this start or the last one."""
    rates = self._clock.overall(self._batch_size)
    if rates:
      return rates
    # A run that has nothing left to train knows them from its log.
    for row in reversed(metric_log.read_metrics(self._workdir)):
      rates = {
        k: row[f"train/{k}"]
        for k in ("examples_per_second", "input_wait")
        if f"train/{k}" in row
      }
      if rates:
        break
    return rates

  def close(self) -> None:
    """Ends the progress line and closes the log."""
    self._progress.close()
    self._metrics.close()


def _scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
  """The numbers of a step for the log; of one that was skipped the finite ones."""
  # The sums of squares of embeddings are there for `nonfinite.Guard` alone.
  values = {
    k: float(v)
    for k, v in metrics.items()
    if not isinstance(v, dict)
    and not k.endswith("_embedding")
    and k not in ("skipped", signals.FIELD)
  }
  return {k: v for k, v in values.items() if math.isfinite(v)}
