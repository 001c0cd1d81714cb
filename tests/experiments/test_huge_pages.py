"""Tests of experiments.huge_pages."""

import os
import subprocess
import sys
import types

import pytest

from experiments import huge_pages


@pytest.fixture
def started(tmp_path, monkeypatch):
  """What would be started, where a program of ours runs on such a system."""
  calls = []
  modes = tmp_path / "enabled"
  modes.write_text("always [madvise] never\n")
  monkeypatch.setattr(huge_pages, "_MODES", modes)
  monkeypatch.setattr(sys, "platform", "linux")
  monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "experiments.x", "-a"])
  main = types.ModuleType("__main__")
  main.__spec__ = types.SimpleNamespace(name="experiments.train")
  monkeypatch.setitem(sys.modules, "__main__", main)
  monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
  monkeypatch.setattr(os, "execve", lambda *call: calls.append(call))
  return types.SimpleNamespace(calls=calls, modes=modes, main=main)


def test_a_program_is_started_again_with_its_arguments(started):
  huge_pages.restart_with()
  ((program, arguments, environment),) = started.calls
  assert program == sys.executable
  assert arguments == [sys.executable, "-m", "experiments.x", "-a"]
  assert environment["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"
  assert environment.items() >= os.environ.items()


@pytest.mark.parametrize("value", ["glibc.malloc.hugetlb=0", ""])
def test_who_has_chosen_is_left_alone(started, monkeypatch, value):
  monkeypatch.setenv("GLIBC_TUNABLES", value)
  huge_pages.restart_with()
  assert not started.calls


@pytest.mark.parametrize("name", ["pytest.__main__", "experiments_of_others.x"])
def test_other_programs_are_left_alone(started, name):
  started.main.__spec__ = types.SimpleNamespace(name=name)
  huge_pages.restart_with()
  started.main.__spec__ = None
  huge_pages.restart_with()
  assert not started.calls


@pytest.mark.parametrize("text", ["[always] madvise never", None])
def test_other_systems_are_left_alone(started, text):
  started.modes.unlink() if text is None else started.modes.write_text(text)
  huge_pages.restart_with()
  assert not started.calls


def test_a_real_program_runs_once_more_and_ends_as_ever():
  environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
  done = subprocess.run(
    [sys.executable, "-m", "experiments.train", "--config.stepps=3"],
    env=environment,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 2
  assert done.stderr.count("did you mean --config.steps?") == 1
