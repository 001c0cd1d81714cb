"""A lock on a folder that dies with the process that holds it."""

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
def held(path: pathlib.Path) -> Iterator[None]:
  """Holds the lock of a file, which is made; the file stays.

  Args:
    path: the file, in a folder that exists.

  Yields:
    Nothing.

  Raises:
    LockedError: if another process has it.
    OSError: if the file cannot be made.
  """
  with open(path, "a+", encoding="utf-8") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      file.seek(0)
      raise LockedError(file.read(500).strip() or "another process") from error
    except OSError as error:
      if error.errno not in UNSUPPORTED:
        raise
    now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    file.truncate(0)
    file.write(f"process {os.getpid()} on {platform.node()} since {now}\n")
    file.flush()
    yield
