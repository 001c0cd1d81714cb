"""Holds an abort of this process back while it finds out why.

The runtime ends a process by `abort`, in words of its own, as soon as it has lost
process 0: before anybody could say which host that is. A handler in Python would
need the interpreter's lock, and a thread that aborts may come with any lock in its
hands. So the handler is the C library's `sleep` itself: it is given the number of
the signal, 6, and takes it for seconds. The other threads go on meanwhile. If none
of them ends the process, `abort` does after that, as it would have without.
"""

import contextlib
import ctypes
import faulthandler
import os
import pathlib
import signal
import sys
from collections.abc import Callable, Iterator
from typing import TextIO

# How long an abort is held back: the number that `sleep` is given.
SECONDS = int(signal.SIGABRT)


class Hold:
  """What the threads of a process know of its abort, and do about it."""

  def __init__(self, dump: TextIO, default: Callable[[], object]):
    """Knows of an abort by the dump of all threads, which comes first."""
    self._dump = dump
    self._default = default

  def aborting(self) -> bool:
    """Whether this process is about to end."""
    return os.fstat(self._dump.fileno()).st_size > 0

  def release(self) -> None:
    """Ends this process as if nothing had held it back.

    A signal that was sent from outside (`kill -ABRT`) is over once it is
    handled: there is no `abort` that would go on.
    """
    self._default()
    os.abort()


@contextlib.contextmanager
def held(path: pathlib.Path) -> Iterator[Hold]:
  """Holds an abort back for `SECONDS` while the context is open.

  Where the C library has no `sleep` to be found (Windows) nothing is held back,
  and `abort` ends the process as ever.

  Args:
    path: receives a dump of all threads, not the lines that people read.

  Yields:
    The hold.
  """
  set_handler, sleep = _c_library()
  with open(path, "w", encoding="utf-8") as dump:
    # It keeps the handler that it finds, and calls it after its dump.
    faulthandler.disable()
    before = set_handler(sleep)
    faulthandler.enable(dump)
    try:
      yield Hold(dump, lambda: set_handler(None))
    finally:
      faulthandler.disable()
      set_handler(before)
      faulthandler.enable(sys.__stderr__ or 2)


def _c_library() -> tuple[Callable[[int | None], int | None], int | None]:
  """Sets SIGABRT's handler in C, returning the last (None: default); `sleep`."""
  try:
    library = ctypes.CDLL(None)
    library.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
    library.signal.restype = ctypes.c_void_p
    sleep = ctypes.cast(library.sleep, ctypes.c_void_p).value
  except (AttributeError, OSError, TypeError):
    return lambda handler: handler, None
  return lambda handler: library.signal(signal.SIGABRT, handler), sleep
