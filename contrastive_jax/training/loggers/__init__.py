"""Loggers receive a run's measurements, beside its `metrics.jsonl`."""

import contextlib
import pathlib
from collections.abc import Mapping, Sequence

from contrastive_jax.training.loggers import choices


class Together:
  """Logs as one; see `choices.Log`."""

  def __init__(self, logs: Sequence[choices.Log] = ()):
    """Takes logs, none of them begun."""
    self._logs = logs
    self._begun = contextlib.ExitStack()

  def begin(self, step: int) -> None:
    """Begins each."""
    for log in self._logs:
      log.begin(step)
      self._begun.callback(log.close)

  def write(self, step: int, numbers: Mapping[str, float]) -> None:
    """Gives each the numbers."""
    for log in self._logs:
      log.write(step, numbers)

  def finish(
    self,
    step: int,
    results: Mapping[str, float],
    pictures: Sequence[pathlib.Path],
  ) -> None:
    """Gives each what a finished run has."""
    for log in self._logs:
      log.finish(step, results, pictures)

  def close(self) -> None:
    """Closes those that were begun."""
    self._begun.close()
