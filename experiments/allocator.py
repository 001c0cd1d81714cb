"""How glibc gives a program its memory, which it must be told before it begins.

A training step on a CPU writes hundreds of megabytes of temporary arrays. In pages
of 4 KB much of the time goes to looking up their addresses: where the system leaves
it to programs, huge pages are asked for. And every thread may get an arena of its own,
each of which keeps what it once had: the memory of a long run grows while what is in
use does not. Two arenas keep it level.
"""

import contextlib
import os
import pathlib
import sys

_MODES = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
_VARIABLE = "GLIBC_TUNABLES"
_ARENAS = "glibc.malloc.arena_max=2"
_HUGE_PAGES = "glibc.malloc.hugetlb=1"


def restart_with() -> None:
  """Starts this program again, with its allocator told; returns if there is no need.

  Only a program of `experiments` that Python was called with is started again,
  once, on Linux. Whoever has set one of the variables GLIBC_TUNABLES and
  MALLOC_ARENA_MAX, to whatever value, has chosen.
  """
  if sys.platform != "linux":
    return
  if _VARIABLE in os.environ or "MALLOC_ARENA_MAX" in os.environ:
    return
  spec = getattr(sys.modules["__main__"], "__spec__", None)
  if spec is None or spec.name.split(".")[0] != __package__:
    return
  environment = {**os.environ, _VARIABLE: settings()}
  sys.stdout.flush()
  arguments = [sys.executable, *sys.orig_argv[1:]]
  with contextlib.suppress(OSError):
    os.execve(sys.executable, arguments, environment)


def settings() -> str:
  """What GLIBC_TUNABLES should be on this system."""
  try:
    # The one that holds is in brackets.
    asked = "[madvise]" in _MODES.read_text()
  except OSError:
    asked = False
  return ":".join([_ARENAS, *[_HUGE_PAGES] * asked])
