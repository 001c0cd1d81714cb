"""Two that want the same folder at once."""

import contextlib
import errno
import fcntl
import json
import os
import platform
import re
import subprocess
import sys
import threading
import time

import pytest

from contrastive_jax.data.files import locks
from contrastive_jax.data.sets import scenes
from contrastive_jax.data.sets.records import sharing
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.config import workdirs
from contrastive_jax.training.runs import runner
from tests.data import pairs
from tests.training import tiny


def test_the_second_run_on_a_workdir_is_refused(tmp_path):
  folder = tiny.write_folder(tmp_path / "images", 12)
  config = tiny.make_config(data="folder", data__path=str(folder))
  workdir = tmp_path / "run"
  workdir.mkdir()
  with locks.held(workdir / "run.lock"):
    with pytest.raises(workdirs.WorkdirError) as caught:
      runner.train(config, workdir, report=lambda line: None)
  said = str(caught.value)
  assert f"{workdir} is being trained by process {os.getpid()}" in said
  assert f"on {platform.node()} since 20" in said
  # Files of the first one are left as they are.
  assert [p.name for p in workdir.iterdir()] == ["run.lock"]


def test_where_there_are_no_locks_it_says_so(tmp_path, monkeypatch):
  def none(*unused):
    raise OSError(errno.ENOLCK, "No locks available")

  monkeypatch.setattr(fcntl, "flock", none)
  with locks.held(tmp_path / "lock") as locked:
    assert not locked
  folder = tiny.write_folder(tmp_path / "images", 12)
  config = tiny.make_config(data="folder", data__path=str(folder), batch_size=7)
  lines = []
  with pytest.raises(config_lib.ConfigError, match="batch_size"):
    runner.train(config, tmp_path / "run", report=lines.append)
  assert "run.lock cannot be locked on this file system" in lines[0]


def test_a_lock_dies_with_its_process(tmp_path):
  path = tmp_path / "lock"
  program = (
    "import os, pathlib, signal, sys\n"
    "from contrastive_jax.data.files import locks\n"
    "with locks.held(pathlib.Path(sys.argv[1])):\n"
    "  print('held', flush=True)\n"
    "  sys.stdin.read()\n"
  )
  holder = subprocess.Popen(
    [sys.executable, "-c", program, str(path)],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )
  assert holder.stdout.readline() == "held\n"
  with pytest.raises(locks.LockedError, match=f"process {holder.pid} on "):
    with locks.held(path):
      pass
  holder.kill()
  holder.communicate()
  with locks.held(path):
    assert json.loads(path.read_text())["process"] == os.getpid()


@pytest.mark.parametrize("of", ["run", "conversion"])
def test_both_locks_name_their_holder_in_the_same_words(tmp_path, of):
  path, said = tmp_path / "lock", []
  with contextlib.ExitStack() as stack:
    if of == "run":
      stack.enter_context(locks.held(path))
    else:
      claim = sharing.held(
        path, ("a",), [], claim=lambda: None, report=said.append
      )
      stack.enter_context(claim)
    with pytest.raises(locks.LockedError) as caught:
      stack.enter_context(locks.held(path))
  who = (
    rf"process {os.getpid()} on {re.escape(platform.node())} since 20\d\d-.*"
  )
  assert re.fullmatch(who, str(caught.value)) and not said


# Two that prepare the same data set.

# Each waits for the other where it says so: what follows happens at once.
_BESIDE = """
import errno, fcntl, pathlib, sys, time

def meet(name):
  print(name, flush=True)
  sys.stdin.readline()

def say(line):
  print(line, flush=True)

def none(*unused):
  raise OSError(errno.ENOLCK, "No locks available")

if sys.argv[1] == "no locks":
  fcntl.flock = none
"""
_CONVERT = """
from contrastive_jax.data.sets.records import conversion
import array_record.python.array_record_module
meet("ready")
settings = conversion.ConversionSettings((sys.argv[3],))
conversion.convert(settings, sys.argv[2], workers=1, report=say)
"""
_SCENES = """
import tensorflow_datasets as tfds
from contrastive_jax.data.sets import scenes
from contrastive_jax.data.sets.scenes import scenes_dataset_builder
settings = scenes.SceneSettings(image_size=32, sizes=scenes.Sizes(6, 1, 1, 1))
prepare = scenes_dataset_builder.Scenes.download_and_prepare

def both(builder):
  meet("begins")
  prepare(builder)

if sys.argv[1] == "no locks":
  scenes_dataset_builder.Scenes.download_and_prepare = both
meet("ready")
data = scenes.load_pairs(sys.argv[2], settings=settings, report=say)
assert len(data.splits["train"]) == 6
"""


