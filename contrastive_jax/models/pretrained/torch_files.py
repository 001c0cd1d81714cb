"""State dicts from files of `torch.save`, read without torch and without running them.

Such a file is a pickle, which may call anything when it is read. A file of weights must
never execute code, and `torch.load` alone would need the whole of torch, so the reader
is here. A pickle may make tensors, containers and, of TorchScript, objects that can do
nothing; a file that wants anything else is refused. Python's own unpickler reads it with
a list of operations, because the compiled one sets attributes of whatever it is given.
"""

import dataclasses
import io
import math
import os
import pathlib
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, BinaryIO, ClassVar

import ml_dtypes
import numpy as np

_DTYPES: dict[str, Any] = {
  "DoubleStorage": np.float64,
  "FloatStorage": np.float32,
  "HalfStorage": np.float16,
  "BFloat16Storage": ml_dtypes.bfloat16,
  "LongStorage": np.int64,
  "IntStorage": np.int32,
  "ShortStorage": np.int16,
  "CharStorage": np.int8,
  "ByteStorage": np.uint8,
  "BoolStorage": np.bool_,
}
# First and second pickle of a file from before torch 1.6.
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
# Where checkpoints keep the weights beside an optimizer's state and the like.
_NESTED = ("state_dict", "model", "model_state_dict", "module")
# No model has as many tensors, nor as many copies of its values.
_MOST_NAMES, _MOST_COPIES = 100_000, 4
# Entries that are looked at for tensors: containers may hold each other.
_MOST_ENTRIES = 1_000_000
# Axes that NumPy knows.
_MOST_AXES = 64


class WeightFileError(ValueError):
  """A weight file cannot be read, or is refused."""


@dataclasses.dataclass(frozen=True)
class _StorageType:
  """Stands for a class of storages in a pickle."""

  name: str


@dataclasses.dataclass(frozen=True)
class _Function:
  """Stands for a function that a pickle may call."""

  call: Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class _Class:
  """Stands for a class of TorchScript."""


@dataclasses.dataclass
class _Inert:
  """Stands for an object of TorchScript: its attributes."""

  attributes: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class _Storage:
  """Values that tensors are views of, before they are read."""

  key: str
  kind: str
  size: int

  @property
  def dtype(self) -> np.dtype:
    return np.dtype(_DTYPES[self.kind])

  @property
  def num_bytes(self) -> int:
    return self.size * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class _View:
  """A tensor, before its storage is read."""

  storage: _Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


