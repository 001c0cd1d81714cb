"""Tests of the jobs of sweeps: runs beside each other, and by a scheduler."""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import types

import pytest

from contrastive_jax.programs.sweep import Job, jobs, record
from contrastive_jax.training import config as config_lib
from tests.programs import small_sweep


@pytest.fixture(name="grid")
def fixture_grid():
  return small_sweep.make()


@pytest.fixture(name="start")
def fixture_start(grid, tmp_path, monkeypatch):
  """Stands for a process: makes the run of its arguments at once."""
  monkeypatch.setattr(jobs, "_LOOK_EVERY", 0.0)

  def start(arguments, cores):
    start.cores.append(tuple(cores))
    key = arguments[-1].removeprefix("--job=")
    start.made.append(key)
    if key != start.fails:
      jobs.run_one(grid, key, tmp_path)
    code = 7 if key == start.fails else 0
    return types.SimpleNamespace(
      poll=lambda: code,
      returncode=code,
      terminate=lambda: None,
      wait=lambda: code,
    )

  start.made, start.fails, start.cores = [], "", []
  return start


def test_those_that_choose_come_first_and_the_others_when_they_are_there(grid):
  made = record.Record(grid, pathlib.Path("unused"))
  first = list(made.ready())
  assert len(first) == 4 * 2 and {j.seed for j in first} == {*grid.tune_seeds}
  # Both tuning runs of one arm are made: its seeds are ready, no other arm's.
  for job in first[:2]:
    made.runs[job.key] = jobs.measure(grid, job)
  later = list(made.ready())
  assert [j.key for j in later[:6]] == [j.key for j in first[2:]]
  assert {j.arm.name for j in later[6:]} == {first[0].arm.name}
  assert [j.seed for j in later[6:]] == [0, 1, 2]


def test_a_scheduler_gets_a_line_a_run(grid, tmp_path):
  found = jobs.lines(grid, tmp_path)
  assert len(found) == 8 and len(set(found)) == 8
  for line, job in zip(found, jobs.collect(grid, tmp_path).ready()):
    assert "\n" not in line
    assert shlex.split(line) == [
      *("python", "-m", "experiments.sweep"),
      f"--sweep={grid.source}",
      f"--out={tmp_path}",
      f"--job={job.key}",
    ]


def test_what_jobs_leave_is_put_into_the_record(grid, tmp_path):
  first = list(jobs.collect(grid, tmp_path).ready())[:3]
  for job in first:
    jobs.run_one(grid, job.key, tmp_path)
  assert not (tmp_path / "small.json").exists()
  runs = jobs.collect(grid, tmp_path).runs
  assert runs.keys() == {job.key for job in first}
  assert record.read(grid, tmp_path).runs == runs
  left = tmp_path / "small.jobs"
  assert not any(left.iterdir())
  assert jobs.collect(grid, tmp_path).runs == runs
  # Made already: it is not made again.
  jobs.run_one(grid, first[0].key, tmp_path)
  assert not any(left.iterdir())


def test_others_are_collected_while_a_run_is_made(grid, tmp_path, monkeypatch):
  first, second = list(jobs.collect(grid, tmp_path).ready())[:2]
  jobs.run_one(grid, first.key, tmp_path)
  measure = jobs.measure

  def slow(sweep, job):
    assert jobs.collect(grid, tmp_path).runs.keys() == {first.key}
    return measure(sweep, job)

  monkeypatch.setattr(jobs, "measure", slow)
  jobs.run_one(grid, second.key, tmp_path)
  runs = jobs.collect(grid, tmp_path).runs
  assert runs.keys() == {first.key, second.key}


def test_a_run_that_cannot_be_made_is_refused(grid, tmp_path):
  later = Job(grid.arms[0], 0, 1e-3).key
  with pytest.raises(config_lib.UserError, match=f"--job.*{re.escape(later)}"):
    jobs.run_one(grid, later, tmp_path)


def test_each_process_has_cores_of_its_own(grid, tmp_path, monkeypatch, start):
  monkeypatch.setattr(jobs, "_cores", lambda: [0, 1, 2, 3, 4])
  jobs.run(grid, tmp_path, processes=2, start=start, report=lambda line: None)
  assert set(start.cores) == {(0, 2, 4), (1, 3)}
  assert jobs.shares([0, 1], 3) == jobs.shares([], 3) == [[]] * 3


@pytest.mark.skipif(
  not hasattr(os, "sched_getaffinity"), reason="the system names no cores"
)
def test_a_process_keeps_to_its_cores():
  one = min(os.sched_getaffinity(0))
  with jobs._start(["--help"], [one]) as process:
    assert os.sched_getaffinity(process.pid) == {one}
    process.kill()


@pytest.mark.parametrize("processes", [2, 3])
def test_beside_each_other_they_make_the_same_record(
  grid, tmp_path, processes, start
):
  said = []
  runs = jobs.run(
    grid, tmp_path, processes=processes, start=start, report=said.append
  )
  assert len(start.made) == len(set(start.made)) == len(said) == grid.total_runs
  assert said[-1].startswith(f"{grid.total_runs}/{grid.total_runs}  ")
  assert not (tmp_path / "small.jobs").exists()
  expected = small_sweep.run(tmp_path / "other")
  assert {k: v["results"] for k, v in runs.items()} == {
    k: v["results"] for k, v in expected.items()
  }
  # Started again it has nothing to do.
  assert jobs.run(grid, tmp_path, processes=2, start=start) == runs
  assert len(start.made) == grid.total_runs


def test_a_run_that_fails_ends_the_sweep_and_keeps_the_others(
  grid, tmp_path, start
):
  start.fails = list(jobs.collect(grid, tmp_path).ready())[2].key
  with pytest.raises(
    config_lib.UserError, match=f"{re.escape(start.fails)}.* 7"
  ):
    jobs.run(grid, tmp_path, processes=2, start=start, report=lambda line: None)
  kept = record.read(grid, tmp_path).runs.keys()
  assert kept == set(start.made) - {start.fails} and len(kept) >= 2


_FILE = """
from tests.programs import small_sweep
def get_sweep():
  return small_sweep.make(seeds=(0,), candidates=(1e-3,))
"""


@pytest.mark.exhaustive
@pytest.mark.long
def test_the_program_makes_them_in_processes(tmp_path):
  path = tmp_path / "file.py"
  path.write_text(_FILE)
  program = [
    *(sys.executable, "-m", "experiments.sweep"),
    f"--sweep={path}",
    f"--out={tmp_path}",
  ]
  listed = subprocess.run(
    [*program, "--list"], capture_output=True, text=True, check=True
  ).stdout.splitlines()
  assert len(listed) == 4
  done = subprocess.run(
    [*program, "--processes=3"], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  written = json.loads((tmp_path / "small.json").read_text())
  assert len(written["runs"]) == 8
  assert "8/8" in done.stdout