def _together(program, kind, *args, meetings=("ready",)):
  """Output of two processes that do the same at once."""
  running = [
    subprocess.Popen(
      [sys.executable, "-c", _BESIDE + program, kind, *map(str, args)],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for _ in range(2)
  ]
  try:
    said = ["", ""]
    for meeting in meetings:
      for place, process in enumerate(running):
        for line in process.stdout:
          if line == f"{meeting}\n":
            break
          said[place] += line
      for process in running:
        process.stdin.write("\n")
        process.stdin.flush()
    for place, process in enumerate(running):
      out, err = process.communicate(timeout=120)
      assert process.returncode == 0, err
      said[place] += out
  finally:
    for process in running:
      process.kill()
      process.communicate()
  return said


@pytest.mark.parametrize("kind", ["locks", "no locks"])
def test_two_that_convert_the_same_pairs(tmp_path, kind):
  pattern = pairs.shards(tmp_path, count=16)
  alone, _ = pairs.converted(tmp_path / "alone", pattern)
  out = tmp_path / "out"
  said = _together(_CONVERT, kind, out, pattern)
  assert all("16 input file(s)" in each for each in said)
  assert all(("cannot be locked" in s) == (kind != "locks") for s in said)
  # No unfinished file is left: all of them are what a single process makes.
  assert pairs.files(out) == pairs.files(alone)
  assert len(pairs.read(out)) == 48


SCENES = scenes.SceneSettings(image_size=32, sizes=scenes.Sizes(6, 1, 1, 1))


def _contents(where):
  """Names of files, and of those in which nothing is in any order the bytes."""
  return {
    name: len(content) if "array_record" in name else content
    for name, content in pairs.files(where).items()
  }


def _records(where):
  lines = []
  data = scenes.load_pairs(str(where), settings=SCENES, report=lines.append)
  assert not lines  # It is all there.
  return [
    (name, source[i]["image"].tobytes(), source.fields(i))
    for name, source in data.splits.items()
    for i in range(len(source))
  ]


@pytest.mark.parametrize("kind", ["locks", "no locks"])
def test_two_that_prepare_the_same_data_set(tmp_path, kind):
  alone, both = tmp_path / "alone", tmp_path / "both"
  scenes.load_pairs(str(alone), settings=SCENES, report=lambda line: None)
  meetings = ("ready",) if kind == "locks" else ("ready", "begins")
  said = _together(_SCENES, kind, both, meetings=meetings)
  assert sum("Preparing scenes" in s for s in said) == len(meetings)
  assert _contents(both) == _contents(alone)
  assert _records(both) == _records(alone)


def test_who_prepares_is_named_and_waited_for(tmp_path):
  """And what a killed one left is removed by the next."""
  lines = []

  def load():
    scenes.load_pairs(str(tmp_path), settings=SCENES, report=lines.append)

  load()
  lines.clear()
  (info,) = tmp_path.rglob("dataset_info.json")
  (path,) = tmp_path.rglob("*.lock")
  left = info.parent.with_name(f"incomplete.ABC123_{info.parent.name}")
  info.parent.rename(left)
  with locks.held(path):
    waiting = threading.Thread(target=load)
    waiting.start()
    while not lines:
      time.sleep(0.01)
    assert not left.with_name(info.parent.name).exists()
  waiting.join()
  assert lines[0].startswith("Waiting for scenes (captions), prepared in ")
  assert f" by process {os.getpid()} on {platform.node()} since 20" in lines[0]
  assert lines[1].startswith("Preparing scenes (captions) in ")
  assert [p.name for p in left.parent.iterdir()] == [info.parent.name]
