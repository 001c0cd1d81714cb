"""Peak memory that functions of the evaluation add, one after the other.

python -m tests.evaluation.peak_memory NAME...

prints a JSON object, name -> bytes by which the process has grown at most since
before the first one. Needs Linux.
"""

import json
import pathlib
import re
import subprocess
import sys

import numpy as np

from contrastive_jax import evaluation

ROOT = pathlib.Path(__file__).parents[2]
ROWS = 16_000  # The float32 matrix of their similarities takes 1 GB.
_STATUS = pathlib.Path("/proc/self/status")


def make_calls():
  """Name -> a call on a large case; "matrix" forms what no other may form."""
  x, y = np.random.default_rng(0).normal(size=(2, ROWS, 8)).astype(np.float32)
  ids = np.arange(ROWS)
  return {
    "retrieval": lambda: evaluation.retrieval_metrics(x, y, ids, ids),
    "relevance": lambda: evaluation.retrieval_metrics(
      x, y, relevance=list(ids[:, None])
    ),
    "top_k": lambda: evaluation.top_k(x, y, 5),
    "uniformity": lambda: evaluation.uniformity(x),
    "histogram": lambda: evaluation.similarity_histogram(x, y, ids, ids),
    "matrix": lambda: x @ y.T,
  }


def high_water():
  """Largest resident size so far, in bytes; None where it is not told.

  Not `getrusage`: its mark is handed down to child processes.
  """
  if not _STATUS.exists():
    return None
  found = re.search(r"VmHWM:\s*(\d+) kB", _STATUS.read_text())
  return int(found[1]) * 1024 if found else None


def measure(*names):
  """Output of this program, run in another process."""
  command = [sys.executable, "-m", "tests.evaluation.peak_memory", *names]
  done = subprocess.run(
    command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
  )
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout)


if __name__ == "__main__":
  calls = make_calls()
  before, grown = high_water(), {}
  for name in sys.argv[1:]:
    calls[name]()
    grown[name] = high_water() - before
  print(json.dumps(grown))
