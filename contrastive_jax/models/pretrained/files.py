"""Weight files of every kind as tensors by name."""

import json
import pathlib
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from contrastive_jax.models.pretrained import torch_files
from contrastive_jax.models.pretrained.torch_files import WeightFileError

# Of a folder, as the tools that publish weights name them; the first is taken.
_IN_FOLDERS = (
  "open_clip_model.safetensors",
  "model.safetensors.index.json",
  "model.safetensors",
  "open_clip_pytorch_model.bin",
  "pytorch_model.bin",
)
# Where checkpoints keep the weights beside an optimizer's state and the like.
_NESTED = ("state_dict", "model", "model_state_dict", "module")


def read_tensors(path: str | pathlib.Path) -> dict[str, np.ndarray]:
  """Reads the tensors of a weight file.

  What kind of file it is shows in its first bytes, not in its name. Nothing in a file
  is executed.

  Args:
    path: a file of safetensors, of `numpy.savez` or of torch (`torch.save` of a state
      dict or of a checkpoint that has one, or TorchScript), or a folder that holds
      one under a usual name.

  Returns:
    Arrays by name. Names that all begin with `module.` (of models that were trained
    in parallel) lose it.

  Raises:
    WeightFileError: if there is no such file, it is broken, wants objects other than
      tensors, or holds none.
  """
  path = pathlib.Path(path).expanduser()
  if path.is_dir():
    path = _in_folder(path)
  try:
    with open(path, "rb") as file:
      start = file.read(9)
  except OSError as error:
    raise WeightFileError(
      f"{path} cannot be read: {error.strerror}."
    ) from error
  if path.name.endswith(".index.json"):
    out = _read_shards(path)
  elif start[:2] == b"PK":
    out = _read_npz(path) if _is_npz(path) else _read_torch(path)
  elif start[8:9] == b"{":
    out = _read_safetensors(path)
  elif start[:1] == b"\x80":
    out = _read_torch(path)
  else:
    raise WeightFileError(
      f"{path} must be a file of safetensors, numpy.savez or torch; got something"
      " else, or a file that is cut off."
    )
  if not out:
    raise WeightFileError(f"{path} holds no tensors.")
  if all(name.startswith("module.") for name in out):
    out = {name.removeprefix("module."): value for name, value in out.items()}
  return out


def write_safetensors(
  path: str | pathlib.Path,
  tensors: Mapping[str, np.ndarray],
  metadata: Mapping[str, str] | None = None,
) -> None:
  """Writes arrays by name as a file of safetensors.

  Args:
    path: of the file; what is there is replaced.
    tensors: arrays by name.
    metadata: texts to be kept in the file.
  """
  arrays = {name: np.asarray(x, order="C") for name, x in tensors.items()}
  path = pathlib.Path(path)
  partial = path.with_name(path.name + ".partial")
  safetensors.numpy.save_file(arrays, partial, dict(metadata or {}))
  partial.replace(path)


def _in_folder(folder: pathlib.Path) -> pathlib.Path:
  for name in _IN_FOLDERS:
    if (folder / name).exists():
      return folder / name
  raise WeightFileError(
    f"{folder} must hold one of {', '.join(_IN_FOLDERS)}; got none of them: give the"
    " file itself."
  )


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
  try:
    return safetensors.numpy.load_file(path)
  except Exception as error:
    raise WeightFileError(
      f"{path} is not a whole file of safetensors: {error}"
    ) from error


def _read_shards(index: pathlib.Path) -> dict[str, np.ndarray]:
  """The tensors of all files that an index names, which lie beside it."""
  try:
    names = set(json.loads(index.read_text())["weight_map"].values())
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise WeightFileError(f"{index} is not an index of shards.") from error
  out: dict[str, np.ndarray] = {}
  for name in sorted(names):
    if pathlib.PurePath(name).name != name:
      raise WeightFileError(f"{index} names {name!r}, which is not beside it.")
    out |= read_tensors(index.parent / name)
  return out


def _is_npz(path: pathlib.Path) -> bool:
  try:
    with zipfile.ZipFile(path) as archive:
      return all(name.endswith(".npy") for name in archive.namelist())
  # Of a broken list of members also errors of decoding and of numbers.
  except Exception as error:
    raise WeightFileError(f"{path} is cut off or broken: {error}.") from error


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
  try:
    with np.load(path, allow_pickle=False) as archive:
      return {name: archive[name] for name in archive.files}
  except Exception as error:
    raise WeightFileError(
      f"{path} is not a whole file of numpy.savez with numbers alone: {error}"
    ) from error


def _read_torch(path: pathlib.Path) -> dict[str, np.ndarray]:
  found = torch_files.read(path)
  if not isinstance(found, Mapping):
    raise WeightFileError(
      f"{path} must hold a state dict; got {type(found).__name__}."
    )
  for name in _NESTED:
    inner = found.get(name)
    if isinstance(inner, Mapping) and dict(_tensors(inner)):
      found = inner
      break
  return dict(_tensors(found))


def _tensors(
  tree: Mapping[Any, Any], prefix: str = ""
) -> Iterator[tuple[str, np.ndarray]]:
  """Arrays by dotted name."""
  for key, value in tree.items():
    if isinstance(value, np.ndarray):
      yield f"{prefix}{key}", value
    elif isinstance(value, Mapping):
      yield from _tensors(value, f"{prefix}{key}.")
