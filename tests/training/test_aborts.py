"""What a process says and exits with that ends because another one is gone."""

import signal
import subprocess
import sys
import time

import pytest

from contrastive_jax.training.distributed import processes

# Process 1 of 2, of which each test tells what it does.
_PROGRAM = """
import ctypes, os, pathlib, signal, sys, threading, time
import jax
from contrastive_jax.training import processes

library = ctypes.CDLL(None)
library.signal.argtypes = ctypes.c_int, ctypes.c_void_p
quiet_exit = ctypes.cast(library._exit, ctypes.c_void_p)

def abort():
  # As the runtime: in a thread of its own, without the interpreter's lock.
  threading.Thread(target=library.abort).start()
  time.sleep(60)

jax.process_count, jax.process_index = lambda: 2, lambda: 1
{before}
with processes.watch(pathlib.Path(sys.argv[1]), dead_after={dead_after}):
  print("watching", flush=True)
  {inside}
{after}
"""
_SENTENCE = (
  "Process 0 of 2 on first.host has not answered for 1 s, so this process stops"
  " too; the same command resumes at the last checkpoint."
)


@pytest.fixture(name="folder")
def fixture_folder(tmp_path):
  """Of the watch; process 0 has answered once."""
  processes.clear(tmp_path)
  folder = tmp_path / "processes"
  (folder / "0").write_text("first.host 7", encoding="utf-8")
  return folder


@pytest.fixture(name="start")
def fixture_start(tmp_path, folder):
  """Starts a process 1, which does not outlive the test."""
  del folder
  started = []

  def start(inside, *, before="", after="", dead_after=1.0):
    text = _PROGRAM.format(
      before=before, inside=inside, after=after, dead_after=dead_after
    )
    process = subprocess.Popen(
      [sys.executable, "-c", text, str(tmp_path)],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    started.append(process)
    return process

  yield start
  for process in started:
    process.kill()
    process.communicate()


def end_of(process):
  """Exit code, and lines on standard error."""
  _, text = process.communicate(timeout=60)
  return process.returncode, text.strip().splitlines()


def answer(folder, process):
  """As process 0, until the other one has ended."""
  deadline = time.monotonic() + 60
  while process.poll() is None and time.monotonic() < deadline:
    (folder / ".0").write_text(f"first.host {time.monotonic()}")
    (folder / ".0").replace(folder / "0")
    time.sleep(0.1)


def test_an_abort_without_process_0_names_it(start, folder):
  process = start("abort()")
  assert end_of(process) == (processes.EXIT_CODE, [_SENTENCE])
  assert (folder / "stopped").read_text() == _SENTENCE.split(",")[0]
  # Not between the lines that people read.
  assert "Fatal Python error: Aborted" in (folder / "crash-1.txt").read_text()


def test_an_abort_goes_on_while_process_0_answers(start, folder):
  process = start("abort()", dead_after=30.0)
  answer(folder, process)
  assert end_of(process) == (-signal.SIGABRT, [])
  assert not (folder / "stopped").exists()
  assert "Fatal Python error: Aborted" in (folder / "crash-1.txt").read_text()


def test_an_abort_goes_on_when_process_0_is_done(start, folder):
  (folder / "0").write_text("done", encoding="utf-8")
  assert end_of(start("abort()")) == (-signal.SIGABRT, [])


@pytest.mark.parametrize("name, code", [("failed", 1), ("stopped", 75)])
def test_an_abort_says_what_another_one_has_told(start, folder, name, code):
  said = "Process 0 of 2 on first.host stopped (DataError: 7 bad rows.)"
  (folder / name).write_text(said, encoding="utf-8")
  # Its own first look would come after 2 s, and 10 s more for an error of its own.
  began = time.monotonic()
  found, lines = end_of(start("abort()", dead_after=30.0))
  assert found == code
  assert lines[-1].startswith(f"{said}, so this process stops too")
  assert time.monotonic() - began < 10


@pytest.mark.exhaustive
def test_an_abort_ends_though_a_thread_keeps_the_lock(start, folder):
  """Nobody can say anything; it must not hang for that."""
  assert end_of(start("os.abort()")) == (-signal.SIGABRT, [])
  assert not (folder / "stopped").exists()


def test_a_signal_from_outside_ends_a_process_as_ever(start, folder):
  process = start("time.sleep(60)", dead_after=30.0)
  assert process.stdout.readline() == "watching\n"
  process.send_signal(signal.SIGABRT)
  answer(folder, process)
  assert end_of(process) == (-signal.SIGABRT, [])


def test_after_the_watch_the_handler_is_the_one_before(start):
  process = start(
    "pass",
    before="library.signal(signal.SIGABRT, quiet_exit)",
    after="abort()",
  )
  code, lines = end_of(process)
  assert code == signal.SIGABRT  # Which `_exit` is given.
  assert lines[0] == "Fatal Python error: Aborted"


@pytest.mark.parametrize(
  "error",
  ["jax.errors.JaxRuntimeError('no peer')", "ValueError('UNKNOWN: Gloo')"],
)
def test_an_error_of_the_runtime_waits_for_the_name(start, error):
  """Also where a library has made another one of it."""
  process = start(f"raise OSError('the disk is full') from {error}")
  assert end_of(process) == (processes.EXIT_CODE, [_SENTENCE])


def test_another_error_does_not_wait(start, folder):
  code, lines = end_of(start("raise OSError('the disk is full')"))
  assert code == 1
  assert lines[-1] == "OSError: the disk is full"
  assert "the disk is full" in (folder / "failed").read_text()
