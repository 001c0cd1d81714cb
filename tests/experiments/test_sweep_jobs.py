"""Tests of experiments.sweep_jobs: runs beside each other, and by a scheduler."""

import json
import shlex
import subprocess
import sys
import types

import pytest

from contrastive_jax.training import config as config_lib
from experiments import sweep, sweep_jobs, sweep_report
from tests.experiments.test_sweep import make_sweep, run, train


@pytest.fixture(name="grid")
def fixture_grid():
  return make_sweep(train_fn=train)


def read(grid, out):
  return sweep_report.read(grid, out / f"{grid.name}.json")


def in_place(grid, out, *, fails=""):
  """Stands for a process: makes the run of its arguments at once."""
  made = []

  def start(arguments):
    key = arguments[-1].removeprefix("--job=")
    made.append(key)
    if key != fails:
      sweep_jobs.run_one(grid, read(grid, out), key, out)
    code = 7 if key == fails else 0
    return types.SimpleNamespace(
      poll=lambda: code,
      returncode=code,
      terminate=lambda: None,
      wait=lambda: code,
    )

  return start, made


def test_those_that_choose_come_first_and_the_others_when_they_are_there(grid):
  runs = {}
  first = list(sweep_jobs.ready(grid, runs))
  assert len(first) == 4 * 2 and {j.seed for j in first} == {grid.tune_seed}
  # Of one arm both are made: its seeds are ready, the other arms' are not.
  for job in first[:2]:
    runs[job.key] = sweep.measure(grid, job)
  later = list(sweep_jobs.ready(grid, runs))
  assert [j.key for j in later[:6]] == [j.key for j in first[2:]]
  assert {j.arm.name for j in later[6:]} == {first[0].arm.name}
  assert [j.seed for j in later[6:]] == [0, 1, 2]


def test_one_after_the_other_they_are_those_of_the_sweep(grid, tmp_path):
  runs = {}
  while found := list(sweep_jobs.ready(grid, runs)):
    for job in found:
      runs[job.key] = sweep.measure(grid, job)
  expected = run(tmp_path)
  assert runs.keys() == expected.keys()
  for key in runs:
    assert runs[key]["results"] == expected[key]["results"]


def test_a_scheduler_gets_a_line_a_run(grid, tmp_path):
  found = sweep_jobs.lines(grid, {}, "my sweeps/file.py", tmp_path)
  assert len(found) == 8 and len(set(found)) == 8
  for line, job in zip(found, sweep_jobs.ready(grid, {})):
    assert "\n" not in line
    assert shlex.split(line) == [
      *("python", "-m", "experiments.sweep"),
      "--sweep=my sweeps/file.py",
      f"--out={tmp_path}",
      f"--job={job.key}",
    ]


def test_what_jobs_leave_is_put_into_the_record(grid, tmp_path):
  jobs = list(sweep_jobs.ready(grid, {}))
  for job in jobs[:3]:
    sweep_jobs.run_one(grid, {}, job.key, tmp_path)
  assert not (tmp_path / "small.json").exists()
  runs = {}
  assert sweep_jobs.collect(grid, runs, tmp_path) == 3
  assert runs.keys() == {job.key for job in jobs[:3]}
  assert read(grid, tmp_path) == runs
  assert not (tmp_path / "small.jobs").exists()
  assert sweep_jobs.collect(grid, runs, tmp_path) == 0
  # Made already: it is not made again.
  sweep_jobs.run_one(grid, runs, jobs[0].key, tmp_path)
  assert not (tmp_path / "small.jobs").exists()


def test_a_run_that_cannot_be_made_is_refused(grid, tmp_path):
  later = sweep.Job(grid.arms[0], 0, 1e-3).key
  with pytest.raises(config_lib.UserError, match="must be a run that is ready"):
    sweep_jobs.run_one(grid, {}, later, tmp_path)


@pytest.mark.parametrize("processes", [1, 3])
def test_beside_each_other_they_make_the_same_record(
  grid, tmp_path, processes, monkeypatch
):
  monkeypatch.setattr(sweep_jobs, "_LOOK_EVERY", 0.0)
  start, made = in_place(grid, tmp_path)
  runs, said = {}, []
  sweep_jobs.run_beside(
    grid,
    runs,
    "file.py",
    tmp_path,
    processes=processes,
    start=start,
    report=said.append,
  )
  assert len(made) == len(set(made)) == len(said) == grid.total_runs
  assert said[-1].startswith(f"{grid.total_runs}/{grid.total_runs}  ")
  (tmp_path / "other").mkdir()
  expected = run(tmp_path / "other")
  assert {k: v["results"] for k, v in runs.items()} == {
    k: v["results"] for k, v in expected.items()
  }
  # Started again it has nothing to do.
  sweep_jobs.run_beside(
    grid, runs, "file.py", tmp_path, processes=2, start=start
  )
  assert len(made) == grid.total_runs


def test_a_run_that_fails_ends_the_sweep_and_keeps_the_others(
  grid, tmp_path, monkeypatch
):
  monkeypatch.setattr(sweep_jobs, "_LOOK_EVERY", 0.0)
  bad = list(sweep_jobs.ready(grid, {}))[2].key
  start, made = in_place(grid, tmp_path, fails=bad)
  with pytest.raises(config_lib.UserError, match="failed with code 7"):
    sweep_jobs.run_beside(
      grid,
      {},
      "file.py",
      tmp_path,
      processes=1,
      start=start,
      report=lambda line: None,
    )
  assert read(grid, tmp_path).keys() == set(made) - {bad}


_FILE = """
import dataclasses
from tests.experiments.test_sweep import make_sweep, train
def get_sweep():
  return make_sweep(train_fn=train, seeds=(0,), candidates=(1e-3,))
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
  record = json.loads((tmp_path / "small.json").read_text())
  assert len(record["runs"]) == 8
  assert "8/8" in done.stdout
