"""Who converts into a folder: processes of the same inputs, and no others."""

import contextlib
import datetime
import fcntl
import hashlib
import json
import os
import pathlib
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

from contrastive_jax.data import folder, locks


@contextlib.contextmanager
def held(
  path: pathlib.Path,
  inputs: Sequence[str],
  files: Sequence[pathlib.Path],
  *,
  claim: Callable[[], None],
  report: Callable[[str], None],
) -> Iterator[None]:
  """Keeps processes that convert something else out of a folder.

  The first process says in `path` who it is and what it converts; others join it
  while one of them lives. The system takes back what a killed process held.

  Args:
    path: the file that is locked; it stays.
    inputs: as the user names them.
    files: what they are; they are told apart by names, sizes and times.
    claim: makes the folder ours or raises; of the first process before others may
      join it, of others after that.
    report: receives a line where files cannot be locked.

  Raises:
    DataError: if another process converts other files into the folder.
  """
  ours = _digest(files)
  with open(path, "a+", encoding="utf-8") as file:
    try:
      _join(file, path, inputs, ours, claim)
    except OSError as error:
      if error.errno not in locks.UNSUPPORTED:
        raise
      report(
        f"Note: {path} cannot be locked ({error.strerror}); start no conversion of"
        " other inputs into its folder before this one has ended."
      )
      claim()
    yield


def _join(
  file: IO[str],
  path: pathlib.Path,
  inputs: Sequence[str],
  ours: str,
  claim: Callable[[], None],
) -> None:
  """Returns with the lock that processes of the same inputs share."""
  while True:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      pass
    else:
      claim()
      _write(file, inputs, ours)
    # From the other lock to this one the system goes by way of none: whoever came
    # between has left its name.
    fcntl.flock(file, fcntl.LOCK_SH)
    known = _read(file)
    if known is None:  # Its writer was killed.
      fcntl.flock(file, fcntl.LOCK_UN)
      continue
    if known["files"] != ours:
      raise folder.DataError(
        f"{path.parent} is being written by a conversion of {known['inputs']}"
        f" (process {known['process']} on {known['host']}, since"
        f" {known['started']}): wait for its end, or choose another --out."
      )
    claim()
    return


def _write(file: IO[str], inputs: Sequence[str], ours: str) -> None:
  file.seek(0)
  file.truncate()
  now = datetime.datetime.now(datetime.UTC)
  known = {
    "process": os.getpid(),
    "host": socket.gethostname(),
    "started": now.isoformat(timespec="seconds"),
    "inputs": ",".join(inputs),
    "files": ours,
  }
  file.write(json.dumps(known) + "\n")
  file.flush()


def _read(file: IO[str]) -> dict[str, Any] | None:
  """What the process says that came first; None if it did not finish."""
  file.seek(0)
  try:
    known = json.loads(file.read())
  except ValueError:
    return None
  names = ("process", "host", "started", "inputs", "files")
  whole = isinstance(known, dict) and all(name in known for name in names)
  return known if whole else None


def _digest(files: Sequence[pathlib.Path]) -> str:
  """Of the files, wherever hosts have mounted them."""
  digest = hashlib.sha256()
  for path in files:
    status = path.stat()
    line = f"{path.name}\0{status.st_size}\0{status.st_mtime_ns}\n"
    digest.update(line.encode(errors="surrogateescape"))
  return digest.hexdigest()[:16]
