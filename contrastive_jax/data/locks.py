"""A lock on a file that the system takes back when its process ends.

On a network file system that may take until the host is back, or a lease is over.
"""

import contextlib
import datetime
import errno
import fcntl
import os
import pathlib
import platform
from collections.abc import Iterator

# Of file systems that have no locks: there it is left to the user.
UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


class LockedError(Exception):
  """Another process holds the lock; the message says which, and since when."""


@contextlib.contextmanager
def held(path: pathlib.Path) -> Iterator[bool]:
  """Holds the lock of a file, which is made; the file stays.

  Args:
    path: the file, in a folder that exists.

  Yields:
    False if the file system has no locks: nothing is held.

  Raises:
    LockedError: if another process has it.
    OSError: if the file cannot be made.
  """
  with open(path, "a+", encoding="utf-8") as file:
    locked = True
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      file.seek(0)
      raise LockedError(file.read(500).strip() or "another process") from error
    except OSError as error:
      if error.errno not in UNSUPPORTED:
        raise
      locked = False
    now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    file.truncate(0)
    file.write(f"process {os.getpid()} on {platform.node()} since {now}\n")
    file.flush()
    yield locked
