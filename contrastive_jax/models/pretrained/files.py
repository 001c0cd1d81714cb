"""Weight files of every kind as tensors by name."""

import json
import os
import pathlib
import zipfile
from collections.abc import Mapping

import numpy as np
import safetensors
import safetensors.numpy

from contrastive_jax.models.pretrained import torch_files
from contrastive_jax.models.pretrained.torch_files import WeightFileError

_INDEX = ".index.json"
# Weight files in a folder, as the tools that publish weights name them; the
# first that is there is taken.
_IN_FOLDERS = (
  "open_clip_model.safetensors",
  "model.safetensors.index.json",
  "model.safetensors",
  "open_clip_pytorch_model.bin",
  "pytorch_model.bin",
)
# Weights hardly compress: what unfolds to more than its size many times over, and
# to more than a little, would fill the memory.
_MOST_EXPANSION, _LITTLE = 20, 2**26


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
  path = pathlib.Path(os.path.expanduser(path))
  if path.is_dir():
    path = _in_folder(path)
  if path.name.endswith(_INDEX):
    out = _read_shards(path)
  else:
    out = _read_file(path)
  if not out:
    raise WeightFileError(f"{path} holds no tensors.")
  if all(name.startswith("module.") for name in out):
    out = {name.removeprefix("module."): value for name, value in out.items()}
  return out


def _read_file(path: pathlib.Path) -> dict[str, np.ndarray]:
  """The tensors of one file, by what it begins with."""
  try:
    with open(path, "rb") as file:
      start = file.read(9)
  except OSError as error:
    raise WeightFileError(
      f"{path} cannot be read: {error.strerror}."
    ) from error
  if start[:2] == b"PK":
    return (
      _read_npz(path) if _is_npz(path) else torch_files.read_state_dict(path)
    )
  if start[8:9] == b"{":
    return _read_safetensors(path)
  if start[:1] == b"\x80":
    return torch_files.read_state_dict(path)
  raise WeightFileError(
    f"{path} must be a file of safetensors, numpy.savez or torch; got something"
    " else, or a file that is cut off."
  )


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

  Raises:
    WeightFileError: if it cannot be written; what was there stays.
  """
  arrays = {name: np.asarray(x, order="C") for name, x in tensors.items()}
  path = pathlib.Path(path)
  partial = path.with_name(path.name + ".partial")
  try:
    # The library's files are for their owner alone, whatever the user's mask says.
    partial.touch()
    mode = partial.stat().st_mode
    safetensors.numpy.save_file(arrays, partial, dict(metadata or {}))
    partial.chmod(mode)
    partial.replace(path)
  except (OSError, safetensors.SafetensorError) as error:
    partial.unlink(missing_ok=True)
    raise WeightFileError(f"{path} cannot be written: {error}") from error


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
  # A broken index raises whatever its form leads to.
  except Exception as error:
    raise WeightFileError(f"{index} is not an index of shards.") from error
  out: dict[str, np.ndarray] = {}
  for name in sorted(names, key=str):
    beside = isinstance(name, str) and pathlib.PurePath(name).name == name
    if not beside or name in ("", "..") or name.endswith(_INDEX):
      raise WeightFileError(
        f"{index} names {name!r}, which is no weight file beside it."
      )
    out |= _read_file(index.parent / name)
  return out


def _is_npz(path: pathlib.Path) -> bool:
  try:
    with zipfile.ZipFile(path) as archive:
      return all(name.endswith(".npy") for name in archive.namelist())
  # A broken list of members also raises errors of decoding and of numbers.
  except Exception as error:
    raise WeightFileError(f"{path} is cut off or broken: {error}.") from error


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
  try:
    with zipfile.ZipFile(path) as members:
      unfolded = sum(info.file_size for info in members.infolist())
    if unfolded > max(_MOST_EXPANSION * path.stat().st_size, _LITTLE):
      raise ValueError(f"it would unfold to {unfolded:,} bytes.")
    with np.load(path, allow_pickle=False) as archive:
      return {name: archive[name] for name in archive.files}
  except Exception as error:
    raise WeightFileError(
      f"{path} is not a whole file of numpy.savez with numbers alone: {error}"
    ) from error
