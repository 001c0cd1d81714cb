"""What a run writes while it works: JSON lines, TensorBoard, progress."""

from collections.abc import Mapping
import json
import math
import pathlib
import sys
import time
from typing import TextIO

import tensorboardX


class MetricLog:
  """`metrics.jsonl` (one object a log point) and TensorBoard events."""

  def __init__(self, workdir: pathlib.Path, *, resume_step: int = 0):
    """Opens the log; lines after `resume_step` are dropped.

    A run that was killed has logged steps that its last checkpoint does not
    know. They are made again, so their old lines go.
    """
    self._path = workdir / "metrics.jsonl"
    kept = []
    if self._path.exists():
      for line in self._path.read_text(encoding="utf-8").splitlines():
        try:
          row = json.loads(line)
        except json.JSONDecodeError:
          continue  # Half a line, cut off when the run was killed.
        if row["step"] <= resume_step:
          kept.append(line + "\n")
    temporary = self._path.with_suffix(".tmp")
    temporary.write_text("".join(kept), encoding="utf-8")
    temporary.replace(self._path)
    self._file = self._path.open("a", encoding="utf-8")
    self._board = tensorboardX.SummaryWriter(
        str(workdir / "tensorboard"), purge_step=resume_step + 1
    )

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """One log point."""
    row = {"step": step, **metrics}
    self._file.write(json.dumps(row) + "\n")
    self._file.flush()
    for name, value in metrics.items():
      if math.isfinite(value):
        self._board.add_scalar(name, value, step)

  def close(self) -> None:
    """Flushes and closes both."""
    self._file.close()
    self._board.close()


def read_metrics(workdir: pathlib.Path) -> list[dict[str, float]]:
  """The rows of `metrics.jsonl`; empty if there is none."""
  path = workdir / "metrics.jsonl"
  if not path.exists():
    return []
  lines = path.read_text(encoding="utf-8").splitlines()
  return [json.loads(line) for line in lines]


class Progress:
  """One line that tells step, loss, speed, input wait and time left.

  On a terminal the line is overwritten; in a file each is a line of its own.
  """

  def __init__(
      self, total: int, *, start: int = 0, stream: TextIO | None = None
  ):
    """Counts from `start` to `total`."""
    self._total = total
    self._stream = stream or sys.stdout
    self._terminal = self._stream.isatty()
    self._began = time.monotonic()
    self._start = start
    self._paused = 0.0

  def pause(self, seconds: float) -> None:
    """Time that was no training: evaluation and checkpoints."""
    self._paused += seconds

  def show(
      self, step: int, *, loss: float, examples_per_second: float, wait: float
  ) -> None:
    """Prints the line.

    Args:
      step: updates made.
      loss: of the last step.
      examples_per_second: of training alone.
      wait: share of the time in which the device waited for input.
    """
    done = step - self._start
    elapsed = time.monotonic() - self._began - self._paused
    left = elapsed / max(done, 1) * (self._total - step)
    line = (
        f"step {step}/{self._total}  loss {loss:.4f}"
        f"  {examples_per_second:,.0f} examples/s  input wait {wait:.1%}"
        f"  ETA {format_seconds(left)}"
    )
    if self._terminal:
      end = "\n" if step == self._total else ""
      self._stream.write(f"\r\x1b[2K{line}{end}")
    else:
      self._stream.write(line + "\n")
    self._stream.flush()

  def say(self, text: str) -> None:
    """Prints a line of its own."""
    self._stream.write(("\r\x1b[2K" if self._terminal else "") + text + "\n")
    self._stream.flush()


def format_seconds(seconds: float) -> str:
  """Such as 1:02:03 or 2:03."""
  whole = max(0, round(seconds))
  minutes, second = divmod(whole, 60)
  hours, minute = divmod(minutes, 60)
  if hours:
    return f"{hours}:{minute:02d}:{second:02d}"
  return f"{minute}:{second:02d}"
