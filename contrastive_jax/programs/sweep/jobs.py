"""Runs of a sweep: which are missing, and ways to make them.

They are made one after the other, some at a time in processes of their own, or one by
one by a scheduler. A run in a process of its own writes a file into `NAME.jobs`; the
next start of the sweep puts what is there into the record.
"""

import contextlib
import hashlib
import os
import pathlib
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

import jax

from contrastive_jax.programs import command_line, differences, reporting
from contrastive_jax.programs.sweep import record as record_lib
from contrastive_jax.programs.sweep import report as report_lib
from contrastive_jax.programs.sweep.record import Record
from contrastive_jax.programs.sweep.types import Job, Runs, Sweep
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.config import errors, workdirs
from contrastive_jax.training.evaluators import base
from contrastive_jax.training.runs import hits_file, runner

_LOOK_EVERY = 0.5
_DRAW_EVERY = 60.0  # Seconds from a page and its figure to the next.


def train(
  config: config_lib.Config, hits: dict[str, base.Hits] | None = None
) -> dict[str, float]:
  """Results of a run in a folder of its own, which is not kept.

  Args:
    config: the run.
    hits: receives its `hits.npz`.
  """
  with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
    results = runner.train(config, folder, report=lambda line: None)
    if hits is not None:
      hits |= hits_file.load(pathlib.Path(folder))
    return results


def measure(sweep: Sweep, job: Job) -> dict[str, Any]:
  """Makes a run; what the record has of it, see `Record.add`."""
  began = time.monotonic()
  config, others = sweep.configurations(job)
  hits: dict[str, base.Hits] = {}
  if sweep.train_fn is None:
    results: Any = train(config, hits)
  else:
    results = sweep.train_fn(config, *[others] * bool(others))
  found: dict[str, Any] = {
    "arm": job.arm.name,
    "seed": job.seed,
    "value": job.value,
    "results": {
      name: float(results[name])
      for name in (*sweep.metrics, sweep.tune_metric)
      if name in results
    },
    "seconds": round(time.monotonic() - began, 1),
  }
  kept = {name: own for name, own in hits.items() if name in sweep.metrics}
  if kept:
    # A line each in the record, not one a number.
    things = {n: " ".join(map(str, own.things)) for n, own in kept.items()}
    digests = {name: reporting.digest(own) for name, own in things.items()}
    found["hits"] = {
      name: [digests[name], differences.packed(own.right)]
      for name, own in kept.items()
    }
    found["things"] = {digests[name]: own for name, own in things.items()}
  return found


def run(
  sweep: Sweep,
  out: pathlib.Path,
  *,
  processes: int = 1,
  minutes: float = 0.0,
  start: Callable[[Sequence[str], Sequence[int]], subprocess.Popen]
  | None = None,
  report: Callable[[str], None] = print,
) -> Runs:
  """Makes the runs that the record lacks, and writes it after each.

  Its page and figure follow once a minute and at the end.

  Args:
    sweep: the grid.
    out: folder of the record.
    processes: runs at a time, each in a process of its own; 1: in this one.
    minutes: begin no run after so many; 0 is no limit.
    start: starts the program with flags on cores; None is a process of this machine.
    report: receives a line a run.

  Returns:
    All finished runs.

  Raises:
    UserError: if the record is of another sweep, or a run in a process fails; the
      others that are at work are ended.
    errors.Stopped: if a signal stopped a run, which is not in the record.
  """
  record = collect(sweep, out)
  began, total = time.monotonic(), sweep.total_runs

  def late() -> bool:
    return bool(minutes) and time.monotonic() - began > 60 * minutes

  if processes == 1:
    made = _here(record, late)
  else:
    made = _beside(record, late, processes, start or _start)
  with contextlib.closing(made):
    for key in made:
      done, ours = record.finished(), record.runs[key]
      usual = statistics.median(r["seconds"] for r in record.runs.values())
      name, value = next(iter(ours["results"].items()))
      report(
        f"{done}/{total}  {key}: {name} {value:.4f}  {ours['seconds']:.0f} s"
        f"  ETA {usual * (total - done) / processes / 60:.0f} min"
      )
  report_lib.write(record)
  if any(record.ready()):
    done = record.finished()
    report(f"Stopped after {minutes:g} minutes, {done} of {total} runs.")
  return record.runs


def _here(
  record: Record, late: Callable[[], bool]
) -> Generator[str, None, None]:
  """Makes the missing runs one after the other; yields their keys."""
  drawn = time.monotonic()
  while not late() and (job := next(record.ready(), None)):
    try:
      record.add(job.key, measure(record.sweep, job))
    except errors.Stopped as stopped:
      raise errors.Stopped(
        "the record has all runs but the one in hand; the same command goes on with"
        " that one from its beginning."
      ) from stopped
    report_lib.save(record)
    if time.monotonic() - drawn > _DRAW_EVERY:
      report_lib.write(record)
      drawn = time.monotonic()
    yield job.key
    jax.clear_caches()


