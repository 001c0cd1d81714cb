"""Tests of experiments.huge_pages."""

import os
import pathlib
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


def test_a_real_program_begins_once_more_and_ends_as_ever(tmp_path):
  """A recipe is a program: it says what memory is asked for."""
  recipe = tmp_path / "recipe.py"
  recipe.write_text(
    "import os\n"
    "from experiments.configs.clip_emoji import get_config\n"
    "print('asked:', os.environ.get('GLIBC_TUNABLES'), flush=True)\n"
  )
  command = [
    sys.executable,
    "-m",
    "experiments.train",
    f"--config={recipe}",
    "--config.objective=nothing",
    f"--workdir={tmp_path / 'run'}",
  ]
  environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
  done = subprocess.run(
    command,
    env=environment,
    cwd=pathlib.Path(__file__).parents[2],
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 2, done.stderr
  assert done.stderr.count("Error: ") == 1
  asked = [
    line.removeprefix("asked: ")
    for line in done.stdout.splitlines()
    if line.startswith("asked: ")
  ]
  given = (
    sys.platform == "linux"
    and huge_pages._MODES.exists()
    and "[madvise]" in huge_pages._MODES.read_text()
  )
  assert asked == ["None", *["glibc.malloc.hugetlb=1"] * given]


def test_a_refused_start_is_no_error(started, monkeypatch):
  def refuse(*call):
    raise PermissionError

  monkeypatch.setattr(os, "execve", refuse)
  huge_pages.restart_with()
