"""Tensors from files of `torch.save`, read without torch.

Such a file is a pickle, which may call anything when it is read. Here a pickle may
make tensors, containers and, of TorchScript, objects that can do nothing; a file that
wants anything else is refused.
"""

import collections
import dataclasses
import io
import math
import pathlib
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

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
# What the first pickle of a file from before torch 1.6 holds, and the second.
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


class WeightFileError(ValueError):
  """A weight file cannot be read, or is refused."""


@dataclasses.dataclass(frozen=True)
class _Storage:
  """Values that tensors are views of, before they are read."""

  key: str
  dtype: np.dtype
  size: int


@dataclasses.dataclass(frozen=True)
class _View:
  """A tensor, before its storage is read."""

  storage: _Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


class _Inert:
  """What stands for an object of TorchScript: its attributes."""


def read(path: pathlib.Path) -> Any:
  """Reads what was saved, tensors as arrays.

  Args:
    path: of `torch.save` in either of its formats, or of `torch.jit.save`.

  Returns:
    The object, e.g. a state dict; a module of TorchScript is a mapping of its
    attributes.

  Raises:
    WeightFileError: if the file is broken, or wants an object other than tensors
      and containers.
  """
  try:
    if zipfile.is_zipfile(path):
      with zipfile.ZipFile(path) as archive:
        return _read_archive(archive)
    with open(path, "rb") as file:
      return _read_legacy(file)
  except WeightFileError as error:
    raise WeightFileError(f"{path}: {error}") from error
  except OSError:
    raise
  # A broken pickle raises whatever its operations raise.
  except Exception as error:
    raise WeightFileError(
      f"{path} is not a whole file of torch.save: {error or type(error).__name__}."
    ) from error


def _read_archive(archive: zipfile.ZipFile) -> Any:
  names = [n for n in archive.namelist() if n.endswith("data.pkl")]
  if len(names) != 1:
    raise WeightFileError("it holds no data.pkl, as files of torch.save do.")
  folder = names[0].removesuffix("data.pkl")
  if f"{folder}byteorder" in archive.namelist():
    order = archive.read(f"{folder}byteorder").decode()
    if order != "little":
      raise WeightFileError(f"its byte order must be little; got {order!r}.")
  found = _Unpickler(io.BytesIO(archive.read(names[0]))).load()
  raw: dict[str, bytes] = {}

  def storage(key: str) -> bytes:
    if key not in raw:
      raw[key] = archive.read(f"{folder}data/{key}")
    return raw[key]

  return _materialised(found, storage)


def _read_legacy(file: BinaryIO) -> Any:
  for expected in (_MAGIC, _PROTOCOL):
    if _Unpickler(file).load() != expected:
      raise WeightFileError("it does not begin as files of torch.save do.")
  system = _Unpickler(file).load()
  if not system.get("little_endian", True):
    raise WeightFileError("its byte order must be little; got big.")
  unpickler = _Unpickler(file)
  found = unpickler.load()
  keys = _Unpickler(file).load()
  raw: dict[str, bytes] = {}
  for key in keys:
    storage = unpickler.storages.get(key)
    if storage is None:
      raise WeightFileError(f"it holds a storage {key!r} that nothing uses.")
    (size,) = struct.unpack("<q", file.read(8))
    if size != storage.size:
      raise WeightFileError(
        f"storage {key!r} must have {storage.size} values; got {size}."
      )
    raw[key] = file.read(size * storage.dtype.itemsize)
  return _materialised(found, raw.__getitem__)


class _Unpickler(pickle.Unpickler):
  """Makes tensors, containers, and nothing else."""

  def __init__(self, file: BinaryIO):
    """Reads from a file's present position."""
    super().__init__(file)
    self.storages: dict[str, _Storage] = {}

  def find_class(self, module_name: str, global_name: str) -> Any:
    """What a global name means; anything unknown is refused."""
    whole = f"{module_name}.{global_name}"
    if whole in _ALLOWED:
      return _ALLOWED[whole]
    if module_name in ("torch", "torch.cuda") and global_name in _DTYPES:
      return np.dtype(_DTYPES[global_name])
    if module_name.startswith("__torch__"):
      return _Inert
    raise WeightFileError(
      f"it wants the object {whole}, which is refused: weight files may hold"
      " tensors in containers and nothing else. Save the state dict alone."
    )

  def persistent_load(self, pid: Any) -> _Storage:
    """A reference to a storage."""
    # Those of old files have a sixth part, a view's, None in all but the oldest.
    kind, dtype, key, _, size = pid[:5]
    if kind != "storage" or not isinstance(dtype, np.dtype) or any(pid[5:]):
      raise WeightFileError(f"it holds a reference of unknown form, {pid!r}.")
    storage = _Storage(str(key), dtype, int(size))
    if self.storages.setdefault(storage.key, storage) != storage:
      raise WeightFileError(f"it holds two storages {storage.key!r}.")
    return storage


def _view(
  storage: Any, offset: Any, shape: Any, strides: Any, *_: Any
) -> _View:
  if not isinstance(storage, _Storage):
    raise WeightFileError("it holds a tensor without a storage.")
  numbers = [offset, *shape, *strides]
  if len(shape) != len(strides) or any(
    not isinstance(n, int) or n < 0 for n in numbers
  ):
    raise WeightFileError(f"it holds a tensor of form {shape!r}, {strides!r}.")
  return _View(storage, offset, tuple(shape), tuple(strides))


def _first(value: Any, *_: Any) -> Any:
  return value


_ALLOWED: dict[str, Callable[..., Any]] = {
  "collections.OrderedDict": collections.OrderedDict,
  "torch.Size": tuple,
  "torch._utils._rebuild_tensor": _view,
  "torch._utils._rebuild_tensor_v2": _view,
  "torch._utils._rebuild_parameter": _first,
  "torch.jit._pickle.build_intlist": _first,
  "torch.jit._pickle.build_doublelist": _first,
  "torch.jit._pickle.build_boollist": _first,
  "torch.jit._pickle.build_tensorlist": _first,
  "torch.jit._pickle.restore_type_tag": _first,
}


def _materialised(found: Any, raw: Callable[[str], bytes]) -> Any:
  """The object with arrays for views, and mappings for objects."""
  if isinstance(found, _View):
    return _array(found, raw(found.storage.key))
  if isinstance(found, _Inert):
    found = vars(found)
  if isinstance(found, Mapping):
    return {key: _materialised(value, raw) for key, value in found.items()}
  if isinstance(found, (list, tuple)):
    return [_materialised(value, raw) for value in found]
  return found


def _array(view: _View, raw: bytes) -> np.ndarray:
  storage = view.storage
  if len(raw) != storage.size * storage.dtype.itemsize:
    raise WeightFileError(
      f"storage {storage.key!r} must have"
      f" {storage.size * storage.dtype.itemsize} bytes; got {len(raw)}: the"
      " file is cut off or broken."
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
