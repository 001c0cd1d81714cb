"""How fast a run trains: seconds of steps and of waiting for input."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from contrastive_jax.training.trainer import metric_log


class Clock:
  """Seconds of training and of waiting for input, without pauses."""

  def __init__(self):
    """Counts from here."""
    self.restart()

  def restart(self) -> None:
    """Forgets what was: the first step holds the compilation."""
    self._steps, self._total, self._wait = self._mark = (0, 0.0, 0.0)
    self._since = time.monotonic()

  def wait_for(self, fn: Callable[[], Any]) -> Any:
    """Calls `fn` and counts its time as waiting."""
    began = time.monotonic()
    result = fn()
    self._wait += time.monotonic() - began
    self._steps += 1
    return result

  @contextlib.contextmanager
  def pause(self, progress: metric_log.Progress) -> Iterator[None]:
    """A context whose time is no training, which `progress` is told."""
    self._advance()
    began = time.monotonic()
    try:
      yield
    finally:
      self._since = time.monotonic()
      progress.pause(self._since - began)

  def rates(self, batch_size: int) -> dict[str, float]:
    """Examples a second and share of waiting since the last call.

    Empty where no step was measured: the first one compiles.
    """
    self._advance()
    now = (self._steps, self._total, self._wait)
    steps, seconds, waited = (a - b for a, b in zip(now, self._mark))
    self._mark = now
    return _rates(steps, seconds, waited, batch_size)

  def overall(self, batch_size: int) -> dict[str, float]:
    """The same since the beginning."""
    self._advance()
    return _rates(self._steps, self._total, self._wait, batch_size)

  def _advance(self) -> None:
    now = time.monotonic()
    self._total += now - self._since
    self._since = now


def _rates(
  steps: float, seconds: float, waited: float, batch_size: int
) -> dict[str, float]:
  if not steps or seconds <= 0:
    return {}
  return {
    "examples_per_second": batch_size * steps / seconds,
    "input_wait": min(1.0, waited / seconds),
  }
