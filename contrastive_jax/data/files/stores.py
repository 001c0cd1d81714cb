"""Object stores (`gs://`, `s3://`, ...), of which this host keeps a copy.

Everything else reads and writes files. What lies in a store is copied into the user's
cache before it is read, as far as it has changed; what a program writes is copied back
when the program says so, and at its end. fsspec speaks to the stores; the extra `stores`
installs what it needs for Google's and Amazon's.
"""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import re
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

from contrastive_jax.data.files import locks, prepare

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_REPORT_EVERY = 5.0  # Seconds.
# These files belong to a process at work alone.
_PASSED_OVER = re.compile(r"run\.lock|.*\.tmp|.*\.partial")
_HINT = (
  'install the extra stores, pip install "contrastive_jax[stores]", or mount it'
  " (gcsfuse, mount-s3) and name the folder"
)
Report = Callable[[str], None]


class StoreError(OSError):
  """A store cannot be reached, or does not hold what is asked for."""


@dataclasses.dataclass(frozen=True)
class Place:
  """A folder or file of this host that stands for one elsewhere.

  Attributes:
    local: where it is here.
    push: copies what has changed here to where it belongs.
  """

  local: pathlib.Path
  push: Callable[[], None]


def is_address(text: Any) -> bool:
  """Whether a text names something in a store."""
  return isinstance(text, str) and bool(_ADDRESS.match(text))


def check(address: str) -> None:
  """Raises StoreError if no library here speaks to a store, which is not asked."""
  _filesystem(address)


def local(text: str, report: Report = print) -> str:
  """A path of this host: `text` itself, or of the copy of what it addresses.

  Args:
    text: a path or an address.
    report: receives lines while much is copied.

  Raises:
    StoreError: if the store does not hold it, or cannot be reached.
  """
  if not is_address(text):
    return text
  copy = _Copy(text, "read")

  def wait(who: str) -> None:
    report(f"Waiting for {text}, which is copied by {who}.")

  with locks.held(copy.lock, wait=wait):
    copy.pull(report)
  return str(copy.local)


@contextlib.contextmanager
def writable(
  text: str, report: Report = print, *, must_exist: bool = False
) -> Iterator[Place]:
  """A place to write to: `text` itself, or a copy that goes back into a store.

  The store's files are copied here first, and the written ones go back at the end,
  whatever ends it.

  Args:
    text: a path or an address.
    report: receives lines while much is copied.
    must_exist: whether it is an error that the store has nothing there.

  Raises:
    StoreError: if the store cannot be reached, or another process of this host writes
      there.
  """
  if not is_address(text):
    yield Place(pathlib.Path(text).expanduser(), lambda: None)
    return
  copy = _Copy(text, "written")
  with contextlib.ExitStack() as stack:
    try:
      stack.enter_context(locks.held(copy.lock))
    except locks.LockedError as error:
      raise StoreError(f"{text} is being written by {error}.") from error
    copy.pull(report, must_exist=must_exist)
    stack.callback(copy.push)
    yield Place(copy.local, copy.push)


