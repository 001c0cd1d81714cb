"""Settings of all tests: eight simulated CPU devices, fixtures made once.

Compiling takes most of the time, so it is done without the compiler's costly
passes; with them by `JAX_DISABLE_MOST_OPTIMIZATIONS=0 pytest`, as CI does too.

Large grids are sampled: of a test with many cases in `_GRIDS` a fifth or an eighth
is run by `pytest` (or what the test chooses), and the others by `pytest -m exhaustive`.
"""

import collections
import gc
import os
import pathlib
import tempfile

import pytest

from tests import compiling
from tests.data import prepared

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
_given = os.environ.get("XLA_FLAGS", "")
if "xla_force_host_platform_device_count" not in _given:
  os.environ["XLA_FLAGS"] = f"{_given} {compiling.xla_flags(8)}".strip()
os.environ.setdefault(
  "JAX_COMPILATION_CACHE_DIR",
  os.path.join(tempfile.gettempdir(), "contrastive_jax_test_cache"),
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

# Tracing makes very many objects, few of them in cycles: looking for these as often
# as usual takes a sixteenth of the time.
gc.set_threshold(100_000, 20, 100)

# Here each case compiles a program of its own.
_GRIDS = (
  "losses",
  "models",
  "ops",
  "recipes",
  "training/objectives",
  "faults/test_numbers.py",
  "faults/test_flags.py",
)
_LARGE, _VERY_LARGE = 8, 30
# Files that start programs and runs: begun last, one would keep one worker busy
# while the others have nothing left.
_LONG_FILES = (
  "test_processes.py",
  "test_programs.py",
  "test_signals.py",
  "test_concurrency.py",
  "test_runner.py",
  "test_task_runs.py",
  "test_frozen.py",
  "test_extend.py",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
  items.sort(key=lambda item: item.path.name not in _LONG_FILES)
  tests = pathlib.Path(__file__).parent
  cases = collections.defaultdict(list)
  for item in items:
    if any(item.path.is_relative_to(tests / room) for room in _GRIDS):
      cases[item.nodeid.partition("[")[0]].append(item)
  for grid in cases.values():
    chosen = any(item.get_closest_marker("exhaustive") for item in grid)
    share = 5 if len(grid) < _VERY_LARGE else 8
    for number, item in enumerate(grid if len(grid) >= _LARGE else ()):
      # Diagonally, or an argument of three values would always have the same.
      if not chosen and number % share != number // share % share:
        item.add_marker(pytest.mark.exhaustive)


@pytest.fixture(scope="module", autouse=True)
def drop_programs():
  """A worker's programs of all modules would be gigabytes."""
  import jax  # After its settings above.

  yield
  jax.clear_caches()


@pytest.fixture
def all_passes():
  """Compiles as a program does, where bounds are as tight as its rounding."""
  import jax

  before = os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] != "0"
  jax.clear_caches()
  jax.config.update("jax_disable_most_optimizations", False)
  yield
  jax.config.update("jax_disable_most_optimizations", before)
  jax.clear_caches()


@pytest.fixture(scope="session")
def emoji_dir(tmp_path_factory):
  """The prepared emoji data, shared by all workers: only to be read."""
  root = tmp_path_factory.getbasetemp()
  if "PYTEST_XDIST_WORKER" in os.environ:
    root = root.parent  # A worker's folder is in that of the run.
  prepared.prepare(root / "emoji")
  return root / "emoji"
