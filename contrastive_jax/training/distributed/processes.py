"""Watches over the processes of a run: when one is gone, the others stop.

A process that waits for another one inside a collective waits for ever, or
until the runtime kills it without a word for the user. So each process keeps a
small file fresh in the workdir, which all share, and watches the next one's.
"""

import contextlib
import os
import pathlib
import platform
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator

import jax

from contrastive_jax.training.config import errors

# Exit code of a process that stops before the run is finished: the same command
# resumes it (EX_TEMPFAIL).
EXIT_CODE = 75
# Files by which a process stops the others, and their exit codes then: 1 after
# an error, which a restart would meet again.
_STOPPED, _FAILED = "stopped", "failed"
_CODES = {_STOPPED: EXIT_CODE, _FAILED: 1}
_FOLDER = "processes"
# Some of the runtime's errors come as `ValueError`, with the name of a status.
_STATUS = re.compile(
  "(ABORTED|CANCELLED|DEADLINE_EXCEEDED|INTERNAL|UNAVAILABLE|UNKNOWN): "
)


def clear(workdir: pathlib.Path) -> None:
  """Removes what an earlier start left; process 0, before the others look."""
  shutil.rmtree(workdir / _FOLDER, ignore_errors=True)
  (workdir / _FOLDER).mkdir()


@contextlib.contextmanager
def watch(workdir: pathlib.Path, *, dead_after: float) -> Iterator[None]:
  """Stops this process when another of the run is gone.

  While the context is open, a process that has not answered for `dead_after`
  seconds, or has left by an exception, makes all others print which one it
  was and exit, with `EXIT_CODE` if it was silent or was told to stop, with 1 if it
  was an error. An error of the runtime, or that has one for its cause, is held
  back for twice as long: it is how a collective says that another process is
  gone. With one process it does nothing.

  The runtime aborts all processes (SIGABRT) as soon as process 0, which
  coordinates them, has ended. So process 0 leaves last, after the others have
  printed their sentence. If process 0 is killed, they end in the runtime's words.

  Args:
    workdir: the run's; `clear`ed by process 0 before.
    dead_after: seconds without an answer.

  Yields:
    Nothing.
  """
  if jax.process_count() == 1:
    yield
    return
  folder = workdir / _FOLDER
  index = jax.process_index()
  watcher = Watcher(
    folder, index, jax.process_count(), dead_after=dead_after, leave=_leave
  )
  watcher.start()
  try:
    yield
  except errors.Stopped:
    watcher.finish()  # After the same step as all the others.
    raise
  except BaseException as error:
    if _is_of_runtime(error):
      watcher.join(2.0 * dead_after)
    watcher.give_up(
      f"{type(error).__name__}: {error}", failed=isinstance(error, Exception)
    )
    # At its exit the runtime waits for the others, which may be gone. They leave
    # within six of their looks, 1.2 * dead_after.
    timer = threading.Timer(1.5 * dead_after, os._exit, (1,))
    timer.daemon = True
    timer.start()
    raise
  else:
    watcher.finish()


class Watcher:
  """One process's part of the watch: a thread that beats and looks.

  Attributes:
    interval: seconds between two looks.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    index: int,
    count: int,
    *,
    dead_after: float,
    leave: Callable[[str, int], None],
  ):
    """Knows its neighbour: process `index` watches `index + 1`, in a ring.

    Args:
      folder: shared by all processes.
      index: this process.
      count: processes.
      dead_after: seconds without an answer.
      leave: called once, in the thread, with a sentence and an exit code.
    """
    self._folder = folder
    self._index = index
    self._next = (index + 1) % count
    self._count = count
    self._dead_after = dead_after
    self._leave = leave
    self.interval = min(2.0, dead_after / 5.0)
    self._beats = 0
    self._over = threading.Event()
    self._thread = threading.Thread(target=self._run, daemon=True)

  def start(self) -> None:
    """Begins to beat and to look."""
    self._thread.start()

  def join(self, seconds: float) -> None:
    """Waits for news of another process, which do not return."""
    self._thread.join(seconds)

  def finish(self) -> None:
    """Says that this process is done; nobody need miss it."""
    self._end()
    self._write(str(self._index), "done")

  def give_up(self, reason: str, *, failed: bool = True) -> None:
    """Says that this process leaves, by an error or not, and why."""
    self._end()
    line = (reason.splitlines() or [""])[0]
    self._tell(
      f"{self._name(self._index)} stopped ({line})",
      _FAILED if failed else _STOPPED,
    )

  def _end(self) -> None:
    self._over.set()
    self._thread.join()

  def _run(self) -> None:
    # Its own looks are counted, not seconds: a machine that slept, and all
    # processes with it, must not wake up to an alarm.
    unchanged, seen = 0, ""
    limit = round(self._dead_after / self.interval)
    while not self._over.wait(self.interval):
      self._beat()
      told = self._told()
      if told:
        self._stop(*told)
        return
      answer = self._read(str(self._next))
      unchanged = 0 if answer != seen else unchanged + 1
      seen = answer
      if unchanged >= limit and seen != "done":
        self._miss(seen)
        return

  def _beat(self) -> None:
    self._beats += 1
    self._write(str(self._index), f"{platform.node()} {self._beats}")

  def _told(self) -> tuple[str, int] | None:
    for name, code in _CODES.items():
      said = self._read(name)
      if said:
        return said, code
    return None

  def _miss(self, answer: str) -> None:
    name = self._name(self._next, answer)
    said = f"{name} has not answered for {self._dead_after:g} s"
    self._tell(said, _STOPPED)
    self._stop(said, EXIT_CODE)

  def _stop(self, said: str, code: int) -> None:
    # This process may be about to raise the same error. Process 0 leaves after the
    # others, which look once in an interval.
    looks = (0 if code == EXIT_CODE else 5) + (0 if self._index else 2)
    if not self._over.wait(looks * self.interval):
      self._leave(said, code)

  def _name(self, index: int, answer: str = "") -> str:
    host = answer.rpartition(" ")[0] or (
      platform.node() if index == self._index else ""
    )
    place = f" on {host}" if host else ""
    return f"Process {index} of {self._count}{place}"

  def _tell(self, sentence: str, name: str) -> None:
    if not self._told():
      self._write(name, sentence)

  def _read(self, name: str) -> str:
    try:
      return (self._folder / name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
      return ""

  def _write(self, name: str, text: str) -> None:
    # Moved into place: nobody reads half of it.
    temporary = self._folder / f".{name}-{self._index}"
    with contextlib.suppress(OSError):
      temporary.write_text(text, encoding="utf-8")
      temporary.replace(self._folder / name)


def _is_of_runtime(error: BaseException | None) -> bool:
  """Whether it is the runtime's, or was raised because of one."""
  if not isinstance(error, Exception):  # Ctrl-C is for now.
    return False
  return (
    isinstance(error, jax.errors.JaxRuntimeError)
    or bool(_STATUS.match(str(error)))
    or _is_of_runtime(error.__cause__ or error.__context__)
  )


def _leave(sentence: str, code: int) -> None:
  advice = "the same command resumes at the last checkpoint"
  if code != EXIT_CODE:
    advice = "that one says what to do"
  print(
    f"{sentence}, so this process stops too; {advice}.",
    file=sys.stderr,
    flush=True,
  )
  # The main thread is inside a collective that will never return.
  os._exit(code)
