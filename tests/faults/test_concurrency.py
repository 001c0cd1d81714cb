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

import pytest

from contrastive_jax.data import locks
from contrastive_jax.data.records import sharing
from contrastive_jax.training import config as config_lib
from contrastive_jax.training import runner, workdirs
from tests.training import tiny


def test_the_second_run_on_a_workdir_is_refused(tmp_path):
  folder = tiny.write_folder(tmp_path / "images", 12)
  config = tiny.make_config(data__name="folder", data__path=str(folder))
  workdir = tmp_path / "run"
  workdir.mkdir()
  with locks.held(workdir / "run.lock"):
    with pytest.raises(workdirs.WorkdirError) as caught:
      runner.train(config, workdir, report=lambda line: None)
  said = str(caught.value)
  assert f"{workdir} is being trained by process {os.getpid()}" in said
  assert f"on {platform.node()} since 20" in said
  # What the first one has written is left as it is.
  assert [p.name for p in workdir.iterdir()] == ["run.lock"]


def test_where_there_are_no_locks_it_says_so(tmp_path, monkeypatch):
  def none(*unused):
    raise OSError(errno.ENOLCK, "No locks available")

  monkeypatch.setattr(fcntl, "flock", none)
  with locks.held(tmp_path / "lock") as locked:
    assert not locked
  folder = tiny.write_folder(tmp_path / "images", 12)
  config = tiny.make_config(
    data__name="folder", data__path=str(folder), batch_size=7
  )
  lines = []
  with pytest.raises(config_lib.ConfigError, match="batch_size"):
    runner.train(config, tmp_path / "run", report=lines.append)
  assert "run.lock cannot be locked on this file system" in lines[0]


def test_a_lock_dies_with_its_process(tmp_path):
  path = tmp_path / "lock"
  program = (
    "import os, pathlib, signal, sys\n"
    "from contrastive_jax.data import locks\n"
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
