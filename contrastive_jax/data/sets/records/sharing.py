"""Lock of an output folder, which only processes of the same inputs share."""

import contextlib
import fcntl
import hashlib
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import IO

from contrastive_jax.data.files import locks
from contrastive_jax.data.sets.folder import reading


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
      locks.sign(file, inputs=",".join(inputs), files=ours)
    # From the other lock to this one the system goes by way of none: whoever came
    # between has left its name.
    fcntl.flock(file, fcntl.LOCK_SH)
    known = locks.read(file)
    if "files" not in known:  # Its writer was killed.
      fcntl.flock(file, fcntl.LOCK_UN)
      continue
    if known["files"] != ours:
      raise reading.DataError(
        f"{path.parent} is being written by a conversion of {known['inputs']}"
        f" ({locks.holder(known)}): wait for its end, or choose another --out."
      )
    claim()
    return


def _digest(files: Sequence[pathlib.Path]) -> str:
  """Digest of the files, the same wherever hosts have mounted them."""
  digest = hashlib.sha256()
  for path in files:
    status = path.stat()
    line = f"{path.name}\0{status.st_size}\0{status.st_mtime_ns}\n"
    digest.update(line.encode(errors="surrogateescape"))
  return digest.hexdigest()[:16]
