"""Locks on files that the system takes back when their process ends.

On a network file system that may take until the host is back, or a lease is over.
Who holds one is a line of JSON in its file.
"""

import contextlib
import datetime
import errno
import fcntl
import json
import os
import pathlib
import platform
from collections.abc import Callable, Iterator
from typing import IO, Any

# Errors of file systems without locks: there the user has to take care.
UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


class LockedError(Exception):
  """Another process holds the lock; the message says which, and since when."""


@contextlib.contextmanager
def held(
  path: pathlib.Path, *, wait: Callable[[str], None] | None = None
) -> Iterator[bool]:
  """Holds the lock of a file, which is made; the file stays.

  Args:
    path: the file, in a folder that exists.
    wait: receives who holds it, whose end is waited for; None raises.

  Yields:
    False if the file system has no locks: nothing is held.

  Raises:
    LockedError: if another process has it.
    OSError: if the file cannot be made.
  """
  with open(path, "a+", encoding="utf-8") as file:
    locked = True
    try:
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError as error:
        who = holder(read(file))
        if wait is None:
          raise LockedError(who) from error
        wait(who)
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
      if error.errno not in UNSUPPORTED:
        raise
      locked = False
    sign(file)
    yield locked


def sign(file: IO[str], **more: str) -> None:
  """Writes into a lock's file that this process has it.

  Args:
    file: opened for appending.
    **more: what others should know beside.
  """
  file.truncate(0)
  now = datetime.datetime.now().astimezone()
  known = {
    "process": os.getpid(),
    "host": platform.node(),
    "since": now.isoformat(" ", "seconds"),
  }
  file.write(json.dumps(known | more) + "\n")
  file.flush()


def read(file: IO[str]) -> dict[str, Any]:
  """Reads the fields that `sign` wrote; empty if its process did not finish."""
  file.seek(0)
  try:
    known = json.loads(file.read())
  except (ValueError, RecursionError):
    return {}
  names = ("process", "host", "since")
  whole = isinstance(known, dict) and all(name in known for name in names)
  return known if whole else {}


def holder(known: dict[str, Any]) -> str:
  """Such as "process 12 on node7 since 2026-01-01 10:00:00+00:00"."""
  if not known:
    return "another process"
  return f"process {known['process']} on {known['host']} since {known['since']}"
