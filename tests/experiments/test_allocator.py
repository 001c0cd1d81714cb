"""Tests of experiments.allocator."""

import os
import pathlib
import subprocess
import sys
import types

import pytest

from experiments import allocator

ARENAS = "glibc.malloc.arena_max=2"


@pytest.fixture
def started(tmp_path, monkeypatch):
  """What would be started, where a program of ours runs on such a system."""
  calls = []
  modes = tmp_path / "enabled"
  modes.write_text("always [madvise] never\n")
  monkeypatch.setattr(allocator, "_MODES", modes)
  monkeypatch.setattr(sys, "platform", "linux")
  monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "experiments.x", "-a"])
  main = types.ModuleType("__main__")
  main.__spec__ = types.SimpleNamespace(name="experiments.train")
  monkeypatch.setitem(sys.modules, "__main__", main)
  monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
  monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
  monkeypatch.setattr(os, "execve", lambda *call: calls.append(call))
  return types.SimpleNamespace(calls=calls, modes=modes, main=main)


def test_a_program_is_started_again_with_its_arguments(started):
  allocator.restart_with()
  ((program, arguments, environment),) = started.calls
  assert program == sys.executable
  assert arguments == [sys.executable, "-m", "experiments.x", "-a"]
  assert environment["GLIBC_TUNABLES"] == f"{ARENAS}:glibc.malloc.hugetlb=1"
  assert environment.items() >= os.environ.items()


@pytest.mark.parametrize("name", ["GLIBC_TUNABLES", "MALLOC_ARENA_MAX"])
@pytest.mark.parametrize("value", ["glibc.malloc.hugetlb=0", ""])
def test_who_has_chosen_is_left_alone(started, monkeypatch, name, value):
  monkeypatch.setenv(name, value)
  allocator.restart_with()
  assert not started.calls


@pytest.mark.parametrize("name", ["pytest.__main__", "experiments_of_others.x"])
def test_other_programs_are_left_alone(started, name):
  started.main.__spec__ = types.SimpleNamespace(name=name)
  allocator.restart_with()
  started.main.__spec__ = None
  allocator.restart_with()
  assert not started.calls


@pytest.mark.parametrize("text", ["[always] madvise never", None])
def test_huge_pages_are_asked_for_where_that_is_of_use(started, text):
  started.modes.unlink() if text is None else started.modes.write_text(text)
  allocator.restart_with()
  ((_, _, environment),) = started.calls
  assert environment["GLIBC_TUNABLES"] == ARENAS


def test_other_systems_are_left_alone(started, monkeypatch):
  monkeypatch.setattr(sys, "platform", "darwin")
  allocator.restart_with()
  assert not started.calls


def test_a_real_program_begins_once_more_and_ends_as_ever(tmp_path):
  """A recipe is a program: it says what memory is asked for."""
  recipe = tmp_path / "recipe.py"
  recipe.write_text(
    "import os\n"
    "from contrastive_jax.recipes.clip_emoji import get_config\n"
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
  names = ("GLIBC_TUNABLES", "MALLOC_ARENA_MAX")
  environment = {k: v for k, v in os.environ.items() if k not in names}
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
  linux = sys.platform == "linux"
  assert asked == ["None", *[allocator.settings()] * linux]


def test_a_refused_start_is_no_error(started, monkeypatch):
  def refuse(*call):
    raise PermissionError

  monkeypatch.setattr(os, "execve", refuse)
  allocator.restart_with()
