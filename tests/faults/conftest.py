"""Where files that mean harm are read."""

import pathlib
import re
import time

import pytest

SECONDS = 20  # On a loaded machine; what hangs takes for ever.
MEGABYTES = 400
_STATUS = pathlib.Path("/proc/self/status")
_CLEAR = pathlib.Path("/proc/self/clear_refs")


def _peak():
  """The most memory that this process had, megabytes; 0 where nothing tells."""
  if not _STATUS.exists():
    return 0.0
  found = re.search(r"VmHWM:\s+(\d+)", _STATUS.read_text())
  return int(found[1]) / 1024


@pytest.fixture(name="place")
def fixture_place(tmp_path, monkeypatch):
  """A folder; what is beside it must stay as it is, in little time and memory.

  The command of every payload makes a file `canary`, here or beside.
  """
  beside = tmp_path / "beside"
  beside.mkdir()
  (beside / "precious").write_text("untouched")
  inside = tmp_path / "inside"
  inside.mkdir()
  monkeypatch.chdir(inside)
  if _CLEAR.exists():
    _CLEAR.write_text("5")  # Forgets the peak so far.
  began, memory = time.monotonic(), _peak()
  yield inside
  assert time.monotonic() - began < SECONDS
  assert _peak() - memory < MEGABYTES
  assert sorted(p.name for p in tmp_path.iterdir()) == ["beside", "inside"]
  assert [p.name for p in beside.iterdir()] == ["precious"]
  assert (beside / "precious").read_text() == "untouched"
  assert not list(tmp_path.rglob("canary*"))
