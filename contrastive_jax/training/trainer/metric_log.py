"""The log of a run at work: JSON lines, loggers, a progress line."""

import io
import json
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import TextIO

from contrastive_jax.training import loggers
from contrastive_jax.training.loggers import choices


class MetricLog:
  """`metrics.jsonl`, an object a log point, and the other log of a run."""

  def __init__(
    self,
    workdir: pathlib.Path,
    *,
    resume_step: int = 0,
    active: bool = True,
    other: choices.Log | None = None,
  ):
    """Opens the log; hosts that are not `active` touch nothing.

    A run that was killed has logged steps that its last checkpoint, of
    `resume_step`, does not know. They are made again, so their old lines go.
    """
    self._active = active
    if not active:
      return
    path = workdir / "metrics.jsonl"
    kept = [
      json.dumps(row) + "\n"
      for row in read_metrics(workdir)
      if row["step"] <= resume_step
    ]
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept), encoding="utf-8")
    temporary.replace(path)
    self._file = path.open("a", encoding="utf-8")
    self._other = other or loggers.Together()
    self._other.begin(resume_step)

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """One log point."""
    if not self._active:
      return
    row = {"step": step, **metrics}
    self._file.write(json.dumps(row) + "\n")
    self._file.flush()
    self._other.write(step, metrics)

  def close(self) -> None:
    """Closes the file; the other log stays open for what comes after training."""
    if self._active:
      self._file.close()


def read_metrics(workdir: pathlib.Path) -> list[dict[str, float]]:
  """The rows of `metrics.jsonl`; empty if there is none.

  Half a line, cut off when a run was killed or is being written, is left out.
  """
  path = workdir / "metrics.jsonl"
  if not path.exists():
    return []
  rows = []
  for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
    try:
      row = json.loads(line)
    except (ValueError, RecursionError):
      continue
    if isinstance(row, dict) and isinstance(row.get("step"), int):
      rows.append(row)
  return rows


class Progress:
  """One line that tells step, loss, speed, input wait and time left.

  On a terminal the line is overwritten; in a file each is a line of its own.
  """

  def __init__(
    self,
    total: int,
    *,
    start: int = 0,
    stream: TextIO | None = None,
    active: bool = True,
  ):
    """Counts from `start` to `total`; prints nothing unless `active`."""
    self._total = total
    self._stream = (stream or sys.stdout) if active else io.StringIO()
    self._terminal = self._stream.isatty()
    self._open = False  # Whether the terminal's cursor is on the line.
    self.begin(start)

  def begin(self, step: int) -> None:
    """Counts from here: what was before (a compilation) tells no speed."""
    self._began = time.monotonic()
    self._start = step
    self._paused = 0.0

  def pause(self, seconds: float) -> None:
    """Time that was no training: evaluation and checkpoints."""
    self._paused += seconds

  def show(
    self,
    step: int,
    *,
    loss: float,
    examples_per_second: float | None = None,
    input_wait: float | None = None,
  ) -> None:
    """Prints the line; rates are None where they are not measured yet."""
    parts = [f"step {step}/{self._total}", f"loss {loss:.4f}"]
    if examples_per_second is not None:
      parts.append(f"{examples_per_second:,.0f} examples/s")
    if input_wait is not None:
      parts.append(f"input wait {input_wait:.1%}")
    done = step - self._start
    if done > 0:
      elapsed = time.monotonic() - self._began - self._paused
      left = elapsed / done * (self._total - step)
      parts.append(f"ETA {format_seconds(left)}")
    line = "  ".join(parts)
    if self._terminal:
      end = "\n" if step == self._total else ""
      self._stream.write(f"\r\x1b[2K{line}{end}")
      self._open = not end
    else:
      self._stream.write(line + "\n")
    self._stream.flush()

  def say(self, text: str) -> None:
    """Prints a line of its own."""
    self._stream.write(("\r\x1b[2K" if self._terminal else "") + text + "\n")
    self._stream.flush()
    self._open = False

  def close(self) -> None:
    """Ends the line, so that what follows (an error) has one of its own."""
    if self._open:
      self._stream.write("\n")
      self._stream.flush()
    self._open = False


def format_seconds(seconds: float) -> str:
  """Such as 1:02:03 or 2:03."""
  whole = max(0, round(seconds))
  minutes, second = divmod(whole, 60)
  hours, minute = divmod(minutes, 60)
  if hours:
    return f"{hours}:{minute:02d}:{second:02d}"
  return f"{minute}:{second:02d}"
