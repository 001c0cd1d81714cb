"""Huge pages for the memory of a program, where the system leaves it to programs.

A training step on a CPU writes hundreds of megabytes of temporary arrays. In pages
of 4 KB much of the time goes to looking up their addresses; glibc asks for huge ones
if told so before a program begins.
"""

import contextlib
import os
import pathlib
import sys

_MODES = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
_VARIABLE = "GLIBC_TUNABLES"
_SETTING = "glibc.malloc.hugetlb=1"


def restart_with() -> None:
  """Starts this program again, with huge pages; returns if there is no need.

  Only a program of `experiments` that Python was called with is started again,
  once, on a Linux that gives huge pages to who asks. Whoever has set
  the variable GLIBC_TUNABLES, to whatever value, has chosen.
  """
  if sys.platform != "linux" or _VARIABLE in os.environ:
    return
  spec = getattr(sys.modules["__main__"], "__spec__", None)
  if spec is None or spec.name.split(".")[0] != __package__:
    return
  try:
    # The one that holds is in brackets.
    asked = "[madvise]" in _MODES.read_text()
  except OSError:
    return
  if asked:
    environment = {**os.environ, _VARIABLE: _SETTING}
    sys.stdout.flush()
    arguments = [sys.executable, *sys.orig_argv[1:]]
    with contextlib.suppress(OSError):
      os.execve(sys.executable, arguments, environment)
