"""Tests of contrastive_jax.programs.arenas."""

import subprocess
import sys

import pytest

# Threads that keep memory of their own: each would get an arena.
PROGRAM = """
import sys, threading
from contrastive_jax.programs import arenas
print(arenas.use_two() if sys.argv[1] == "two" else None)
barrier = threading.Barrier(9)
def keep():
  kept = [bytearray(1000) for _ in range(1000)]
  barrier.wait(); barrier.wait()
threads = [threading.Thread(target=keep) for _ in range(8)]
for thread in threads: thread.start()
barrier.wait()
import ctypes, os
libc = ctypes.CDLL(None)
read, write = os.pipe()
os.dup2(write, 2)
libc.malloc_stats()
print(os.read(read, 100000).decode().count("Arena "))
barrier.wait()
"""


def run(mode, **environment):
  done = subprocess.run(
    [sys.executable, "-c", PROGRAM, mode],
    env={"PATH": "", **environment},
    capture_output=True,
    text=True,
    check=True,
  )
  limited, count = done.stdout.split()
  return limited, int(count)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone has arenas")
def test_threads_share_two_arenas():
  assert run("none")[1] > 2
  assert run("two") == ("True", 2)
  # Somebody who has chosen keeps the choice.
  assert run("two", MALLOC_ARENA_MAX="4") == ("False", 4)
  tunables = "glibc.malloc.arena_max=3"
  assert run("two", GLIBC_TUNABLES=tunables) == ("False", 3)