def _beside(
  record: Record,
  late: Callable[[], bool],
  processes: int,
  start: Callable[[Sequence[str], Sequence[int]], subprocess.Popen],
) -> Generator[str, None, None]:
  """Makes the missing runs in processes; yields their keys as they come."""
  sweep, out = record.sweep, record.out
  working: dict[str, subprocess.Popen] = {}
  places: dict[str, int] = {}
  free, cores = list(range(processes)), shares(_cores(), processes)
  try:
    while True:
      for job in record.ready():
        if not free or late():
          break
        if job.key not in working:
          places[job.key] = free.pop()
          working[job.key] = start(
            flags_of(sweep, job, out), cores[places[job.key]]
          )
      if not working:
        return
      for key, process in list(working.items()):
        if process.poll() is None:
          continue
        del working[key]
        free.append(places.pop(key))
        found = collect(sweep, out)
        record.runs |= found.runs
        record.things |= found.things
        if key not in record.runs:
          raise config_lib.UserError(
            f"The run {key!r} failed with code {process.returncode}; its own words"
            " are above. The same command goes on with the runs that are missing."
          )
        yield key
      time.sleep(_LOOK_EVERY)
  finally:
    for process in working.values():
      process.terminate()
    for process in working.values():
      process.wait()


def flags_of(sweep: Sweep, job: Job, out: pathlib.Path) -> list[str]:
  """The flags that make one run."""
  return [f"--sweep={sweep.source}", f"--out={out}", f"--job={job.key}"]


def lines(sweep: Sweep, out: pathlib.Path) -> list[str]:
  """A shell command for each run that is `ready`."""
  program = command_line.command("sweep")
  return [
    f"{program} {shlex.join(flags_of(sweep, job, out))}"
    for job in collect(sweep, out).ready()
  ]


def run_one(sweep: Sweep, key: str, out: pathlib.Path) -> None:
  """Makes the run of a job's key, unless the record has it; leaves it for `collect`.

  Raises:
    UserError: if there is no such run to be made.
  """
  record = record_lib.read(sweep, out)
  if key in record.runs:
    return
  jobs = {job.key: job for job in record.ready()}
  if key not in jobs:
    raise config_lib.UserError(
      f"--job must be a run that is ready, as --list prints them; got {key!r}."
    )
  part = hashlib.sha256(key.encode()).hexdigest()[:16]  # File name of the key.
  found = {"key": key, **measure(sweep, jobs[key])}
  folder = _folder(sweep, out)
  folder.mkdir(parents=True, exist_ok=True)
  workdirs.write_json(folder / f"{part}.json", found)


def collect(sweep: Sweep, out: pathlib.Path) -> Record:
  """The record, what jobs have left put into it.

  Raises:
    UserError: if the record is of another sweep, or a job's file is damaged.
  """
  record, folder = record_lib.read(sweep, out), _folder(sweep, out)
  parts = sorted(folder.glob("*.json"))
  for part in parts:
    found = workdirs.read_json(part)
    record.add(found.pop("key"), found)
  if parts:
    report_lib.write(record)
  for part in parts:
    part.unlink()
  # Others may still be at work, and are about to leave their files there.
  if record.finished() == sweep.total_runs:
    with contextlib.suppress(OSError):
      folder.rmdir()
  return record


def _start(arguments: Sequence[str], cores: Sequence[int]) -> subprocess.Popen:
  program = ("-m", "contrastive_jax.programs", "sweep")
  process = subprocess.Popen([sys.executable, *program, *arguments])
  if cores:
    # Threads of processes that share their cores wait for each other: two runs on two
    # cores take a quarter longer than with a core each. The process has no thread yet.
    with contextlib.suppress(ProcessLookupError):
      os.sched_setaffinity(process.pid, cores)
  return process


def _cores() -> list[int]:
  """The cores that this process may use; [] on systems that do not tell."""
  if not hasattr(os, "sched_getaffinity"):
    return []
  return sorted(os.sched_getaffinity(0))


def shares(cores: Sequence[int], processes: int) -> list[Sequence[int]]:
  """Cores of each of several processes, none of them shared.

  Where there are fewer cores than processes each has [], which is all of them.

  >>> shares([0, 1, 2, 3, 4], 2)
  [[0, 2, 4], [1, 3]]
  """
  if len(cores) < processes:
    return [[]] * processes
  return [cores[place::processes] for place in range(processes)]


def _folder(sweep: Sweep, out: pathlib.Path) -> pathlib.Path:
  return out / f"{sweep.name}.jobs"
