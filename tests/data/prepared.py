"""The emoji data as a user's first call leaves them, made once for all tests."""

import fcntl
import os
import pathlib
import subprocess
import sys

# Prepares in a fresh process without TensorFlow, even where it is installed,
# and counts connections.
_PREPARE = """
import importlib.machinery, socket, sys

find_spec = importlib.machinery.PathFinder.find_spec

def hide(name, path=None, target=None):
  return None if name == "tensorflow" else find_spec(name, path, target)

importlib.machinery.PathFinder.find_spec = hide
connections = []
connect = socket.socket.connect

def counting(self, address):
  connections.append(address)
  return connect(self, address)

socket.socket.connect = counting
from contrastive_jax.data.sets.choices import Request
from contrastive_jax.data.sets.emoji import Emoji
lines = []
Emoji(data_dir=sys.argv[1]).open(Request(report=lines.append))
assert "tensorflow" not in sys.modules
assert not connections, connections
print("reported", lines)
"""


def run_python(*args):
  """A process of its own, that finds the package as this one does."""
  root = pathlib.Path(__file__).parents[2]
  path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
  return subprocess.run(
    [sys.executable, *args],
    env={**os.environ, "PYTHONPATH": path},
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )


def prepare(path):
  """Prepares the data in `path`, unless another worker did, and checks it."""
  done_file = path.with_suffix(".done")
  with path.with_suffix(".lock").open("w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if done_file.exists():
      return
    path.mkdir()
    done = run_python("-c", _PREPARE, str(path))
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stdout + done.stderr
    said = f"reported ['Preparing the emoji data in {path}{os.sep}emoji-"
    assert said in done.stdout
    done_file.touch()
