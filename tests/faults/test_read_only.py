"""Workdirs that cannot be written: one sentence, before anything is compiled."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import pytest

# To root no rights apply: all that follows the imports, which another user may be
# unable to read, is done by nobody.
_PROGRAM = """
import contextlib, io, json, os, sys
import jax
from contrastive_jax.programs import command_line, train
from contrastive_jax.training.distributed import start
from contrastive_jax.training.runs import runner

if os.geteuid() == 0:
  os.setgroups([])
  os.setgid(65534)
  os.setuid(65534)
compiled = []
jax.monitoring.register_event_duration_secs_listener(
  lambda event, seconds, **unused: compiled.append(event)
  if event == "/jax/core/compile/backend_compile_duration" else None
)
for workdir in sys.argv[1:]:
  argv = ["train", f"--workdir={workdir}"]
  command_line.app.run = (
    lambda checked, flags_parser: checked(flags_parser(argv))
  )
  said, code = io.StringIO(), None
  with contextlib.redirect_stderr(said):
    try:
      command_line.run(train.main, flag_values=train._FLAGS, usage="")
    except SystemExit as ended:
      code = ended.code
  print(json.dumps([code, len(compiled), said.getvalue()]))
"""


@pytest.fixture(name="place")
def fixture_place():
  """A folder that another user may reach, unlike those of pytest."""
  with tempfile.TemporaryDirectory() as name:
    place = pathlib.Path(name)
    place.chmod(0o755)
    yield place


def test_workdirs_that_are_read_only(place):
  for name in ("alone", "parent", "saved/checkpoints", "locked"):
    (place / name).mkdir(parents=True)
  (place / "locked" / "run.lock").touch()
  if os.geteuid() == 0:
    for path in (place, *place.rglob("*")):
      os.chown(path, 65534, 65534)
  closed = ("alone", "parent", "saved/checkpoints", "locked/run.lock")
  for name in closed:
    (place / name).chmod(0o444 if name.endswith(".lock") else 0o555)
  root = pathlib.Path(__file__).parents[2]
  done = subprocess.run(
    [
      *(sys.executable, "-c", _PROGRAM),
      *(str(place / w) for w in ("alone", "parent/new", "saved", "locked")),
    ],
    env={**os.environ, "PYTHONPATH": str(root), "HOME": str(place)},
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  said = [
    f"{place / name} cannot be written (Permission denied): make it writable, or"
    " choose another --workdir."
    for name in closed
  ]
  said[1] = (
    f"--workdir={place / 'parent/new'} cannot be made: Permission denied."
  )
  # Each begins with a line that says what it trains.
  assert [json.loads(line) for line in done.stdout.splitlines()[1::2]] == [
    [2, 0, f"Error: {sentence}\n"] for sentence in said
  ]
  # The lock that was there is the only file.
  files = [p for p in place.rglob("*") if p.is_file()]
  assert {p.name for p in files} == {"run.lock"}
