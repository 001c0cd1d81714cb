"""SIGTERM and SIGINT: a run finishes its step, saves, and ends.

A preemptible machine is told by SIGTERM that it will be taken away, a user says so by
Ctrl-C. The work of a step is worth a checkpoint. All processes of a run must stop
after the same step, or the others would wait in a collective without an end; so the
signal of one of them travels with its rows of a batch, and comes back with the metrics
of the step, the largest of all.
"""

import os
import signal
import threading
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Within so many seconds a second one is the first one again.
_ONE_SIGNAL = 1.0
# Its name in a batch, and in the metrics.
FIELD = "stop"


class StopSignals:
  """A context in which the two signals are remembered instead of obeyed.

  The second one, some time later, is obeyed at once: saving may be what takes too long.
  (Launchers may pass on one signal twice.) Python sees signals between two of its own
  instructions, so that a compilation is finished first. Outside of the main thread,
  which alone receives signals, nothing changes.
  """

  def __init__(self):
    self._received = 0
    self._since = 0.0
    self._before: dict[int, Any] = {}

  def __enter__(self) -> "StopSignals":
    if threading.current_thread() is threading.main_thread():
      for number in _SIGNALS:
        # A signal that is ignored, as by a shell's job in the background, stays so.
        if signal.getsignal(number) != signal.SIG_IGN:
          self._before[number] = signal.signal(number, self._remember)
    return self

  def __exit__(self, kind: Any, *unused) -> None:
    self._restore()
    if self._received and kind is None:
      # It came too late for a step to end with it.
      signal.raise_signal(self._received)

  def _remember(self, number: int, frame: Any) -> None:
    del frame
    if self._received:
      if time.monotonic() - self._since >= _ONE_SIGNAL:
        self._restore()
        signal.raise_signal(number)
      return
    self._received, self._since = number, time.monotonic()
    # Not by print, in the middle of which the signal may have come.
    os.write(
      2, b"\nFinishing the step, then saving; once more ends it at once.\n"
    )

  def _restore(self) -> None:
    while self._before:
      number, before = self._before.popitem()
      # None is a handler that was not made by Python.
      signal.signal(number, signal.SIG_DFL if before is None else before)

  def tell(self, batch: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """The batch, of several processes with what this one was told."""
    if jax.process_count() == 1:
      return batch
    rows = len(next(iter(batch.values())))
    return {**batch, FIELD: np.full(rows, self._received, np.int32)}

  def asked(self, metrics: Mapping[str, Any] | None) -> str:
    """The signal that ends the run, such as "SIGTERM"; "" if none.

    Args:
      metrics: of the step before; with several processes they decide, and are
        waited for. None if there was none.
    """
    number = self._received
    if jax.process_count() > 1:
      number = 0 if metrics is None else int(jax.device_get(metrics[FIELD]))
    return signal.Signals(number).name if number else ""