def read_state_dict(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Reads the tensors of a state dict, or of a checkpoint that has one.

  Args:
    path: of `torch.save` in either of its formats, or of `torch.jit.save`.

  Returns:
    Arrays by dotted name.

  Raises:
    WeightFileError: if the file cannot be read, is broken, or wants an object other
      than tensors and containers.
  """
  try:
    if zipfile.is_zipfile(path):
      with zipfile.ZipFile(path) as archive:
        return _read_archive(archive)
    with open(path, "rb") as file:
      return _read_legacy(file)
  except WeightFileError as error:
    raise WeightFileError(f"{path}: {error}") from error
  # A broken pickle raises whatever its operations raise.
  except Exception as error:
    raise WeightFileError(
      f"{path} is not a whole file of torch.save:"
      f" {str(error).rstrip('.') or type(error).__name__}."
    ) from error


def _read_archive(archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
  members = {info.filename: info for info in archive.infolist()}
  # Parts may share their bytes, and be more in memory than the file is.
  stored = sum(
    info.file_size
    for info in members.values()
    if info.compress_type == zipfile.ZIP_STORED
  )
  size = os.fstat(archive.fp.fileno()).st_size  # pyrefly: ignore
  if stored > size:
    raise WeightFileError(
      f"its parts have {stored:,} bytes, more than the file's {size:,}."
    )
  names = [name for name in members if name.endswith("data.pkl")]
  if len(names) != 1:
    raise WeightFileError("it holds no data.pkl, as files of torch.save do.")
  folder = names[0].removesuffix("data.pkl")

  def content(name: str, size: int | None = None) -> bytes:
    info = members[name]
    # Torch compresses nothing; what is compressed may unfold to any size.
    if info.compress_type != zipfile.ZIP_STORED:
      raise WeightFileError(f"its part {name} must not be compressed.")
    if size is not None and info.file_size != size:
      raise WeightFileError(
        f"its part {name} must have {size} bytes; got {info.file_size}."
      )
    return archive.read(name)

  if f"{folder}byteorder" in members:
    order = content(f"{folder}byteorder").decode()
    if order != "little":
      raise WeightFileError(f"its byte order must be little; got {order!r}.")
  found = _Unpickler(io.BytesIO(content(names[0]))).load()
  return _arrays(
    _state(found),
    lambda storage: content(f"{folder}data/{storage.key}", storage.num_bytes),
  )


def _read_legacy(file: BinaryIO) -> dict[str, np.ndarray]:
  for expected in (_MAGIC, _PROTOCOL):
    if _Unpickler(file).load() != expected:
      raise WeightFileError("it does not begin as files of torch.save do.")
  system = _Unpickler(file).load()
  if not system.get("little_endian", True):
    raise WeightFileError("its byte order must be little; got big.")
  unpickler = _Unpickler(file)
  state = _state(unpickler.load())
  keys = _Unpickler(file).load()
  needed = {view.storage.key for view in state.values()}
  raw: dict[str, bytes] = {}
  for key in keys:
    storage = unpickler.storages.get(_plain(key))
    if storage is None:
      raise WeightFileError(f"it holds a storage {key!r} that nothing uses.")
    (size,) = struct.unpack("<q", file.read(8))
    if size != storage.size:
      raise WeightFileError(
        f"storage {key!r} must have {storage.size} values; got {size}."
      )
    if key in needed:
      raw[key] = file.read(storage.num_bytes)
    else:
      file.seek(storage.num_bytes, io.SEEK_CUR)
  return _arrays(state, lambda storage: raw[storage.key])


class _Unpickler(pickle._Unpickler):  # pyrefly: ignore[missing-attribute]
  """Makes tensors, containers, and nothing else, by the operations listed here."""

  # Members of the base class, which has no published types.
  stack: list[Any]
  append: Callable[[Any], None]
  pop_mark: Callable[[], list[Any]]

  def __init__(self, file: BinaryIO):
    """Reads from a file's present position."""
    # Files that Python 2 wrote have names as bytes.
    super().__init__(file, encoding="utf-8")
    self.storages: dict[str, _Storage] = {}

  def find_class(self, module: str, name: str) -> Any:
    """Returns the object for a global name; refuses anything unknown."""
    whole = f"{module}.{name}"
    if whole in _ALLOWED:
      return _ALLOWED[whole]
    if module in ("torch", "torch.cuda") and name in _DTYPES:
      return _StorageType(name)
    if module.startswith("__torch__"):
      return _Class()
    raise WeightFileError(
      f"it wants the object {whole}, which is refused: weight files may hold"
      " tensors in containers and nothing else. Save the state dict alone."
    )

  def persistent_load(self, pid: Any) -> _Storage:
    """A reference to a storage."""
    # References of old files have a sixth part, a view's, None in all but the
    # oldest.
    kind, storage_type, key, _, size = pid[:5]
    if (
      kind != "storage"
      or not isinstance(storage_type, _StorageType)
      or not isinstance(size, int)
      or size < 0
      or any(pid[5:])
    ):
      raise WeightFileError("it holds a reference of unknown form.")
    storage = _Storage(str(_plain(key)), storage_type.name, size)
    if self.storages.setdefault(storage.key, storage) != storage:
      raise WeightFileError(f"it holds two storages {storage.key!r}.")
    return storage

  def load_reduce(self) -> None:
    """Calls a function of the list."""
    arguments, function = self.stack.pop(), self.stack.pop()
    if not isinstance(function, _Function):
      raise WeightFileError(
        "it calls something that is no function of torch's."
      )
    self.append(function.call(*arguments))

  def load_newobj(self) -> None:
    """Makes an object of TorchScript."""
    arguments, made = self.stack.pop(), self.stack.pop()
    if not isinstance(made, _Class) or arguments:
      raise WeightFileError("it makes an object that is none of TorchScript.")
    self.append(_Inert({}))

  def load_build(self) -> None:
    """Gives an object of TorchScript its attributes."""
    state, made = self.stack.pop(), self.stack[-1]
    # Dictionaries of torch have versions for attributes, which nobody needs.
    if isinstance(made, _Inert) and isinstance(state, dict):
      made.attributes = state
    elif not isinstance(made, dict):
      raise WeightFileError("it changes an object that is none of TorchScript.")

  def load_empty_dict(self) -> None:
    """Makes a mapping."""
    self.append(_Dict())

  def load_dict(self) -> None:
    """Makes a mapping of entries."""
    items = self.pop_mark()
    self.append(_dict(zip(items[::2], items[1::2], strict=True)))

  dispatch: ClassVar[dict[int, Callable[..., None]]] = {
    getattr(pickle, name)[0]: pickle._Unpickler.dispatch[  # pyrefly: ignore
      getattr(pickle, name)[0]
    ]
    for name in (
      *("PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP"),
      *("BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET"),
      *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2"),
      *("LONG1", "BINFLOAT", "BINSTRING", "SHORT_BINSTRING"),
      *("BINBYTES", "SHORT_BINBYTES", "BINUNICODE", "SHORT_BINUNICODE"),
      *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
      *("EMPTY_LIST", "LIST", "APPEND", "APPENDS", "SETITEM", "SETITEMS"),
      *("GLOBAL", "STACK_GLOBAL", "BINPERSID"),
    )
  } | {
    pickle.REDUCE[0]: load_reduce,
    pickle.NEWOBJ[0]: load_newobj,
    pickle.BUILD[0]: load_build,
    pickle.EMPTY_DICT[0]: load_empty_dict,
    pickle.DICT[0]: load_dict,
  }


class _Dict(dict[Any, Any]):
  """A mapping in a pickle."""

  def __setitem__(self, key: Any, value: Any) -> None:
    super().__setitem__(_plain(key), value)


def _dict(items: Iterable[tuple[Any, Any]] = ()) -> _Dict:
  made = _Dict()
  for key, value in items:
    made[key] = value
  return made


def _plain(key: Any) -> Any:
  """A key, if it is text or a number.

  Tuples in tuples, each twice, take for ever to be hashed or printed.
  """
  if type(key) not in (str, bytes, int, float, bool, type(None)):
    raise WeightFileError(
      f"it holds a key of type {type(key).__name__}; names must be text."
    )
  return key


def _view(
  storage: Any, offset: Any, shape: Any, strides: Any, *_: Any
) -> _View:
  if not isinstance(storage, _Storage):
    raise WeightFileError("it holds a tensor without a storage.")
  numbers = [offset, *shape, *strides]
  if (
    len(shape) != len(strides)
    or len(shape) > _MOST_AXES
    or any(not isinstance(n, int) or not 0 <= n < 2**63 for n in numbers)
  ):
    raise WeightFileError(
      f"it holds a tensor of form {_shown(shape)}, {_shown(strides)}."
    )
  return _View(storage, offset, tuple(shape), tuple(strides))


def _shown(numbers: Any) -> str:
  """For a message: numbers, and of anything else its type."""
  parts = [
    str(n) if isinstance(n, int) and abs(n) < 2**64 else type(n).__name__
    for n in numbers[:8]
  ]
  return f"({', '.join(parts)})"


def _first(value: Any, *_: Any) -> Any:
  return value


_ALLOWED: dict[str, _Function] = {
  "collections.OrderedDict": _Function(_dict),
  "torch.Size": _Function(lambda sizes=(): tuple(sizes)),
  "torch._utils._rebuild_tensor": _Function(_view),
  "torch._utils._rebuild_tensor_v2": _Function(_view),
  "torch._utils._rebuild_parameter": _Function(_first),
  "torch.jit._pickle.build_intlist": _Function(_first),
  "torch.jit._pickle.build_doublelist": _Function(_first),
  "torch.jit._pickle.build_boollist": _Function(_first),
  "torch.jit._pickle.build_tensorlist": _Function(_first),
  "torch.jit._pickle.restore_type_tag": _Function(_first),
}


def _members(found: Any) -> Mapping[Any, Any] | None:
  """Members of a mapping or of an object of TorchScript; otherwise None."""
  if isinstance(found, _Inert):
    return found.attributes
  return found if isinstance(found, dict) else None


def _state(found: Any) -> dict[str, _View]:
  """The tensors of the state dict within what was saved, by dotted name."""
  members = _members(found)
  if members is None:
    raise WeightFileError(
      f"it must hold a state dict; got {type(found).__name__}."
    )
  for name in _NESTED:
    inner = _members(members.get(name))
    if inner is not None and any(True for _ in _named(inner, _budget())):
      members = inner
      break
  out: dict[str, _View] = {}
  for count, (name, view) in enumerate(_named(members, _budget())):
    if count == _MOST_NAMES:
      raise WeightFileError(f"it holds more than {_MOST_NAMES} tensors.")
    out[name] = view
  return out


def _budget() -> Iterator[int]:
  """Counts entries, to an end."""
  yield from range(_MOST_ENTRIES)
  raise WeightFileError(f"it holds more than {_MOST_ENTRIES:,} entries.")


def _named(
  members: Mapping[Any, Any],
  budget: Iterator[int],
  prefix: str = "",
  depth: int = 0,
) -> Iterator[tuple[str, _View]]:
  for key, value in members.items():
    next(budget)
    inner = _members(value)
    if isinstance(value, _View):
      yield f"{prefix}{key}", value
    # Modules are in modules, but not without end.
    elif inner is not None and depth < 20:
      yield from _named(inner, budget, f"{prefix}{key}.", depth + 1)


def _arrays(
  state: Mapping[str, _View], content: Callable[[_Storage], bytes]
) -> dict[str, np.ndarray]:
  """The tensors as arrays, each storage read once."""
  views = set(state.values())
  storages = {view.storage for view in views}
  copied = sum(
    math.prod(view.shape) * view.storage.dtype.itemsize for view in views
  )
  if copied > _MOST_COPIES * sum(s.num_bytes for s in storages):
    raise WeightFileError("it holds the same values many times over.")
  made: dict[_View, np.ndarray] = {}
  for storage in storages:
    raw = content(storage)
    for view in views:
      if view.storage == storage:
        made[view] = _array(view, raw)
  return {name: made[view] for name, view in state.items()}


def _array(view: _View, raw: bytes) -> np.ndarray:
  storage = view.storage
  if len(raw) != storage.num_bytes:
    raise WeightFileError(
      f"storage {storage.key!r} must have {storage.num_bytes} bytes; got"
      f" {len(raw)}: the file is cut off or broken."
    )
  values = math.prod(view.shape)
  if not values:
    return np.zeros(view.shape, storage.dtype)
  last = view.offset + sum(
    (n - 1) * stride for n, stride in zip(view.shape, view.strides)
  )
  # More values than there are would fill the memory with copies of a few.
  if last >= storage.size or values > storage.size:
    raise WeightFileError(
      f"it holds a tensor of shape {view.shape} on {storage.size} values."
    )
  flat = np.frombuffer(raw, storage.dtype)[view.offset :]
  strides = [stride * storage.dtype.itemsize for stride in view.strides]
  return np.lib.stride_tricks.as_strided(flat, view.shape, strides).copy()
