"""Processes of a run that are killed at a chosen moment."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

import numpy as np

from contrastive_jax.training.trainer import metric_log

# Seconds after which a life that hangs is given up.
_PATIENCE = 600.0
_LOOK_EVERY = 0.002
# Steps from one validation to the next, in all runs of the study.
VALIDATE_EVERY = 50


class Life:
  """The processes of a run, from their start to their end.

  Attributes:
    workdir: the run's.
    began: when, on `time.monotonic`.
  """

  def __init__(
    self,
    arguments: Sequence[str],
    workdir: pathlib.Path,
    *,
    devices: int,
    processes: int,
    cache: pathlib.Path,
  ):
    """Starts them.

    Args:
      arguments: flags of `experiments.train`.
      workdir: the run's.
      devices: simulated ones of each process.
      processes: of the run.
      cache: folder of compiled programs.
    """
    self.workdir = workdir
    self.began = time.monotonic()
    self._log = pathlib.Path(tempfile.mkstemp()[1])
    given = [*arguments, f"--workdir={workdir}"]
    own: list[list[str]] = [[]]
    if processes > 1:
      given.append(f"--coordinator=localhost:{_free_port()}")
      given.append(f"--process_count={processes}")
      own = [[f"--process_id={i}"] for i in range(processes)]
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = {
      **os.environ,
      "JAX_PLATFORMS": "cpu",
      "XLA_FLAGS": flags,
      "JAX_COMPILATION_CACHE_DIR": str(cache),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
      "PYTHONUNBUFFERED": "1",
    }
    if processes > 1:  # Whose programs no cache keeps: see `experiments.train`.
      environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    with self._log.open("wb") as log:
      self._processes = [
        subprocess.Popen(
          [sys.executable, "-m", "experiments.train", *given, *one],
          env=environment,
          stdout=log,
          stderr=subprocess.STDOUT,
        )
        for one in own
      ]

  def text(self) -> str:
    """Output of all processes."""
    return self._log.read_text(encoding="utf-8", errors="replace")

  def over(self) -> bool:
    """Whether one of them has ended."""
    return any(p.poll() is not None for p in self._processes)

  def wait(self) -> list[int]:
    """Waits for all; their exit codes.

    Raises:
      RuntimeError: if they hang.
    """
    try:
      return [p.wait(_PATIENCE) for p in self._processes]
    except subprocess.TimeoutExpired as error:
      for process in self._processes:
        process.kill()
      raise RuntimeError(
        f"A process of {self.workdir} hangs:\n{self.text()}"
      ) from error

  def kill(self, which: int) -> tuple[list[int], float]:
    """Kills one; the codes of all, and how long the others lived on, seconds."""
    self._processes[which].kill()
    began = time.monotonic()
    return self.wait(), time.monotonic() - began

  def pause(self, which: int, seconds: float) -> None:
    """Keeps one from running for a while, as a host that swaps."""
    process = self._processes[which]
    process.send_signal(signal.SIGSTOP)
    time.sleep(seconds)
    process.send_signal(signal.SIGCONT)

  def close(self) -> None:
    """Ends what still runs, and removes what they have printed."""
    for process in self._processes:
      process.kill()
      process.wait()
    self._log.unlink(missing_ok=True)


def _free_port() -> int:
  with socket.socket() as found:
    found.bind(("localhost", 0))
    return found.getsockname()[1]


# A moment comes when this is true of a life. It is made of a generator, and of the
# seconds that a life takes to its first step.
Moment = Callable[[Life], bool]
Maker = Callable[[np.random.Generator, float], Moment]


def preparing(rng: np.random.Generator, startup: float) -> Moment:
  """Before the first step: imports, data, model, restoring."""
  after = rng.uniform(0.1, 0.9) * startup
  return lambda life: time.monotonic() - life.began > after


def stepping(rng: np.random.Generator, _startup: float) -> Moment:
  """In a step, some after the first one of this life."""
  more, delay = int(rng.integers(1, 12)), rng.uniform(0.0, 0.02)
  first: list[int] = []

  def met(life: Life) -> bool:
    path = life.workdir / "metrics.jsonl"
    size = path.stat().st_size if path.exists() else 0
    if not _compiles(life):
      return False
    first.append(size)
    # A line of the log is a few hundred bytes.
    return size - first[0] > 200 * more

  return _after(delay, met)


def _after(delay: float, met: Moment) -> Moment:
  """Some seconds after another moment."""
  since: list[float] = []

  def come(life: Life) -> bool:
    if not since and met(life):
      since.append(time.monotonic())
    return bool(since) and time.monotonic() - since[0] >= delay

  return come


def _soon_after(met: Moment, seconds: float) -> Maker:
  """At most so many seconds after another moment."""
  return lambda rng, _startup: _after(rng.uniform(0.0, seconds), met)


def _compiles(life: Life) -> bool:
  return "Compiling the train step" in life.text()


def _validates(life: Life) -> bool:
  """Its step is in the log, and its scores are not."""
  rows = metric_log.read_metrics(life.workdir) if _compiles(life) else []
  return (
    bool(rows)
    and rows[-1]["step"] % VALIDATE_EVERY == 0
    and "train/loss" in rows[-1]
  )


# While the step is compiled, or read from the cache.
compiling = _soon_after(_compiles, 0.5)
# While a checkpoint is written, before it is moved into place.
saving = _soon_after(lambda life: bool(half_written(life.workdir)), 0.05)
evaluating = _soon_after(_validates, 0.1)
# During the evaluation at the end.
scoring = _soon_after(lambda life: "Evaluating ..." in life.text(), 1.5)


def half_written(workdir: pathlib.Path) -> list[pathlib.Path]:
  """Checkpoints that are not in place yet."""
  return list((workdir / "checkpoints").glob("*tmp*"))


def reach(life: Life, moment: Moment) -> bool:
  """Waits for a moment; False if the life is over before.

  Raises:
    RuntimeError: if neither comes.
  """
  began = time.monotonic()
  while not moment(life):
    if life.over():
      return False
    if time.monotonic() - began > _PATIENCE:
      raise RuntimeError(f"The moment does not come:\n{life.text()}")
    time.sleep(_LOOK_EVERY)
  return True
