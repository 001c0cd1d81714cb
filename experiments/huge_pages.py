"""Huge pages for the memory of a program, where the system leaves it to programs.

A training step on a CPU writes hundreds of megabytes of temporary arrays. In pages
of 4 KB the look-up of their addresses takes a quarter of the time of a small
transformer's step; glibc asks for huge ones if told so before a program begins.
"""

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
  GLIBC_TUNABLES, to whatever value, has chosen.
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
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
