"""Runs of a sweep one by one: in processes beside each other, or by a scheduler.

A job writes a file of its own into `NAME.jobs`; whoever starts the sweep next puts
what is there into the record.
"""

from __future__ import annotations  # `sweep` imports this, and has the types.

import contextlib
import hashlib
import pathlib
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from contrastive_jax.training import config as config_lib
from contrastive_jax.training.config import workdirs
from experiments import sweep as sweep_lib
from experiments import sweep_report

_LOOK_EVERY = 0.5


def ready(
  sweep: sweep_lib.Sweep, runs: sweep_lib.Runs
) -> Iterator[sweep_lib.Job]:
  """The runs that are missing and depend on none that is: those first that choose.

  Args:
    sweep: the grid.
    runs: what is finished.

  Yields:
    Jobs, in the order of `sweep.pending`.
  """
  choosing = {
    arm.name: [
      sweep_lib.Job(arm, sweep.tune_seed, value)
      for value in sweep.tuning(arm)[1]
    ]
    for arm in sweep.arms
  }
  for jobs in choosing.values():
    yield from (job for job in jobs if job.key not in runs)
  for seed in sweep.seeds:
    for arm in sweep.arms:
      if all(job.key in runs for job in choosing[arm.name]):
        value = sweep_report.chosen(sweep, arm, runs)
        job = sweep_lib.Job(arm, seed, value)
        if job.key not in runs:
          yield job


def command(job: sweep_lib.Job, path: str, out: pathlib.Path) -> list[str]:
  """The arguments of Python that make one run.

  Args:
    job: the run.
    path: file of the sweep.
    out: folder of the record.
  """
  return [
    *("-m", "experiments.sweep"),
    f"--sweep={path}",
    f"--out={out}",
    f"--job={job.key}",
  ]


def lines(
  sweep: sweep_lib.Sweep, runs: sweep_lib.Runs, path: str, out: pathlib.Path
) -> list[str]:
  """A shell command for each run that is `ready`."""
  return [
    shlex.join(["python", *command(job, path, out)])
    for job in ready(sweep, runs)
  ]


def run_one(
  sweep: sweep_lib.Sweep, runs: sweep_lib.Runs, key: str, out: pathlib.Path
) -> None:
  """Makes one run, and leaves it for `collect`.

  Args:
    sweep: the grid.
    runs: what is finished.
    key: the job's.
    out: folder of the record.

  Raises:
    UserError: if there is no such run to be made.
  """
  jobs = {job.key: job for job in ready(sweep, runs)}
  if key in runs:
    return
  if key not in jobs:
    raise config_lib.UserError(
      f"--job must be a run that is ready, as --list prints them; got {key!r}."
    )
  folder = _folder(sweep, out)
  folder.mkdir(parents=True, exist_ok=True)
  found = sweep_lib.measure(sweep, jobs[key])
  workdirs.write_json(_part(folder, key), {"key": key, **found})


def collect(
  sweep: sweep_lib.Sweep, runs: sweep_lib.Runs, out: pathlib.Path
) -> int:
  """Puts what jobs have left into the record; how many there were.

  Args:
    sweep: the grid.
    runs: what is finished; receives them.
    out: folder of the record, which is written if there were any.

  Raises:
    WorkdirError: if a job's file is damaged.
  """
  folder = _folder(sweep, out)
  parts = sorted(folder.glob("*.json"))
  for part in parts:
    found = workdirs.read_json(part)
    runs[found.pop("key")] = found
  if parts:
    sweep_report.write(sweep, runs, out)
  for part in parts:
    part.unlink()
  # Others may still be at work.
  with contextlib.suppress(OSError):
    folder.rmdir()
  return len(parts)


def run_beside(
  sweep: sweep_lib.Sweep,
  runs: sweep_lib.Runs,
  path: str,
  out: pathlib.Path,
  *,
  processes: int,
  minutes: float = 0.0,
  start: Callable[[Sequence[str]], subprocess.Popen] | None = None,
  report: Callable[[str], None] = print,
) -> None:
  """Makes all runs that are missing, some at a time, each in its own process.

  Args:
    sweep: the grid.
    runs: what is finished; receives the others.
    path: file of the sweep.
    out: folder of the record, which is written after each run.
    processes: at a time.
    minutes: begin no run after so many; 0 is no limit.
    start: starts Python with arguments; None is a process of this machine.
    report: receives a line a run.

  Raises:
    UserError: if a run fails; the others that are at work are ended.
  """
  start = start or _start
  began, total = time.monotonic(), sweep.total_runs
  working: dict[str, subprocess.Popen] = {}
  try:
    while True:
      late = minutes and time.monotonic() - began > 60 * minutes
      for job in ready(sweep, runs):
        if len(working) >= processes or late:
          break
        if job.key not in working:
          working[job.key] = start(command(job, path, out))
      if not working:
        return
      for key, process in list(working.items()):
        if process.poll() is None:
          continue
        del working[key]
        collect(sweep, runs, out)
        if key not in runs:
          raise config_lib.UserError(
            f"The run {key!r} failed with code {process.returncode}; its own words"
            " are above. The same command goes on with the runs that are missing."
          )
        done = sweep_report.finished(sweep, runs)
        name, value = next(iter(runs[key]["results"].items()))
        report(
          f"{done}/{total}  {key}: {name} {value:.4f} "
          f" {runs[key]['seconds']:.0f} s"
        )
      time.sleep(_LOOK_EVERY)
  finally:
    for process in working.values():
      process.terminate()
    for process in working.values():
      process.wait()


def _start(arguments: Sequence[str]) -> subprocess.Popen:
  return subprocess.Popen([sys.executable, *arguments])


def _folder(sweep: sweep_lib.Sweep, out: pathlib.Path) -> pathlib.Path:
  return out / f"{sweep.name}.jobs"


def _part(folder: pathlib.Path, key: str) -> pathlib.Path:
  """A file name for any key."""
  return folder / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
