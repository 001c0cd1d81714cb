"""The watch over the processes of a run, most of it without processes."""

import subprocess
import sys
import threading
import time

import pytest

from contrastive_jax.training.distributed import processes

DEAD_AFTER = 0.25

# Process 1 of 2, in which an error is raised.
_PROGRAM = """
import pathlib, sys
import jax
from contrastive_jax.training.distributed import processes

jax.process_count, jax.process_index = lambda: 2, lambda: 1
with processes.watch(pathlib.Path(sys.argv[1]), dead_after=1.0):
  raise {error}
"""


class Ring:
  """Watchers of one run, as threads of this process."""

  def __init__(self, folder, count, dead_after=DEAD_AFTER):
    self.left = {}
    self.codes = {}
    self.gone = threading.Event()
    self.watchers = [
      processes.Watcher(
        folder,
        i,
        count,
        dead_after=dead_after,
        leave=lambda said, code, i=i: self._leave(i, said, code),
      )
      for i in range(count)
    ]

  def _leave(self, index, said, code):
    self.codes[index] = code
    self.left[index] = said
    self.gone.set()

  def wait(self, count):
    """Until so many have left, or much longer than it should take."""
    deadline = time.monotonic() + 40 * DEAD_AFTER
    while len(self.left) < count and time.monotonic() < deadline:
      time.sleep(DEAD_AFTER / 5)
    return dict(self.left)


@pytest.fixture(name="ring")
def fixture_ring(tmp_path):
  processes.clear(tmp_path)
  ring = Ring(tmp_path / "processes", 3)
  yield ring
  for watcher in ring.watchers:
    watcher._over.set()


def test_all_is_well_while_all_answer(ring):
  for watcher in ring.watchers:
    watcher.start()
  time.sleep(3 * DEAD_AFTER)
  for watcher in ring.watchers:
    watcher.finish()
  assert not ring.left


def test_one_that_is_done_is_not_missed(ring):
  first, *others = ring.watchers
  for watcher in ring.watchers:
    watcher.start()
  first.finish()
  time.sleep(3 * DEAD_AFTER)
  assert not ring.left
  for watcher in others:
    watcher.finish()


def test_a_silent_one_stops_all_others_and_is_named(ring):
  for watcher in ring.watchers:
    watcher.start()
  time.sleep(DEAD_AFTER)
  ring.watchers[1]._over.set()  # As if it were killed.
  left = ring.wait(2)
  assert left.keys() == {0, 2}
  for said in left.values():
    assert said.startswith("Process 1 of 3 on ")
    assert said.endswith("has not answered for 0.25 s")


def test_one_that_never_came_is_named(ring):
  ring.watchers[0].start()
  assert ring.wait(1) == {
    0: "Process 1 of 3 has not answered for 0.25 s",
  }
  assert ring.codes == {0: processes.EXIT_CODE}


@pytest.mark.parametrize("failed, code", [(True, 1), (False, 75)])
def test_what_stops_one_stops_all_others_with_its_reason(ring, failed, code):
  """By an error they would come to it once more; a scheduler must not."""
  for watcher in ring.watchers:
    watcher.start()
  ring.watchers[2].give_up("DataError: 7 bad rows.\nmore", failed=failed)
  left = ring.wait(2)
  assert left.keys() == {0, 1}
  assert ring.codes == {0: code, 1: code}
  for said in left.values():
    assert said.startswith("Process 2 of 3 on ")
    assert said.endswith("stopped (DataError: 7 bad rows.)")


def test_an_error_of_all_is_left_to_each(ring):
  for watcher in ring.watchers:
    watcher.start()
  for watcher in ring.watchers:
    watcher.give_up("NonFiniteError: Step 3: loss is not finite")
  time.sleep(3 * DEAD_AFTER)
  assert not ring.left


def test_what_an_earlier_start_left_is_removed(tmp_path):
  processes.clear(tmp_path)
  (tmp_path / "processes" / "stopped").write_text("Process 1 of 3 stopped")
  processes.clear(tmp_path)
  assert not list((tmp_path / "processes").iterdir())


def test_process_0_leaves_last(tmp_path):
  """When it ends the runtime aborts the others, which then say nothing."""
  processes.clear(tmp_path)
  ring = Ring(tmp_path / "processes", 3, dead_after=1.5)
  ring.watchers[0].start()
  ring.watchers[2].start()
  # Process 0 sees first that process 1 is gone.
  assert list(ring.wait(2)) == [2, 0]
  assert ring.left[0] == ring.left[2]


def _process_1(tmp_path, error):
  """Exit code and last line of process 1, when process 0 has answered once."""
  processes.clear(tmp_path)
  (tmp_path / "processes" / "0").write_text("first.host 7", encoding="utf-8")
  done = subprocess.run(
    [sys.executable, "-c", _PROGRAM.format(error=error), str(tmp_path)],
    capture_output=True,
    text=True,
    timeout=60,
  )
  return done.returncode, done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(
  "error",
  ["jax.errors.JaxRuntimeError('no peer')", "ValueError('UNKNOWN: Gloo')"],
)
def test_an_error_of_the_runtime_waits_for_the_name(tmp_path, error):
  """Also where a library has made another one of it."""
  code, said = _process_1(tmp_path, f"OSError('the disk is full') from {error}")
  assert code == processes.EXIT_CODE
  assert said.startswith(
    "Process 0 of 2 on first.host has not answered for 1 s"
  )
  told = (tmp_path / "processes" / "stopped").read_text(encoding="utf-8")
  assert said.startswith(told)


def test_another_error_does_not_wait(tmp_path):
  code, said = _process_1(tmp_path, "OSError('the disk is full')")
  assert (code, said) == (1, "OSError: the disk is full")
  told = (tmp_path / "processes" / "failed").read_text(encoding="utf-8")
  assert "the disk is full" in told
