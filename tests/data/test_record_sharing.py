"""Several processes that convert into one folder at the same time."""

import errno
import fcntl
import json
import os
import subprocess
import sys

import pytest

from contrastive_jax.data.sets.folder import reading
from contrastive_jax.data.sets.records import conversion, sharing
from tests.data.pairs import converted, files, pair, picture, shards, write_tar

# Holds the folder of a conversion until its input ends.
_HOLDER = """
import pathlib, sys
from contrastive_jax.data.sets.records import sharing
path, *inputs = map(pathlib.Path, sys.argv[1:])
with sharing.held(
  path, ("theirs",), inputs, claim=lambda: None, report=print
):
  print("held", flush=True)
  sys.stdin.read()
"""


@pytest.fixture(name="hold")
def fixture_hold(tmp_path):
  """Starts a process that holds `out` for some inputs."""
  started = []

  def hold(*inputs):
    (tmp_path / "out").mkdir(exist_ok=True)
    path = tmp_path / "out" / conversion._LOCK_FILE
    process = subprocess.Popen(
      [sys.executable, "-c", _HOLDER, path, *inputs],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )
    started.append(process)
    assert process.stdout.readline() == "held\n"
    return process

  yield hold
  for process in started:
    process.kill()
    process.communicate()


def test_other_inputs_wait_for_the_end(tmp_path, hold):
  pattern = shards(tmp_path)
  other = write_tar(tmp_path / "x.tar_", pair("x", picture("red"), "x"))
  process = hold(other)
  message = (
    rf"out .* theirs \(process {process.pid} on .* since \d{{4}}-.*\).* --out"
  )
  with pytest.raises(reading.DataError, match=message):
    converted(tmp_path, pattern)
  assert not (tmp_path / "out" / "conversion.json").exists()
  # A folder that a killed process held is free.
  process.kill()
  process.wait()
  converted(tmp_path, pattern)
  known = json.loads((tmp_path / "out" / conversion._LOCK_FILE).read_text())
  assert (known["process"], known["inputs"]) == (os.getpid(), pattern)


def test_the_same_inputs_are_shared(tmp_path, hold):
  pattern = shards(tmp_path)
  whole, _ = converted(tmp_path / "whole", pattern)
  first = hold(*sorted(tmp_path.glob("*.tar")))
  second = hold(*sorted(tmp_path.glob("*.tar")))
  # The one that came first may go; the inputs stay the same.
  first.kill()
  first.wait()
  out, _ = converted(tmp_path, pattern)
  assert files(out) == files(whole)
  with pytest.raises(reading.DataError, match="--out"):
    (tmp_path / "0.tar").unlink()
    converted(tmp_path, pattern)
  second.kill()
  second.wait()
  converted(tmp_path, pattern)


def test_who_joins_must_have_the_same_settings(tmp_path, monkeypatch):
  """Both found an empty folder; the other was the first to claim it."""
  pattern = shards(tmp_path)
  real = fcntl.flock

  def flock(file, how):
    if how & fcntl.LOCK_EX and not os.environ.get("INNER"):
      monkeypatch.setenv("INNER", "1")
      converted(tmp_path, pattern)
    real(file, how)

  monkeypatch.setattr(fcntl, "flock", flock)
  with pytest.raises(reading.DataError, match="shorter_side=0.* 4"):
    converted(tmp_path, pattern, shorter_side=4)


@pytest.mark.parametrize("left", ["", '{"process": 1', "[1]", "[" * 10**5])
def test_what_a_killed_process_left_half_written(tmp_path, monkeypatch, left):
  """The writer died after it had been seen: the next one takes its place."""
  path = tmp_path / "lock"
  path.write_text(left)
  real, refused = fcntl.flock, []

  def flock(file, how):
    if how & fcntl.LOCK_EX and not refused:
      refused.append(how)
      raise BlockingIOError
    real(file, how)

  monkeypatch.setattr(fcntl, "flock", flock)
  claims = []
  with sharing.held(
    path, ("a", "b"), [path], claim=lambda: claims.append(1), report=print
  ):
    assert json.loads(path.read_text())["inputs"] == "a,b"
  assert refused and claims


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EIO])
def test_file_systems_without_locks(tmp_path, monkeypatch, code):
  def flock(file, how):
    raise OSError(code, "No locks available")

  monkeypatch.setattr(fcntl, "flock", flock)
  lines = []
  if code == errno.EIO:
    with pytest.raises(OSError, match="No locks"):
      converted(tmp_path, shards(tmp_path))
    return
  converted(tmp_path, shards(tmp_path), report=lines.append)
  assert "cannot be locked (No locks available); start no" in lines[0]
  assert "4 input file(s)" in lines[1]