class _Copy:
  """A tree of a store, or one file, and its copy on this host.

  The copy's `manifest.json`, which lies beside it, tells of each file what the store
  and this host said of it when they were equal.
  """

  def __init__(self, address: str, purpose: str):
    self._address = address.rstrip("/")
    self._fs, self._root = _filesystem(self._address)
    name = hashlib.sha256(self._address.encode()).hexdigest()[:16]
    base = self._root.rstrip("/").rsplit("/", 1)[-1] or "root"
    # A copy that is written would change under the hands of one who only reads.
    self._folder = prepare.data_dir() / "stores" / purpose / name
    self._folder.mkdir(parents=True, exist_ok=True)
    self.local = self._folder / base
    self._known: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
      self._known = json.loads(self._manifest.read_text(encoding="utf-8"))

  @property
  def lock(self) -> pathlib.Path:
    """The file that who works on the copy holds."""
    return self._folder / "lock"

  @property
  def _manifest(self) -> pathlib.Path:
    return self._folder / "manifest.json"

  def pull(self, report: Report, *, must_exist: bool = True) -> None:
    """Makes the copy equal to what the store has."""
    with _told(self._address, "read"):
      there = self._listed()
    if not there and must_exist:
      raise StoreError(
        f"{self._address} holds nothing: name a file or a folder."
      )
    wanted = {
      name: info
      for name, info in there.items()
      if not self._is_current(name, info)
    }
    size = sum(info["size"] or 0 for info in wanted.values())
    if size > shutil.disk_usage(self._folder).free:
      raise StoreError(
        f"{self._address} has {size / 1e9:.1f} GB, more than is free for the copy in"
        f" {self._folder}; XDG_CACHE_HOME chooses another place."
      )
    if list(there) != [""] and not self.local.is_file():
      self.local.mkdir(exist_ok=True)
    last, done = time.monotonic(), 0
    for number, (name, info) in enumerate(wanted.items()):
      path = self._here(name)
      path.parent.mkdir(parents=True, exist_ok=True)
      partial = path.with_name(path.name + ".partial")
      with _told(self._address, "read"):
        self._fs.get_file(self._there(name), str(partial))
      partial.replace(path)
      self._known[name] = [_token(info), *_state(path)]
      done += info["size"] or 0
      if time.monotonic() - last > _REPORT_EVERY:
        last = time.monotonic()
        report(
          f"Copying {self._address}: {number + 1:,} of {len(wanted):,} files,"
          f" {done / 1e6:,.0f} of {size / 1e6:,.0f} MB."
        )
    # Another run may have left files in the copy that the store does not have.
    for name, path in self._files().items():
      if name not in there:
        path.unlink()
        self._known.pop(name, None)
    self._write_manifest()

  def push(self) -> None:
    """Copies what is new or has changed here into the store, and removes the rest."""
    if not self.local.exists():
      # Not even an empty folder: its absence is no wish to empty the store.
      raise StoreError(
        f"{self.local}, the copy of {self._address}, is gone: what was written since"
        " the last checkpoint is lost. The same command goes on from there."
      )
    files = self._files()
    # Checkpoints before what marks them as whole.
    for name, path in sorted(files.items(), key=lambda f: f[1].stat().st_mtime):
      state = _state(path)
      if (
        _PASSED_OVER.fullmatch(path.name)
        or self._known.get(name, [0])[1:] == state
      ):
        continue
      with _told(self._address, "written"):
        there = self._there(name)
        self._fs.makedirs(there.rsplit("/", 1)[0], exist_ok=True)
        self._fs.put_file(str(path), there)
        self._known[name] = [_token(self._fs.info(there)), *state]
    for name in set(self._known) - set(files):
      with _told(self._address, "written"):
        if self._fs.exists(self._there(name)):
          self._fs.rm_file(self._there(name))
      del self._known[name]
    self._write_manifest()

  def _listed(self) -> dict[str, Any]:
    """Facts on the files of the store, by name below the root; "" is the root itself."""
    self._fs.invalidate_cache()
    if self._fs.isfile(self._root):
      return {"": self._fs.info(self._root)}
    if not self._fs.exists(self._root):
      return {}
    found = self._fs.find(self._root, detail=True)
    root = self._root.rstrip("/") + "/"
    out = {}
    for path, info in found.items():
      name = path.removeprefix(root)
      if not name or name.endswith("/"):
        continue  # A mark that there is a folder.
      if not path.startswith(root) or {"", ".", ".."} & {*name.split("/")}:
        raise StoreError(
          f"{self._address} holds {path!r}, which lies elsewhere."
        )
      out[name] = info
    return out

  def _files(self) -> dict[str, pathlib.Path]:
    """The files of the copy, by name."""
    if self.local.is_file():
      return {"": self.local}
    return {
      path.relative_to(self.local).as_posix(): path
      for path in self.local.rglob("*")
      if path.is_file() and not path.is_symlink()
    }

  def _is_current(self, name: str, info: Any) -> bool:
    known, path = self._known.get(name), self._here(name)
    return path.is_file() and known == [_token(info), *_state(path)]

  def _here(self, name: str) -> pathlib.Path:
    return self.local / name if name else self.local

  def _there(self, name: str) -> str:
    return f"{self._root.rstrip('/')}/{name}" if name else self._root

  def _write_manifest(self) -> None:
    partial = self._manifest.with_suffix(".tmp")
    partial.write_text(json.dumps(self._known), encoding="utf-8")
    partial.replace(self._manifest)


def _filesystem(address: str) -> tuple[Any, str]:
  """Fsspec's file system of an address, and the path in it."""
  protocol = address.split("://")[0].lower()
  try:
    import fsspec
  except ImportError as error:
    raise StoreError(f"{address} needs the package fsspec: {_HINT}.") from error
  if re.search(r"[*?\[]", address):
    raise StoreError(
      f"{address} is a pattern, which is not looked for in a store: name the folder."
    )
  try:
    return fsspec.core.url_to_fs(address)
  except (ImportError, ValueError) as error:
    raise StoreError(
      f"{address} is in a store of the kind {protocol!r}, and nothing that is"
      f" installed reads it ({error}): {_HINT}."
    ) from error


def _token(info: Any) -> str:
  """A text that changes when a file of a store does."""
  marks = [
    str(info[key])
    for key in ("ETag", "etag", "md5Hash", "generation", "mtime", "created")
    if info.get(key) is not None
  ]
  return " ".join([str(info.get("size")), *marks])


def _state(path: pathlib.Path) -> list[int]:
  """Numbers that change when a file of this host does."""
  found = path.stat()
  return [found.st_size, found.st_mtime_ns]


@contextlib.contextmanager
def _told(address: str, done: str) -> Iterator[None]:
  """Raises StoreError in the place of whatever a store's library raises."""
  try:
    yield
  except StoreError:
    raise
  except Exception as error:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    raise StoreError(f"{address} cannot be {done}: {reason}") from error
