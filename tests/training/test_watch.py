"""The watch over the processes of a run, without processes."""

import threading
import time

import pytest

from contrastive_jax.training.distributed import processes

DEAD_AFTER = 0.25


class Ring:
  """Watchers of one run, as threads of this process."""

  def __init__(self, folder, count):
    self.left = {}
    self.codes = {}
    self.gone = threading.Event()
    self.watchers = [
      processes.Watcher(
        folder,
        i,
        count,
        dead_after=DEAD_AFTER,
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
